"""`train`: the only place where a loop and the services meet."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import gin
import torch
from absl import logging
from torch import nn

from envs.errors import TaskError
from runners import (
    config,
    driving,
    meta_off_policy,
    meta_on_policy,
    off_policy,
    policy_card,
    preflight,
)
from runners.checkpoint import Checkpointer, CheckpointError, ConfigMismatch
from runners.config import ConfigError
from runners.devices import named_device
from runners.evaluation import Evaluator
from runners.files import disk_is_full
from runners.health import DivergenceError
from runners.logs import Logger
from runners.manifest import DamagedError
from runners.parts import Loop, Parts
from runners.policy_file import export_policy
from runners.progress import Progress
from runners.rehearsal import rehearse
from runners.run_folder import RunFolder
from runners.seeding import GlobalStreams
from runners.signals import Signals
from runners.status import (
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    ScarcityError,
    failure_reason,
    log_file,
    memory_lack,
    write_status,
)
from runners.storage import save_state

LOOPS = (
    off_policy.OffPolicyLoop,
    meta_on_policy.MetaOnPolicyLoop,
    meta_off_policy.MetaOffPolicyLoop,
)
"""Known to gin wherever `train` is, so that parts may bind what the loop keeps for them."""

MOST_THREADS = 1024
"""More than any machine gains from; with very many the process dies without a word."""


@gin.configurable
def train(
    *,
    suite: Any = gin.REQUIRED,
    algorithm: Callable[..., nn.Module] = gin.REQUIRED,
    loop: Callable[..., Loop] = gin.REQUIRED,
    total_steps: int = gin.REQUIRED,
    evaluator: Any = None,
    commit_evaluator: Evaluator | None = None,
    logger: Logger | None = None,
    checkpointer: Checkpointer | None = None,
    progress: Progress | None = None,
    recorder: Any = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    workdir: str = "runs",
    experiment: str = "",
    resume: str = "auto",
    dry_run: bool = False,
    instead: Callable[[Parts, RunFolder, preflight.Needs], None] | None = None,
) -> str:
    """Train a learner on a suite, into `<workdir>/<experiment>/seed_<seed>`.

    Args:
        suite: the tasks.
        algorithm: factory of the learner, called with `suite.spec`.
        loop: factory of the loop, called with suite, learner and `seed=`.
        total_steps: environment steps, over all tasks, after which the run is done; iterations of a
            loop that counts those.
        evaluator: evaluates now and then and at the end; None to leave that out.
        commit_evaluator: evaluates just before and right after each change of the policy's masks,
            which evaluations at fixed steps hardly ever meet; its interval is not used.
        logger: writes the metrics.
        checkpointer: saves and restores.
        progress: shows how far it is.
        recorder: films the policy after evaluations (`runners.video_recorder`); None to leave that
            out.
        seed: of every random stream of the training.
        device: of the learner.
        threads: of torch on the CPU; None leaves its own choice.
        workdir: holds the folders of all experiments.
        experiment: name of the run's folder; after the gin files if empty.
        resume: "auto" goes on with what is there, "never" wants an empty folder, a path starts
            from a checkpoint of another run.
        dry_run: build, try and measure everything in a temporary folder, then stop.
        instead: what to do once everything is built, instead of training: it is given the parts,
            the run's folder and what the run will take.

    Returns:
        "DONE", or "INTERRUPTED" after a signal to stop, with a checkpoint written.

    Raises:
        ConfigError: something is bound wrongly, does not fit, or the folder is another run's.
    """
    with config.config_errors():  # a suite may find its own sizes wrong
        _check_objects(
            suite=(suite, "spec"),
            evaluator=(evaluator, "write_result"),
            commit_evaluator=(commit_evaluator, "write_result"),
            logger=(logger, "write"),
            checkpointer=(checkpointer, "restore"),
            progress=(progress, "update"),
            recorder=(recorder, "wait"),
        )
        _check_factories(algorithm=algorithm, loop=loop)
    _check_numbers(total_steps, threads)
    if threads is not None:
        torch.set_num_threads(threads)
    with config.config_errors():
        streams = GlobalStreams(seed)
        place = named_device(device, "train.device", "bind DEVICE = 'cpu'")

        def built() -> tuple[nn.Module, Any]:
            learner = algorithm(suite.spec)
            if not isinstance(learner, nn.Module):
                raise ConfigError(
                    f"train.algorithm makes a {type(learner).__name__}, no torch.nn.Module; bind a "
                    "learner, as algorithms.base.Algorithm describes it"
                )
            return learner, loop(suite, learner.to(place), seed=seed)

        learner, its_loop = built()
        parts = Parts(
            suite,
            learner,
            its_loop,
            evaluator,
            commit_evaluator,
            logger or Logger(),
            checkpointer or Checkpointer(),
            progress or Progress(),
            streams,
            recorder,
        )
        for one in (evaluator, commit_evaluator):
            if one is not None:
                one.check(suite, learner)
    _warn(parts, total_steps)
    run = RunFolder(workdir, experiment or config.experiment_name(), seed)
    wanted = preflight.needs(learner, parts.loop, parts.checkpointer)
    try:
        if instead is not None:
            instead(parts, run, wanted)
            return DONE
        run.check_place()
        text = config.config_text()
        run.check(text, resume, parts.checkpointer.override)
        if resume not in ("auto", "never"):
            _check_source(parts.checkpointer, run, text, resume)
        if dry_run:
            preflight.check(wanted, run.path)
            rehearse(parts, total_steps, wanted, built)
            return DONE
        preflight.check(wanted, run.path, preflight.bytes_in(run.checkpoints))
        with run.claimed():
            run.note_config(text)  # first: killed before it, a run could never go on
            with log_file(run.path), Signals() as signals:
                return _run(parts, run, signals, total_steps, text, resume, seed)
    finally:
        for one in (parts.loop, parts.recorder, parts.evaluator, parts.commit_evaluator):
            if one is not None:
                one.close()


def _check_numbers(total_steps: int, threads: int | None) -> None:
    for name, value in {"total_steps": total_steps, "threads": threads}.items():
        if value is not None and value < 1:
            raise ConfigError(f"train.{name} must be at least 1, got {value}")
    if threads is not None and threads > MOST_THREADS:
        raise ConfigError(f"train.threads must be at most {MOST_THREADS}, got {threads}")


def _check_objects(**bound: tuple[Any, str]) -> None:
    """Refuse what lacks the attribute beside it, and a class in place of an object of it."""
    for name, (value, attribute) in bound.items():
        left_out = value is None and name != "suite"
        if isinstance(value, type) or not (left_out or hasattr(value, attribute)):
            given = value.__name__ if isinstance(value, type) else repr(value)
            if given.startswith("<"):  # neither a class nor a literal
                kind = type(value).__name__
                raise ConfigError(
                    f"train.{name}: {kind} has no '{attribute}'; bind a part that fits there"
                )
            raise ConfigError(
                f"train.{name} is {given}; bind it to a reference with parentheses, as in "
                f"train.{name} = @{given if isinstance(value, type) else 'Name'}()"
            )


def _warn(parts: Parts, total_steps: int) -> None:
    """Of what is no mistake in itself, but hardly meant."""
    for name in config.unused_bindings():
        logging.warning("%s is bound but nothing reads it; remove it or correct its name", name)
    if parts.commit_evaluator is not None and not getattr(parts.learner, "masked", True):
        logging.warning(
            "train.commit_evaluator evaluates around new masks, and %s has none; bind it to None",
            type(parts.learner).__name__,
        )
    first = getattr(parts.loop, "first_update", 0)
    if total_steps < first:
        logging.warning(
            "train.total_steps (TOTAL_STEPS) is %d, and the first update comes after %d steps "
            "(WARMUP_STEPS, STEPS_PER_ITERATION): nothing will be learnt",
            total_steps,
            first,
        )


def _check_factories(**bound: Any) -> None:
    """Refuse an object that can be called in place of what makes the part."""
    for name, value in bound.items():
        made = not isinstance(value, type | functools.partial) and not inspect.isroutine(value)
        if made:
            kind = type(value).__name__
            raise ConfigError(
                f"train.{name} is an object of {kind}; bind it to a reference without parentheses "
                "to what makes the part"
            )


def _check_source(checkpointer: Any, run: RunFolder, text: str, resume: str) -> None:
    """Refuse another run's checkpoint that does not fit, before anything of it is copied."""
    try:
        checkpointer.check(run.source(resume), text)
    except DamagedError as error:
        raise ConfigError(f"--resume={resume}: {error}; give an older checkpoint") from error
    except ConfigMismatch as error:
        raise ConfigError(str(error)) from error


