"""TensorBoard and Weights & Biases: second places for a run's records, which may fail."""

import importlib
import math
import secrets
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from runners.records import Record


class BackEnd(Protocol):
    """A second place for the records, which may fail without harm."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Take one record."""
        ...

    def flush(self) -> None:
        """See that what was written outlives this process."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class TensorBoard:
    """Event files in `<run>/tb`.

    A resumed run goes on in a new file, which hides the events of the first dropped record's step
    and later; kept records of such steps are written again.

    Args:
        folder: the run's.
        records: those in the JSONL file; all are written if there are no event files yet.
        first_step: of the records that were dropped; None if none was.
    """

    def __init__(
        self, folder: Path, records: Sequence[Record] = (), first_step: int | None = None
    ) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        hidden_from = math.inf if first_step is None else first_step
        files = list((folder / "tb").glob("events.*"))
        if not files:
            hidden_from = -math.inf
        _wait(files)  # files are read in the order of the seconds in their names
        self._writer = module.SummaryWriter(str(folder / "tb"), purge_step=first_step)
        for record in records:
            if record["step"] >= hidden_from:
                self.write(record["step"], values_of(record), record.get("wall_time"))

    def write(self, step: int, values: dict[str, float], wall_time: float | None = None) -> None:
        """Write one scalar per tag."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step, walltime=wall_time)

    def flush(self) -> None:
        """Write what is queued."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Wandb:
    """A Weights & Biases run, which keeps its id when the training is resumed.

    What the run has not got yet is written again from the JSONL file: online, what is later than
    its last step there, and no step twice; offline, everything, for a killed process leaves its
    last records unwritten. So the newest offline folder is whole, and older ones that were not
    uploaded are removed. Once one was, only what is newer is written.

    Args:
        folder: the run's; files go to `<run>/wandb`.
        mode: "online" or "offline"; offline needs neither account nor network.
        project: the project's name.
        records: those in the JSONL file.
    """

    def __init__(
        self, folder: Path, mode: str, project: str, records: Sequence[Record] = ()
    ) -> None:
        wandb = importlib.import_module("wandb")
        place = folder / "wandb"
        place.mkdir(exist_ok=True)
        id_file = place / "run_id"
        if not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        name = id_file.read_text().strip()
        older = set(place.glob(f"offline-run-*-{name}"))
        _wait(older)  # a folder's name holds the second, too
        self._run = wandb.init(
            project=project,
            name="/".join(folder.absolute().parts[-2:]),
            id=name,
            dir=str(folder),
            mode=mode,
            resume="allow",
        )
        self._first: int = self._run.step
        markers = [mark for one in older for mark in one.glob("*.synced")]
        uploaded = max((mark.stat().st_mtime for mark in markers), default=-math.inf)
        for record in records:
            if record["wall_time"] > uploaded:
                self.write(record["step"], values_of(record))
        for one in older if set(place.glob(f"offline-run-*-{name}")) - older else ():
            if not any(one.glob("*.synced")):
                shutil.rmtree(one, ignore_errors=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log one record, unless the run went past its step before."""
        if step >= self._first:
            self._run.log(values, step=step)

    def flush(self) -> None:
        """Nothing: `__init__` makes good what a killed process did not write."""

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _wait(paths: Iterable[Path]) -> None:
    """See that a new name with the time in seconds will differ from these."""
    if time.time() < max((path.stat().st_mtime for path in paths), default=0.0) + 1.0:
        time.sleep(1.0)


def values_of(record: Record) -> dict[str, float]:
    """The tags of a record of the JSONL file; null, a number that was not finite, as nan."""
    return {
        tag: math.nan if value is None else value
        for tag, value in record.items()
        if tag not in ("step", "wall_time")
    }
