"""Runs read back from their folders for tables and figures: metrics.jsonl and run.json alone."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runners.config import ConfigError, file_errors
from runners.files import read_object
from runners.records import Record, read_records

EVALUATION = "eval/"
TAG = re.compile(
    r"(?P<metric>eval/[^/]+)"
    r"(?:/(?P<split>train|test)"
    r"(?:/(?P<stage>(?:step|episode)_\d+|last|stochastic|deterministic))?)?"
    r"(?:/(?P<task>.+))?"
)
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Steps `[evaluations]` and scores `[evaluations, seeds, tags]`."""


class Tag(NamedTuple):
    """What a tag says; "" for what is left out.

    An evaluation's is `eval/<metric>[/<split>[/<stage>]][/<task>]`, where a stage is how much a
    meta-learner has seen: `step_2` (adaptation), `episode_3`, `last`, or how it acts: `stochastic`,
    `deterministic`. Of any other, such as `mask/overlap/actor`, the first two parts
    are the metric, and the rest is the task, or part.

    Args:
        metric: with "eval/" in front if it is an evaluation's.
    """

    metric: str
    split: str
    stage: str
    task: str

    @property
    def name(self) -> str:
        """As in the records."""
        return "/".join(part for part in self if part)

    @property
    def evaluation(self) -> bool:
        """Whether an evaluation wrote it, not training."""
        return self.metric.startswith(EVALUATION)

    @property
    def number(self) -> int | None:
        """Of a stage that is counted."""
        last = self.stage.rpartition("_")[2]
        return int(last) if last.isdecimal() else None


def read_tag(name: str) -> Tag:
    """The parts of a tag."""
    if found := TAG.fullmatch(name):
        return Tag(*(part or "" for part in found.groups()))
    parts = name.split("/", 2)
    return Tag("/".join(parts[:2]), "", "", "".join(parts[2:]))


