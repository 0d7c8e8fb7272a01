"""A run as a sweep sees it: what its folder tells of it, and what became of its process."""

import json
import os
import re
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.command_line import FAILED as FAILED_CODE
from runners.command_line import FINISHED, RESUMABLE
from runners.progress import short
from runners.status import DONE, FAILED, INTERRUPTED, RUNNING, read_status

WAITING = "WAITING"
"""A run that has not begun, or that goes on later; the other states are those of `status.json`."""


class Curve:
    """The end of a growing `metrics.jsonl`; each `read` takes in what was added since the last.

    Args:
        path: the file, which may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.step: int | None = None
        self.evaluation: dict[str, Any] = {}
        self.times: list[float] = []
        self._inode, self._offset, self._rest = 0, 0, b""

    def read(self) -> None:
        """Take in what is new; all of it if the file was written anew."""
        try:
            file = open(self.path, "rb")  # noqa: SIM115 - closed by the `with` below
        except OSError:
            return
        with file:
            about = os.fstat(file.fileno())
            if about.st_size < self._offset or about.st_ino != self._inode:
                self._forget()
                self._inode = about.st_ino
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._note(line)

    def _note(self, line: bytes) -> None:
        head = re.match(rb'\{"step":(\d+),"wall_time":([\d.]+)', line)
        if not head:
            return
        self.step = int(head[1])
        self.times.append(float(head[2]))
        if b'"eval/' in line:
            try:
                self.evaluation = json.loads(line)
            except ValueError:
                return


@dataclass
class SweptRun:
    """One configuration with one seed.

    Args:
        configuration: what the table calls it.
        seed: the run's.
        folder: the run's.
        flags: of `runners.train`.
        total_steps: at which it is done, if that is known.
        unit: what the steps are.
        state: WAITING, RUNNING, DONE, INTERRUPTED or FAILED.
        reason: why it is neither running nor done.
        tail: the last lines that a failed one wrote.
    """

    configuration: str
    seed: int
    folder: Path
    flags: list[str] = field(default_factory=list, repr=False)
    total_steps: int | None = None
    unit: str = "steps"
    state: str = WAITING
    reason: str = ""
    tail: list[str] = field(default_factory=list, repr=False)
    _curve: Curve | None = field(default=None, init=False, repr=False)

    @property
    def output(self) -> Path:
        """All that its processes print; beside the folder, which belongs to the training."""
        return self.folder.parent / f"output_{self.folder.name}.txt"

    @property
    def name(self) -> str:
        """Configuration and seed."""
        return f"{self.configuration} seed {self.seed}"

    @property
    def curve(self) -> Curve:
        """What `metrics.jsonl` said when it was last read."""
        if self._curve is None:
            self._curve = Curve(self.folder / "metrics.jsonl")
            self._curve.read()
        return self._curve

    def finished_on_disk(self) -> bool:
        """Whether `status.json` says DONE."""
        return (read_status(self.folder) or {}).get("state") == DONE

    def ended(self, code: int, tail: list[str], stopping: bool) -> None:
        """Note how its process ended.

        Args:
            code: the exit code; negative for the number of a signal.
            tail: the last lines it wrote.
            stopping: whether it had been asked to stop.
        """
        self.curve.read()
        if (code == FINISHED or stopping) and self.finished_on_disk():
            self.state, self.reason = DONE, ""
        elif code == RESUMABLE or (stopping and code < 0):
            self.state, self.reason = INTERRUPTED, ""
        else:
            ending = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.state, self.tail = FAILED, tail
            self.reason = ending if code else "it ended, but status.json does not say DONE"
            status = read_status(self.folder) or {}
            if status.get("state") == FAILED and status.get("reason"):
                self.reason += f": {status['reason']}"

    @property
    def step(self) -> int | None:
        """The last one that was logged."""
        return self.curve.step

    @property
    def evaluation(self) -> dict[str, float]:
        """Step and metrics of the last evaluation; empty before there is one."""
        return self.curve.evaluation

    def score(self) -> str:
        """The last evaluation in a few words."""
        values = self.evaluation
        for tag, text in (("eval/success_rate", "{:.0%}"), ("eval/return", "return {}")):
            if isinstance(value := values.get(tag), int | float):
                shown = text.format(value if "%" in text else short(value))
                return f"{shown} at {short(values['step'])}"
        return "-"

    def progress(self) -> str:
        """Steps so far, of how many."""
        step = self.step
        if step is None:
            return "-"
        share = f" ({min(1.0, step / self.total_steps):.0%})" if self.total_steps else ""
        return f"{short(step)}{share}"

    @property
    def minutes(self) -> float | None:
        """Time at work, over all the processes it took; None before the first.

        A process counts from its start to its last record, the last one to its status; what it did
        after its last checkpoint, and lost, does not count.
        """
        try:
            starts = json.loads((self.folder / "run.json").read_text())["starts"]
            begun = [float(start["time"]) for start in starts]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        status = read_status(self.folder) or {}
        times, seconds = self.curve.times, 0.0
        for start, following in zip(begun, [*begun[1:], None], strict=True):
            last = bisect_left(times, following) if following is not None else len(times)
            end = times[last - 1] if last else start
            if following is None and self.state == RUNNING:
                end = time.time()
            elif following is None and status.get("state") in (DONE, INTERRUPTED, FAILED):
                end = float(status.get("time", end))
            seconds += max(0.0, end - start)
        return seconds / 60


def exit_code(runs: list[SweptRun]) -> int:
    """0 if all are done, 75 if some can be gone on with, else 1: the rest have failed."""
    states = {run.state for run in runs}
    if states <= {DONE}:
        return FINISHED
    return FAILED_CODE if states <= {DONE, FAILED} else RESUMABLE
