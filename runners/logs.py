"""Logger: one writer for JSONL, CSV, TensorBoard and Weights & Biases."""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
import torch

from runners.back_ends import BackEnd, TensorBoard, Wandb
from runners.records import COLUMNS, RecordFiles, read_records

log = logging.getLogger("absl")


def to_floats(metrics: dict[str, Any], task_names: Sequence[str] = ()) -> dict[str, float]:
    """Plain floats for all metrics, with one transfer for each device and dtype.

    A tensor `[num_tasks]` becomes one value per task, `tag/<task>`; tags keep their order.

    Raises:
        ValueError: for a tensor of another shape.
    """
    groups: dict[Any, list[torch.Tensor]] = defaultdict(list)
    names: dict[Any, list[str]] = defaultdict(list)
    values: dict[str, float] = {}
    for tag, value in metrics.items():
        if not isinstance(value, torch.Tensor):
            values[tag] = float(value)
            continue
        if value.ndim == 0 or value.shape == (1,):
            tags = [tag]
        elif value.shape == (len(task_names),):
            tags = [f"{tag}/{name}" for name in task_names]
        else:
            raise ValueError(f"{tag}: a metric is [] or [{len(task_names)}], got {value.shape}")
        values |= dict.fromkeys(tags, math.nan)
        groups[value.device, value.dtype].append(value.detach().reshape(-1))
        names[value.device, value.dtype] += tags
    for group, tensors in groups.items():
        flat = torch.cat(tensors).to("cpu").tolist()
        values |= {tag: float(value) for tag, value in zip(names[group], flat, strict=True)}
    return values


def record_values(metrics: Any, task_names: Sequence[str] = ()) -> dict[str, float]:
    """`to_floats`, of what may stand in a record.

    Raises:
        ValueError: also for a metric with the name of one of the record's own columns.
    """
    values = to_floats(dict(metrics.items()), task_names)
    for name in COLUMNS:
        if name in values:
            raise ValueError(
                f"metric '{name}' has the name of a column of every record; "
                f"call it otherwise, for example 'learner/{name}'"
            )
    return values


@gin.configurable
class Logger:
    """Writes a run's metrics; the local files always, the rest as long as it works.

    A record is one JSON object a line: `step` (environment steps), `wall_time` (seconds since
    1970) and the tags; a number that is not finite is written as null. A back end that fails is
    named in one warning and left out from then on.

    Args:
        tensorboard: write event files as well.
        wandb: "online", "offline" or "disabled".
        project: the project's name in Weights & Biases.

    Raises:
        ValueError: for another value of `wandb`.
    """

    def __init__(
        self, *, tensorboard: bool = True, wandb: str = "disabled", project: str = "polytask"
    ) -> None:
        if wandb not in ("online", "offline", "disabled"):
            raise ValueError(f"Logger.wandb: online, offline or disabled, got {wandb!r}")
        self.tensorboard, self.wandb, self.project = tensorboard, wandb, project
        self.folder = Path()
        self.task_names: tuple[str, ...] = ()
        self._files: RecordFiles | None = None
        self._back_ends: dict[str, BackEnd] | None = None
        self._first_step: int | None = None

    def bind(self, folder: Path | str, task_names: Sequence[str] = ()) -> "Logger":
        """Open the files in the run folder, keeping the records that are there.

        Args:
            folder: the run's; created if need be.
            task_names: names for the entries of metrics `[num_tasks]`.
        """
        self.folder, self.task_names = Path(folder), tuple(task_names)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files = RecordFiles(self.folder)
        return self

    def write(self, step: int, metrics: Any) -> dict[str, float]:
        """Write one record; nothing happens if `metrics` is empty.

        Args:
            step: environment steps so far.
            metrics: a dict or TensorDict of numbers and tensors `[]` or `[num_tasks]`.

        Returns:
            The same as floats, for whoever shows them next.

        Raises:
            ValueError: a metric of another shape, or with the name of a column.
        """
        values = record_values(metrics, self.task_names)
        if not values:
            return values
        assert self._files is not None, "call bind(folder) first"
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        back_ends = self._open_back_ends()  # they read the records before this one
        self._files.append({"step": int(step), "wall_time": time.time(), **finite})
        for name, back_end in list(back_ends.items()):
            try:
                back_end.write(step, values)
            except Exception as error:  # any failure of a library that training does not need
                self._give_up(name, error)
        return values

    def truncate(self, step: int) -> None:
        """Drop the records later than `step` from the local files; events are hidden."""
        assert self._files is not None, "call bind(folder) first"
        self._files.keep(lambda index, record: record["step"] <= step)
        self._close_back_ends()
        self._first_step = step + 1

    def state_dict(self) -> dict[str, Any]:
        """How many records were written, and the step of the last one.

        They are on disk then, for a checkpoint relies on them.
        """
        assert self._files is not None, "call bind(folder) first"
        try:
            self._files.sync()
        except OSError as error:
            log.warning("metrics: %s", error)
        for name, back_end in list((self._back_ends or {}).items()):
            try:
                back_end.flush()
            except Exception as error:  # as in write
                self._give_up(name, error)
        return {"records": self._files.count, "step": self._files.last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Drop the records written after the checkpoint, even those of the same step."""
        assert self._files is not None, "call bind(folder) first"
        number, last = state["records"], state.get("step")

        def before(index: int, record: dict[str, Any]) -> bool:
            # In a file that lost a line, the number alone would keep one too late.
            return index < number and (last is None or record["step"] <= last)

        records = list(enumerate(read_records(self._files.jsonl)))
        dropped = [record for index, record in records if not before(index, record)]
        if lost := number - (len(records) - len(dropped)):
            log.warning("metrics.jsonl has lost %d records written before the checkpoint", lost)
        self._files.keep(before)
        self._close_back_ends()
        self._first_step = min((record["step"] for record in dropped), default=None)

    def records(self) -> list[dict[str, Any]]:
        """All records in the JSONL file."""
        assert self._files is not None, "call bind(folder) first"
        return read_records(self._files.jsonl)

    def close(self) -> None:
        """Close files and back ends."""
        if self._files is not None:
            self._files.close()
        self._close_back_ends()

    def _open_back_ends(self) -> dict[str, BackEnd]:
        if self._back_ends is None:
            self._back_ends = {}
            makers: dict[str, Any] = {}
            if self.tensorboard:
                makers["TensorBoard"] = lambda: TensorBoard(
                    self.folder, self.records(), self._first_step
                )
            if self.wandb != "disabled":
                makers["wandb"] = lambda: Wandb(
                    self.folder, self.wandb, self.project, self.records()
                )
            for name, make in makers.items():
                try:
                    self._back_ends[name] = make()
                except Exception as error:  # missing package, no network, no account, full disk
                    self._give_up(name, error)
        return self._back_ends

    def _give_up(self, name: str, error: Exception) -> None:
        log.warning("%s failed and is left out; the local files go on: %s", name, error)
        if self._back_ends is not None:
            self._back_ends.pop(name, None)

    def _close_back_ends(self) -> None:
        for name, back_end in list((self._back_ends or {}).items()):
            try:
                back_end.close()
            except Exception as error:  # as in write
                self._give_up(name, error)
        self._back_ends = None
