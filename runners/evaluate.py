"""Evaluate a finished or running run by the benchmark's protocol.

    python -m runners.evaluate runs/must_mt10/seed_1
    python -m runners.evaluate runs/must_mt10/seed_1 --checkpoint=best --seed=7

Suite and learner are built anew from the run's config.gin, and so is the evaluator: what no flag
says is as in the run, the policy ("deterministic" or "stochastic") among it. Prints a table per
task, and writes RUN_FOLDER/eval/evaluate_<step>_seed_<seed>.json. Exit codes: 0 done, 2 wrong
input, 1 failed.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from runners.command_line import FINISHED, new_flags, parse, wrong


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    flags.DEFINE_string(
        "checkpoint", "latest", "latest, best or an environment step.", flag_values=values
    )
    flags.DEFINE_integer(
        "episodes",
        None,
        "Episodes per task; all goals once if not given. Fewer than goals: only the first ones.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed", None, "Seed of the evaluation (Evaluator.seed).", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string("device", "cpu", "Where the policy runs: cpu or cuda.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags, evaluate, print, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()
    parsed = parse(values, argv, __doc__, _not_one_folder)
    if isinstance(parsed, int):
        return parsed
    saved_run = importlib.import_module("runners.saved_run")
    config = importlib.import_module("runners.config")
    try:
        run = saved_run.SavedRun(parsed[0], values.checkpoint, values.device)
        evaluator = run.evaluator(values.episodes, values.seed)
    except config.ConfigError as error:
        return wrong(error.line())
    try:
        metrics = evaluator(run.suite, run.learner)
    finally:
        evaluator.close()
    result = evaluator.result(run.step, run.suite, metrics)
    name = f"evaluate_{run.step}_seed_{evaluator.seed}"
    path = evaluator.write_result(run.folder / "eval", run.step, run.suite, metrics, name=name)
    _print(result, evaluator.table(result), path)
    return FINISHED


def _not_one_folder(rest: list[str]) -> str:
    return "" if len(rest) == 1 else f"one run folder is needed, got {len(rest)}"


def _print(result: dict[str, Any], cells: Any, path: Path | None) -> None:
    """The evaluator's table: framed on a terminal, tab-separated when piped."""
    if sys.stdout.isatty():
        table = importlib.import_module("rich.table").Table(
            *cells.header,
            title=f"{result['suite']} at step {result['step']:,}, {result['policy']} policy",
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for row in cells.rows:
            table.add_row(*row)
        table.add_section()
        for row in cells.foot:
            table.add_row(*row, style="bold")
        importlib.import_module("rich.console").Console().print(table)
    else:
        for row in (cells.header, *cells.rows, *cells.foot):
            print("\t".join(row))
    if path is not None:
        print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
