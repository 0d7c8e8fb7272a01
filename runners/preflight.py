"""Before a long run: will it fit into memory and on the disk?"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from torch import nn

from runners.config import ConfigError
from runners.devices import device_of
from runners.files import existing

LOG_BYTES = 200 * 2**20
"""What metrics, events and results of a run may come to."""
GIB = 2**30


@dataclass(frozen=True)
class Needs:
    """What a run will take, in bytes."""

    learner: int
    """Parameters, gradients, two moments for each, and buffers."""
    replay: int
    """Replay and trajectory store, when full."""
    device: str
    """Where the learner lies."""
    replay_device: str
    """Where the replay lies."""
    buffer_saved: bool
    """Whether checkpoints hold the replay."""
    kept: int
    """Checkpoints that stay on the disk."""

    @property
    def memory(self) -> int:
        """Main memory at the peak: while a checkpoint is written the buffers are there twice."""
        learner = self.learner if self.device == "cpu" else 0
        copies = int(self.replay_device == "cpu") + int(self.buffer_saved)
        return learner + self.replay * copies

    @property
    def checkpoint(self) -> int:
        """One checkpoint; gradients are not in it."""
        return self.replay * self.buffer_saved + self.learner * 3 // 4

    @property
    def disk(self) -> int:
        """Checkpoints, of which a new one is written before the oldest goes, and logs."""
        return (self.kept + 1) * self.checkpoint + LOG_BYTES


def needs(learner: nn.Module, loop: Any, checkpointer: Any) -> Needs:
    """Estimate what the run will take."""
    trained = sum(p.nbytes for p in learner.parameters() if p.requires_grad)
    fixed = sum(p.nbytes for p in learner.parameters() if not p.requires_grad)
    fixed += sum(b.nbytes for b in learner.buffers())
    stores = (loop.replay, getattr(loop, "trajectories", None))
    return Needs(
        learner=4 * trained + fixed,
        replay=sum(int(getattr(store, "nbytes", 0)) for store in stores if store is not None),
        device=device_of(learner).type,
        replay_device=str(getattr(loop.replay, "device", "cpu")),
        buffer_saved=not checkpointer.exclude_buffer,
        kept=checkpointer.keep,
    )


def free_memory() -> int:
    """Bytes of main memory this process may still take, its container's limit included."""
    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return free


def free_disk(folder: Path | str) -> int:
    """Bytes free where `folder` is, or will be made."""
    return shutil.disk_usage(existing(Path(folder))).free


def bytes_in(folder: Path) -> int:
    """Bytes of all files under `folder`."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def amount(size: float) -> str:
    """Bytes as people write them: `3.2 GiB`, `180 MiB`."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def to_lower(loop: Any) -> str:
    """The bindings to lower where a run takes too much memory."""
    return str(getattr(loop, "sizes", "REPLAY_CAPACITY or BATCH_SIZE"))


def too_much(wanted: float) -> str:
    """What is wrong with taking so many bytes of main memory; "" if they are there."""
    free = free_memory()
    if wanted <= 0.9 * free:
        return ""
    return f"{amount(wanted)} of memory are needed, 90 % of the {amount(free)} free are allowed"


def check(wanted: Needs, folder: Path | str, on_disk: int = 0) -> None:
    """Refuse a run that will not fit.

    Args:
        wanted: from `needs`.
        folder: the run's.
        on_disk: bytes of checkpoints that are there already and will be replaced.

    Raises:
        ConfigError: too little memory or disk, with the numbers.
    """
    if said := too_much(wanted.memory):
        raise ConfigError(f"{said}; lower REPLAY_CAPACITY (TaskReplay.capacity)")
    disk = free_disk(folder) + on_disk
    if wanted.disk > disk:
        raise ConfigError(
            f"not enough disk at {folder}: {wanted.kept + 1} checkpoints (one while it is written) "
            f"and logs need {amount(wanted.disk)}, {amount(disk)} are free; lower "
            "REPLAY_CAPACITY (TaskReplay.capacity), choose another --workdir, or bind "
            "Checkpointer.exclude_buffer = True"
        )
