"""Tables of what the bound parts are, what they will take, and of a run; for `runners.describe`."""

import importlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import gin
from rich.console import Console
from rich.table import Table
from torch import nn

from runners import config, preflight
from runners.checkpoint import Checkpointer
from runners.checkpoint_files import read_about, step_name, steps_in
from runners.config import ConfigError
from runners.manifest import DamagedError, verify
from runners.progress import short
from runners.saved_run import read_config
from runners.status import read_status

MANY = 10**6
"""Goals from which on their number says nothing."""


def describe_run(
    folder: Path | str, console: Console | None = None, *, values: bool = False
) -> None:
    """Print how far a run came, its checkpoints, and what its `config.gin` wires together.

    Args:
        folder: the run's.
        console: where the tables go; standard output if None.
        values: as of `describe`.

    Raises:
        ConfigError: the folder is no run.
    """
    console, folder = console or Console(), Path(folder)
    read_config(folder)
    status = read_status(folder) or {"state": "of unknown state"}
    told = [f"{folder} is {status['state']}"]
    told += [f"after {status['step']:,} steps"] if "step" in status else []
    told += [f"({status['reason']})"] if status.get("reason") else []
    console.print(" ".join(told), highlight=False, markup=False, soft_wrap=True)
    console.print(_checkpoints(folder / "checkpoints"))
    training = importlib.import_module("runners.training")  # registers what config.gin binds
    config.parse([(folder / "config.gin").resolve()])
    with config.config_errors():
        describe(training.train, console, values=values, title="parts")


def describe(
    train: Callable[..., Any],
    console: Console | None = None,
    *,
    values: bool = False,
    title: str | None = None,
) -> None:
    """Build suite, learner and loop as bound for `train`, and print what they are.

    Args:
        train: the configurable whose bindings name the parts.
        console: where the tables go; standard output if None.
        values: print every parameter that was read as well, defaults included.
        title: above the first table; the name of the experiment if None.

    Raises:
        ConfigError: a part is missing.
    """
    console = console or Console()
    bound = dict(gin.get_bindings(train))
    missing = [name for name in ("suite", "algorithm", "loop") if name not in bound]
    if missing:
        raise ConfigError(f"train needs {missing}, which nothing binds; include their gin files")
    suite = bound["suite"]
    learner = bound["algorithm"](suite.spec)
    loop = bound["loop"](suite, learner, seed=bound.get("seed", 0))
    console.print(_parts(bound, learner, loop, title or config.experiment_name()))
    console.print(_networks(learner))
    console.print(_sizes(learner, loop, bound))
    unused = [name for name in config.unused_bindings() if not name.startswith("train.")]
    read = {"TOTAL_STEPS"} if "total_steps" in bound else set()
    for name in unused:
        if name not in read:
            console.print(f"[yellow]never read:[/] {name}")
    if values:
        console.print(config.operative_text(), highlight=False, markup=False, soft_wrap=True)


def _checkpoints(folder: Path) -> Table:
    table = Table("--checkpoint=", "step", "written", "holds", "size", "is", title="checkpoints")
    for step in steps_in(folder):
        table.add_row(str(step), *_checkpoint(folder / step_name(step)))
    if (folder / "best").is_dir():
        table.add_row("best", *_checkpoint(folder / "best"))
    return table


def _checkpoint(path: Path) -> tuple[str, ...]:
    try:
        size = sum(file["size"] for file in verify(path)["files"].values())
        about = read_about(path)
    except DamagedError as error:
        return "", "", "", "", f"damaged: {error}"
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(about["time"]))
    holds = ", ".join(about["parts"])
    return f"{about['step']:,}", written, holds, preflight.amount(size), "whole"


def _parts(bound: dict[str, Any], learner: nn.Module, loop: Any, title: str) -> Table:
    suite, spec = bound["suite"], bound["suite"].spec
    table = Table("part", "is", "with", title=title)
    action = (
        f"one of {spec.num_actions} actions" if spec.discrete else f"action [{spec.action_dim}]"
    )
    sizes = f"observation [{spec.observation_dim}], {action}"
    tasks = suite.tasks()
    goals = sorted({len(suite.numbers(task)) for task in tasks})
    counts = " or ".join(str(count) if count < MANY else "endless" for count in goals)
    about = f"{sizes}, {spec.num_tasks} tasks, {counts} goals, {spec.horizon} steps an episode"
    table.add_row("suite", suite.name, about)
    table.add_row("tasks", "", ", ".join(task.name for task in tasks))
    table.add_row("learner", type(learner).__name__, "")
    table.add_row("loop", type(loop).__name__, loop.about)
    for name in ("replay", "trajectories", "reward_scaler"):
        if (store := getattr(loop, name, None)) is not None:
            table.add_row(name, type(store).__name__, "")
    for name in ("evaluator", "logger", "checkpointer"):
        if bound.get(name) is not None:
            table.add_row(name, type(bound[name]).__name__, "")
    if "total_steps" in bound:
        table.add_row("length", f"{bound['total_steps']:,} {loop.unit}", loop.counted)
    return table


def _networks(learner: nn.Module) -> Table:
    table = Table("network", "is", "shapes", "parameters", title="networks")
    for name, module in _leaves(learner):
        shapes = _shapes(module.parameters())
        count = sum(p.numel() for p in module.parameters())
        table.add_row(name, type(module).__name__, _clipped(shapes), f"{count:,}")
    own = [p for p in learner.parameters(recurse=False)]
    if own:
        shapes = _shapes(own)
        table.add_row("(own)", type(learner).__name__, shapes, f"{sum(p.numel() for p in own):,}")
    total = sum(p.numel() for p in learner.parameters())
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    table.add_row("all", "", f"{short(trained)} trained by gradient", f"{total:,}")
    return table


def _shapes(parameters: Iterable[nn.Parameter]) -> str:
    return ", ".join("x".join(map(str, p.shape)) or "scalar" for p in parameters)


def _leaves(learner: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The learner's networks; those in a list one by one."""
    for name, module in learner.named_children():
        parts = module.named_children() if isinstance(module, nn.ModuleList) else [("", module)]
        for number, part in parts:
            yield f"{name}.{number}".rstrip("."), part


def _sizes(learner: nn.Module, loop: Any, bound: dict[str, Any]) -> Table:
    wanted = preflight.needs(learner, loop, bound.get("checkpointer") or Checkpointer())
    table = Table("what", "GiB", title="sizes")
    rows = {
        "learner, with gradients and optimizer": wanted.learner,
        f"replay when full, on {wanted.replay_device}": wanted.replay,
        "main memory of both at the peak (while saving)": wanted.memory,
        "one checkpoint, replay full": wanted.checkpoint,
        "disk: checkpoints and logs": wanted.disk,
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / preflight.GIB:.2f}")
    return table


def _clipped(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
