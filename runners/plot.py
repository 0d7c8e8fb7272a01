"""Draw finished or running runs, and put their results into tables.

    python -m runners.plot runs/must_mt10 runs/mtsac_mt10 --out=plots
    python -m runners.plot runs/must_mt10/seed_0 --x=step_per_task --metric=return
    python -m runners.plot runs/must_mt10 --metric=mask/overlap
    python -m runners.plot runs/must_mt10 --published='MT10/*/mclean2025_v2'

A RUN is a run's folder, or one that holds a folder seed_<n> for each run of a method. Reads their
metrics.jsonl, and run.json for the protocol. What is drawn are evaluations, or with a --metric such
as loss/critic what training wrote. Writes curves, bars of each task and profiles (of a
meta-learner: curves over adaptation) as PNG and SVG, and tables of mean and interquartile mean
with 95 % intervals as markdown, LaTeX and CSV. Runs of different protocols are refused unless
--mix names what differs. Exit codes: 0 done, 2 wrong input, 1 failed.
"""

import functools
import importlib
import sys
from collections.abc import Sequence

from absl import flags

from runners.command_line import FINISHED, new_flags, parse, run_program, wrong

FACTS = ("suite", "tasks", "reward_version", "horizon", "goals", "success", "steps", "other")


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    flags.DEFINE_string("out", "plots", "Folder of the pictures and tables.", flag_values=values)
    flags.DEFINE_string(
        "metric",
        "",
        "What to draw: of evaluations as in the tag eval/<metric>, success_rate, return, ...; of "
        "training the first two parts of a tag, loss/critic, train/return, mask/overlap, ... (the "
        "rest is a task, or a part of the agent). If not given the success rate, of a "
        "meta-learner the return.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "x",
        "step",
        ["step", "env_steps", "step_per_task", "updates"],
        "The x axis. step is what the run counts: environment steps of all tasks together, or "
        "iterations of a meta-learner, which env_steps turns into environment steps.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "statistic",
        "mean",
        ["mean", "iqm"],
        "What the curves show; the tables have both.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "last",
        1,
        "Results are means of so many evaluations (of --metric=loss/critic and the like: records) "
        "at the end of each run.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "until",
        None,
        "Leave out what is later than this step.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "label",
        [],
        "<experiment>=<text>: what a method is to be called; may be repeated.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "mix",
        [],
        f"What may differ between the runs, separated by commas: {', '.join(FACTS)}.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "published",
        [],
        "Published results to draw as level lines: keys <benchmark>/<method>/<source>, where * "
        "stands for anything; may be repeated. --published=list prints all of them.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "interval",
        "seeds",
        ["seeds", "tasks"],
        "What the bootstrap draws: whole seeds, widened for their small number; or the seeds of "
        "each task by themselves, as published with rliable, which is too narrow where one agent "
        "learns all tasks.",
        flag_values=values,
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags, draw, print the table, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()
    parsed = parse(values, argv, __doc__, functools.partial(_complaint, values))
    if isinstance(parsed, int):
        return parsed
    if values.published == ["list"]:
        published = importlib.import_module("runners.published_results")
        for entry in published.read_published():
            print(f"{entry['key']}\t{published.label(entry)}")
        return FINISHED
    config = importlib.import_module("runners.config")
    plotting = importlib.import_module("runners.plotting")
    try:
        outcome = plotting.plot(
            parsed,
            values.out,
            metric=values.metric,
            axis=values.x,
            statistic=values.statistic,
            last=values.last,
            until=float("inf") if values.until is None else values.until,
            labels=values.label,
            mix=values.mix,
            published=values.published,
            by_task=values.interval == "tasks",
        )
    except config.ConfigError as error:
        return wrong(error.line())
    print(outcome.text)
    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"written to {values.out}: {len(outcome.paths)} files", file=sys.stderr)
    return FINISHED


def _complaint(values: flags.FlagValues, rest: list[str]) -> str:
    if strange := set(values.mix) - set(FACTS):
        return f"--mix={sorted(strange)[0]}: must be among {', '.join(FACTS)}"
    for label in values.label:
        if "=" not in label:
            return f"--label={label}: must be <experiment>=<text>"
    if not rest and values.published != ["list"]:
        return "at least one run folder is needed"
    return ""


if __name__ == "__main__":
    sys.exit(run_program(main))
