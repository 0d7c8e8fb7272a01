"""What `python -m runners.evaluate` does, as a function."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners import config
from runners.config import ConfigError
from runners.evaluation_results import Table, warn_of_broken
from runners.saved_run import SavedRun
from runners.status import memory_lack

LATENTS = ("PosteriorEvaluator.latents", "WindowEvaluator.latents")
TASKS = "MetaEvaluator.num_tasks"
AT_ONCE = 50
"""Of more tasks than these, only so many have environments and episodes in memory at once."""
PROTOCOLS = {
    "run": [],
    "meta-world": [
        "import envs.meta_world",
        "import runners.meta_evaluation",
        "MetaWorldSuite.horizon = 500",
        "MetaEvaluator.splits = ('test',)",
        f"{TASKS} = None",
        f"MetaEvaluator.tasks_at_once = {AT_ONCE}",
        "MetaEvaluator.episodes = 10",
        "MetaEvaluator.episodes_at_once = 1",
        "MetaEvaluator.adaptations = 1",
    ],
}
"""By name, the bindings that change the run's own protocol; a run that reads all of them fits."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation came to."""

    result: dict[str, Any]
    """Protocol and scores, as in the JSON."""
    table: Table
    """A line for each task, or for each adaptation step of a meta-learner."""
    path: Path | None
    """The JSON; None where it could not be written, which the log says."""
    files: tuple[Path, ...]
    """Arrays and pictures beside it."""


def evaluate(
    run: Path | str,
    checkpoint: str = "latest",
    *,
    device: str = "cpu",
    protocol: str = "run",
    tasks: int | None = None,
    episodes: int | None = None,
    seed: int | None = None,
    activations: bool = False,
    activation_episodes: int | None = None,
    latents: bool = False,
) -> Evaluated:
    """Evaluate a run, and write `RUN/eval/evaluate_<step>_seed_<seed>.json`.

    Numbers of tasks or episodes that are not the run's own come before the seed
    (`evaluate_<step>_tasks_<tasks>_episodes_<episodes>_seed_<seed>.json`); by Meta-World's protocol
    the name ends in `_meta_world`.

    Args:
        run: the run's folder, or an exported policy's.
        checkpoint: "latest", "best", or a step.
        device: of the learner.
        protocol: "run", its own; or "meta-world", that of Meta-World's meta-learners, which adapt
            once to 10 episodes of 500 steps, for every goal of every test class.
        tasks: of each split, drawn anew for a CAVIA or MAML run; None as in the run.
        episodes: of each task, and of each adaptation step of a meta-learner; None as in the run.
        seed: of the evaluation; None as in the run.
        activations: write what each layer of a meta-learner's policy computed, too.
        activation_episodes: of so many episodes only.
        latents: write and draw what was inferred of the tasks, too (PEARL, TIGR, CEMRL).

    Raises:
        ConfigError: no run, no such checkpoint, or an argument that does not fit it.
    """
    if activation_episodes is not None and not activations:
        raise ConfigError("--activation_episodes does nothing without --activations")
    given = {"tasks": tasks, "episodes": episodes}
    numbers = {what: number for what, number in given.items() if number is not None}
    bindings = _protocol(protocol, numbers) + _recording(activations, activation_episodes, latents)
    saved = SavedRun(run, checkpoint, device, bindings)
    evaluator = saved.evaluator(episodes, seed)
    unread = config.unused_bindings()
    _check_flags(protocol, numbers, latents, unread)
    if numbers.get("tasks", 0) > AT_ONCE and evaluator.tasks_at_once is None:
        evaluator.tasks_at_once = AT_ONCE
    if activations and (text := _unfit(evaluator, saved.learner, unread)):
        raise ConfigError(text)
    try:
        evaluator.check(saved.suite, saved.learner)
    except (TypeError, ValueError) as error:
        flags = [f"--{what}={number}" for what, number in numbers.items()]
        raise ConfigError(": ".join([*flags, str(error)])) from error
    try:
        metrics = evaluator(saved.suite, saved.learner)
    except Exception as error:
        if lack := memory_lack(error):
            raise ConfigError(
                f"the evaluation: {lack}; lower --episodes, --tasks or --activation_episodes"
            ) from error
        raise
    finally:
        evaluator.close()
    warn_of_broken(metrics)
    result = evaluator.result(saved.step, saved.suite, metrics)
    name = "".join(f"_{what}_{number}" for what, number in numbers.items())
    name = f"evaluate_{saved.step}{name}_seed_{evaluator.seed}"
    name += "" if protocol == "run" else f"_{protocol.replace('-', '_')}"
    place = saved.folder / "eval", saved.step, saved.suite, metrics
    path = evaluator.write_result(*place, name=name)
    files: list[Path] = []
    if path is not None and getattr(evaluator, "recorder", None) is not None:
        arrays = sorted(path.parent.glob(f"{path.stem}_*.npz"))
        files += [file for file in arrays if not file.stem.endswith("_latents")]
    if path is not None and latents:
        file = path.with_name(f"{path.stem}_latents.npz")
        files += [file, *importlib.import_module("runners.latent_figures").draw(file)]
    return Evaluated(result, evaluator.table(result), path, tuple(files))