def _run(
    parts: Parts,
    run: RunFolder,
    signals: Signals,
    total_steps: int,
    text: str,
    resume: str,
    seed: int,
) -> str:
    """The run in its folder, from the restored or first step to a status."""
    loop = parts.loop
    status = functools.partial(write_status, run.path)
    try:
        _open(parts, run, total_steps, text, resume)
        facts = {"experiment": run.path.parent.name, "seed": seed, "suite": parts.suite.name}
        run.note_start({**facts, "protocol": parts.suite.protocol()}, text)
        run.note_operative(config.operative_text())
        status(RUNNING, step=loop.step)
        with parts.progress:
            finished = driving.drive(parts, run, signals, total_steps, text)
        run.note_operative(config.operative_text())
        saved = parts.checkpointer.save(loop.step, **parts.state())
        if finished and saved and _exported(parts, run, text):
            status(DONE, step=loop.step, exit_code=0)
            if parts.recorder is not None:
                parts.recorder.wait(lambda: signals.requested)
            return DONE
        if finished:  # to try again at once would come to the same
            raise ScarcityError(
                f"the end of the run could not be written to {run.path}, and the log says why; "
                "free disk space, for example, and give the same command again"
            )
        reason = signals.requested
        if not saved and not parts.checkpointer.steps_on_disk():
            raise RuntimeError(f"stopped by {reason}, and no checkpoint could be kept")
        status(INTERRUPTED, step=loop.step, reason=reason, exit_code=75)
        return INTERRUPTED
    except ConfigError:
        raise
    except Exception as error:
        refused = isinstance(error, TaskError)
        status(FAILED, step=loop.step, reason=failure_reason(error), exit_code=2 if refused else 1)
        if isinstance(error, DivergenceError):
            states = {"batch": error.batch.to_dict(), "learner": parts.learner.state_dict()}
            (run.path / "failure").mkdir(exist_ok=True)
            for name, state in states.items():
                save_state(run.path / "failure", name, state)
        if not refused and (lack := memory_lack(error)):
            size = preflight.amount(preflight.needs(parts.learner, loop, parts.checkpointer).memory)
            raise ScarcityError(
                f"{lack}: replay and learner take {size}; lower {preflight.to_lower(loop)}"
            ) from error
        raise
    finally:
        parts.logger.close()


