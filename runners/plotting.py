"""`plot`: figures and tables of finished or running runs, from their metrics.jsonl alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runners import figures, protocols, published_results, result_tables
from runners.comparison import STATISTICS, Choices, Comparison
from runners.config import ConfigError, file_errors
from runners.files import write_atomically
from runners.published_results import Entry
from runners.recorded_runs import read_methods
from runners.result_tables import Result

AXES = {
    "step": "environment steps, all tasks together",
    "env_steps": "environment steps",
    "step_per_task": "environment steps of each task",
    "updates": "updates",
}


@dataclass(frozen=True)
class Outcome:
    """What `plot` made: the text of aggregate.md, the files, and what to be wary of."""

    text: str
    paths: tuple[Path, ...]
    results: tuple[Result, ...]
    warnings: tuple[str, ...]


def plot(
    paths: Sequence[Path | str],
    out: Path | str = "plots",
    *,
    metric: str = "",
    axis: str = "step",
    statistic: str = "mean",
    last: int = 1,
    until: float = np.inf,
    labels: Mapping[str, str] | Sequence[str] | None = None,
    mix: Sequence[str] = (),
    published: Sequence[str] = (),
    by_task: bool = False,
) -> Outcome:
    """Draw runs and write their tables.

    Args:
        paths: folders of runs, or of the seeds of one method.
        out: folder of the pictures and tables.
        metric: `success_rate`, `return`, ... as in `eval/<metric>`, or a tag of training, such as
            `loss/critic`; if empty the success rate, of a meta-learner the return.
        axis: a key of `AXES`: what curves are drawn over.
        statistic: a key of `STATISTICS`: what the curves show.
        last: how many evaluations, or records of training, at the end of each run a result is the
            mean of.
        until: leave out what is later than this step.
        labels: names to show, by experiment; or texts <experiment>=<name>, as of --label.
        mix: facts of the protocol (`protocols.FACTS`) that may differ between the runs.
        published: patterns of keys of published results, to be drawn as level lines.
        by_task: intervals as Agarwal et al. 2021 have them (`aggregates.interval`).

    Raises:
        ConfigError: there is nothing to draw, it does not go together, or `out` cannot be written.
        ValueError: an argument is out of range.
    """
    if axis not in AXES or statistic not in STATISTICS or last < 1:
        raise ValueError(f"plot: axis {axis!r}, statistic {statistic!r} or last {last!r}")
    methods, warnings = read_methods(paths, labels, metric)
    compared = [name for name in protocols.FACTS if name != "steps" or axis == "step"]
    warnings += protocols.check(methods, mix, compared)
    comparison = Comparison(methods, metric, Choices(axis, statistic, last, until, by_task))
    warnings += comparison.warnings()
    entries = published_results.chosen(published)
    if entries and comparison.metric != "eval/success_rate":
        raise ConfigError(
            f"--published: they are success rates of evaluations, not {comparison.name}; "
            "give --metric=success_rate"
        )
    for entry in entries:
        warnings += protocols.check_published(entry, methods, mix)
    out = Path(out)
    text = _page(comparison, entries, warnings)
    cells = result_tables.aggregate(comparison.results, comparison.unit)
    with file_errors(f"--out={out}", "choose another folder"):
        out.mkdir(parents=True, exist_ok=True)
        made = _draw(comparison, entries, out)
        for name, content in {
            "aggregate.md": text,
            "aggregate.tex": result_tables.latex(cells, _caption(comparison)),
            "aggregate.csv": result_tables.aggregate_csv(comparison.results),
            "tasks.csv": result_tables.tasks_csv(comparison.results),
            "scores.csv": result_tables.scores_csv(comparison.results),
        }.items():
            write_atomically(out / name, content)
            made.append(out / name)
    return Outcome(text, tuple(made), tuple(comparison.results), tuple(warnings))


def _draw(comparison: Comparison, entries: Sequence[Entry], out: Path) -> list[Path]:
    choices, bounded = comparison.choices, comparison.bounded
    y = comparison.name.replace("_", " ")
    x = AXES[choices.axis]
    if choices.axis == "step" and (comparison.meta or comparison.unit == "iterations"):
        x = "iterations" if comparison.unit == "iterations" else "environment steps"
    references = {
        view.title: {
            published_results.label(entry): entry["value"]
            for entry in entries
            if entry.get("split", view.split) == view.split
        }
        for view in comparison.headlines
    }
    shown = f"{y}, {'IQM' if choices.statistic == 'iqm' else 'mean'}"
    drawn = {
        "curves": figures.curves(
            comparison.panels(), x=x, y=shown, bounded=bounded, references=references
        )
    }
    for view in comparison.headlines:
        place = f"_{view.split}" if view.split else ""
        if view.tasks:
            estimates = {result.label: result.by_task for result in comparison.of(view)}
            drawn[f"tasks{place}"] = figures.bars(estimates, x=y, bounded=bounded)
        if len(view.tasks) > 1:
            grid = {task: list(comparison.lines(view, i)) for i, task in enumerate(view.tasks)}
            drawn[f"curves_by_task{place}"] = figures.curves(grid, x=x, y=y, bounded=bounded)
    profiles = comparison.profiles()
    what = "scores" if comparison.views[0].tasks else "seeds"
    drawn["profile"] = figures.curves(profiles, x=y, y=f"share of {what} above", bounded=True)
    counted, panels = comparison.adaptations()
    if panels:
        x = "adaptation steps" if counted == "step" else f"{counted}s"
        drawn["adaptation"] = figures.curves(panels, x=x, y=y, bounded=bounded)
    return [path for name, one in drawn.items() for path in figures.save(one, out / name)]


def _caption(comparison: Comparison) -> str:
    metric = comparison.name.replace("_", " ")
    return f"{metric}: {protocols.describe(comparison.methods)}"


def _page(comparison: Comparison, entries: Sequence[Entry], warnings: Sequence[str]) -> str:
    last, by_task = comparison.choices.last, comparison.choices.by_task
    first, reading = comparison.views[0], comparison.reading
    over = f"seeds and {first.part}s" if first.tasks else "seeds"
    drawn = "the seeds of each task by themselves" if by_task else "whole seeds"
    which = f"the last {reading}" if last == 1 else f"the last {last} {reading}s"
    parts = [
        f"# {comparison.name.replace('_', ' ')}\n",
        f"Protocol: {protocols.describe(comparison.methods)}.\n",
        f"Each run counts with {which}; mean and IQM over {over}; 95 % intervals by stratified "
        f"bootstrap over seeds, drawing {drawn}.\n",
        result_tables.markdown(result_tables.aggregate(comparison.results, comparison.unit)),
    ]
    for view in comparison.headlines:
        if view.tasks:
            of = f" on {view.split} tasks" if view.split else ""
            parts.append(f"Mean of each {view.part}{of}, with its 95 % interval:\n")
            parts.append(result_tables.markdown(result_tables.per_task(comparison.of(view))))
    if entries:
        parts.append("Published, each by a protocol of its own:\n")
        lines = [f"- {published_results.label(e)}: {published_results.origin(e)}" for e in entries]
        parts.append("\n".join(lines) + "\n")
    if warnings:
        parts.append("Beware:\n")
        parts.append("".join(f"- {warning}\n" for warning in warnings))
    return "\n".join(parts)
