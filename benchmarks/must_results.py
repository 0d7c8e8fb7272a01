"""The page docs/results/must.md with its pictures, made from the metrics of finished runs.

    python benchmarks/must_results.py runs --out docs/results

`runs` holds `<experiment>/seed_<n>/metrics.jsonl`, as the commands in the page write them.
"""

import argparse
import statistics
from pathlib import Path

from pictures import Picture
from two_tasks import Records, finished, series, table

METHODS = {
    "mtsac_two_tasks": "MT-SAC",
    "mtsac_two_tasks_blocks": "MT-SAC in MUST's order",
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
    "mtsac_two_tasks_blocks": (0.8, 0.9),
    "must_two_tasks_dense": (0.8, 0.9),
    "must_two_tasks_fixed": (0.55, 0.8),
    "must_two_tasks": (0.55, 0.8),
}
SUCCESS = Picture(
    "must_success.png", "Success of each method", "curves_by_task", "success_rate", "step_per_task"
)
OVERLAP = Picture(
    "must_masks.png", "Overlap of tasks' masks", "curves_by_task", "mask/overlap", "step_per_task"
)
PAGE = """# MUST and its controls on two tasks

reach-v3 and drawer-close-v3 of Meta-World v3: v2 reward, 50 goals, time limit 200, hidden layers
128, 128, batch 2 x 128, discount 0.95, rates 1e-3, observations normalised, one update per two
vector steps, 40 thousand steps of each task, pruning ratio 0.5. Success is that of any step of the
episode, deterministic policy, each of the 50 goals once; figures are means over the evaluations at
30, 35 and 40 thousand steps of each task. One process with one thread for each run; minutes are
its processor time, evaluations included, on a virtual machine of two cores (AMD EPYC). Other work
ran beside most of them, which takes time.

    python -m runners.train --gin_file=gin/quick/<experiment>.gin --seed=<seed>
    python benchmarks/must_results.py runs --out docs/results

This page is written by the second command from the runs' metrics.jsonl, with the pictures that the
commands below them make; runs that have not reached their last step are left out. The experiments
are {experiments}.
MUST and its controls collect 200 steps of each task, then make 100 updates; so does MT-SAC "in
MUST's order". What options of MUST do with more tasks is in [must_study.md](must_study.md).

{table}
{success}

Lines are means over seeds; shaded is a 95 % bootstrap interval over seeds, which with three is as
wide as their range, and holds the true mean in about 75 % of cases. Thresholds were set before
these runs, a little below what prototypes had reached, which are not kept. Fewer than five seeds
decide nothing between methods that differ by less than 0.15. With nothing pruned MUST computes what
MT-SAC in its order does, seed by seed with the same random numbers (`tests/test_must.py`): how far
their figures are apart is how far rounding goes, once it decides whether the arm meets an object.
{masks}"""
MASKS = """
## What the masks do

{overlap}

Of the weights that a task keeps, the share that the other one keeps too; by chance it is 0.5. MUST,
seeds {seeds}; intervals as above. The kept share of the weights was between {low:.6f} and
{high:.6f}; the share exchanged at a commit at most {turnover:.4f}. {changes}
"""
CHANGES = """Over {commits} commits (seeds: {seeds}) success on 15
goals of each task changed by {mean:+.3f} on average from one update before a commit to right after
it, at worst by {worst:+.3f} (`must_two_tasks_commits`: the same run, evaluated there as well)."""


def masks_text(overlap: str, seeds: dict[int, Records], around: dict[int, Records]) -> str:
    """The part on masks: the picture `overlap`, and figures."""
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
        overlap=overlap,
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
    success = SUCCESS.make(arguments.runs, runs, METHODS, arguments.out)
    if seeds := runs.get("must_two_tasks"):
        only = {"must_two_tasks": seeds}
        overlap = OVERLAP.make(arguments.runs, only, METHODS, arguments.out)
        masks = masks_text(overlap, seeds, around)
    text = "\n".join(table(runs, METHODS, THRESHOLDS)) + "\n"
    names = ", ".join(f"`{name}`" for name in runs)
    page = PAGE.format(experiments=names, table=text, success=success, masks=masks)
    (arguments.out / "must.md").write_text(page)
    print(text)


if __name__ == "__main__":
    main()
