"""Videos while a run trains: a process of its own films the policy; it can never stop the run."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gin

from runners import policy_card
from runners.policy_file import export_policy
from runners.rendering import ROOT

log = logging.getLogger("absl")


@gin.configurable
class VideoRecorder:
    """After every so many evaluations exports the policy and starts `runners.record` on it.

    The films appear in RUN/videos, with `record.log`, while training goes on; whatever goes wrong
    is warned of. There is one such process at a time, of low priority and on one thread: an
    evaluation that finds the last one still at work films nothing. Training is the same with and
    without it, but for the processor time that pictures take.

    Args:
        evaluations: films after one of so many, the first included.
        episodes: played of each task at most, to find a success and a failure.
        every: steps between two pictures; 0 for 20 pictures a second.
        size: width and height of a video, even.
        sheet_only: only the contact sheet, six pictures of each task.
        minutes: after which a process counts as hung and is ended.

    Raises:
        ValueError: for a value out of range.
    """

    def __init__(
        self,
        *,
        evaluations: int = 5,
        episodes: int = 3,
        every: int = 0,
        size: int = 480,
        sheet_only: bool = False,
        minutes: float = 30.0,
    ) -> None:
        for name, value, low in (
            ("evaluations", evaluations, 1),
            ("episodes", episodes, 1),
            ("every", every, 0),
            ("size", size, 16),
        ):
            if value < low:
                raise ValueError(f"VideoRecorder.{name} must be at least {low}, got {value!r}")
        if size % 2:
            raise ValueError(f"VideoRecorder.size must be even, got {size!r}")
        if not minutes > 0:
            raise ValueError(f"VideoRecorder.minutes must be positive, got {minutes!r}")
        self.evaluations, self.minutes = evaluations, minutes
        self._flags = [f"--episodes={episodes}", f"--every={every}", f"--size={size}"]
        self._flags += ["--sheet_only"] * sheet_only
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: threading.Thread | None = None

    def __call__(self, run: Path, step: int, suite: Any, learner: Any, config: str) -> None:
        """Film the policy if it is time for that; never raises an Exception.

        Args:
            run: the run's folder.
            step: of the run.
            suite: its tasks.
            learner: its policy is filmed as it is now.
            config: the gin text of the run.
        """
        results = (path.stem for path in (run / "eval").glob("*.json"))
        before = sum(name.isdecimal() and int(name) < step for name in results)
        if before % self.evaluations:  # counted on the disk, so that a resumed run goes on counting
            return
        if self._watch is not None and self._watch.is_alive():
            log.warning("VideoRecorder: the last videos are not done yet; none of step %d", step)
            return
        policy = run / "videos" / f".policy_{step}"
        try:
            export_policy(policy, learner, step, **policy_card.facts(config, suite, run, step))
            self._start(policy)
        except Exception as error:  # a film is worth no run
            log.warning("VideoRecorder: no videos of step %d: %s", step, error)
            shutil.rmtree(policy, ignore_errors=True)

    def wait(self, stop: Callable[[], Any]) -> None:
        """Wait for what is still being filmed, until `stop()`."""
        while self._watch is not None and self._watch.is_alive() and not stop():
            self._watch.join(0.2)

    def close(self) -> None:
        """End what is still being filmed."""
        process, watch = self._process, self._watch
        if process is not None and watch is not None and watch.is_alive():
            _end(process)
            watch.join()
        self._process = self._watch = None

    def _start(self, policy: Path) -> None:
        command = [sys.executable, "-m", "runners.record", str(policy.absolute()), *self._flags]
        command.append(f"--to={policy.parent.absolute()}")
        if nice := shutil.which("nice"):
            command = [nice, "-n", "10", *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(policy.parent / "record.log", "ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the run
            )
        self._process = process
        self._watch = threading.Thread(target=self._see_to, args=(process, policy), daemon=True)
        self._watch.start()

    def _see_to(self, process: subprocess.Popen[bytes], policy: Path) -> None:
        """Wait for the process in a thread, and clear up after it."""
        try:
            code = process.wait(60 * self.minutes)
            if code > 0:
                log.warning("VideoRecorder: see %s", policy.parent / "record.log")
        except subprocess.TimeoutExpired:
            log.warning("VideoRecorder: ended after %g minutes", self.minutes)
            _end(process)
        finally:
            shutil.rmtree(policy, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
