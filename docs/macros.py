"""The page of macros: the numbers in capitals of gin files, their values and their readers."""

import re
from collections import defaultdict
from collections.abc import Iterator

from docstrings import code, inline

PARTS = ("algorithms", "envs", "networks", "runners")


def is_part(name: str) -> bool:
    """Whether the path of a gin file is that of a part, which experiments include."""
    return name.split("/")[1] in PARTS


def page(gin_files: dict[str, str]) -> str:
    """The page, from the text of every gin file by its path from the root."""
    lines = [
        "# Macros",
        "",
        "The numbers in capitals that part files define, and what reads them. An experiment's file",
        'or `--gin="NAME = value"` sets another value for all of its readers; a later line wins.',
        "",
        "| macro | value in the parts | read by |",
        "|---|---|---|",
    ]
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    readers: dict[str, list[str]] = defaultdict(list)
    notes: dict[str, str] = {}
    for file, text in filter(lambda pair: is_part(pair[0]), gin_files.items()):
        for name, value, note in _statements(text):
            if re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
                places[name][value].append(file.removeprefix("gin/").removesuffix(".gin"))
                if note:
                    notes.setdefault(name, note)
            for macro in re.findall(r"%(\w+)", value):
                readers[macro] += [name] * (name not in readers[macro])
    for name in sorted(places):
        values = "<br>".join(
            f"{code(value)} in {_few(files)}" for value, files in places[name].items()
        )
        about = f"<br>{inline(notes[name])}" if name in notes else ""
        read = "<br>".join(code(reader) for reader in readers[name])
        lines.append(f'| <code id="{name}">{name}</code>{about} | {values} | {read} |')
    return "\n".join([*lines, ""])


def _few(files: list[str]) -> str:
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(files[:3]) + more


def _statements(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, value and comment of each binding; values over several lines in one."""
    for found in re.finditer(
        r"^([\w./]+) = (\[[^\]]*\]|\([^)]*\)|'[^']*'|\"[^\"]*\"|[^#\n]*)[ ]*(?:#[ ]*(.*))?$",
        text,
        re.MULTILINE,
    ):
        yield found[1], " ".join(found[2].split()), found[3] or ""
