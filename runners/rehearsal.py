"""`--dry_run`: everything a run does, once and small, before the hours are spent."""

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from gymnasium.wrappers import PassiveEnvChecker
from rich.console import Console
from rich.table import Table
from tensordict import TensorDict

from runners.checkpoint import Checkpointer
from runners.config import ConfigError
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


def check_environments(suite: Any, steps: int = 5) -> None:
    """Gymnasium's checker and a few steps in each task: keys, shapes, dtypes, a snapshot.

    Raises:
        ConfigError: naming the task and what it does wrong.
    """
    tasks = suite.tasks()
    build = suite.build(tasks)
    for task in tasks:
        environment = build(task)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of bounds that are infinite on purpose
                checked = PassiveEnvChecker(environment)
                checked.reset(options={"goal": task.goals[0]})
                for _ in range(steps):
                    checked.step(checked.action_space.sample())
        except (AssertionError, ValueError, TypeError) as error:
            raise ConfigError(f"task {task.name}: {str(error).splitlines()[0]}") from error
        finally:
            environment.close()
    names = [task.name for task in tasks]
    generator = torch.Generator().manual_seed(0)
    shape, actions = (len(names), suite.spec.action_dim), suite.spec.num_actions
    with suite.vector(seed=0, purpose="evaluation") as vector:
        vector.reset()
        for _ in range(steps):
            td = vector.current()
            if actions:
                td["action"] = torch.randint(actions, shape[:1], generator=generator)
            else:
                td["action"] = 2.0 * torch.rand(shape, generator=generator) - 1.0
            _check_step(vector.step(td), suite.spec, names)
        state = vector.state_dict()
        before = vector.current()["observation"].clone()
        td = vector.current()
        td["action"] = torch.zeros(shape[:1], dtype=torch.int64) if actions else torch.zeros(shape)
        vector.step(td)
        vector.load_state_dict(state)
        same_rows = (vector.current()["observation"] == before).all(1).tolist()
        for name, same in zip(names, same_rows, strict=True):
            if not same:
                raise ConfigError(f"task {name}: a restored snapshot shows another observation")


def _check_step(td: TensorDict, spec: Any, names: list[str]) -> None:
    num = len(names)
    expected: dict[Any, tuple[tuple[int, ...], torch.dtype]] = {
        "observation": ((num, spec.observation_dim), torch.float32),
        "task_id": ((num,), torch.int64),
        ("next", "observation"): ((num, spec.observation_dim), torch.float32),
        ("next", "reward"): ((num, 1), torch.float32),
    }
    flags = ("terminated", "truncated", "done", "success", "valid")
    expected |= {("next", flag): ((num, 1), torch.bool) for flag in flags}
    for key, (shape, dtype) in expected.items():
        value = td[key]
        if tuple(value.shape) != shape or value.dtype != dtype:
            raise ConfigError(
                f"environments: {key} is {tuple(value.shape)} {value.dtype}, "
                f"expected {shape} {dtype}"
            )
        if dtype == torch.float32:
            finite = torch.isfinite(value).flatten(1).all(1)
            for name, good in zip(names, finite.tolist(), strict=True):
                if not good:
                    raise ConfigError(f"task {name}: {key} is not finite")


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
