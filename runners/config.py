"""Reading gin files and bindings, and saying plainly what is wrong with them.

gin checks names; this module adds what it leaves out: missing files are named before anything is
parsed, bound literals are compared with the annotations of the parameter they are bound to, every
error is one line with a fix, and bindings nothing read are listed.
"""

import contextlib
import difflib
import os
import re
import tokenize
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config

from runners.config_messages import MISUSE, building_error, explain
from runners.config_types import type_errors
from runners.ownership import place_in_users_code

_FLAG = "--gin_bindings="
_parsed: list[str] = []


class ConfigError(Exception):
    """A configuration or flag is wrong; the message is one line: the culprit, then a fix.

    The command line tools end with exit code 2 on it, and on no other exception.
    """

    def line(self) -> str:
        """The message without what gin appends, with the place in the user's code it came from."""
        first = str(self).splitlines()[0]
        origin: BaseException | None = self
        while isinstance(origin, ConfigError):  # gin raises it anew, with no cause but a context
            origin = origin.__cause__ or origin.__context__
        place = place_in_users_code(origin) if origin else ""
        return f"{first} ({place})" if place else first


def root() -> Path:
    """The folder that holds gin/: the repository, or the current folder for an installed wheel."""
    repository = Path(__file__).resolve().parents[1]
    return repository if (repository / "gin").is_dir() else Path.cwd()


def experiment_name() -> str:
    """What the parsed files are called together, "experiment" if none was parsed."""
    return "+".join(Path(name).stem for name in _parsed) or "experiment"


def parse(
    files: Sequence[str | Path], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()
) -> None:
    """Read the files in turn, then each binding.

    Paths are looked for in the current folder, in `search_paths`, and in the repository. What an
    earlier call bound is forgotten.

    Raises:
        ConfigError: a file, name, parameter, reference, macro or value is wrong.
    """
    found = check_files(files, search_paths)
    gin.clear_config()
    # gin would also look into installed packages, and complain of every place where a file is not.
    vars(gin_config)["_FILE_READERS"][:] = [(open, os.path.isfile)]
    vars(gin_config)["_LOCATION_PREFIXES"][:] = [str(place) for place in _places(search_paths)]
    for file in found:
        with _translated(str(file)):
            gin.parse_config_file(str(file))
    for binding in bindings:
        with _translated(f"{_FLAG}'{binding}'", binding):
            gin.parse_config(binding)
    # Not locked afterwards: in a notebook modules are imported, and so registered, later as well.
    with _translated("configuration"), gin.unlock_config():
        gin.finalize()
    _complete_references()
    for message in type_errors():
        raise ConfigError(message)
    _parsed[:] = [str(file) for file in files]


def _complete_references() -> None:
    """Spell out what became ambiguous since it was read, so that the text of it can be read again.

    A file of Polytask's says `@MLP`; then a module of the user's with another MLP was imported.
    """
    for reference in gin_config.iterate_references(gin_config._CONFIG):
        if len(gin_config._REGISTRY.matching_selectors(reference.selector)) > 1:
            reference._selector = gin_config._REGISTRY.minimal_selector(
                reference.configurable.selector
            )


def seed_bindings(seed: int) -> list[str]:
    """What `--seed` binds."""
    return [f"SEED = {seed}", "train.seed = %SEED"]


def check_files(files: Sequence[str | Path], search_paths: Sequence[str] = ()) -> list[Path]:
    """Where the files are, after checking that they and all they include exist.

    Raises:
        ConfigError: one is missing; the line says where it was looked for.
    """
    places = _places(search_paths)
    return [_check_file(str(file), places, "--gin_file") for file in files]


def _places(search_paths: Sequence[str]) -> list[Path]:
    return list(dict.fromkeys([Path.cwd(), *map(Path, search_paths), root()]))


def config_text() -> str:
    """All that was bound, as a gin file."""
    return gin.config_str()


def operative_text() -> str:
    """All that was read so far, defaults included, as a gin file."""
    return gin.operative_config_str()


def unused_bindings() -> list[str]:
    """Bindings no call has read so far, as "scope/Name.parameter" or the name of a macro."""
    unused = []
    for (scope, selector), values in gin_config._CONFIG.items():
        reads = [s for s, name in gin_config._OPERATIVE_CONFIG if name == selector]
        for parameter in values:
            if not any(_reads(read, scope, selector, parameter) for read in reads):
                name = gin_config._REGISTRY.minimal_selector(selector)
                label = f"{scope}/{name}" if scope else name
                unused.append(scope if selector == "gin.macro" else f"{label}.{parameter}")
    return sorted(unused)


