"""Evaluate a finished or running run by the benchmark's protocol.

    python -m runners.evaluate runs/must_mt10/seed_1
    python -m runners.evaluate runs/must_mt10/seed_1 --checkpoint=best --seed=7
    python -m runners.evaluate runs/cavia_navigation/seed_0 --activations --activation_episodes=5
    python -m runners.evaluate runs/tigr_point_robot/seed_0 --latents
    python -m runners.evaluate runs/must_mt10/seed_1/policy

The last is an exported policy, which needs no more of the run than that folder (runners.export).
Suite and learner are built anew from the run's config.gin, and so is the evaluator: what no flag
says is as in the run, the policy ("deterministic" or "stochastic") among it. Prints a table, a line
for each task, or for each adaptation step of a meta-learner, and writes
FOLDER/eval/evaluate_<step>_seed_<seed>.json. Exit codes: 0 done, 2 wrong input, 1 failed.
"""

import functools
import importlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from runners.command_line import FINISHED, new_flags, one_folder, parse, wrong

LATENTS = ("PosteriorEvaluator.latents", "WindowEvaluator.latents")


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    flags.DEFINE_string(
        "checkpoint", "latest", "latest, best or a step of the run.", flag_values=values
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
    parsed = parse(values, argv, __doc__, functools.partial(_complaint, values))
    if isinstance(parsed, int):
        return parsed
    saved_run = importlib.import_module("runners.saved_run")
    config = importlib.import_module("runners.config")
    try:
        bindings = _recording(values)
        run = saved_run.SavedRun(parsed[0], values.checkpoint, values.device, bindings)
        evaluator = run.evaluator(values.episodes, values.seed)
        unread = config.unused_bindings()
        if values.activations and (text := _unfit(evaluator, run.learner, unread)):
            raise config.ConfigError(text)
        if values.latents and set(LATENTS) <= set(unread):
            raise config.ConfigError(
                "--latents: this run's evaluator is none of a learner that infers tasks (PEARL, "
                "TIGR, CEMRL); leave the flag out"
            )
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
    if path is None:
        return FINISHED
    arrays = sorted(path.parent.glob(f"{path.stem}_*.npz"))
    if getattr(evaluator, "recorder", None) is not None:
        _say(file for file in arrays if not file.stem.endswith("_latents"))
    if values.latents:
        file = path.with_name(f"{path.stem}_latents.npz")
        _say([file, *importlib.import_module("runners.latent_figures").draw(file)])
    return FINISHED


def _say(files: Iterable[Path]) -> None:
    for file in files:
        print(f"written to {file}", file=sys.stderr)


def _complaint(values: flags.FlagValues, rest: list[str]) -> str:
    if values.activation_episodes is not None and not values.activations:
        return "--activation_episodes does nothing without --activations"
    return one_folder(rest)


def _recording(values: flags.FlagValues) -> list[str]:
    """What makes a meta-learner's evaluator record; other evaluators read none of it."""
    lines = []
    if values.latents:
        lines += ["import runners.posterior_evaluation", "import runners.window_evaluation"]
        lines += [f"{name} = True" for name in LATENTS]
    if values.activations:
        lines += ["import runners.meta_evaluation", "import networks.layer_recorder"]
        lines.append("MetaEvaluator.recorder = @LayerRecorder()")
    if values.activation_episodes is not None:
        lines.append(f"LayerRecorder.episodes = {values.activation_episodes}")
    return lines


def _unfit(evaluator: Any, learner: Any, unread: Sequence[str]) -> str:
    """Why --activations and this run do not go together; "" if they do."""
    if "MetaEvaluator.recorder" not in unread:
        try:
            evaluator.recorder.check(learner)
        except TypeError as error:
            return f"--activations: {error}"
    elif getattr(evaluator, "recorder", None) is None:
        if hasattr(learner, "adapt"):
            owner = type(learner).__name__
            return (
                f"--activations: the evaluation of {owner} records no layers; --latents writes "
                "what it inferred"
            )
        return (
            "--activations: this run has no meta-learner, and no recorder (Evaluator.recorder); "
            "leave the flag out, or train with gin/runners/activity.gin"
        )
    elif "LayerRecorder.episodes" in unread:
        return "--activation_episodes: this run has no meta-learner; leave the flag out"
    return ""


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
