"""Published success rates, with their sources and protocols, to be drawn beside one's own."""

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runners.config import ConfigError

FILE = Path(__file__).with_name("published_results.json")

Entry = dict[str, Any]
"""`key` (`<benchmark>/<method>/<source>`), `benchmark`, `method`, `value` (a share), `statistic`,
`spread` and `spread_kind`, `seeds`, `goals` ("random", "fixed"), `horizon`, `reward_version`,
`environments` (v1, v2, v3), `steps`, `note`, `source`, `grade`: P from the paper's own table or the
authors' data, S told by somebody else. null: not stated in the source used."""


def read_published(path: Path = FILE) -> list[Entry]:
    """All entries; what a source says of all its figures is repeated in each."""
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = []
    for source in content["sources"]:
        common = {key: value for key, value in source.items() if key not in ("results", "key")}
        for result in source["results"]:
            entry = {**common, **result}
            suffix = f"_{entry['variant']}" if entry.get("variant") else ""
            entry["key"] = f"{entry['benchmark']}/{entry['short']}/{source['key']}{suffix}"
            entries.append(entry)
    return entries


def chosen(patterns: Sequence[str]) -> list[Entry]:
    """The entries whose keys fit one of the patterns (`*` and `?` as in a shell).

    Raises:
        ConfigError: a pattern fits none.
    """
    entries = read_published()
    for pattern in patterns:
        if not any(_fits(entry, pattern) for entry in entries):
            raise ConfigError(
                f"--published={pattern}: no such result; --published=list shows them all"
            )
    return [entry for entry in entries if any(_fits(entry, pattern) for pattern in patterns)]


def label(entry: Entry) -> str:
    """Method, value, source and conditions, in a line."""
    value = f"{entry['value']:.3g}"
    if entry.get("spread"):
        value += f" ± {entry['spread']:.2g} {entry.get('spread_kind') or ''}".rstrip()
    about = [entry["statistic"]]
    if entry.get("seeds"):
        about.append(f"{entry['seeds']} seed{'s' * (entry['seeds'] > 1)}")
    if entry.get("goals"):
        about.append(f"{entry['goals']} goals")
    if entry.get("reward_version"):
        about.append(f"{entry['reward_version']} reward")
    if entry.get("horizon"):
        about.append(f"horizon {entry['horizon']}")
    if entry.get("environments"):
        about.append(f"{entry['environments']} environments")
    if entry.get("steps"):
        about.append(f"{entry['steps'] / 1e6:g}M steps in all")
    return f"{entry['method']} {value} ({entry['source']}; {', '.join(about)})"


def origin(entry: Entry) -> str:
    """Where it is from, how sure that is, and what else must be said."""
    told = "the paper's own figures" if entry["grade"] == "P" else "second-hand"
    return "; ".join([entry["url"], told, *([entry["note"]] if entry.get("note") else [])])


def _fits(entry: Entry, pattern: str) -> bool:
    return fnmatch.fnmatchcase(entry["key"].lower(), pattern.lower())
