"""Tables of results: markdown to read, LaTeX to print, CSV with every digit."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from runners.aggregates import Estimate, Scores

LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--"}

Cells = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Result:
    """What one method came to in one kind of evaluation.

    Args:
        method: its name.
        split: "train" or "test" of a meta-learner; "" else.
        stage: how much a meta-learner had seen; "" else.
        step: of its last evaluation.
        seeds: of its runs.
        tasks: their names; ("",) if the records hold the mean alone.
        scores: `[seeds, tasks]`.
        mean: over seeds and tasks.
        iqm: interquartile mean over the same.
        by_task: the mean of each task.
    """

    method: str
    split: str
    stage: str
    step: int
    seeds: tuple[int | str, ...]
    tasks: tuple[str, ...]
    scores: Scores
    mean: Estimate
    iqm: Estimate
    by_task: dict[str, Estimate]

    @property
    def place(self) -> str:
        """Split and stage."""
        return " ".join(part for part in (self.split, self.stage.replace("_", " ")) if part)

    @property
    def label(self) -> str:
        """The method and how many seeds it has."""
        return with_seeds(self.method, len(self.seeds))


def with_seeds(name: str, seeds: int) -> str:
    """The name and a number of seeds."""
    return f"{name} ({seeds} seed{'s' * (seeds > 1)})"


def digits(results: Sequence[Result]) -> int:
    """Decimals that suit the size of the scores."""
    largest = max(float(abs(result.scores).max()) for result in results)
    return 3 if largest <= 1.0 else 2 if largest < 100.0 else 1


def interval_text(estimate: Estimate, decimals: int) -> str:
    """The interval; a dash for one seed, which has none."""
    if estimate.low != estimate.low:
        return "–"
    return f"{estimate.low:.{decimals}f} to {estimate.high:.{decimals}f}"


def aggregate(results: Sequence[Result], unit: str) -> Cells:
    """Header and rows: mean and IQM of each method."""
    decimals, placed = digits(results), any(result.place for result in results)
    header = ["method", "evaluation", "seeds", unit, "mean", "95 %", "IQM", "95 %"]
    rows = [
        [
            result.method,
            result.place,
            str(len(result.seeds)),
            f"{result.step:,}",
            f"{result.mean.value:.{decimals}f}",
            interval_text(result.mean, decimals),
            f"{result.iqm.value:.{decimals}f}",
            interval_text(result.iqm, decimals),
        ]
        for result in results
    ]
    if not placed:
        header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
    return [header, *rows]


def per_task(results: Sequence[Result]) -> Cells:
    """Header and rows: the mean and its interval of each task, a column for each method."""
    decimals = digits(results)
    header = ["task", *(result.label for result in results)]
    return [
        header,
        *(
            [
                task,
                *(
                    f"{result.by_task[task].value:.{decimals}f} "
                    f"({interval_text(result.by_task[task], decimals)})"
                    for result in results
                ),
            ]
            for task in results[0].by_task
        ),
    ]


def markdown(cells: Cells) -> str:
    """A markdown table; the first column is text, the others are figures."""
    header, *rows = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def latex(cells: Cells, caption: str) -> str:
    """A LaTeX table for the package booktabs."""
    header, *rows = [[_escaped(cell) for cell in row] for row in cells]
    lines = [r"% \usepackage{booktabs}", rf"\begin{{table}}\caption{{{_escaped(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(header) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def aggregate_csv(results: Sequence[Result]) -> str:
    """The aggregate table with every digit."""
    header = "method split stage tasks seeds step mean mean_low mean_high iqm iqm_low iqm_high"
    rows = [
        [r.method, r.split, r.stage, len(r.tasks), len(r.seeds), r.step, *r.mean[:3], *r.iqm[:3]]
        for r in results
    ]
    return _csv(header, rows)


def tasks_csv(results: Sequence[Result]) -> str:
    """The table of tasks with every digit."""
    rows = [
        [r.method, r.split, r.stage, task, len(r.seeds), r.step, *estimate[:3]]
        for r in results
        for task, estimate in r.by_task.items()
    ]
    return _csv("method split stage task seeds step mean low high", rows)


def scores_csv(results: Sequence[Result]) -> str:
    """The scores that all figures come from."""
    rows = [
        [r.method, r.split, r.stage, task, seed, r.step, float(r.scores[i, j])]
        for r in results
        for i, seed in enumerate(r.seeds)
        for j, task in enumerate(r.tasks)
    ]
    return _csv("method split stage task seed step score", rows)


def _csv(header: str, rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header.split(), *rows])
    return text.getvalue()


def _escaped(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)
