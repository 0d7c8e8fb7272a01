"""Figures of what a meta-learner inferred: latents by true task, the mixture along episodes.

They are drawn from the arrays of `runners.latent_records`. Tasks that can be counted have colours
and markers of their own, those of a continuum the shades of a map that also rises in grey.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from runners import figures
from runners.latent_records import Arrays, of_split
from runners.true_tasks import Truth, truth

BURN_IN = 10
"""Steps of an episode before the latents of a space of two or more dimensions are drawn."""
POINTS = 3000
"""Latents that are drawn at most, evenly out of all."""
DOT, MANY = 12, 200
"""Size of a latent, and from how many on they are small."""
PANELS = 8
"""Episodes whose mixture is drawn at most."""
EPISODES = 4
"""Episodes after which posteriors are drawn at most."""
NAMED = 4
"""Tasks of an episode that a title names at most."""
SHADES = "cividis"


def draw(file: Path) -> list[Path]:
    """Draw the last split of a file `<name>_latents.npz`, as `<name>_latent_space` and so on.

    Returns:
        The pictures: `_latent_space`, and of a mixture of several components `_responsibilities`.
    """
    with np.load(file) as loaded:
        place, arrays = of_split(loaded)
    if "mask" in arrays and not arrays["mask"][:, 0].any():
        return []  # every simulator broke
    made = {"latent_space": space(arrays, place)}
    if "weights" in arrays and arrays["weights"].shape[-1] > 1:
        made["responsibilities"] = responsibilities(arrays)
    name = file.stem.removesuffix("_latents")
    drawn = {file.with_name(f"{name}_{what}"): figure for what, figure in made.items()}
    return [path for stem, figure in drawn.items() for path in figures.save(figure, stem)]


def space(arrays: Arrays, title: str = "") -> Figure:
    """The latents by true task: each step's, or the posterior's mean after each episode."""
    if "mean" in arrays:
        return _posteriors(arrays)
    if arrays["latent"].shape[-1] == 1:
        return _courses(arrays, title)
    counted = arrays["mask"] & (np.arange(arrays["mask"].shape[-1]) >= BURN_IN)
    counted = counted if counted.any() else arrays["mask"]
    chosen = np.argwhere(counted)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(POINTS, len(chosen))).astype(int)]
    rows = tuple(chosen.T)
    tasks = truth(arrays["names"][arrays["family"]][rows], arrays["specification"][rows])
    places, axes = plane(arrays["latent"][rows])
    return _scattered({title: (places, tasks)}, axes)


def responsibilities(arrays: Arrays) -> Figure:
    """The mixture's weights along an episode of each kind of task, changes of the task marked."""
    whole = np.flatnonzero(arrays["mask"][:, 0].any(-1))  # others broke off
    names = arrays["names"][arrays["family"][whole, 0, 0]]
    first = truth(names, arrays["specification"][whole, 0, 0])
    kinds = range(min(PANELS, len(first.labels)))
    panels, segments = {}, []
    for kind in kinds:
        row = int(whole[first.kind == kind][0])
        steps = np.flatnonzero(arrays["mask"][row, 0])
        weights = arrays["weights"][row, 0, steps].T
        none = np.full(len(steps), np.nan)
        panels[first.labels[kind]] = [
            figures.Line(f"component {k}", steps.astype(float), weight, none, none, k)
            for k, weight in enumerate(weights)
        ]
        segments.append(_segments(arrays, row, 0))
    figure = figures.curves(
        panels, x="step of the episode", y="weight in the mixture", bounded=True
    )
    for axis, parts in zip(figure.axes, segments, strict=False):
        _mark(axis, [start for start, _, _ in parts[1:]])
        if len(parts) > 1:
            axis.set_title(_changing(parts), fontsize=8)
    return figure


