"""The plan of a sweep: all its runs, after every configuration has been checked."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.compatibility import IGNORED
from runners.compatibility import bindings as bindings_of
from runners.config import ConfigError
from runners.grid import Configuration
from runners.status import DONE
from runners.sweep_child import ROOT
from runners.sweep_runs import SweptRun

GIB = 2**30
LOG_BYTES = 200 * 2**20
"""Room for the logs of all runs together."""
LABELS = frozenset({"train.experiment"})
"""Bindings that make no difference to a run's numbers."""


@dataclass(frozen=True)
class Experiment:
    """What all runs of a sweep have in common.

    Args:
        gin_files: in the order in which they are read.
        bindings: gin lines after them.
        search_paths: further folders for gin files.
        workdir: holds the folders of all experiments.
    """

    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    search_paths: tuple[str, ...]
    workdir: str

    def flags(self, configuration: Configuration, own: Sequence[str], seed: int) -> list[str]:
        """The command line of `runners.train` for one run."""
        lines = [*self.bindings, *configuration.bindings, *own]
        return [
            *(f"--gin_file={file}" for file in self.gin_files),
            *(f"--gin_search_path={path}" for path in self.search_paths),
            *(f"--gin={line}" for line in lines),
            f"--workdir={self.workdir}",
            f"--seed={seed}",
        ]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Args:
        runs: all of them, those that are done already among them.
        warnings: lines worth showing.
        devices: names of the CUDA devices, if any run wants one.
    """

    runs: list[SweptRun]
    warnings: list[str]
    devices: list[str]


def plan(
    experiment: Experiment,
    configurations: Sequence[Configuration],
    seeds: Sequence[int],
    jobs: int | None,
) -> Plan:
    """Check all configurations and lay out the runs, configuration by configuration.

    Args:
        experiment: what they have in common.
        configurations: one folder each.
        seeds: one run of each configuration for each.
        jobs: how many runs at a time this machine has to bear; None if they run elsewhere.

    Raises:
        ConfigError: a configuration is wrong, or two are the same, or too much is asked of the
            machine.
    """
    *found, machine = _checked(experiment, configurations, seeds, elsewhere=jobs is None)
    runs: list[SweptRun] = []
    for configuration, about in zip(configurations, found, strict=True):
        _refuse_unread(configuration, about)
        for seed in seeds:
            run = SweptRun(
                configuration.label or about["experiment"],
                seed,
                Path(experiment.workdir) / about["experiment"] / f"seed_{seed}",
                experiment.flags(configuration, about["bindings"], seed),
                _total_steps(about["config"]),
                about["unit"],
            )
            run.state = DONE if run.finished_on_disk() else run.state
            runs.append(run)
    _refuse_same(configurations, found)
    if jobs is not None:
        _refuse_too_much(runs, found, machine, jobs)
    unread = dict.fromkeys(name for about in found for name in about["unread"])
    warnings = [
        f"{name} is bound but nothing reads it; remove it or correct its name" for name in unread
    ]
    return Plan(runs, warnings, _devices(max(about["devices"] for about in found)))


def _checked(
    experiment: Experiment,
    configurations: Sequence[Configuration],
    seeds: Sequence[int],
    elsewhere: bool,
) -> list[dict[str, Any]]:
    """The answers of `runners.sweep_check`; the last one is about the machine."""
    request = {
        "files": experiment.gin_files,
        "search_paths": experiment.search_paths,
        "bindings": experiment.bindings,
        "workdir": experiment.workdir,
        "seeds": list(seeds),
        "elsewhere": elsewhere,
        "configurations": [{"label": c.label, "bindings": c.bindings} for c in configurations],
    }
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", "runners.sweep_check"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    ) as process:
        try:
            said, trouble = process.communicate(json.dumps(request))
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the fork that it works in, too
            raise
    answers = [json.loads(line) for line in said.splitlines()]
    for configuration, answer in zip(configurations, answers, strict=False):
        label = f"{configuration.label}: " if configuration.label else ""
        if "error" in answer:
            raise ConfigError(label + answer["error"])
        if "crash" in answer:
            raise RuntimeError(f"{label}the check of the configuration failed:\n{answer['crash']}")
    if len(answers) != len(configurations) + 1:
        raise RuntimeError(f"the check of the configurations failed:\n{trouble}")
    return answers


def _refuse_unread(configuration: Configuration, about: dict[str, Any]) -> None:
    """A grid over a name that nothing reads would repeat one run under many names."""
    for name, _ in configuration.values:
        if any(name == unread or name.endswith(f".{unread}") for unread in about["unread"]):
            raise ConfigError(
                f"--grid: {name} is bound but nothing reads it; correct its name, or take it out"
            )


def _refuse_same(configurations: Sequence[Configuration], found: list[dict[str, Any]]) -> None:
    """Two configurations have two folders, and are not the same."""
    folders: dict[str, int] = {}
    contents: dict[frozenset[tuple[str, str]], int] = {}
    for index, about in enumerate(found):
        earlier = folders.setdefault(about["experiment"].casefold(), index)
        if earlier != index:
            raise ConfigError(
                f"--grid: {configurations[earlier].label} and {configurations[index].label} would "
                f"share the folder {about['experiment']}; sweep over one of them at a time"
            )
        text = bindings_of(about["config"])
        content = frozenset(item for item in text.items() if item[0] not in LABELS | IGNORED)
        earlier = contents.setdefault(content, index)
        if earlier != index:
            raise ConfigError(
                f"--grid: {configurations[earlier].label} and {configurations[index].label} are "
                "the same configuration; a later line wins over one of them, take that one out"
            )


def _refuse_too_much(
    runs: list[SweptRun],
    found: list[dict[str, Any]],
    machine: dict[str, int],
    jobs: int,
) -> None:
    each = [(about, missing) for about in found for missing in about["missing"]]
    left = [pair for pair, run in zip(each, runs, strict=True) if run.state != DONE]
    memory = sum(sorted((about["memory"] for about, _ in left), reverse=True)[:jobs])
    written = sum(sorted((about["checkpoint"] for about, _ in left), reverse=True)[:jobs])
    disk = sum(missing for _, missing in left) + written + LOG_BYTES
    if left and memory > 0.9 * machine["memory"]:
        raise ConfigError(
            f"not enough memory: {min(jobs, len(left))} runs at a time need {memory / GIB:.1f} "
            f"GiB, 90 % of the {machine['memory'] / GIB:.1f} GiB free are allowed; lower --jobs"
        )
    if left and disk > machine["disk"]:
        raise ConfigError(
            f"not enough disk: the checkpoints of {len(left)} runs need {disk / GIB:.1f} GiB more, "
            f"{machine['disk'] / GIB:.1f} GiB are free; choose another --workdir, or bind "
            "Checkpointer.exclude_buffer = True"
        )


def _total_steps(config: str) -> int | None:
    """What `train.total_steps` is bound to, macros followed."""
    lines = bindings_of(config)
    value = lines.get("train.total_steps", "")
    while value.startswith("%"):
        value = lines.get(value[1:], "")
    return int(value) if value.isdecimal() else None


def _devices(count: int) -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(index) for index in range(count)]
    return names if count else []
