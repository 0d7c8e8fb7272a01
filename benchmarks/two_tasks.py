"""What runs on reach-v3 and drawer-close-v3 came to: tables and curves for the pages of results.

A run is `<experiment>/seed_<n>/metrics.jsonl`.
"""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TASKS = ("reach-v3", "drawer-close-v3")
LAST = (60_000, 70_000, 80_000)  # 30, 35 and 40 thousand steps of each task
STYLES = ("-", "--", ":", "-.")
Records = list[dict[str, float]]
Runs = dict[str, dict[int, Records]]
"""Experiment -> seed -> records, in order."""


def load(folder: Path) -> Records:
    """Records of one run, in order."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


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
            records = load(path)
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
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, task in zip(axes, TASKS, strict=True):
        for i, (name, seeds) in enumerate(runs.items()):
            curves = [series(r, f"eval/success_rate/{task}") for r in seeds.values()]
            steps = sorted(set.intersection(*(set(c) for c in curves)))
            values = [[c[s] for c in curves] for s in steps]
            x = [s / 2 / 1000 for s in steps]
            axis.plot(
                x,
                [statistics.fmean(v) for v in values],
                STYLES[i % 4],
                color=f"C{i}",
                label=f"{methods[name]} ({len(curves)} seed{'s' * (len(curves) > 1)})",
            )
            low, high = [min(v) for v in values], [max(v) for v in values]
            axis.fill_between(x, low, high, color=f"C{i}", alpha=0.12)
        axis.set(title=task, xlabel="steps of each task, thousands", ylim=(-0.02, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("success rate, 50 goals")
    axes[1].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
