"""Families of tasks that differ by numbers alone, and how these numbers are drawn.

A draw takes a span, how many tasks there are of each split, and a random stream; it returns the
specifications of both splits. They come from one draw that is split, so that no task of one split
is in the other by accident. The streams are numpy's old ones: with the seed 1337 they give the
tasks of PEARL's own code.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from envs.body import Anatomy, Body, Layout
from envs.outfits import Outfit

Array = NDArray[np.float64]
Span = tuple[float, float]
Counts = tuple[int, int]
Draw = Callable[[Span, Counts, np.random.RandomState], tuple[Array, Array]]
Term = Callable[[Body, Array], float]
Alive = Callable[[Body], bool]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A base task: what is paid for, and which specifications there are.

        reward = term(body, specification) - control |u|^2 - contact |f|^2 + bonus

    u are the controls, f the clipped contact forces (`Body.contact`).

    Attributes:
        term: see above.
        draw: of the specifications.
        span: of the draw.
        control: see above.
        contact: see above.
        bonus: see above; None for the upper end of the span.
        turns: the specification is a direction, 1 or -1, which `LocationChange` reverses.
        final: no change leads away from it.
        outfit: what a specification does to the body.
    """

    term: Term
    draw: Draw
    span: Span = (0.0, 0.0)
    control: float = 0.05
    contact: float = 0.0
    bonus: float | None = 0.0
    turns: bool = False
    final: bool = False
    outfit: Outfit | None = None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Families of one robot, as a paper puts them together.

    Attributes:
        anatomy: the robot.
        layout: what it senses.
        families: by name; a family's place here seeds its draw.
        names: the families there are by default, in the order of their ids; all if empty.
        sizes: tasks for training and for test, shared equally by the families; None where each
            family has a fixed list.
        horizon: steps of an episode.
        alive: otherwise an episode ends, if it `terminates`.
        terminates: see `alive`.
        drawn: names of the families a change may draw from; all if empty.
        legacy_feet: see `envs.body.Physics`.
    """

    anatomy: Anatomy
    layout: Layout
    families: Mapping[str, Family]
    names: tuple[str, ...] = ()
    sizes: Counts | None = None
    horizon: int = 200
    alive: Alive
    terminates: bool = False
    drawn: tuple[str, ...] = ()
    legacy_feet: bool = False


def uniform(span: Span, counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """Uniform in the span."""
    return split(rng.uniform(*span, sum(counts))[:, None], counts)


def spaced(
    span: Span, counts: Counts, rng: np.random.RandomState, axis: int = 0, width: int = 1
) -> tuple[Array, Array]:
    """Equally spaced with both ends, in random order, on one axis of `width`."""
    values = np.zeros((sum(counts), width))
    values[:, axis] = rng.permutation(np.linspace(*span, sum(counts)))
    return split(values, counts)


def disc(span: Span, counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """Points spread evenly over the disc whose radius is the upper end of the span."""
    angle = 2 * np.pi * rng.random_sample(sum(counts))
    radius = span[1] * np.sqrt(rng.random_sample(sum(counts)))
    return split(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), counts)


def repeated(span: Span, counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """The lower end of the span, again and again."""
    return split(np.full((sum(counts), 1), span[0]), counts)


def signs(span: Span, counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """In each split -1 in the first half, 1 in the second, which is the larger one."""
    train, test = (np.where(np.arange(n) < n // 2, -1.0, 1.0)[:, None] for n in counts)
    return train, test


def factors(span: Span, counts: Counts, rng: np.random.RandomState) -> tuple[Array, Array]:
    """1.5^u with u uniform in the span."""
    return split(1.5 ** rng.uniform(*span, sum(counts))[:, None], counts)


def exponents(width: int) -> Draw:
    """Numbers uniform in the span, `width` for each task, task by task."""
    return partial(_exponents, width)


def fixed(train: object, test: object | None = None) -> Draw:
    """A list, or one for each split, whatever the counts."""
    return partial(_fixed, _rows(train), _rows(train if test is None else test))


def split(values: Array, counts: Counts) -> tuple[Array, Array]:
    """The first rows for training, the others for test."""
    return values[: counts[0]], values[counts[0] :]


def _exponents(
    width: int, span: Span, counts: Counts, rng: np.random.RandomState
) -> tuple[Array, Array]:
    return split(rng.uniform(*span, (sum(counts), width)), counts)


def _fixed(
    train: Array, test: Array, span: Span, counts: Counts, rng: np.random.RandomState
) -> tuple[Array, Array]:
    return train, test


def _rows(values: object) -> Array:
    array = np.array(values, dtype=np.float64)
    return array.reshape(len(array), -1)
