"""`sweep`: many runs of `train` from one call, on this machine or on a cluster."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import gin

from runners.config import ConfigError
from runners.console import LastingConsole
from runners.grid import Grid, checked_seeds, configurations, refuse_too_many
from runners.local_pool import LocalPool
from runners.signals import Signals
from runners.slurm_jobs import SlurmJobs
from runners.status import DONE
from runners.sweep_plan import Experiment, Plan, plan
from runners.sweep_runs import SweptRun
from runners.sweep_table import SweepTable

LAUNCHERS = ("local", "slurm")
POLL_SECONDS = 0.1


class Launcher(Protocol):
    """Where the runs of a sweep are carried out."""

    @property
    def active(self) -> bool:
        """Whether anything runs or waits."""

    def submit(self, runs: Iterable[SweptRun]) -> None:
        """Take over runs that are not done."""

    def step(self) -> None:
        """Take note of what has changed, and do what is next."""

    def stop(self) -> None:
        """Start nothing more, and let what runs here write its checkpoints."""

    def close(self) -> None:
        """Stop, and leave nothing behind."""


@gin.configurable
def sweep(
    gin_files: Sequence[str] | str = gin.REQUIRED,
    *,
    seeds: Sequence[int] = (0,),
    grid: Grid = (),
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    workdir: str = "runs",
    jobs: int | None = None,
    launcher: str = "local",
    slurm: Mapping[str, Any] | None = None,
    interval: float = 30.0,
    console: LastingConsole | None = None,
) -> list[SweptRun]:
    """Train every configuration of a grid with every seed, and show how they do.

    Each configuration has an experiment folder of its own, named after the gin files and its
    values; without a grid it is that of `train`. Runs that are done are left alone, others go on
    from their checkpoints. SIGINT, SIGTERM, SIGUSR1 and SIGHUP are passed on to the runs.

    Args:
        gin_files: of the experiment.
        seeds: one run of each configuration for each.
        grid: the values of each swept name; all combinations are run.
        bindings: gin lines that all configurations share; the grid's win over them.
        search_paths: further folders for gin files.
        workdir: holds the folders of all experiments.
        jobs: runs at a time; None for one, or on a cluster for no limit.
        launcher: "local" for processes here, "slurm" for jobs sent by submitit.
        slurm: parameters of submitit's executor; `cluster = "local"` tries jobs without a cluster.
        interval: seconds between two lines where the output is not a terminal.
        console: where to write; standard output if None.

    Returns:
        The runs with their states, configuration by configuration; `sweep_runs.exit_code` sums
        them up.

    Raises:
        ConfigError: something is wrong with any of the configurations; no run was started.
    """
    _check_arguments(jobs, launcher, slurm, interval)
    points = configurations(grid)
    numbers = checked_seeds(seeds)
    refuse_too_many(len(points) * len(numbers), "--grid with --seeds")
    files = (gin_files,) if isinstance(gin_files, str) else tuple(gin_files)
    whole = str(Path(workdir).absolute())
    experiment = Experiment(files, tuple(bindings), tuple(search_paths), whole)
    shown = console or LastingConsole()
    here = launcher == "local"
    wanted = plan(experiment, points, numbers, (jobs or 1) if here else None)
    with Signals() as signals:
        for line in wanted.warnings:
            shown.print_line(f"warning: {line}")
        make: Callable[[], Launcher]
        if here:
            make = functools.partial(LocalPool, jobs or 1, wanted.devices)
        else:
            make = functools.partial(SlurmJobs, Path(whole) / "submitit", jobs, slurm or {})
        table = SweepTable(wanted.runs, interval, shown)
        _carry_out(wanted, make, table, signals)
    table.summary()
    return wanted.runs


def _carry_out(
    wanted: Plan, make: Callable[[], Launcher], table: SweepTable, signals: Signals
) -> None:
    left = [run for run in wanted.runs if run.state != DONE]
    if not left:
        return
    launcher, stopped = make(), False
    try:
        launcher.submit(left)
        with table:
            while launcher.active:
                if signals.requested and not stopped:
                    launcher.stop()
                    stopped = True
                launcher.step()
                table.update()
                time.sleep(POLL_SECONDS)
    finally:
        launcher.close()


def _check_arguments(
    jobs: int | None, launcher: str, slurm: Mapping[str, Any] | None, interval: float
) -> None:
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs (sweep.jobs) must be at least 1, got {jobs}")
    if launcher not in LAUNCHERS:
        raise ConfigError(f"--launcher (sweep.launcher): local or slurm, got {launcher!r}")
    if slurm and launcher != "slurm":
        raise ConfigError("--slurm (sweep.slurm) does nothing without --launcher=slurm")
    if not interval > 0:
        raise ConfigError(f"--interval (sweep.interval) must be positive, got {interval!r}")
