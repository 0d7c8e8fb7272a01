"""Grids of gin bindings: which configurations a sweep has, and what each one's folder is called."""

import ast
import hashlib
import io
import itertools
import math
import re
import tokenize
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runners.config import ConfigError

Grid = Mapping[str, Sequence[Any]] | Sequence[str]
"""`{"BATCH_SIZE": (64, 128)}`, or lines as on the command line: `["BATCH_SIZE = 64, 128"]`."""

NAME = re.compile(r"[A-Za-z_][\w./]*")
REFERENCE = re.compile(r"[@%][A-Za-z_][\w./]*(\(\))?")
RESERVED = {
    "SEED": "--seeds",
    "train.seed": "--seeds",
    "train.experiment": "the configurations' own folders",
}
MOST_RUNS = 100_000
LONGEST = 150
"""Characters of a label; most file systems take 255 for the folder's whole name."""


@dataclass(frozen=True)
class Configuration:
    """One point of a grid.

    Args:
        values: names and gin texts of what is bound; none for the gin files as they are.
    """

    values: tuple[tuple[str, str], ...] = ()

    @property
    def bindings(self) -> list[str]:
        """The lines for gin."""
        return [f"{name} = {value}" for name, value in self.values]

    @property
    def label(self) -> str:
        """`BATCH_SIZE=64,DISCOUNT=0.9`, fit for a folder; "" if nothing is bound.

        What a folder's name cannot hold is left out, and a digest of the whole value put after it,
        so different values have different labels.
        """
        parts = (f"{name.replace('/', '.')}={_label(value)}" for name, value in self.values)
        text = ",".join(parts)
        if len(text) <= LONGEST:
            return text
        return f"{text[: LONGEST - 7]}-{_digest(' '.join(self.bindings))}"


def configurations(grid: Grid) -> list[Configuration]:
    """All combinations of the axes' values; the last axis changes fastest.

    Raises:
        ConfigError: an axis cannot be read, has no values, or stands there twice; or there are too
            many combinations.
    """
    if isinstance(grid, str):
        grid = [grid]
    if isinstance(grid, Mapping):
        axes = [_axis(str(name), _values(name, values)) for name, values in grid.items()]
    else:
        axes = [read_axis(line) for line in grid]
    names = [name for name, _ in axes]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--grid: {name} has two axes; give all its values in one")
    refuse_too_many(math.prod(len(values) for _, values in axes), "--grid")
    points = itertools.product(*([(name, value) for value in values] for name, values in axes))
    return [Configuration(point) for point in points]


def read_axis(line: str) -> tuple[str, list[str]]:
    """The name and the values, as gin texts, of `BATCH_SIZE = 64, 128`.

    Raises:
        ConfigError: it is no such line; says what to change.
    """
    if not isinstance(line, str) or not line.strip():
        what = "it is empty" if isinstance(line, str) else f"{line!r} is no text"
        raise ConfigError(f"--grid={line}: {what}; write NAME = value, value")
    name, _, values = line.partition("=")
    return _axis(name.strip(), _split(line, values))


def read_seeds(text: str) -> list[int]:
    """The numbers of `0,1,2`, or `0-4`, or both.

    Raises:
        ConfigError: there is no number, or something else, or there are too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not found:
            raise ConfigError(f"--seeds={text}: {part.strip()!r} is no seed; write 0,1,2 or 0-4")
        first, last = int(found[1]), int(found[2] or found[1])
        refuse_too_many(len(seeds) + last - first + 1, f"--seeds={text}")
        seeds += range(first, last + 1)
    return checked_seeds(seeds)


def checked_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds, of which there is at least one and none twice.

    Raises:
        ConfigError: otherwise.
    """
    if not seeds:
        raise ConfigError("--seeds: there is none; write 0,1,2 or 0-4")
    counts = Counter(seeds)
    for seed in seeds:
        if seed < 0 or counts[seed] > 1:
            what = "is negative" if seed < 0 else "stands there twice"
            raise ConfigError(f"--seeds: {seed} {what}; each run needs a number of its own from 0")
    return list(seeds)


def refuse_too_many(runs: int, where: str) -> None:
    """Refuse more than `MOST_RUNS`, before they are laid out one by one.

    Raises:
        ConfigError: there are more.
    """
    if runs > MOST_RUNS:
        raise ConfigError(
            f"{where}: {runs:,} runs are too many for one sweep; ask for {MOST_RUNS:,} at most"
        )


def _values(name: Any, values: Any) -> list[str]:
    """Gin texts of what a mapping says of a name."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(
            f"--grid (sweep.grid): {name} has {values!r}, which is no list of values; "
            f"write {{{name!r}: [{values!r}]}}"
        )
    return list(map(repr, values))


def _axis(name: str, values: list[str]) -> tuple[str, list[str]]:
    where = f"--grid='{name} = {', '.join(values)}'"
    if not NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is no name; write NAME = value, value")
    if name in RESERVED:
        raise ConfigError(f"{where}: {name} belongs to {RESERVED[name]}; leave it out of the grid")
    if not values:
        raise ConfigError(f"{where}: no values; write {name} = value, value")
    canonical = [_canonical(value, where) for value in values]
    for value, times in Counter(canonical).items():
        if times > 1:
            raise ConfigError(f"{where}: {value} stands there twice; every value makes its own run")
    return name, canonical


def _split(line: str, values: str) -> list[str]:
    """The texts between the commas that are in no brackets and no string."""
    where = f"--grid='{line}'"
    pieces, depth, start = [], 0, 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(values.strip()).readline):
            if token.type == tokenize.ERRORTOKEN and token.string.strip():
                raise ConfigError(
                    f"{where}: cannot read {token.string!r}; put strings in quotes and close them"
                )
            depth += token.string in ("(", "[", "{")
            depth -= token.string in (")", "]", "}")
            if token.string == "," and not depth:
                pieces.append(token.line[start : token.start[1]])
                start = token.end[1]
    except (tokenize.TokenError, SyntaxError) as error:
        raise ConfigError(f"{where}: {error.args[0]}; close brackets and quotes") from error
    pieces.append(values.strip()[start:])
    if not pieces[-1].strip():
        pieces.pop()  # a comma at the end
    return [piece.strip() for piece in pieces]


def _canonical(value: str, where: str) -> str:
    """One text for equal values: 0.001 for 1e-3."""
    try:
        return repr(ast.literal_eval(value))
    except (ValueError, SyntaxError) as error:
        if re.search(r"[@%][A-Za-z_]", value):
            return value  # gin knows references
        raise ConfigError(
            f"{where}: {value!r} is no Python literal; put strings in quotes"
        ) from error


def _label(value: str) -> str:
    """A value's text for the name of a folder; two values never share one."""
    if REFERENCE.fullmatch(value) and re.fullmatch(r"[@%][\w.]+", value):
        return value
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        literal = None
    if value in ("True", "False", "None") or type(literal) in (int, float):
        return value
    if isinstance(literal, tuple) and literal and all(type(n) in (int, float) for n in literal):
        return "x".join(map(repr, literal)) + "x" * (len(literal) == 1)
    if isinstance(literal, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_.]{0,39}", literal):
        if literal not in ("True", "False", "None"):
            return literal
    readable = re.sub(r"[^A-Za-z0-9_.]+", "_", value).strip("_.")
    return f"{readable[:40]}-{_digest(value)}".lstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
