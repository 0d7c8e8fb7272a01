"""`--dry_run`: everything a run does, once and small, before the hours are spent."""

import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from runners.checkpoint import Checkpointer
from runners.config import ConfigError
from runners.environment_checks import check_environments
from runners.parts import Parts
from runners.preflight import GIB, Needs, free_disk, free_memory
from runners.progress import duration

STEPS, UPDATES = 3, 3


def rehearse(parts: Parts, total_steps: int, wanted: Needs, console: Console | None = None) -> None:
    """Check the environments, collect, update, evaluate, save and load; print what a run takes.

    Args:
        parts: the run, put together.
        total_steps: environment steps of the whole run.
        wanted: memory and disk of the run.
        console: where the table goes; standard output if None.

    Raises:
        ConfigError: an environment breaks the rules, or a checkpoint does not come back the same.
    """
    started = time.perf_counter()
    seconds: dict[str, float] = {}
    check_environments(parts.suite)
    seconds["checks"] = time.perf_counter() - started
    loop = parts.loop
    loop.rehearse(STEPS, UPDATES)  # warms up; the first iteration may be unlike the others
    seconds["step"], seconds["update"] = loop.rehearse(STEPS, UPDATES)
    if parts.evaluator is not None:
        seconds["evaluation"] = parts.evaluator.rehearse(parts.suite, parts.learner)
    seconds["checkpoint"] = _save_and_load(parts)
    _report(parts, total_steps, wanted, seconds, console or Console())


def _save_and_load(parts: Parts) -> float:
    """Seconds for one checkpoint of the run as it stands, after checking that it reads back."""
    with tempfile.TemporaryDirectory() as folder:
        parts.logger.bind(Path(folder) / "run")
        checkpointer = Checkpointer(exclude_buffer=parts.checkpointer.exclude_buffer)
        checkpointer.bind(Path(folder) / "checkpoints")
        state = parts.state()
        before = {k: v.clone() for k, v in parts.learner.state_dict().items() if torch.is_tensor(v)}
        start = time.perf_counter()
        saved = checkpointer.save(parts.loop.step, **state)
        seconds = time.perf_counter() - start
        if not saved or checkpointer.restore(**state) != parts.loop.step:
            raise ConfigError(f"no checkpoint could be written to {folder}; set TMPDIR")
        after = parts.learner.state_dict()
        changed = [name for name, value in before.items() if not _same(value, after[name])]
        parts.logger.close()
    if changed:
        raise ConfigError(f"the learner's {changed[0]} did not come back from its checkpoint")
    return seconds


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _report(
    parts: Parts, total_steps: int, wanted: Needs, seconds: dict[str, float], console: Console
) -> None:
    loop, evaluator = parts.loop, parts.evaluator
    whole = loop.whole(total_steps, seconds["step"], seconds["update"])
    if evaluator is not None:
        whole += total_steps // evaluator.interval * seconds["evaluation"]
    folder = tempfile.gettempdir()
    table = Table("what", "it takes", "there is", title="dry run: all parts work")
    gib = f"{wanted.memory / GIB:.2f} GiB"
    table.add_row("memory of replay and learner", gib, f"{free_memory() / GIB:.1f} GiB")
    disk = f"{wanted.disk / GIB:.2f} GiB"
    table.add_row("disk: two checkpoints and logs", disk, f"{free_disk(folder) / GIB:.1f} GiB")
    table.add_row(loop.collected, f"{1e3 * seconds['step']:.1f} ms", "")
    table.add_row("one update", f"{1e3 * seconds['update']:.1f} ms", "")
    if evaluator is not None:
        table.add_row("one evaluation, roughly", f"{seconds['evaluation']:.1f} s", "")
    table.add_row("one checkpoint, nearly empty", f"{seconds['checkpoint']:.2f} s", "")
    table.add_row(f"{total_steps:,} {loop.unit}, roughly", duration(whole), "")
    console.print(table)
