"""What must agree before a run may go on from a checkpoint: its gin bindings and the versions."""

import platform
import re
from importlib import metadata

LIBRARIES = ("torch", "tensordict", "numpy", "gymnasium", "metaworld", "mujoco")

IGNORED = frozenset({"Checkpointer.override"})
"""Bindings that may differ: the one that says differences do not matter."""


def versions() -> dict[str, str]:
    """Versions of Python and of every library that decides about a run's numbers."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def bindings(config: str) -> dict[str, str]:
    """The bindings of a gin text, `{"SAC.discount": "0.99"}`; comments and layout do not count."""
    found: dict[str, str] = {}
    statement = ""
    for line in config.splitlines():
        line = line.split("#", 1)[0].rstrip() if "'" not in line and '"' not in line else line
        if not statement and (not line.strip() or line.lstrip().startswith("#")):
            continue
        statement = f"{statement} {line.strip()}".strip()
        if statement.endswith("\\"):
            statement = statement[:-1].rstrip()
            continue
        if any(statement.count(a) > statement.count(b) for a, b in ("()", "[]", "{}")):
            continue
        name, equals, value = statement.partition("=")
        if equals:
            found[name.strip()] = re.sub(r"\s+", "", value)
        statement = ""
    return found


def differences(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """One line for each name whose value differs: `SAC.discount: 0.99 -> 0.9`."""
    return [
        f"{name}: {old.get(name, '(unset)')} -> {new.get(name, '(unset)')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in IGNORED
    ]
