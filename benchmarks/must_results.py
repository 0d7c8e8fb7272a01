"""The page docs/results/must.md with its curves, made from the metrics of finished runs.

    python benchmarks/must_results.py runs --out docs/results

`runs` holds `<experiment>/seed_<n>/metrics.jsonl`, as the commands in the page write them.
"""

import argparse
import statistics
from pathlib import Path

from matplotlib.figure import Figure
from two_tasks import Records, finished, plot_success, series, table

from runners.figures import COLORS, DASHES

METHODS = {
    "mtsac_two_tasks": "MT-SAC",
    "must_two_tasks_dense": "MUST, pruning ratio 0",
    "must_two_tasks_fixed": "fixed random masks",
    "must_two_tasks": "MUST",
    "must_two_tasks_commits": "MUST, evaluated around commits",
    "must_two_tasks_rl_only": "MUST, RL loss only",
    "must_two_tasks_no_trajectory": "MUST, no trajectory input",
    "must_two_tasks_reference": "MUST, reference options",
}
THRESHOLDS = {
    "mtsac_two_tasks": (0.8, 0.9),
    "must_two_tasks_dense": (0.8, 0.9),
    "must_two_tasks_fixed": (0.55, 0.8),
    "must_two_tasks": (0.55, 0.8),
}
PAGE = """# MUST and its controls on two tasks

reach-v3 and drawer-close-v3 of Meta-World v3: v2 reward, 50 goals, time limit 200, hidden layers
128, 128, batch 2 x 128, discount 0.95, rates 1e-3, observations normalised, one update per two
vector steps, 40 thousand steps of each task, pruning ratio 0.5. Success is that of any step of the
episode, deterministic policy, each of the 50 goals once; figures are means over the evaluations at
30, 35 and 40 thousand steps of each task. One process with one thread for each run; minutes are
its processor time, evaluations included, on a virtual machine of two cores (Cascade Lake, 2.5 GHz)
on which two or three such processes ran side by side. Five minutes a run, the aim, were missed.

    python -m runners.train --gin_file=gin/quick/<experiment>.gin --seed=<seed>
    python benchmarks/must_results.py runs --out docs/results

This page is written by the second command from the runs' metrics.jsonl; runs that have not reached
their last step are left out. The experiments are {experiments}.
What options of MUST do with more tasks is in [must_study.md](must_study.md).

{table}
![Success of each method](must_success.png)

Shaded: the range over seeds. Thresholds are those that prototypes of the same methods reached.
Fewer than five seeds decide nothing between methods that differ by less than 0.15.
{masks}"""
MASKS = """
## What the masks do

![Kept share, overlap, turnover, success at commits](must_masks.png)

MUST, seeds {seeds}. The kept share of the weights was between {low:.6f} and {high:.6f}; the share
exchanged at a commit at most {turnover:.4f}. {changes}
"""
CHANGES = """Over {commits} commits (seeds: {seeds}) success on 15
goals of each task changed by {mean:+.3f} on average from one update before a commit to right after
it, at worst by {worst:+.3f} (`must_two_tasks_commits`: the same run, evaluated there as well)."""


def plot_masks(seeds: dict[int, Records], around: dict[int, Records], path: Path) -> None:
    """What happens to the masks of MUST over its commits; `around` was evaluated at them."""
    figure = Figure(figsize=(15, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    panels = ("kept_fraction", "overlap", "turnover")
    titles = ("share of weights kept", "overlap between tasks", "exchanged at a commit")
    for axis, tag, title in zip(axes, panels, titles, strict=False):
        for i, name in enumerate(("actor", "critic_0", "critic_1")):
            for seed, records in seeds.items():
                curve = series(records, f"mask/{tag}/{name}")
                label = name if seed == min(seeds) else None
                x = [s / 2000 for s in curve]
                style = {"linestyle": DASHES[i], "color": COLORS[i], "label": label}
                axis.plot(x, list(curve.values()), **style)
        axis.set(title=title, xlabel="steps of each task, thousands")
        axis.grid(alpha=0.3)
    axes[0].set_ylim(0.0, 1.0)
    axes[2].set_ylim(0.0, 1.3 * axes[2].dataLim.ymax)
    axes[0].legend(fontsize=8)
    for i, (tag, label) in enumerate((("before", "before a commit"), ("after", "right after"))):
        for seed, records in around.items():
            curve = series(records, f"commit/success_rate_{tag}")
            x = [s / 2000 for s in curve]
            shown = label if seed == min(around) else None
            style = {"linestyle": DASHES[i], "color": COLORS[i], "label": shown}
            axes[3].plot(x, list(curve.values()), **style)
    axes[3].set(title="success at commits", xlabel="steps of each task, thousands")
    axes[3].set_ylim(-0.02, 1.02)
    axes[3].grid(alpha=0.3)
    if around:
        axes[3].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def masks_text(seeds: dict[int, Records], around: dict[int, Records]) -> str:
    """The paragraph on masks, in figures."""
    kept, turnover, changes = [], [], []
    for records in seeds.values():
        for tag, values in (("kept_fraction", kept), ("turnover", turnover)):
            for name in ("actor", "critic_0", "critic_1"):
                values += series(records, f"mask/{tag}/{name}").values()
    for records in around.values():
        before = series(records, "commit/success_rate_before")
        after = series(records, "commit/success_rate_after")
        changes += [after[step] - before[step] for step in before]
    text = ""
    if changes:
        text = CHANGES.format(
            commits=len(changes),
            seeds=", ".join(map(str, around)),
            mean=statistics.fmean(changes),
            worst=min(changes),
        )
    return MASKS.format(
        seeds=", ".join(map(str, seeds)),
        low=min(kept),
        high=max(kept),
        turnover=max(turnover),
        changes=text,
    )


def main() -> None:
    """Read the runs, write the table and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    runs = finished(arguments.runs, METHODS)
    masks = ""
    around = runs.pop("must_two_tasks_commits", {})
    plot_success(runs, METHODS, arguments.out / "must_success.png")
    if seeds := runs.get("must_two_tasks", around):
        plot_masks(seeds, around, arguments.out / "must_masks.png")
        masks = masks_text(seeds, around)
    text = "\n".join(table(runs, METHODS, THRESHOLDS)) + "\n"
    names = ", ".join(f"`{name}`" for name in runs)
    page = PAGE.format(experiments=names, table=text, masks=masks)
    (arguments.out / "must.md").write_text(page)
    print(text)


if __name__ == "__main__":
    main()
