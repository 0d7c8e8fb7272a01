"""What runs on reach-v3 and drawer-close-v3 came to: tables for the pages of results.

A run is `<experiment>/seed_<n>/metrics.jsonl`.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from pictures import Picture

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runners.records import read_records  # noqa: E402

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
    """Markdown rows: each seed, the median beside the threshold."""
    yield "| method | seed | reach-v3 | drawer-close-v3 | threshold of each | processor minutes |"
    yield "|---|---|---|---|---|---|"
    for name, seeds in runs.items():
        values = {s: [final(r, t) for t in TASKS] for s, r in seeds.items()}
        for seed, (reach, drawer) in values.items():
            spent = minutes(seeds[seed])
            yield f"| {methods[name]} | {seed} | {reach:.2f} | {drawer:.2f} | | {spent:.1f} |"
        medians = [statistics.median(v[i] for v in values.values()) for i in range(2)]
        text = f"| **{methods[name]}** | median of {len(values)} "
        text += f"| **{medians[0]:.2f}** | **{medians[1]:.2f}** |"
        if name in thresholds:
            wanted = thresholds[name]
            # A mean of 0.8 may be summed to a little less.
            met = all(round(m, 9) >= w for m, w in zip(medians, wanted, strict=True))
            text += f" {wanted[0]}, {wanted[1]}: {'met' if met else 'missed'} | |"
        else:
            text += " | |"
        yield text


def make_page(
    name: str,
    page: str,
    methods: dict[str, str],
    thresholds: dict[str, tuple[float, float]],
    picture: Picture,
) -> None:
    """Write a page that is a table and one picture, as the command line asks.

    Args:
        name: of its file.
        page: its text, with places for `experiments`, `table` and `success`.
        methods: experiment -> what the table calls it.
        thresholds: experiment -> success wanted on each task.
        picture: of success.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    runs = finished(arguments.runs, methods)
    shown = picture.make(arguments.runs, runs, methods, arguments.out)
    text = "\n".join(table(runs, methods, thresholds)) + "\n"
    names = ", ".join(f"`{experiment}`" for experiment in runs)
    (arguments.out / name).write_text(page.format(experiments=names, table=text, success=shown))
    print(text)
