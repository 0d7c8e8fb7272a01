"""Checkpoints: kill a run anywhere, lose at most one interval, go on as if nothing had happened.

Every so often a checkpoint (`runners.checkpoint_files`) is written and older ones are pruned. On
restoring every checksum is compared, and a damaged one gives way to the next older.
"""

import logging
import math
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gin
import torch

from runners.checkpoint_files import (
    FORMAT,
    read_about,
    remove,
    step_name,
    steps_in,
    write_checkpoint,
)
from runners.compatibility import bindings, differences, versions
from runners.files import disk_is_full, write_atomically
from runners.manifest import DamagedError, verify
from runners.storage import load_state

log = logging.getLogger("absl")

BUFFERS = ("replay", "trajectories")
"""Entries of the loop's state that `exclude_buffer` leaves out."""


@runtime_checkable
class Stateful(Protocol):
    """Anything with the two methods of `torch.nn.Module` that matter here."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` wants back."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Become what `state` describes."""
        ...


class CheckpointError(RuntimeError):
    """There are checkpoints, but none that can be used."""


class ConfigMismatch(CheckpointError, ValueError):
    """The checkpoint was written under another configuration or other versions."""


@gin.configurable
class Checkpointer:
    """Writes a run's checkpoints every so often, and restores the newest whole one.

    Args:
        minutes: wall-clock time between two checkpoints; None for no such limit.
        steps: environment steps between two checkpoints; None for no such limit.
        keep: how many of the newest ones stay on disk (at least 1, 2 to survive damage).
        exclude_buffer: leave the replay buffer out: small checkpoints, but a resumed run starts
            with an empty buffer and is not the same as one that was never interrupted.
        override: restore in spite of another configuration or other library versions.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        *,
        minutes: float | None = 10.0,
        steps: int | None = None,
        keep: int = 2,
        exclude_buffer: bool = False,
        override: bool = False,
    ) -> None:
        if minutes is not None and not minutes > 0:
            raise ValueError(f"Checkpointer.minutes must be positive or None, got {minutes!r}")
        if steps is not None and steps < 1:
            raise ValueError(f"Checkpointer.steps must be at least 1 or None, got {steps!r}")
        if keep < 1:
            raise ValueError(f"Checkpointer.keep must be at least 1, got {keep!r}")
        self.minutes, self.steps, self.keep = minutes, steps, keep
        self.exclude_buffer, self.override = exclude_buffer, override
        self.folder = Path()
        self.config = ""
        self.best_score = -math.inf
        self._time = time.monotonic()
        self._step: int | None = None

    def bind(self, folder: Path | str, config: str = "") -> "Checkpointer":
        """Take `folder` as the place of the checkpoints, and clean what a killed run left there.

        Args:
            folder: `<run>/checkpoints`; created if need be.
            config: the gin text of this run, kept in every checkpoint and compared on `restore`.
        """
        self.folder, self.config = Path(folder), config
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob(".old_*"):
            if not (target := self.folder / old.name.removeprefix(".old_")).exists():
                old.rename(target)  # killed between the two renames that replace a checkpoint
        for leftover in self.folder.glob(".*"):
            remove(leftover)
        if (self.folder / "best").exists():
            try:
                self.best_score = float(read_about(self.folder / "best")["score"])
            except (DamagedError, KeyError) as error:
                log.warning("The best checkpoint is damaged and will be replaced: %s", error)
        if self.exclude_buffer:
            log.warning(
                "Checkpointer.exclude_buffer: checkpoints hold no replay buffer; a resumed run"
                " will NOT equal an uninterrupted one."
            )
        self._time = time.monotonic()
        return self

    def due(self, step: int) -> bool:
        """Whether one of the two intervals is over."""
        if self._step is None:
            self._step = step
        if self.steps is not None and step - self._step >= self.steps:
            return True
        return self.minutes is not None and time.monotonic() - self._time >= 60 * self.minutes

    def save(self, step: int, **parts: Any) -> bool:
        """Write a checkpoint and prune older ones.

        Args:
            step: environment steps so far.
            parts: objects with `state_dict()`, or states that are ready.

        Returns:
            False if nothing was written: the disk is full, or `learner` holds non-finite weights.
            Both are warned of; the checkpoints there already stay.

        Raises:
            TypeError: if a part's state holds something that cannot be stored.
            OSError: from the file system, other than a full disk.
        """
        target = self.folder / step_name(step)
        self._time, self._step = time.monotonic(), step
        if not self._write(target, step, parts):
            return False
        try:
            write_atomically(self.folder / "latest", target.name + "\n")
            self._prune(step)
        except OSError as error:
            if not disk_is_full(error):
                raise
            log.warning("Disk full: checkpoint %s is whole, `latest` is old", target.name)
        return True

    def mark_best(self, step: int, score: float, **parts: Any) -> bool:
        """Keep `parts` as `checkpoints/best` if `score` beats the best so far.

        Returns:
            True if it did and was written.
        """
        if not score > self.best_score:
            return False
        if not self._write(self.folder / "best", step, parts, score=score):
            return False
        self.best_score = score
        return True

    def restore(self, **parts: Any) -> int | None:
        """Load the newest whole checkpoint into `parts`.

        Returns:
            Its step, or None if there is no checkpoint.

        Raises:
            CheckpointError: if there are checkpoints but none is whole, or a part is missing.
            ConfigMismatch: if configuration or versions differ and `override` is off, or a part
                does not fit them.
            RuntimeError, ValueError, KeyError: of a part that does not take its own state.
        """
        problems = []
        for step in reversed(steps_in(self.folder)):
            checkpoint = self.folder / step_name(step)
            try:
                verify(checkpoint)
                about = read_about(checkpoint)
            except DamagedError as error:
                log.warning("Checkpoint damaged, trying the next older one: %s", error)
                problems.append(str(error))
                continue
            changed = self._compare(checkpoint, about)
            for name, part in parts.items():
                if name not in about["parts"]:
                    raise CheckpointError(f"{checkpoint} has no part {name!r}: {about['parts']}")
                try:
                    part.load_state_dict(load_state(checkpoint, name))
                except (RuntimeError, ValueError, KeyError) as error:
                    if not changed:
                        raise
                    missing = "it has no " if isinstance(error, KeyError) else ""
                    why = missing + " ".join(str(error).split())[:200]
                    raise ConfigMismatch(
                        f"{checkpoint} does not fit in spite of Checkpointer.override: its {name}"
                        f" is of another kind or size ({why}); go back to its configuration"
                    ) from error
            self._time, self._step = time.monotonic(), step
            log.info("Restored %s", checkpoint)
            return step
        if problems:
            raise CheckpointError("no whole checkpoint is left: " + "; ".join(problems))
        return None

    def steps_on_disk(self) -> list[int]:
        """Steps of the checkpoints in the folder, oldest first."""
        return steps_in(self.folder)

    def check(self, checkpoint: Path, config: str) -> None:
        """See that a run of this configuration may go on from another run's checkpoint.

        Raises:
            DamagedError: a file of it is damaged.
            ConfigMismatch: as `restore`.
        """
        self.config = config
        verify(checkpoint)
        self._compare(checkpoint, read_about(checkpoint))

    def _compare(self, checkpoint: Path, about: dict[str, Any]) -> list[str]:
        """What differs from this run, a line each; refused unless `override` is on."""
        lines = differences({"format": str(about["format"])}, {"format": str(FORMAT)})
        if self.config and about["config"]:
            lines += differences(bindings(about["config"]), bindings(self.config))
        lines += differences(about["versions"], versions())
        if not lines:
            return lines
        if self.override:
            log.warning("Restoring %s in spite of: %s", checkpoint, "; ".join(lines))
            return lines
        raise ConfigMismatch(
            f"{checkpoint} was written under another configuration: {'; '.join(lines)}. Go back to"
            " it, choose another --workdir, or add --gin_bindings='Checkpointer.override = True'"
        )

    def _write(self, target: Path, step: int, parts: dict[str, Any], **facts: Any) -> bool:
        for name in _non_finite(parts.get("learner")):
            log.warning("No checkpoint at step %d: %s is not finite", step, name)
            return False
        about = {
            "step": step,
            "exclude_buffer": self.exclude_buffer,
            "config": self.config,
            "time": time.time(),
            **facts,
        }
        states = ((name, self._state(name, part)) for name, part in parts.items())
        try:
            write_checkpoint(target, states, about)
        except OSError as error:
            if not disk_is_full(error):
                raise
            log.warning("Disk full: no checkpoint at step %d; earlier ones are kept", step)
            return False
        return True

    def _state(self, name: str, part: Any) -> Any:
        state = part.state_dict() if isinstance(part, Stateful) else part
        if name == "loop" and self.exclude_buffer and isinstance(state, dict):
            state = {key: value for key, value in state.items() if key not in BUFFERS}
        return state

    def _prune(self, newest: int) -> None:
        """Remove all but the last `keep`; of an abandoned future (damaged, passed over) as well."""
        steps = self.steps_on_disk()
        kept = [step for step in steps if step <= newest][-self.keep :]
        for step in steps:
            if step not in kept:
                # Renamed first: a kill halfway through leaves a hidden folder, not a damaged one.
                name = step_name(step)
                hidden = self.folder / f".pruned_{name}"
                (self.folder / name).rename(hidden)
                remove(hidden)


def _non_finite(learner: Any) -> list[str]:
    if isinstance(learner, torch.nn.Module):
        named = dict(learner.named_parameters())
    else:
        named = learner if isinstance(learner, dict) else {}
    return [
        name
        for name, value in named.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and not bool(torch.isfinite(value).all())
    ]
