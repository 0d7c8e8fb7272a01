"""Whose a file is: Polytask's, a library's or the user's; a message about code names the user's."""

import importlib.util
import inspect
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType

_HOME = Path(__file__).resolve().parents[1]
_PACKAGES = ("envs", "networks", "buffers", "algorithms", "runners")
_OWN = tuple(_HOME / name for name in (*_PACKAGES, "gin"))
_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES = tuple({Path(sysconfig.get_paths()[name]).resolve() for name in _PLACES})


def is_own(file: Path | str) -> bool:
    """Whether it belongs to a package of Polytask, or is one of its gin files."""
    return any(Path(file).resolve().is_relative_to(folder) for folder in _OWN)


def is_users(file: Path | str) -> bool:
    """Whether it is a file of code, and neither Polytask's nor a library's."""
    path = Path(file).resolve()
    libraries = any(path.is_relative_to(folder) for folder in _LIBRARIES)
    return path.suffix == ".py" and not libraries and not is_own(path)


def place_in_users_code(error: BaseException) -> str:
    """Type and place of an error that came from code of the user's, "" if it did not.

    A ValueError that Polytask raised is about a value, and says which; whoever called for it is
    of no interest.
    """
    frames = [(f.f_code.co_filename, n) for f, n in traceback.walk_tb(error.__traceback__)]
    frames = [(file, line) for file, line in frames if is_users(file) or is_own(file)]
    places = [f"{file}:{line}" for file, line in frames if is_users(file)]
    if not places or (isinstance(error, ValueError) and is_own(frames[-1][0])):
        return ""
    return f"{type(error).__name__} at {places[-1]}"


def undecorated(name: str) -> str:
    """The user's module that defines this class or function, though gin does not know it."""
    for module in list(sys.modules.values()):
        if not isinstance(module, ModuleType):
            continue
        found = vars(module).get(name)
        if not (inspect.isclass(found) or inspect.isfunction(found)):
            continue
        if found.__module__ == module.__name__ and is_users(getattr(module, "__file__", "") or ""):
            return module.__name__
    return ""


def hidden_package() -> str:
    """What to do about a folder that Python finds in place of a package of Polytask; "" if none."""
    for name in _PACKAGES:
        found = importlib.util.find_spec(name)
        file = found and found.origin
        if file and (_HOME / name).is_dir() and not is_own(file):
            place = Path(file).parent if Path(file).stem == "__init__" else Path(file)
            return f"{place} hides Polytask's package '{name}'; rename it, or run elsewhere"
    return ""