def _reads(read: str, scope: str, selector: str, parameter: str) -> bool:
    """Whether a call in scope `read` took its parameter from the binding made in `scope`."""
    if parameter not in gin_config._OPERATIVE_CONFIG[read, selector]:
        return False
    parts = read.split("/") if read else []
    chain = ["/".join(parts[:n]) for n in range(len(parts) + 1)]
    binding = [s for s in chain if parameter in gin_config._CONFIG.get((s, selector), {})]
    return bool(binding) and binding[-1] == scope


@contextlib.contextmanager
def config_errors(before: Callable[..., Any] | None = None) -> Iterator[None]:
    """Turn what constructors say of their arguments (ValueError, missing parts) into ConfigError.

    For the building phase only: later a ValueError is a fault of the program.

    Args:
        before: a configurable function; an error out of its body passes, one that arises while
            gin builds its arguments is turned.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, RuntimeError, MemoryError, ImportError, *MISUSE) as error:
        body = getattr(before, "__wrapped__", None)
        frames = traceback.walk_tb(error.__traceback__)
        if body is not None and any(frame.f_code is body.__code__ for frame, _ in frames):
            raise
        if (line := building_error(error)) is None:
            raise
        raise ConfigError(line) from error


@contextlib.contextmanager
def file_errors(said_by: str, fix: str) -> Iterator[None]:
    """Turn what the file system says (OSError) into a ConfigError: who, which place, why, a fix."""
    try:
        yield
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise ConfigError(f"{said_by}: {place}{error.strerror or error}; {fix}") from error


def _check_file(
    name: str, places: Sequence[Path], said_by: str, within: tuple[Path, ...] = ()
) -> Path:
    """The file `name` means, after checking that it and all it includes exist.

    It is included by the last of the files `within`, that by the one before, and so on.
    """
    with file_errors(said_by, "see that it may be read, or check the path or --gin_search_path"):
        found = next((place / name for place in places if (place / name).is_file()), None)
    if found is None:
        if within and (within[-1].parent / name).is_file():
            raise ConfigError(
                f"{said_by}: no file '{name}', though it lies beside that file: includes start "
                f"from the current folder; add --gin_search_path={within[-1].parent}"
            )
        near = {p.name: p for place in places for p in (place / name).parent.glob("*.gin")}
        near = {name: path for name, path in near.items() if path.is_file()}
        near |= {p.name: p for p in (root() / "gin").rglob("*.gin") if p.name not in near}
        close = difflib.get_close_matches(Path(name).name, near, 1, 0.5)
        fix = f"did you mean {near[close[0]]}?" if close else "check the path or --gin_search_path"
        looked = ", ".join(dict.fromkeys(str(place) for place in places))
        raise ConfigError(f"{said_by}: no file '{name}' (looked in {looked}); {fix}")
    if found.resolve() in within:
        raise ConfigError(
            f"{said_by}: '{name}' includes itself, if not directly; remove one include"
        )
    try:
        text = found.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{said_by}: '{name}' is no readable text: {error}") from error
    if text.startswith("\ufeff"):
        raise ConfigError(
            f"{said_by}: '{name}' begins with a byte order mark, which gin does not read; save it "
            "as UTF-8 without one"
        )
    for number, line in enumerate(text.splitlines(), 1):
        include = re.match(r"""\s*include\s+(['"])(.+?)\1""", line)
        if include:
            chain = (*within, found.resolve())
            _check_file(include[2], places, f"{name} line {number}", chain)
    return found


@contextlib.contextmanager
def _translated(source: str, text: str = "") -> Iterator[None]:
    """Turn an error of gin's parser into one line of ours."""
    try:
        yield
    except SyntaxError as error:
        if (error.filename or "").endswith(".py"):
            raise ConfigError(
                f"{error.filename} line {error.lineno}: {error.msg} in "
                f"`{(error.text or '').strip()}`; correct this module, which a gin file imports"
            ) from error
        where = f"{error.filename or source} line {error.lineno}" if not text else source
        token = re.search(r"Failed to parse token '(.*)'", error.msg or "")
        what = f"{token[1]} is no value" if token else (error.msg or "syntax error").splitlines()[0]
        raise ConfigError(
            f"{where}: {what} in `{(error.text or text).strip()}`; "
            "write Name.parameter = value, with strings in quotes"
        ) from error
    except tokenize.TokenError as error:
        raise ConfigError(f"{source}: a bracket or a string is not closed; close it") from error
    except Exception as error:  # of gin, or whatever a module that it imports raises
        message = str(error)
        places = re.findall(r'In file "(.+?)", line (\d+)\n\s*(.*)', message)
        where = f"{places[0][0]} line {places[0][1]}: `{places[0][2]}`" if places else source
        raise ConfigError(f"{where}: {explain(message, error)}") from error