def plane(points: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Points `[n, 2]` of points `[n, L]`, L at least 2, and what the two axes are.

    Two dimensions are themselves; of more, the first two principal components.
    """
    given = np.asarray(points, dtype=np.float64)
    if given.shape[1] == 2:
        return given, ("z, dimension 1", "z, dimension 2")
    centred = given - given.mean(0)
    _, size, ways = np.linalg.svd(centred, full_matrices=False)
    ways = ways * np.sign(ways[np.arange(len(ways)), np.abs(ways).argmax(1)])[:, None]
    shares = size**2 / max(float((size**2).sum()), np.finfo(float).tiny)
    labels = [f"PC {i + 1} of z ({100 * shares[i]:.0f} % of variance)" for i in range(2)]
    return centred @ ways[:2].T, (labels[0], labels[1])


def _posteriors(arrays: Arrays) -> Figure:
    """A panel for each episode, or for some, the first and the last among them."""
    mean = arrays["mean"]
    tasks, repetitions, episodes, width = mean.shape
    there = ~np.isnan(mean).any(-1)
    if width == 1:
        found = np.concatenate((mean, np.sqrt(arrays["variance"])), -1)[there]
        places, axes = found.astype(np.float64), ("mean of z", "standard deviation of z")
    else:
        places, axes = plane(mean[there])
    task = np.broadcast_to(np.arange(tasks)[:, None, None], there.shape)[there]
    episode = np.broadcast_to(np.arange(episodes), there.shape)[there]
    whole = truth(arrays["task"], arrays["specification"])
    panels = {}
    for number in np.unique(np.linspace(0, episodes - 1, min(EPISODES, episodes)).astype(int)):
        now = episode == number
        rows = task[now]
        seen = Truth(whole.labels, whole.kind[rows], whole.specification[rows])
        words = f"after episode {number + 1}" if number else "after the first episode"
        panels[words] = (places[now], seen)
    return _scattered(panels, axes)


def _scattered(
    panels: Mapping[str, tuple[NDArray[np.float64], Truth]], labels: tuple[str, str]
) -> Figure:
    """Points by true task: a column for each panel; where tasks are a continuum a row a number."""
    first = next(iter(panels.values()))[1]
    rows, columns = len(first.coordinates), len(panels)
    width = 6.2 if columns == 1 else 2.9 * columns + 1.2
    with matplotlib.rc_context(figures.SIZES):
        figure = Figure(figsize=(width, 0.9 + 2.9 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for row in range(rows):
            shades = _shades([tasks for _, tasks in panels.values()], row)
            for axis, (title, (points, tasks)) in zip(grid[row], panels.items(), strict=True):
                for kind in range(len(tasks.labels)):
                    chosen = tasks.kind == kind
                    color: Any = _color(tasks, kind)
                    if tasks.continuous:
                        color = shades.to_rgba(tasks.specification[chosen, row])
                    axis.scatter(
                        *points[chosen].T, s=DOT if len(points) > MANY else 2 * DOT, c=color,
                        marker=_marker(kind), alpha=0.8, edgecolors=figures.GREY, linewidths=0.3,
                        label=tasks.labels[kind],
                    )  # fmt: skip
                figures.dress(axis, title if row == 0 else "")
            grid[row, 0].set_ylabel(labels[1])
            if first.continuous:
                figure.colorbar(shades, ax=grid[row].tolist(), label=_number(first, row))
        for axis in grid[-1]:
            axis.set_xlabel(labels[0])
        _legend(figure, grid[0, 0], first)
    return figure


def _courses(arrays: Arrays, title: str) -> Figure:
    """A latent of one dimension over the steps of every episode."""
    mask = arrays["mask"]
    whole = truth(arrays["names"][arrays["family"][mask]], arrays["specification"][mask])
    kinds = np.zeros(mask.shape, dtype=np.int64)
    kinds[mask] = whole.kind
    shades = _shades([whole], 0)
    with matplotlib.rc_context(figures.SIZES):
        figure = Figure(figsize=(6.2, 3.8), layout="constrained")
        axis = figure.subplots()
        for row, episode in np.ndindex(mask.shape[:2]):
            parts = _segments(arrays, row, episode)
            for start, stop, _ in parts:
                kind = int(kinds[row, episode, start])
                color: Any = _color(whole, kind)
                if whole.continuous:
                    color = shades.to_rgba(arrays["specification"][row, episode, start, 0])
                # One step more: to where the next part begins.
                steps = np.arange(start, min(stop + 1, parts[-1][1]))
                axis.plot(
                    steps, arrays["latent"][row, episode, steps, 0], color=color, linewidth=1.0,
                    linestyle=figures.DASHES[kind % len(figures.DASHES)], marker=_marker(kind),
                    markersize=3.5, markevery=(0, max(1, len(steps) // 10)), alpha=0.8,
                    label=whole.labels[kind],
                )  # fmt: skip
            _mark(axis, [start for start, _, _ in parts[1:]])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("step of the episode")
        axis.set_ylabel("z")
        figures.dress(axis, title)
        if whole.continuous:
            figure.colorbar(shades, ax=axis, label=_number(whole, 0))
        _legend(figure, axis, whole)
    return figure


def _segments(arrays: Arrays, row: int, episode: int) -> list[tuple[int, int, str]]:
    """Where in an episode each of its tasks begins and ends, and what it is."""
    length = int(arrays["mask"][row, episode].sum())
    starts = [0, *(np.flatnonzero(arrays["changed"][row, episode, 1:length]) + 1).tolist()]
    family, specification = arrays["family"][row, episode], arrays["specification"][row, episode]
    names = arrays["names"][family]
    several = len(arrays["names"]) > 1
    parts = []
    for start, stop in zip(starts, [*starts[1:], length], strict=True):
        numbers = ", ".join(f"{number:.2g}" for number in specification[start])
        parts.append((start, stop, str(names[start]) if several else numbers))
    return parts


def _changing(parts: Sequence[tuple[int, int, str]]) -> str:
    """The tasks of an episode, in order; those of one family that follow each other once."""
    words = [what for what, _ in groupby(what for _, _, what in parts)]
    return " → ".join(words if len(words) <= NAMED else [*words[: NAMED - 1], "..."])


def _mark(axis: Axes, steps: Sequence[int]) -> None:
    for step in steps:
        axis.axvline(step, color=figures.GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.5)


def _shades(tasks: Sequence[Truth], number: int) -> ScalarMappable:
    """The map of one number of the specifications."""
    values = np.concatenate([one.specification[:, number : number + 1] for one in tasks])
    limits = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    return ScalarMappable(Normalize(*limits), SHADES)


def _number(tasks: Truth, number: int) -> str:
    which = f", number {number + 1}" if tasks.specification.shape[1] > 1 else ""
    return f"true task: {tasks.labels[0]}{which}"


def _color(tasks: Truth, kind: int) -> str:
    return figures.GREY if tasks.continuous else figures.COLORS[kind % len(figures.COLORS)]


def _marker(kind: int) -> str:
    # Colours and markers come round at different times.
    return figures.MARKERS[(kind + kind // len(figures.COLORS)) % len(figures.MARKERS)]


def _legend(figure: Figure, axis: Axes, tasks: Truth) -> None:
    """Each kind once, below; none for a continuum, whose bar says it."""
    if tasks.continuous:
        return
    handles, labels = axis.get_legend_handles_labels()
    drawn = dict(zip(labels, handles, strict=True))
    named = {label: drawn[label] for label in tasks.labels if label in drawn}
    longest = max(map(len, named), default=1)
    columns = max(1, int(figure.get_figwidth() * figures.LETTERS_PER_INCH / (longest + 8)))
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", frameon=False, ncols=columns
    )
