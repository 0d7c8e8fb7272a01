"""Evaluate a finished or running run by the benchmark's protocol.

    python -m runners.evaluate runs/must_mt10/seed_1
    python -m runners.evaluate runs/must_mt10/seed_1 --checkpoint=best --seed=7
    python -m runners.evaluate runs/cavia_navigation/seed_0 --activations --activation_episodes=5
    python -m runners.evaluate runs/tigr_point_robot/seed_0 --latents
    python -m runners.evaluate runs/nm_cavia_ml45/seed_378 --protocol=meta-world
    python -m runners.evaluate runs/must_mt10/seed_1/policy

The last is an exported policy, which needs no more of the run than that folder (runners.export).
Suite and learner are built anew from the run's config.gin, and so is the evaluator: what no flag
says is as in the run, the policy ("deterministic" or "stochastic") among it. Prints a table, a line
for each task, or for each adaptation step of a meta-learner, and writes
FOLDER/eval/evaluate_<step>_seed_<seed>.json; --tasks and --episodes stand in the name before the
seed, and by Meta-World's protocol it ends in _meta_world.json. Exit codes: 0 done, 2 wrong input, 1
failed.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from runners.command_line import (
    FINISHED,
    LARGEST_SEED,
    new_flags,
    one_folder,
    parse,
    run_program,
    wrong,
)


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    flags.DEFINE_string(
        "checkpoint", "latest", "latest, best or a step of the run.", flag_values=values
    )
    flags.DEFINE_enum(
        "protocol",
        "run",
        ["run", "meta-world"],
        "The run's own, or that of Meta-World for CAVIA and MAML on ML1, ML10 and ML45: one "
        "adaptation to 10 episodes of 500 steps, every goal of every test class once.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "tasks",
        None,
        "Of a CAVIA or MAML run: tasks of each split, drawn by the seed. If not given as in the "
        "run (MetaEvaluator.num_tasks). More than 50 are run one group after the other; where "
        "activations are recorded all are in memory at once.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "episodes",
        None,
        "Episodes per task, and per adaptation step of a meta-learner. If not given as in the run; "
        "where goals are listed, all of them once. Fewer than goals: only the first ones.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed",
        None,
        "Seed of the evaluation (Evaluator.seed, MetaEvaluator.seed).",
        lower_bound=0,
        upper_bound=LARGEST_SEED,
        flag_values=values,
    )
    flags.DEFINE_string("device", "cpu", "Where the policy runs: cpu or cuda.", flag_values=values)
    flags.DEFINE_boolean(
        "activations",
        False,
        "Of a meta-learner: write what each layer of the policy computed, beside the JSON, as "
        "<the same name>_activations.npz. Of other runs: insist that their evaluator records.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "activation_episodes",
        None,
        "With --activations: of each task and adaptation step only so many episodes. If not given "
        "as in the run (LayerRecorder.episodes), else all.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "latents",
        False,
        "Of a learner that infers tasks (PEARL, TIGR, CEMRL): write what it inferred, beside the "
        "JSON, as <the same name>_latents.npz, and draw the latents by true task and a mixture's "
        "weights along episodes, as PNG and SVG.",
        flag_values=values,
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags, evaluate, print, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()
    parsed = parse(values, argv, __doc__, one_folder)
    if isinstance(parsed, int):
        return parsed
    config = importlib.import_module("runners.config")
    evaluating = importlib.import_module("runners.evaluating")
    try:
        evaluated = evaluating.evaluate(
            parsed[0],
            values.checkpoint,
            device=values.device,
            protocol=values.protocol,
            tasks=values.tasks,
            episodes=values.episodes,
            seed=values.seed,
            activations=values.activations,
            activation_episodes=values.activation_episodes,
            latents=values.latents,
        )
    except config.ConfigError as error:
        return wrong(error.line())
    _print(evaluated.result, evaluated.table)
    for file in filter(None, (evaluated.path, *evaluated.files)):
        print(f"written to {file}", file=sys.stderr)
    return FINISHED


def _print(result: dict[str, Any], cells: Any) -> None:
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


if __name__ == "__main__":
    sys.exit(run_program(main))
