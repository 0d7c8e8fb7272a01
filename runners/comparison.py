"""Comparison: what some methods' evaluations come to, as curves and as results."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from runners import aggregates
from runners.aggregates import Estimate, Statistic
from runners.config import ConfigError
from runners.config_messages import closest
from runners.figures import Line
from runners.recorded_runs import EVALUATION, Curve, Method, Tag
from runners.result_tables import Result, with_seeds

STATISTICS = {"mean": aggregates.mean, "iqm": aggregates.iqm}
RESAMPLES = 2_000
"""Of an interval that is drawn, for each point of a curve."""
ENDS = ("last", "deterministic")
"""Stages that come after all others."""
LEVELS = 101
"""Thresholds of a profile."""


@dataclass(frozen=True)
class View:
    """One kind of reading: the tags of a metric that make up scores `[seeds, tasks]`.

    Args:
        metric: as in `Tag`.
        split: "train" or "test" of a meta-learner.
        stage: how much a meta-learner had seen.
        tasks: those the metric is written for; empty if only their mean is.
        headline: whether it is the split's result, not what that is compared with.
    """

    metric: str
    split: str = ""
    stage: str = ""
    tasks: tuple[str, ...] = ()
    headline: bool = True

    @property
    def names(self) -> list[str]:
        """The tags."""
        parts = (self.metric, self.split, self.stage)
        return [Tag(*parts, task).name for task in self.tasks or ("",)]

    @property
    def title(self) -> str:
        """What it is of."""
        if self.split:
            return f"{self.split} tasks"
        if len(self.tasks) < 2:
            return "".join(self.tasks)
        return f"mean over {len(self.tasks)} {self.part}s"

    @property
    def part(self) -> str:
        """What a tag's last part is called: the parts of a network's metric are no tasks."""
        return "task" if self.metric.startswith((EVALUATION, "train/")) else "part"


@dataclass(frozen=True)
class Choices:
    """How scores become curves and results; see `runners.plotting.plot`."""

    axis: str = "step"
    statistic: str = "mean"
    last: int = 1
    until: float = np.inf
    by_task: bool = False


class Comparison:
    """Some methods' curves and results by one metric.

    Args:
        methods: those to be compared.
        metric: an evaluation's as in `eval/<metric>`, or one of training, such as `loss/critic`;
            if empty the success rate, of a meta-learner the return.
        choices: how.

    Raises:
        ConfigError: not all methods have the metric.
    """

    def __init__(self, methods: Sequence[Method], metric: str, choices: Choices) -> None:
        self.methods, self.choices = methods, choices
        self.meta = any(run.meta for method in methods for run in method.runs)
        shared = set.intersection(*(set(method.tags) for method in methods))
        self.tags = [tag for tag in methods[0].tags if tag in shared]
        self.metric = self._known(metric or ("return" if self.meta else "success_rate"))
        self.views = list(self._views())
        self.curves: dict[tuple[View, str], Curve] = {
            (view, method.name): method.curve(view.names, choices.until)
            for view in self.views
            for method in methods
        }
        self.results = [self._result(view, method) for view in self.views for method in methods]

    @property
    def name(self) -> str:
        """The metric as it was asked for, and is shown."""
        return self.metric.removeprefix(EVALUATION)

    @property
    def bounded(self) -> bool:
        """Whether scores lie between 0 and 1."""
        return self.metric.rpartition("/")[2].startswith("success")

    @property
    def reading(self) -> str:
        """What wrote the metric: an evaluation, or a record of training."""
        return "evaluation" if self.metric.startswith(EVALUATION) else "record"

    @property
    def unit(self) -> str:
        """What the records' steps count."""
        iterations = all(run.unit == "iterations" for m in self.methods for run in m.runs)
        return "iterations" if iterations else "steps"

    @property
    def headlines(self) -> list[View]:
        """The views that are results."""
        return [view for view in self.views if view.headline]

    def of(self, view: View) -> list[Result]:
        """The results of a view."""
        return [r for r in self.results if (r.split, r.stage) == (view.split, view.stage)]

    def warnings(self) -> list[str]:
        """What a reader should be wary of."""
        texts = [text for method in self.methods for text in method.shorter(self.views[0].names[0])]
        few = {r.method: len(r.seeds) for r in self.results if len(r.seeds) < aggregates.FEW}
        if few:
            told = ", ".join(f"{name} {number}" for name, number in few.items())
            texts.append(
                f"fewer than {aggregates.FEW} seeds ({told}): such intervals hold the true value "
                "less often than they say, with 3 seeds in about 75 %; one seed has none"
            )
        steps = {r.method: r.step for r in self.results if r.split == self.results[0].split}
        if len(set(steps.values())) > 1:
            told = ", ".join(f"{name} {step:,}" for name, step in steps.items())
            texts.append(
                f"the methods end at different steps ({told}); --until={min(steps.values())} "
                "compares them at the same one"
            )
        short = min(len(steps) for steps, _ in self.curves.values())
        if short < self.choices.last:
            few_of = f"some runs have only {short} {self.reading}s"
            texts.append(f"--last={self.choices.last}: {few_of}")
        return texts

    def panels(self) -> dict[str, list[Line]]:
        """Curves over the tasks of each split."""
        panels: dict[str, list[Line]] = {}
        for view in self.views:
            panels.setdefault(view.title, []).extend(self.lines(view))
        return panels

    def lines(self, view: View, task: int | None = None) -> Iterator[Line]:
        """A curve with its interval for each method, over all tasks or one."""
        choices = self.choices
        for style, method in enumerate(self.methods):
            steps, scores = self.curves[view, method.name]
            if task is not None:
                scores = scores[..., task : task + 1]
            label = with_seeds(method.name, len(method.runs))
            label += f", {view.stage.replace('_', ' ')}" if view.stage else ""
            x = method.place([int(step) for step in steps], choices.axis)
            statistic = STATISTICS[choices.statistic]
            yield line(label, x, scores, statistic, choices.by_task, style, not view.headline)

    def profiles(self) -> dict[str, list[Line]]:
        """For each split the share of scores above each threshold."""
        panels = {}
        for view in self.headlines:
            results = self.of(view)
            low = 0.0 if self.bounded else min(r.scores.min() for r in results)
            high = 1.0 if self.bounded else max(r.scores.max() for r in results)
            thresholds = np.linspace(low, high, LEVELS)
            statistic = partial(aggregates.profile, thresholds=thresholds)
            panels[f"{view.split} tasks" if view.split else ""] = [
                Line(
                    result.label,
                    thresholds,
                    statistic(result.scores),
                    *aggregates.interval(
                        result.scores, statistic, by_task=self.choices.by_task, resamples=RESAMPLES
                    ),
                    style,
                )
                for style, result in enumerate(results)
            ]
        return panels

    def adaptations(self) -> tuple[str, dict[str, list[Line]]]:
        """What is counted ("step", "episode"), and for each split the scores over that count."""
        counted = [tag for tag in self.tags if self._plain(tag) and tag.number is not None]
        panels: dict[str, list[Line]] = {}
        for view in self.headlines:
            tags = sorted(
                (tag for tag in counted if tag.split == view.split), key=lambda tag: tag.number or 0
            )
            if len(tags) < 2:
                continue
            x = np.array([tag.number for tag in tags], dtype=np.float64)
            for style, method in enumerate(self.methods):
                scores = method.curve([tag.name for tag in tags], self.choices.until)[1]
                ends = scores[-self.choices.last :].mean(0).T[..., None]  # [stages, seeds, 1]
                label = with_seeds(method.name, len(method.runs))
                made = line(label, x, ends, aggregates.mean, self.choices.by_task, style, False)
                panels.setdefault(view.title, []).append(made)
        return (counted[0].stage.rpartition("_")[0] if panels else ""), panels

    def _plain(self, tag: Tag) -> bool:
        return tag.metric == self.metric and not tag.task

    def _known(self, metric: str) -> str:
        """The metric as it stands in tags: an evaluation's, or else one of training."""
        known = {tag.metric: tag.metric.removeprefix(EVALUATION) for tag in self.tags}
        wanted = (EVALUATION + metric, metric)
        for found in wanted:
            if found in known:
                return found
        lacking = [m.name for m in self.methods if not {*wanted} & {tag.metric for tag in m.tags}]
        evaluated = sorted({known[tag.metric] for tag in self.tags if tag.evaluation}) or ["none"]
        hint = closest(metric, list(known.values()))
        raise ConfigError(
            f"--metric={metric}: not written {'alike ' if not lacking else ''}by "
            f"{', '.join(lacking) or 'all runs'}; {hint + ' ' if hint else ''}"
            f"shared by all evaluations: {', '.join(evaluated)}; "
            "tags of training, such as loss/critic, can be given too"
        )

    def _views(self) -> Iterator[View]:
        mine = [tag for tag in self.tags if tag.metric == self.metric]
        for split in dict.fromkeys(tag.split for tag in mine if tag.split) or [""]:
            inside = [tag for tag in mine if tag.split == split]
            stages = list(dict.fromkeys(tag.stage for tag in inside if tag.stage))
            numbers = {tag.stage: tag.number for tag in inside}
            stages.sort(key=lambda stage: _order(stage, numbers[stage]))
            plain = any(not tag.stage for tag in inside) and bool(split or not stages)
            last = "" if plain else stages[-1]
            if stages and stages[0] != last:
                yield self._view(split, stages[0], False)
            yield self._view(split, last, True)

    def _view(self, split: str, stage: str, headline: bool) -> View:
        wanted = (self.metric, split, stage)
        tasks = tuple(tag.task for tag in self.tags if tag[:3] == wanted and tag.task)
        return View(self.metric, split, stage, tasks, headline)

    def _result(self, view: View, method: Method) -> Result:
        steps, scores = self.curves[view, method.name]
        final = scores[-self.choices.last :].mean(0)
        tasks = view.tasks or ("",)
        mean, iqm = (
            aggregates.estimate(final, statistic, by_task=self.choices.by_task)
            for statistic in STATISTICS.values()
        )
        by_task: dict[str, Estimate] = {
            task: aggregates.estimate(final[:, i : i + 1]) for i, task in enumerate(view.tasks)
        }
        seeds = tuple(run.seed for run in method.runs)
        return Result(
            method.name, view.split, view.stage, int(steps[-1]), seeds, tasks, final, mean, iqm,
            by_task,
        )  # fmt: skip


def _order(stage: str, number: int | None) -> float:
    """Where a stage stands among others: those that are counted between the first and the last."""
    if number is not None:
        return number
    return np.inf if stage in ENDS else -1


def line(
    label: str,
    x: NDArray[np.float64],
    scores: NDArray[np.float64],
    statistic: Statistic,
    by_task: bool,
    style: int,
    faint: bool,
) -> Line:
    """A curve of scores `[points, seeds, tasks]` with an interval at each point."""
    y = np.array([statistic(one) for one in scores])
    interval = partial(aggregates.interval, by_task=by_task, resamples=RESAMPLES)
    if statistic is aggregates.mean and not by_task:  # all points from the same draws, at once
        low, high = interval(scores.mean(-1).T, partial(np.mean, axis=-2))
    else:
        low, high = np.array([interval(one, statistic) for one in scores]).T
    return Line(label, x, y, low, high, style, faint)
