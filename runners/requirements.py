"""Which libraries are asked for, tested and installed, told by the standard library alone."""

import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = ("envs", "networks", "buffers", "algorithms", "runners")


def requirements() -> dict[str, str]:
    """Libraries and the ranges of their versions, from the installed members or the repository."""
    lines: list[str] = []
    for member in MEMBERS:
        lines += _requires(f"polytask-{member}")
    if not lines and not (lines := _requires("polytask")):
        text = _read(ROOT / "pyproject.toml")
        block = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
        lines = re.findall(r'"([^"]+)"', block[1]) if block else []
    wanted: dict[str, str] = {}
    for line in lines:
        if ";" not in line and not line.startswith("polytask-"):
            name, ranges = re.fullmatch(r"([\w.-]+)\s*(.*)", line).groups()  # type: ignore[union-attr]
            wanted[name] = ranges
    return dict(sorted(wanted.items()))


def _requires(distribution: str) -> list[str]:
    try:
        return metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return []


def pins() -> dict[str, str]:
    """The versions of `constraints.txt`, by canonical name; none without the repository."""
    found = re.findall(r"^([\w.-]+)==(\S+)", _read(ROOT / "constraints.txt"), re.MULTILINE)
    return {canonical(name): version for name, version in found}


def installed(name: str) -> str | None:
    """The version that is installed, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def satisfies(version: str, ranges: str) -> bool:
    """Whether a version lies within ranges such as ">=0.14,<0.15"."""
    tests: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
        ">=": lambda a, b: a >= b,
        "<": lambda a, b: a < b,
    }
    for sign, bound in re.findall(r"(>=|<)\s*([\d.]+)", ranges):
        if not tests[sign](_numbers(version), _numbers(bound)):
            return False
    return True


def canonical(name: str) -> str:
    """A distribution's name as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