def _exported(parts: Parts, run: RunFolder, text: str) -> bool:
    """Write the policy by itself; False, with a warning, on a full disk."""
    about = policy_card.facts(text, parts.suite, run.path, parts.loop.step)
    try:
        export_policy(run.path / "policy", parts.learner, parts.loop.step, **about)
    except OSError as error:
        if not disk_is_full(error):
            raise
        logging.warning("Disk full: the policy was not written")
        return False
    return True


def _open(parts: Parts, run: RunFolder, total_steps: int, text: str, resume: str) -> None:
    """Bind the services to the folder and restore what is there."""
    if resume not in ("auto", "never"):
        run.adopt(run.source(resume))
    names = [task.name for task in parts.suite.tasks()]
    parts.logger.bind(run.path, names)
    parts.checkpointer.bind(run.checkpoints, text)
    try:
        step = parts.checkpointer.restore(**parts.state())
    except ConfigMismatch as error:
        raise ConfigError(str(error)) from error
    except CheckpointError as error:
        raise ConfigError(
            f"--workdir: {run.path}: {error}; put back a copy of one, or choose another --workdir"
        ) from error
    if step is None:
        parts.logger.truncate(-1)  # records of a run that was killed before its first checkpoint
    title = f"{run.path.parent.name}/{run.path.name}"
    parts.progress.bind(
        total_steps,
        names,
        start=step or 0,
        updates=parts.loop.updates,
        title=title,
        unit=parts.loop.unit,
    )
