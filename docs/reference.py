"""The configuration reference, written from gin's registry: one page for each package.

    python docs/reference.py build/reference    # the same pages, without the site

Everything the packages register is on these pages, with its module, arguments, defaults and
docstring; tests/test_docs.py compares them with the registry.
"""

import importlib
import inspect
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import gin
import macros
from docstrings import cell, code, documentation, inline
from gin import config as gin_config

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("algorithms", "networks", "envs", "buffers", "runners")
ELSEWHERE = "torch.optim"  # what a package registers of a library
GIVEN = inspect.Parameter.empty


def import_everything() -> None:
    """Import every module of the packages, so that all they register is there."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    for package in PACKAGES:
        for file in sorted((ROOT / package).glob("[a-z]*.py")):
            importlib.import_module(f"{package}.{file.stem}")


def configurables() -> dict[str, list[Any]]:
    """The registry's entries of the packages, by package and name; not gin's own, not a test's."""
    found = defaultdict(list)
    for _, entry in gin_config._REGISTRY.items():
        package = entry.module.split(".")[0]
        if package in PACKAGES and ".tests." not in f".{entry.module}.":
            found[package].append(entry)
        elif entry.module == ELSEWHERE:
            found["algorithms"].append(entry)

    def place(entry: Any) -> tuple[bool, str]:
        return entry.module == ELSEWHERE, entry.name.lower()

    return {package: sorted(found[package], key=place) for package in PACKAGES if found[package]}


def parameters(entry: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a configurable that gin may bind."""
    signature = inspect.signature(_plain(entry.wrapped))
    allowed, denied = entry.allowlist, entry.denylist or ()
    return {
        name: parameter
        for name, parameter in signature.parameters.items()
        if name != "self" and name not in denied and (not allowed or name in allowed)
    }


def pages() -> dict[str, str]:
    """The pages' Markdown, by name."""
    import_everything()
    found = configurables()
    gin_files = _gin_files()
    result = {f"{package}.md": _page(package, found, gin_files) for package in found}
    return {"index.md": _index(found), "macros.md": macros.page(gin_files), **result}


def _plain(wrapped: Any) -> Any:
    """What carries the signature: a class's constructor as it was before gin wrapped it."""
    if not inspect.isclass(wrapped):
        return inspect.unwrap(wrapped)
    own = wrapped.__init__ if wrapped.__init__ is not object.__init__ else wrapped
    return inspect.unwrap(own) if inspect.isfunction(own) else own


def _index(found: dict[str, list[Any]]) -> str:
    total = sum(map(len, found.values()))
    lines = [
        "# Configuration reference",
        "",
        f"Everything that a gin file can bind: {total} classes and functions, each with its",
        "module, arguments and defaults, written from gin's registry when the site is built.",
        "",
        "    SAC.discount = 0.99             # an argument of a class, by the class's name",
        "    SAC.actor = @Actor              # a factory, called later with the sizes it needs",
        "    train.suite = @PointMassSuite() # an object, made where it is needed",
        "    DISCOUNT = 0.95                 # a macro, read as %DISCOUNT",
        "",
        "An argument whose default is *given* is no matter of gin files: who makes the object",
        "gives it, such as the size of an observation. *required* has no default, and the run",
        "does not start until a gin file binds it. What is bound on a class reaches the classes",
        "derived from it which take its arguments as `**`.",
        "",
    ]
    lines += ["Numbers in capitals are [macros](macros.md): the values that people change.", ""]
    for package, entries in found.items():
        lines += [f"## {package}", "", "| name | module | is |", "|---|---|---|"]
        for entry in entries:
            about = cell(_documentation(entry)[0].split("\n\n")[0])
            link = f"[{entry.name}]({package}.md#{entry.name})"
            lines.append(f"| {link} | {code(entry.module)} | {about} |")
        lines.append("")
    return "\n".join(lines)


def _page(package: str, found: dict[str, list[Any]], gin_files: dict[str, str]) -> str:
    lines = [f"# {package}", ""]
    home = {e.wrapped: (e.name, place) for place, entries in found.items() for e in entries}
    for entry in found[package]:
        lines += [f"## {entry.name} {{#{entry.name}}}", "", _where(entry, gin_files), ""]
        text, meanings = _documentation(entry)
        lines += [text, ""]
        lines += _arguments(entry, meanings)
        if parent := _handed_on(entry, home):
            name, place = parent
            link = f"#{name}" if place == package else f"{place}.md#{name}"
            lines += ["", f"It takes the arguments of [{name}]({link}) as well."]
        lines.append("")
    return "\n".join(lines)


def _where(entry: Any, gin_files: dict[str, str]) -> str:
    """The module, and the part files that name the configurable."""
    pattern = re.compile(rf"(?<![\w.]){entry.name}(?=[.(\s]|$)", re.MULTILINE)
    part_files = {name: text for name, text in gin_files.items() if macros.is_part(name)}
    statements = {name: re.sub(r"#.*", "", text) for name, text in part_files.items()}
    parts = [name for name, text in statements.items() if pattern.search(text)]
    more = f" and {len(parts) - 4} more" if len(parts) > 4 else ""
    bound = f"; bound in {', '.join(f'`{part}`' for part in parts[:4])}{more}" if parts else ""
    return f"`{entry.module}.{entry.name}`{bound}"


def _documentation(entry: Any) -> tuple[str, dict[str, str]]:
    """The text of a configurable, and the meanings of its arguments; a library's by its name."""
    if entry.module == ELSEWHERE:
        return f"`{ELSEWHERE}.{entry.name}` of PyTorch, which documents it.", {}
    return documentation(entry.wrapped)


def _arguments(entry: Any, meanings: dict[str, str]) -> list[str]:
    rows = []
    for name, parameter in parameters(entry).items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = "" if parameter.annotation is GIVEN else code(_readable(parameter.annotation))
        if parameter.default is GIVEN:
            default = "*given*"
        elif parameter.default is gin.REQUIRED:
            default = "*required*"
        else:
            default = code(_value(parameter.default))
        anchor = f'<code id="{entry.name}.{name}">{name}</code>'
        rows.append(f"| {anchor} | {kind} | {default} | {cell(inline(meanings.get(name, '')))} |")
    if not rows:
        return ["It has no arguments."]
    return ["| argument | type | default | meaning |", "|---|---|---|---|", *rows]


def _handed_on(entry: Any, home: dict[Any, tuple[str, str]]) -> tuple[str, str] | None:
    """The registered class whose arguments this one takes as `**`."""
    kinds = [parameter.kind for parameter in parameters(entry).values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds or not inspect.isclass(entry.wrapped):
        return None
    return next((home[base] for base in entry.wrapped.__mro__[1:] if base in home), None)


def _readable(annotation: Any) -> str:
    """An annotation without the modules its names come from."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"(?<![\w.])(?:[a-z_]\w*\.)+(?=[A-Za-z_])", "", text)


def _value(value: Any) -> str:
    """A default, as one would write it in a gin file where that is possible."""
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"@{value.__name__}"
    return repr(value)


def _gin_files() -> dict[str, str]:
    """Text of every gin file, by its path from the root."""
    files = sorted((ROOT / "gin").rglob("*.gin"))
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for page_name, page in pages().items():
        (folder / page_name).write_text(page)