@dataclass(frozen=True)
class RecordedRun:
    """The records of one run.

    Args:
        folder: of the run.
        records: in the order they were written.
        facts: `run.json`; empty if it is missing or damaged.
    """

    folder: Path
    records: list[Record] = field(repr=False)
    facts: dict[str, Any] = field(repr=False)

    @property
    def seed(self) -> int | str:
        """The run's seed; the folder's name if that is not known."""
        number = self.folder.name.removeprefix("seed_")
        seed = self.facts.get("seed")
        if isinstance(seed, int | str):
            return seed
        return int(number) if number.isdecimal() else number

    @property
    def protocol(self) -> dict[str, Any]:
        """What decides a score besides the agent; empty if not known."""
        protocol = self.facts.get("protocol")
        return protocol if isinstance(protocol, dict) else {}

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        """In the order in which they appear."""
        names = dict.fromkeys(name for record in self.records for name in record)
        return tuple(read_tag(name) for name in names)

    def measured(self, metric: str) -> bool:
        """Whether it has the metric, an evaluation's or one of training; if "" any evaluation."""
        wanted = {metric, EVALUATION + metric}
        return any(tag.metric in wanted if metric else tag.evaluation for tag in self.tags)

    @property
    def meta(self) -> bool:
        """Whether it was evaluated before and after adaptation, or on a split."""
        return any(tag.split or tag.stage for tag in self.tags)

    @property
    def unit(self) -> str:
        """What the steps of the records count: "env_steps" or "iterations"."""
        pairs = [(r["step"], r["env_steps"]) for r in self.records if r.get("env_steps")]
        return "iterations" if any(a != b for a, b in pairs) else "env_steps"

    def series(self, name: str) -> dict[int, float]:
        """Step to value, where the tag was written with a finite value."""
        return {
            int(record["step"]): float(record[name])
            for record in self.records
            if isinstance(record.get(name), int | float)
        }

    def place(self, steps: Sequence[int], axis: str) -> NDArray[np.float64]:
        """Where the steps lie on another axis: a counter that the records hold.

        Between two records of the counter its growth is taken to be even.

        Raises:
            ConfigError: the run has no such counter.
        """
        there = np.asarray(steps, dtype=np.float64)
        if axis == "step" or (axis == "env_steps" and self.unit == "env_steps"):
            return there
        counts = self.series(axis)
        if not counts:
            raise ConfigError(f"--x={axis}: {self.folder} has no such counter; leave the flag out")
        result: NDArray[np.float64] = np.interp(there, [0, *counts], [0.0, *counts.values()])
        return result


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seeds alone.

    Args:
        name: as it is to be shown.
        runs: by seed.
    """

    name: str
    runs: tuple[RecordedRun, ...]

    @property
    def tags(self) -> tuple[Tag, ...]:
        """Those that all runs have."""
        shared = set.intersection(*(set(run.tags) for run in self.runs))
        return tuple(tag for tag in self.runs[0].tags if tag in shared)

    def curve(self, names: Iterable[str], until: float = np.inf) -> Curve:
        """The scores of some tags at the steps where every run has all of them.

        Raises:
            ConfigError: there is no such step, or none until then.
        """
        series = [[run.series(name) for name in names] for run in self.runs]
        measured = sorted(set.intersection(*(set(one) for row in series for one in row)))
        steps = [step for step in measured if step <= until]
        if measured and not steps:
            raise ConfigError(
                f"--until={until}: {self.name} was first measured at step {measured[0]}; "
                "give that or a later one"
            )
        if not steps:
            raise ConfigError(
                f"{self.name}: no step at which all its seeds were measured; "
                "name the seed folders that belong together"
            )
        scores = [[[one[step] for one in row] for row in series] for step in steps]
        return np.asarray(steps, dtype=np.float64), np.asarray(scores)

    def shorter(self, name: str) -> list[str]:
        """What is missing where a run's evaluations end before another's."""
        ends = {run.folder: max(run.series(name), default=0) for run in self.runs}
        last = max(ends.values())
        return [
            f"{folder} was measured up to step {end:,} of {last:,}: all of {self.name} ends there"
            for folder, end in ends.items()
            if end < last
        ]

    def place(self, steps: Sequence[int], axis: str) -> NDArray[np.float64]:
        """Where the steps lie on an axis, the mean over seeds."""
        result: NDArray[np.float64] = np.mean([run.place(steps, axis) for run in self.runs], 0)
        return result


def read_run(folder: Path) -> RecordedRun:
    """The run in a folder that holds metrics.jsonl."""
    records = read_records(folder / "metrics.jsonl")
    return RecordedRun(folder, records, read_object(folder / "run.json") or {})


def read_methods(
    paths: Sequence[Path | str],
    labels: Mapping[str, str] | Sequence[str] | None = None,
    metric: str = "",
) -> tuple[list[Method], list[str]]:
    """The runs in some folders, by experiment, and what is to be warned of.

    Args:
        paths: each a run's folder, or one with a folder `seed_<n>` for each run. Runs of one
            parent folder are seeds of one method.
        labels: names to show, by the parent folder's name; or texts <experiment>=<name>.
        metric: what is to be drawn; a seed without it is left out if another one has it. If empty
            that is any evaluation.

    Raises:
        ConfigError: a path holds no run with anything to draw, a label has no experiment or no
            text, or two methods would have one name.
    """
    found: dict[Path, RecordedRun] = {}
    warnings = []
    for path in map(Path, paths):
        with file_errors(str(path), "see that it may be read, or leave it out"):
            inside = [path] if (path / "metrics.jsonl").is_file() else sorted(path.glob("seed_*"))
            runs = [read_run(folder) for folder in inside if folder.is_dir()]
        if not runs:
            why = "has neither metrics.jsonl nor seed_<n>" if path.is_dir() else "is no folder"
            raise ConfigError(f"{path} {why}; give a run, or a folder of runs")
        if not any(run.records for run in runs):
            raise ConfigError(f"{path}: no whole record in metrics.jsonl; leave it out, or wait")
        kept = [run for run in runs if run.measured(metric)]
        if metric and not kept:  # the comparison says what there is instead
            kept = [run for run in runs if run.tags]
        wanted = metric or "evaluation"
        if not kept:
            fix = "leave it out, or wait" + ("" if metric else "; --metric draws training")
            raise ConfigError(f"{path}: no {wanted} was written yet; {fix}")
        warnings += [f"{r.folder} has no {wanted} yet: left out" for r in runs if r not in kept]
        found |= {run.folder.resolve(): run for run in kept}
    groups: dict[Path, list[RecordedRun]] = {}
    for place, run in found.items():
        groups.setdefault(place.parent, []).append(run)
    names = _names(list(groups))
    labels = labels if isinstance(labels, Mapping) else _split(labels or (), list(names.values()))
    if strange := set(labels) - set(names.values()):
        raise ConfigError(
            f"--label={sorted(strange)[0]}: no such experiment; "
            f"there are: {', '.join(names.values())}"
        )
    shown = {parent: labels.get(name, name) for parent, name in names.items()}
    _check_shown(labels, list(shown.values()))
    return [
        Method(
            shown[parent],
            tuple(sorted(runs, key=lambda run: (isinstance(run.seed, str), run.seed))),
        )
        for parent, runs in groups.items()
    ], warnings


def _split(labels: Sequence[str], experiments: Sequence[str]) -> dict[str, str]:
    """Name and text of each; the name is the longest that there is, for a sweep's hold "=" too."""
    split = {}
    for label in labels:
        known = [name for name in experiments if label.startswith(f"{name}=")]
        name = max(known, key=len, default=label.partition("=")[0])
        split[name] = label[len(name) + 1 :]
    return split


def _check_shown(labels: Mapping[str, str], shown: Sequence[str]) -> None:
    """Refuse labels that leave a method without a name of its own: results are found by it."""
    for name, text in labels.items():
        if not text.strip():
            raise ConfigError(f"--label={name}=: the text is empty; write <experiment>=<text>")
        if shown.count(text) > 1:
            raise ConfigError(
                f"--label={name}={text}: two methods would be called '{text}'; "
                "give them different names"
            )


def _names(parents: Sequence[Path]) -> dict[Path, str]:
    """Their last parts, as many as it takes to tell them apart."""
    names = {}
    for parent in parents:
        for length in range(1, len(parent.parts) + 1):
            end = parent.parts[-length:]
            if sum(other.parts[-length:] == end for other in parents) == 1:
                break
        names[parent] = "/".join(end)
    return names
