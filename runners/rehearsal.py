"""`--dry_run`: everything a run does, once and small, before the hours are spent."""

import functools
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from envs.errors import TaskError
from runners.checkpoint import Checkpointer
from runners.config import ConfigError
from runners.config_messages import references
from runners.environment_checks import check_environments
from runners.learner_checks import (
    TRAINING,
    Call,
    check_acting,
    check_metrics,
    check_replay,
    check_second,
    difference,
    last_calls,
)
from runners.parts import Parts
from runners.preflight import Needs, amount, free_disk, free_memory, to_lower
from runners.progress import duration
from runners.status import failure_reason, memory_lack

STEPS, UPDATES = 3, 3
SLOW = 2.0
"""Seconds of an update above which one is enough to measure it."""


def rehearse(
    parts: Parts,
    total_steps: int,
    wanted: Needs,
    again: Callable[[], tuple[Any, Any]],
    console: Console | None = None,
) -> None:
    """Check the environments, collect, update, evaluate, save and load; print what a run takes.

    Args:
        parts: the run, put together.
        total_steps: environment steps of the whole run.
        wanted: memory and disk of the run.
        again: builds another learner and its loop, as those of the run were built.
        console: where the table goes; standard output if None.

    Raises:
        ConfigError: an environment breaks the rules, a part raises an exception or gives metrics
            that cannot be logged, a checkpoint does not come back the same, or acting without
            exploring is random.
    """
    started = time.perf_counter()
    seconds: dict[str, float] = {}
    check_environments(parts.suite)
    _check_protocol(parts.suite)
    seconds["checks"] = time.perf_counter() - started
    loop, evaluator = parts.loop, parts.evaluator
    whose = f"{type(loop).__name__} with {type(parts.learner).__name__}"
    with _in_a_line(whose, to_lower(loop), (parts.learner, loop)):
        names = [task.name for task in parts.suite.tasks()]
        check = functools.partial(check_metrics, parts.learner, names)
        with last_calls(parts.learner, ("act", *TRAINING), check) as calls:
            _, first = loop.rehearse(STEPS, 1)  # warms up; the first iteration may be unlike others
            with last_calls(loop.replay, ("sample",)) as draws:
                updates = UPDATES if first < SLOW else 1
                seconds["step"], seconds["update"] = loop.rehearse(STEPS, updates)
        check_acting(parts.learner, calls, parts.streams)
    if evaluator is not None:
        with _in_a_line(type(evaluator).__name__):
            seconds["evaluation"] = evaluator.rehearse(parts.suite, parts.learner)
    seconds["checkpoint"] = _save_and_load(parts, again, calls, draws)
    _report(parts, total_steps, wanted, seconds, console or Console())


@contextmanager
def _in_a_line(
    whose: str, lower: str = "the sizes that are bound to it", parts: Sequence[Any] = ()
) -> Iterator[None]:
    """Say of an exception what it is; a `ConfigError` adds the place in code of the user's.

    Args:
        whose: it is.
        lower: the sizes to lower if it is one of too little memory.
        parts: whose own parts may be the reason.
    """
    try:
        yield
    except (ConfigError, TaskError):
        raise
    except Exception as error:
        if lack := memory_lack(error):
            raise ConfigError(f"{whose}: {lack}; lower {lower}") from error
        kind, said = type(error).__name__, failure_reason(error)
        said = said if said.startswith(kind) else f"{kind}: {said}"
        see = _parts_of(parts)
        bound = f"; see {', '.join(see)}" if see else ""
        raise ConfigError(
            f"{whose}: {said}{bound}; a run without --dry_run shows the whole traceback"
        ) from error


def _parts_of(parts: Sequence[Any]) -> list[str]:
    """The bindings of parts to these and to their parts, where to look for what does not fit."""
    owners, found = [kind.__name__ for part in parts for kind in type(part).__mro__], []
    for owner in owners:  # grows
        for binding, part in references():
            if binding.split(".")[0] == owner:
                found.append(binding)
                if part not in owners:
                    owners.append(part)
    return found


def _check_protocol(suite: Any) -> None:
    with _in_a_line(f"{type(suite).__name__}.protocol"):
        protocol = suite.protocol()
        json.dumps(protocol)
        if not isinstance(protocol, dict):
            raise TypeError(f"it must return a dict, got {protocol!r}")


def _save_and_load(
    parts: Parts,
    again: Callable[[], tuple[Any, Any]],
    calls: dict[str, Call],
    draws: dict[str, Call],
) -> float:
    """Seconds for one checkpoint of the run as it stands, after checking that it reads back."""
    learner = parts.learner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the first
        second, loop = again()
    with tempfile.TemporaryDirectory() as folder:
        parts.logger.bind(Path(folder) / "run")
        checkpointer = Checkpointer(exclude_buffer=parts.checkpointer.exclude_buffer)
        checkpointer.bind(Path(folder) / "checkpoints")
        state = parts.state()
        before = {k: v.clone() for k, v in learner.state_dict().items() if torch.is_tensor(v)}
        start = time.perf_counter()
        saved = checkpointer.save(parts.loop.step, **state)
        seconds = time.perf_counter() - start
        if not saved or checkpointer.restore(**state) != parts.loop.step:
            raise ConfigError(f"no checkpoint could be written to {folder}; set TMPDIR")
        after = {k: v for k, v in learner.state_dict().items() if torch.is_tensor(v)}
        if (changed := difference(before, after)) is not None:
            raise ConfigError(f"the learner's {changed} did not come back from its checkpoint")
        checkpointer.restore(learner=second)
        parts.logger.close()
    if not parts.checkpointer.exclude_buffer:
        check_replay(parts, loop.replay, draws)
    check_second(learner, second, calls, parts.streams)
    loop.close()
    return seconds


def _report(
    parts: Parts, total_steps: int, wanted: Needs, seconds: dict[str, float], console: Console
) -> None:
    loop, evaluator = parts.loop, parts.evaluator
    whole = loop.whole(total_steps, seconds["step"], seconds["update"])
    if evaluator is not None:
        whole += total_steps // evaluator.interval * seconds["evaluation"]
    folder = tempfile.gettempdir()
    table = Table("what", "it takes", "there is", title="dry run: all parts work")
    memory, disk = amount(wanted.memory), amount(wanted.disk)
    table.add_row("memory of replay and learner", memory, amount(free_memory()))
    table.add_row("disk: checkpoints and logs", disk, amount(free_disk(folder)))
    table.add_row(loop.collected, f"{1e3 * seconds['step']:.1f} ms", "")
    table.add_row("one update", f"{1e3 * seconds['update']:.1f} ms", "")
    if evaluator is not None:
        table.add_row("one evaluation, roughly", f"{seconds['evaluation']:.1f} s", "")
    table.add_row("one checkpoint, nearly empty", f"{seconds['checkpoint']:.2f} s", "")
    table.add_row(f"{total_steps:,} {loop.unit}, roughly", duration(whole), "")
    console.print(table)
