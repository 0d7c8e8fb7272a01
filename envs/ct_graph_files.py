"""Reads configuration files of the CT-graph, whichever version of it they are for.

The files nest their fields in groups, which are looked through: the names of the fields tell the
versions apart. Traps avoided:

1. The first versions draw a random reward only where "stochastic_sampling" says so, whatever their
   "reward_std"; the last one does wherever its "std_r" is positive.
2. Changes of the goal within a run ("min_static_reward_episodes") never happen here: a goal is a
   task. The fields are passed over.
3. "general_seed" is passed over: the seed of the walks is the vector's.

Fields of no known name are passed over too, with a warning.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.tree_graph import NEEDLE, TreeGraph
from envs.tree_labels import Span, TreeLabels
from envs.tree_pictures import OneHotPictures, PatternPictures, Pictures

log = logging.getLogger("absl")

MISSING = object()
WITHOUT_MEANING = {
    *("general_seed", "min_static_reward_episodes", "max_static_reward_episodes"),
    *("reward_std", "std_r"),  # where the other one, or a switch, decides
    *("small_rotation_on_read", "rotation_on_read", "seed"),  # where pictures are one-hot
}
"""Fields that are known and may not be read."""


def read(source: str | Path | Mapping[str, Any]) -> tuple[TreeGraph, TreeLabels, Pictures]:
    """The parts of the suite a file, or its content, describes.

    Raises:
        ValueError: no JSON, or a field that is missing, given twice, or out of range.
    """
    fields = _Fields(source if isinstance(source, Mapping) else _content(Path(source)))
    parts = _parts(fields)
    if unknown := fields.left():
        log.warning("CT-graph configuration: fields passed over: %s", ", ".join(unknown))
    return parts


def _content(file: Path) -> Mapping[str, Any]:
    try:
        tree = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(tree, Mapping):
        raise ValueError(f"{file} must hold a JSON object, got {type(tree).__name__}")
    return tree


def _parts(fields: "_Fields") -> tuple[TreeGraph, TreeLabels, Pictures]:
    graph = TreeGraph(
        depth=fields.take("depth", "d"),
        branching=fields.take("branching_factor", "b"),
        delay=fields.take("delay_prob", "wait_prob", "p"),
        high_reward=fields.take("high_reward_value", "high_r"),
        crash_reward=fields.take("crash_reward_value", "fail_r"),
        reward=fields.take("reward_distribution", default=NEEDLE),
        reward_std=_reward_std(fields),
    )
    labels = TreeLabels(
        mdp_waits=bool(fields.take("MDP_delays", "MDP_wait_s", "MDP_W")),
        mdp_decisions=bool(fields.take("MDP_decisions", "MDP_decision_s", "MDP_D")),
        wait_span=_span(fields, "delay_states", "wait_states", "W_IDs"),
        decision_span=_span(fields, "decision_points", "decision_states", "D_IDs"),
        end_span=_span(fields, "graph_ends"),
    )
    num_pictures = fields.take("nr_of_images")
    noise = fields.take("noise_on_images_on_read", "noise_on_read", default=0)
    if fields.take("1D", default=True):
        return graph, labels, OneHotPictures(num_pictures=num_pictures, noise=noise)
    rotation = fields.take("small_rotation_on_read", "rotation_on_read", default=1)
    pictures = PatternPictures(
        num_pictures=num_pictures,
        noise=noise,
        rotation=max(1, rotation),
        seed=fields.take("seed", default=1),
    )
    return graph, labels, pictures


def _reward_std(fields: "_Fields") -> float:
    if fields.take("stochastic_sampling", default=False):
        return float(fields.take("reward_std"))
    return float(fields.take("std_r", default=0.0))


def _span(fields: "_Fields", *names: str) -> Span:
    value = fields.take(*names)
    try:
        low, high = value
        return int(low), int(high)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"field {' or '.join(map(repr, names))} must be two whole numbers, got {value!r}"
        ) from error


class _Fields:
    """The fields of all groups by name."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._values: dict[str, Any] = {}
        self._taken: set[str] = set()
        self._gather(tree)

    def _gather(self, tree: Mapping[str, Any]) -> None:
        for name, value in tree.items():
            if isinstance(value, Mapping):
                self._gather(value)
            elif name in self._values:
                raise ValueError(f"field {name!r} is given twice")
            else:
                self._values[name] = value

    def take(self, *names: str, default: Any = MISSING) -> Any:
        """The field that has one of these names."""
        present = [name for name in names if name in self._values]
        if len(present) > 1:
            raise ValueError(f"fields {present} mean the same; give one")
        if present:
            self._taken.add(present[0])
            return self._values[present[0]]
        if default is MISSING:
            raise ValueError(f"a field is missing: {' or '.join(map(repr, names))}")
        return default

    def left(self) -> list[str]:
        """The fields that were not taken, and mean nothing that is known."""
        return sorted(set(self._values) - self._taken - WITHOUT_MEANING)