def _protocol(protocol: str, numbers: Mapping[str, int]) -> list[str]:
    """The bindings of a protocol, with the `numbers` of tasks and episodes that flags give."""
    if protocol not in PROTOCOLS:
        raise ConfigError(f"--protocol={protocol}: one of {', '.join(PROTOCOLS)}")
    if protocol != "run" and numbers:
        raise ConfigError(
            f"--protocol={protocol} has its own tasks and number of episodes; leave out --tasks "
            "and --episodes, or this"
        )
    lines = list(PROTOCOLS[protocol])
    if "tasks" in numbers:
        lines += ["import runners.meta_evaluation", f"{TASKS} = {numbers['tasks']}"]
    return lines


def _check_flags(
    protocol: str, numbers: Mapping[str, int], latents: bool, unread: Sequence[str]
) -> None:
    """See that the run's evaluator read what the flags bind."""
    if {line.split(" = ")[0] for line in PROTOCOLS[protocol]} & set(unread):
        raise ConfigError(
            "--protocol=meta-world is for CAVIA and MAML on ML1, ML10 and ML45, which this run is "
            "not; leave the flag out"
        )
    if "tasks" in numbers and TASKS in unread:
        raise ConfigError(
            "--tasks is for runs of CAVIA and MAML; this one's evaluator draws none: leave it out"
        )
    if latents and set(LATENTS) <= set(unread):
        raise ConfigError(
            "--latents: this run's evaluator is none of a learner that infers tasks (PEARL, TIGR, "
            "CEMRL); leave the flag out"
        )


def _recording(activations: bool, activation_episodes: int | None, latents: bool) -> list[str]:
    """What makes a meta-learner's evaluator record; other evaluators read none of it."""
    lines = []
    if latents:
        lines += ["import runners.posterior_evaluation", "import runners.window_evaluation"]
        lines += [f"{name} = True" for name in LATENTS]
    if activations:
        lines += ["import runners.meta_evaluation", "import networks.layer_recorder"]
        lines.append("MetaEvaluator.recorder = @LayerRecorder()")
    if activation_episodes is not None:
        lines.append(f"LayerRecorder.episodes = {activation_episodes}")
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
    elif (kind := getattr(evaluator.recorder, "kind", "activity")) != "activity":
        return (
            f"--activations: this run's recorder (Evaluator.recorder) writes its {kind} at every "
            "evaluation, and no activations; leave the flag out"
        )
    elif "LayerRecorder.episodes" in unread:
        return "--activation_episodes: this run has no meta-learner; leave the flag out"
    return ""
