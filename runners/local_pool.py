"""The runs of a sweep on this machine: some at a time, each on its own share of the cores."""

import fcntl
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runners.command_line import WRONG
from runners.status import DONE, FAILED, RUNNING, TAKEN
from runners.sweep_child import last_lines, start
from runners.sweep_runs import WAITING, SweptRun

HELD_SECONDS = 2.0
"""How often to look whether another process has let go of a run."""


def available_cores() -> list[int]:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shares(cores: Sequence[int], jobs: int) -> list[tuple[int, ...]]:
    """The cores for each of `jobs` runs: neighbours, in shares that differ by one core at most.

    With more runs than cores, several runs share one.
    """
    if jobs >= len(cores):
        return [(cores[index % len(cores)],) for index in range(jobs)]
    edges = [len(cores) * index // jobs for index in range(jobs + 1)]
    return [tuple(cores[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


def held(run: SweptRun) -> bool:
    """Whether a process is at work in the run's folder."""
    try:
        with open(run.folder / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no folder yet, or no place for one: training says what is wrong with it
        return False
    return False


@dataclass
class _Place:
    """One of the places for a run, and what is running there."""

    cores: tuple[int, ...]
    device: str | None
    run: SweptRun | None = None
    process: "subprocess.Popen[bytes] | None" = None
    written: int = 0

    def environment(self) -> dict[str, str]:
        """A thread for each core, unless the user allows fewer; one of several devices."""
        given = os.environ.get("OMP_NUM_THREADS", "")
        threads = min(len(self.cores), int(given) if given.isdecimal() else len(self.cores))
        variables = {"OMP_NUM_THREADS": str(max(1, threads))}
        if self.device is not None:
            variables["CUDA_VISIBLE_DEVICES"] = self.device
        return variables


class LocalPool:
    """Runs processes, `jobs` at a time, until all have ended or it is told to stop.

    A run that another process has in hand, another sweep for one, is left for later; if that
    process finishes it, it counts as done.

    Args:
        jobs: how many at a time.
        devices: CUDA devices, dealt out in turn where there are several.
    """

    def __init__(self, jobs: int, devices: Sequence[str] = ()) -> None:
        several = devices if len(devices) > 1 else [None]
        self._places = [
            _Place(cores, several[index % len(several)])
            for index, cores in enumerate(shares(available_cores(), jobs))
        ]
        self._waiting: deque[SweptRun] = deque()
        self._stopping = False
        self._looked: dict[int, float] = {}

    def submit(self, runs: Iterable[SweptRun]) -> None:
        """Add runs to those that wait for a place."""
        self._waiting.extend(runs)

    @property
    def active(self) -> bool:
        """Whether anything runs or will be started."""
        return bool(self._waiting) or any(place.process for place in self._places)

    def step(self) -> None:
        """Take note of what has ended, and start what there is a place for."""
        for place in self._places:
            if place.process is not None and place.process.poll() is not None:
                self._clear(place)
            if place.process is None and (run := self._next()):
                place.run, run.state = run, RUNNING
                place.written = run.output.stat().st_size if run.output.is_file() else 0
                try:
                    place.process = start(
                        run.flags, run.output, cores=place.cores, environment=place.environment()
                    )
                except OSError as error:  # its output has no place; the other runs go on
                    place.run, run.state = None, FAILED
                    run.reason = f"it could not be started: {error}"

    def stop(self) -> None:
        """Start nothing more, and ask all runs to write a checkpoint and end."""
        self._stopping = True
        self._waiting.clear()
        for place in self._places:
            if place.process is not None and place.process.poll() is None:
                place.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Stop, and wait until all have ended."""
        if not self._stopping:
            self.stop()
        while self.active:
            self.step()
            time.sleep(0.05)

    def _next(self) -> SweptRun | None:
        """The first run that waits and that nobody holds; finished ones are dropped on the way."""
        for run in list(self._waiting):
            if time.monotonic() - self._looked.get(id(run), -HELD_SECONDS) < HELD_SECONDS:
                continue
            if held(run):
                run.reason = "another process is at work in its folder"
                self._looked[id(run)] = time.monotonic()
                continue
            self._waiting.remove(run)
            run.reason = ""
            if not run.finished_on_disk():
                return run
            run.state = DONE
        return None

    def _clear(self, place: _Place) -> None:
        run, process = place.run, place.process
        assert run is not None and process is not None and process.stdin is not None
        process.stdin.close()
        place.run = place.process = None
        code, tail = process.returncode, last_lines(run.output, place.written)
        if code == WRONG and any(TAKEN in line for line in tail) and not self._stopping:
            run.state = WAITING  # somebody else was quicker, and may have let go of it since
            self._waiting.append(run)
            return
        run.ended(code, tail, self._stopping)
