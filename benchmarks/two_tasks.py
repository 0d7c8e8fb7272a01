"""What runs on reach-v3 and drawer-close-v3 came to: tables and curves for the pages of results.

A run is `<experiment>/seed_<n>/metrics.jsonl`.
"""

import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runners import figures  # noqa: E402
from runners.records import read_records  # noqa: E402
from runners.result_tables import with_seeds  # noqa: E402

TASKS = ("reach-v3", "drawer-close-v3")
LAST = (60_000, 70_000, 80_000)  # 30, 35 and 40 thousand steps of each task
Records = list[dict[str, float]]
Runs = dict[str, dict[int, Records]]
"""Experiment -> seed -> records, in order."""


def series(records: Records, tag: str) -> dict[int, float]:
    """Step to value, where the tag was written."""
    return {int(r["step"]): r[tag] for r in records if r.get(tag) is not None}


def final(records: Records, task: str) -> float:
    """Mean success over the evaluations at 30, 35 and 40 thousand steps of each task."""
    curve = series(records, f"eval/success_rate/{task}")
    return statistics.fmean(curve[step] for step in LAST if step in curve)


def minutes(records: Records) -> float:
    """Minutes of processor time, from the start of the process to its last evaluation."""
    return max(series(records, "sys/cpu_s").values()) / 60.0


def finished(folder: Path, names: Iterable[str]) -> Runs:
    """The runs under `<folder>/<name>/seed_<n>` that reached their last step."""
    runs: Runs = {}
    for name in names:
        for path in sorted((folder / name).glob("seed_*")):
            records = read_records(path / "metrics.jsonl")
            if records and records[-1]["step"] >= LAST[-1]:
                runs.setdefault(name, {})[int(path.name.removeprefix("seed_"))] = records
    if not runs:
        raise SystemExit(f"no finished run of {', '.join(names)} under {folder}")
    return runs


def table(
    runs: Runs, methods: dict[str, str], thresholds: dict[str, tuple[float, float]]
) -> Iterable[str]:
    """Markdown rows: each seed, the median, the threshold."""
    yield "| method | seed | reach-v3 | drawer-close-v3 | processor minutes |"
    yield "|---|---|---|---|---|"
    for name, seeds in runs.items():
        values = {s: [final(r, t) for t in TASKS] for s, r in seeds.items()}
        for seed, (reach, drawer) in values.items():
            spent = minutes(seeds[seed])
            yield f"| {methods[name]} | {seed} | {reach:.2f} | {drawer:.2f} | {spent:.1f} |"
        medians = [statistics.median(v[i] for v in values.values()) for i in range(2)]
        text = f"| **{methods[name]}** | median of {len(values)} "
        text += f"| **{medians[0]:.2f}** | **{medians[1]:.2f}** |"
        if name in thresholds:
            wanted = thresholds[name]
            met = all(m >= w for m, w in zip(medians, wanted, strict=True))
            text += f" threshold {wanted[0]} / {wanted[1]}: {'met' if met else 'missed'} |"
        else:
            text += " |"
        yield text


def plot_success(runs: Runs, methods: dict[str, str], path: Path) -> None:
    """Success against steps of each task: mean and range over seeds."""
    panels: dict[str, list[figures.Line]] = {task: [] for task in TASKS}
    for task, lines in panels.items():
        for style, (name, seeds) in enumerate(runs.items()):
            curves = [series(r, f"eval/success_rate/{task}") for r in seeds.values()]
            steps = sorted(set.intersection(*(set(c) for c in curves)))
            values = np.array([[c[s] for c in curves] for s in steps])
            label, x = with_seeds(methods[name], len(curves)), np.array(steps) / 2
            ends = values.min(1), values.max(1)
            lines.append(figures.Line(label, x, values.mean(1), *ends, style))
    x_label, y_label = "steps of each task", "success rate, 50 goals"
    figures.curves(panels, x=x_label, y=y_label, bounded=True).savefig(path, dpi=150)
