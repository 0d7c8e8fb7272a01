"""Figures of learning curves, bars and profiles, as PNG and SVG; no state of matplotlib is touched.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; dashes, markers and
hatches say the same in grey.
"""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from runners.aggregates import Estimate

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "ooo", "+++")
GREY = "#606060"
BARS = 64
"""Bars in one column."""
WIDE = 4
"""Panels in a row."""
THOUSAND = 1000
LETTERS_PER_INCH = 16
SIZES: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "svg.hashsalt": "polytask",
}


@dataclass(frozen=True)
class Line:
    """One curve: `x`, `y`, and its band `low` to `high` (nan: none), all `[points]`.

    Args:
        style: number of colour, dashes and marker.
        faint: drawn thin: what the other curve of the same style is to be compared with.
    """

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    style: int = 0
    faint: bool = False


def curves(
    panels: Mapping[str, Sequence[Line]],
    *,
    x: str,
    y: str,
    bounded: bool = False,
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """A panel of curves for each title, with one legend below.

    Args:
        panels: curves by title.
        x: label of the x axis.
        y: label of the y axis.
        bounded: the y axis goes from 0 to 1.
        references: for a title, values by label, drawn as level lines marked a, b, c, ...
    """
    references = references or {}
    rows, columns = -(-len(panels) // WIDE), min(len(panels), WIDE)
    width = 3.1 * columns + 0.6 if columns > 2 else (6.2, 8.6)[columns - 1]
    named = dict.fromkeys(name for levels in references.values() for name in levels)
    letters = {name: chr(ord("a") + i) for i, name in enumerate(named)}
    labels = dict.fromkeys(line.label for lines in panels.values() for line in lines)
    written = {name: _wrapped(f"{letter}: {name}", width) for name, letter in letters.items()}
    labels |= dict.fromkeys(written.values())
    height = (2.0 if rows > 1 else 2.9) * rows + _legend_height(labels, width)
    with matplotlib.rc_context(SIZES):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        handles: dict[str, Artist] = {}
        for axis, (title, lines) in zip(grid.flat, panels.items(), strict=False):
            for line in lines:
                handles.setdefault(line.label, _draw(axis, line))
            if bounded:
                axis.set_ylim(-0.02, 1.02)
            for name, value in references.get(title, {}).items():
                handles.setdefault(written[name], _level(axis, value))
            _mark(axis, {letters[n]: v for n, v in references.get(title, {}).items()})
            dress(axis, title)
            if max(line.x.max() for line in lines) >= THOUSAND:
                axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            elif all((line.x == line.x.round()).all() for line in lines):
                axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        for axis in grid.flat[len(panels) :]:
            axis.set_visible(False)
        for column in range(columns):
            lowest = max(r for r in range(rows) if r * columns + column < len(panels))
            grid[lowest, column].set_xlabel(x)
            grid[lowest, column].tick_params(labelbottom=True)
        for axis in grid[:, 0]:
            axis.set_ylabel(y)
        _legend(figure, handles)
    return figure


def bars(
    estimates: Mapping[str, Mapping[str, Estimate]], *, x: str, bounded: bool = False
) -> Figure:
    """For each task a group of bars, one a method, with intervals; many tasks fill columns.

    Args:
        estimates: by method, then by task; every method has the same tasks.
        x: label of the x axis.
        bounded: the x axis goes from 0 to 1.
    """
    methods = list(estimates)
    tasks = list(estimates[methods[0]])
    inside = max(1, BARS // len(methods))
    columns = -(-len(tasks) // inside)
    inside = -(-len(tasks) // columns)
    width = max(6.2, 4.4 * columns)
    height = 0.6 + 0.14 * inside * (len(methods) + 1) + _legend_height(methods, width)
    with matplotlib.rc_context(SIZES):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(1, columns, squeeze=False, sharex=True)[0]
        handles: dict[str, Artist] = {}
        for column, axis in enumerate(grid):
            shown = tasks[column * inside : (column + 1) * inside]
            for number, method in enumerate(methods):
                values = [estimates[method][task] for task in shown]
                places = np.arange(len(shown)) * (len(methods) + 1) + number
                means = np.array([value.value for value in values])
                handle = axis.barh(
                    places,
                    means,
                    height=0.9,
                    color=COLORS[number % len(COLORS)],
                    hatch=HATCHES[(number + number // len(HATCHES)) % len(HATCHES)],
                    edgecolor="white",
                    linewidth=0.4,
                )
                reach = [means - [v.low for v in values], [v.high for v in values] - means]
                axis.errorbar(
                    means, places, xerr=np.clip(reach, 0.0, None), fmt="none", ecolor="black",
                    elinewidth=0.8, capsize=1.5,
                )  # fmt: skip
                handles.setdefault(method, handle)
            middle = (len(methods) - 1) / 2
            axis.set_yticks(np.arange(len(shown)) * (len(methods) + 1) + middle, shown)
            axis.set_ylim((len(methods) + 1) * inside - 0.5, -1.0)
            if bounded:
                axis.set_xlim(0.0, 1.02)
            axis.set_xlabel(x)
            dress(axis, "")
            axis.grid(visible=False, axis="y")
        _legend(figure, handles)
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `<path>.png` and `<path>.svg`; the same figure gives the same bytes."""
    paths = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    with matplotlib.rc_context(SIZES):
        figure.savefig(paths[0], dpi=150)
        figure.set_layout_engine("none")  # where all is has been found
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _draw(axis: Axes, line: Line) -> Artist:
    color = COLORS[line.style % len(COLORS)]
    # Both lists come round at different times: 40 styles before one is repeated.
    dashes, marker = DASHES[line.style % len(DASHES)], MARKERS[line.style % len(MARKERS)]
    (handle,) = axis.plot(
        line.x,
        line.y,
        color=color,
        linestyle=dashes,
        linewidth=0.9 if line.faint else 1.6,
        alpha=0.6 if line.faint else 1.0,
        marker=marker,
        markersize=2.5 if line.faint else 4,
        markevery=max(1, len(line.x) // 10),
        label=line.label,
    )
    if not line.faint and np.isfinite(line.low).any():
        axis.fill_between(line.x, line.low, line.high, color=color, alpha=0.13, linewidth=0)
    return handle


def _level(axis: Axes, value: float) -> Artist:
    return axis.axhline(value, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0.5)


def _mark(axis: Axes, values: Mapping[str, float]) -> None:
    """Letters at the right ends of level lines, moved apart where lines are close."""
    bottom, top = axis.get_ylim()
    letters = sorted(values, key=lambda letter: values[letter])
    places = apart([values[letter] for letter in letters], 0.045 * (top - bottom))
    for letter, place in zip(letters, places, strict=True):
        axis.annotate(
            letter, (1.01, place), xycoords=("axes fraction", "data"), va="center", color=GREY,
            fontsize=8, annotation_clip=False,
        )  # fmt: skip


def apart(values: Sequence[float], gap: float) -> list[float]:
    """The places nearest to these rising values, in squares, that are `gap` apart at least."""
    blocks: list[tuple[float, int]] = []  # means of what is left when the gaps are taken off
    for i, value in enumerate(values):
        mean, count = value - i * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, number = blocks.pop()
            mean = (before * number + mean * count) / (number + count)
            count += number
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    return [mean + i * gap for i, mean in enumerate(flat)]


def dress(axis: Axes, title: str) -> None:
    """What all panels look like."""
    axis.set_title(title)
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """Below the panels, in as many columns as there is room for."""
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=_legend_columns(handles, figure.get_figwidth()),
        frameon=False,
        handlelength=3.2,
    )


def _wrapped(text: str, width: float) -> str:
    return textwrap.fill(text, int(width * LETTERS_PER_INCH) - 10, subsequent_indent="    ")


def _legend_columns(labels: Collection[str], width: float) -> int:
    """As many as there is room for, or fewer, so that no row is much shorter than the others."""
    longest = max(len(line) for label in labels for line in label.splitlines())
    room = max(1, min(len(labels), int(width * LETTERS_PER_INCH / (longest + 8))))
    rows = -(-len(labels) // room)
    return -(-len(labels) // rows)


def _legend_height(labels: Collection[str], width: float) -> float:
    lines = sum(label.count("\n") + 1 for label in labels)
    return 0.2 + 0.17 * -(-lines // _legend_columns(labels, width))
