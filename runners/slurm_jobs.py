"""The runs of a sweep as jobs of a SLURM cluster, written and sent by submitit (an extra).

Each run is one job. When its time is nearly over, or it is preempted, SLURM sends SIGUSR2, the run
writes a checkpoint, and the job queues itself again, as often as `slurm_max_num_timeout` says.
"""

import importlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runners.command_line import FAILED
from runners.config import ConfigError
from runners.files import write_atomically
from runners.status import RUNNING, read_status
from runners.sweep_child import last_lines, start
from runners.sweep_runs import WAITING, SweptRun

ALIVE = ("PENDING", "RUNNING", "REQUEUED", "COMPLETING", "PREEMPTED", "SUSPENDED", "READY")
UNKNOWN_SECONDS = 300.0
"""For so long after it was sent a job may be unknown to the cluster's accounting."""
LOOK_SECONDS = 2.0


class Job:
    """What a job does: one run, in a process of its own.

    Args:
        flags: of `runners.train`.
        output: file that its output is appended to.
    """

    def __init__(self, flags: Sequence[str], output: Path) -> None:
        self.flags, self.output = list(flags), output
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Train, and return the exit code."""
        threads = os.environ.get("SLURM_CPUS_PER_TASK")
        variables = {"OMP_NUM_THREADS": threads} if threads else {}
        self._process = start(self.flags, self.output, environment=variables)
        return self._wait(self._process)

    def checkpoint(self) -> Any:
        """Let the run write its checkpoint, and say how to go on with it; called by submitit."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)
            self._wait(self._process)
        submitit = importlib.import_module("submitit")
        return submitit.helpers.DelayedSubmission(Job(self.flags, self.output))

    @staticmethod
    def _wait(process: "subprocess.Popen[bytes]") -> int:
        # `checkpoint` interrupts `__call__` in here: two nested calls of process.wait would lock.
        while (code := process.poll()) is None:
            time.sleep(0.1)
        return code


class SlurmJobs:
    """Sends runs to the cluster and watches them; to stop watching leaves the jobs where they are.

    What was sent is noted beside each run's folder, so that the next sweep watches it instead of
    sending it twice.

    Args:
        folder: for the files of submitit, on a file system that all machines share.
        jobs: how many at a time; None for no limit.
        options: parameters of `submitit.AutoExecutor.update_parameters`; `cluster` chooses the
            executor.

    Raises:
        ConfigError: submitit is not installed, there is no cluster, or an option is unknown.
    """

    def __init__(self, folder: Path, jobs: int | None, options: Mapping[str, Any]) -> None:
        try:
            submitit = importlib.import_module("submitit")
        except ImportError as error:
            raise ConfigError(
                "--launcher=slurm: submitit is not installed; pip install submitit"
            ) from error
        cluster = str(options.get("cluster", "slurm"))
        parameters = {name: value for name, value in options.items() if name != "cluster"}
        if jobs is not None:
            parameters["slurm_array_parallelism"] = jobs
        creating = {n: parameters.pop(n) for n in ("slurm_max_num_timeout",) if n in parameters}
        try:
            self._executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster, **creating)
            self._executor.update_parameters(name="polytask", **parameters)
        except Exception as error:  # of several kinds, for each option another
            line = " ".join(str(error).split())
            raise ConfigError(f"--launcher=slurm: {line}; see --slurm") from error
        self._cluster, self._folder = cluster, folder
        self._jobs: list[tuple[SweptRun, Any, int]] = []
        self._looked = 0.0
        self._stopped = False

    @property
    def active(self) -> bool:
        """Whether a job is still watched."""
        return bool(self._jobs) and not self._stopped

    def submit(self, runs: Iterable[SweptRun]) -> None:
        """Send the runs as one array of jobs, except those whose job is still alive."""
        fresh = []
        for run in runs:
            run.state = WAITING
            written = run.output.stat().st_size if run.output.exists() else 0
            job = self._noted(run)
            if job is None:
                fresh.append((run, written))
            else:
                self._jobs.append((run, job, written))
        if not fresh:
            return
        sent = self._executor.submit_array([Job(run.flags, run.output) for run, _ in fresh])
        for (run, written), job in zip(fresh, sent, strict=True):
            note = {"cluster": self._cluster, "job": job.job_id, "time": time.time()}
            run.folder.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(_note(run), json.dumps(note) + "\n")
            self._jobs.append((run, job, written))

    def step(self) -> None:
        """Look at the folders of the runs, and at which jobs are over."""
        if self._stopped or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        left = []
        for run, job, written in self._jobs:
            if job.done():
                self._end(run, job, written)
                continue
            status = (read_status(run.folder) or {}).get("state")
            run.state = RUNNING if status == RUNNING else WAITING
            left.append((run, job, written))
        self._jobs = left

    def stop(self) -> None:
        """Watch no longer; the jobs go on."""
        self._stopped = True
        for run, _, _ in self._jobs:
            run.reason = "the job goes on, and the same command watches it again"

    def close(self) -> None:
        """The same."""
        self.stop()

    def _end(self, run: SweptRun, job: Any, written: int) -> None:
        try:
            code, tail = int(job.result()), []
        except Exception as error:  # whatever ended the job: time, memory, a node
            code, tail = FAILED, str(error).splitlines()[-4:]
        # A job that was cancelled, or may not queue again, has asked its run to stop.
        run.ended(code, [*last_lines(run.output, written), *tail], stopping=True)
        _note(run).unlink(missing_ok=True)

    def _noted(self, run: SweptRun) -> Any:
        """The job that an earlier sweep sent for this run, if it is still alive."""
        try:
            note = json.loads(_note(run).read_text())
            if note["cluster"] != self._cluster:
                return None
            job = self._executor._executor.job_class(str(self._folder), note["job"])
            state = str(job.state).upper()
            recent = time.time() - float(note["time"]) < UNKNOWN_SECONDS
        except (OSError, ValueError, KeyError):
            return None
        return job if state in ALIVE or (state == "UNKNOWN" and recent) else None


def _note(run: SweptRun) -> Path:
    return run.folder.parent / f"job_{run.folder.name}.json"
