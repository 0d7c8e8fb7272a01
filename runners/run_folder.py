"""The folder of one run, `<workdir>/<experiment>/seed_<n>`: whose it is, what is noted there."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runners.checkpoint_files import STEP_NAME, remove, step_name, steps_in
from runners.compatibility import bindings, differences, versions
from runners.config import ConfigError, file_errors, root
from runners.files import disk_is_full, existing, read_object, write_atomically
from runners.status import DONE, FAILED, INTERRUPTED, TAKEN, read_status

log = logging.getLogger("absl")
APPENDED = ("metrics.jsonl", "metrics.csv", "log.txt")
REPLACED = ("config.gin", "operative.gin", "run.json", "status.json")
FOLDERS = ("checkpoints", "eval", "policy", "tb")
"""What a run writes into its folder."""


class RunFolder:
    """A run's place on disk.

    Args:
        workdir: holds the folders of all experiments.
        experiment: name of the experiment.
        seed: the run's seed.

    Raises:
        ConfigError: the experiment's name leads out of the folder of all of them.
    """

    def __init__(self, workdir: Path | str, experiment: str, seed: int) -> None:
        if Path(experiment).is_absolute() or ".." in Path(experiment).parts:
            raise ConfigError(
                f"train.experiment must name a folder within --workdir, got {experiment!r}"
            )
        self.path = Path(workdir) / experiment / f"seed_{seed}"
        self.checkpoints = self.path / "checkpoints"
        self.results = self.path / "eval"
        self._lock: os.stat_result | None = None
        self._started = False

    def check_place(self) -> None:
        """See that the folder is there or can be made, and be written to; changes nothing.

        Raises:
            ConfigError: a file is in the way, a name is too long, or writing is not allowed.
        """
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:  # safetensors opens no such file
            raise ConfigError(
                f"--workdir: {str(self.path)!r} is no UTF-8; choose another --workdir, or bind "
                "train.experiment"
            ) from error
        try:
            if "\0" in str(self.path):
                raise OSError(errno.EINVAL, "a name holds no NUL", str(self.path))
            whole = self.path.absolute()
            found = existing(whole)
        except OSError as error:
            raise ConfigError(
                f"--workdir: {self.path}: {error.strerror}; choose another --workdir, or bind "
                "train.experiment"
            ) from error
        if not found.exists():
            raise ConfigError(
                f"--workdir: {self.path}: {found} is a link to {os.readlink(found)}, which is not "
                "there; make or mount that, or choose another --workdir"
            )
        longest = os.pathconf(found, "PC_NAME_MAX")
        for part in whole.relative_to(found).parts:
            if len(os.fsencode(part)) > longest:
                raise ConfigError(
                    f"--workdir: {self.path}: {part} is too long for a name there; choose another "
                    "--workdir, or bind train.experiment"
                )
        allowed = os.access(found, os.W_OK | os.X_OK)
        if not found.is_dir() or not allowed:
            why = "may not be written to" if found.is_dir() else "is no folder"
            raise ConfigError(f"--workdir: {self.path}: {found} {why}; choose another --workdir")

    @file_errors("--workdir", "see that it may be read and written, or choose another --workdir")
    def check(self, config: str, resume: str, override: bool = False) -> None:
        """See that nothing of another run would be lost; changes nothing.

        Args:
            config: the gin text of this run.
            resume: "auto", "never" or the path of a run or checkpoint to start from.
            override: accept a folder of another configuration.

        Raises:
            ConfigError: the folder belongs to something else or may not be read, or `resume` is
                wrong.
        """
        kept = self._visible() if self.path.is_dir() else []
        if resume not in ("auto", "never"):
            self.source(resume)
        if not kept:
            return
        if resume == "never":
            raise ConfigError(
                f"--resume=never: {self.path} holds a run; choose another --workdir, "
                "or continue it with --resume=auto"
            )
        text = self.path / "config.gin"
        if not text.is_file():
            raise ConfigError(
                f"--workdir: {self.path} is not empty and holds no run (no config.gin); choose "
                "another --workdir"
            )
        try:
            before = bindings(text.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--workdir: {text} cannot be read: {error}; choose another --workdir"
            ) from error
        changed = differences(before, bindings(config))
        steps, status = steps_in(self.checkpoints), read_status(self.path) or {}
        begun = bool(steps) or (status.get("state"), status.get("step")) != (FAILED, 0)
        if changed and begun and not override:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ConfigError(
                f"--workdir: {self.path} holds another configuration ({'; '.join(changed[:3])}"
                f"{more}); choose another --workdir, or bind Checkpointer.override = True"
            )
        for name in APPENDED:
            if (self.path / name).exists():
                (self.path / name).open("r+b").close()  # here, not when the run has begun
        for name in REPLACED:
            if (self.path / name).is_dir():
                raise IsADirectoryError(
                    errno.EISDIR, os.strerror(errno.EISDIR), str(self.path / name)
                )
        folders = [self.path / name for name in FOLDERS]
        for place in (*folders, *(self.checkpoints / step_name(step) for step in steps)):
            if place.exists() and not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
                why = "may not be written to" if place.is_dir() else "is no folder"
                raise ConfigError(
                    f"--workdir: {place} {why}; mend that, or choose another --workdir"
                )
        if status.get("state") in (DONE, INTERRUPTED) and not steps:
            raise ConfigError(
                f"--workdir: {self.path} is {status['state']}, and its checkpoints are gone: "
                "it would begin anew and lose its metrics; choose another --workdir"
            )

    def source(self, resume: str) -> Path:
        """The checkpoint that the path given to `--resume` means.

        Raises:
            ConfigError: there is none, or it is this run's own.
        """
        path = Path(resume)
        with file_errors(f"--resume={resume}", "see that it may be read, or give another run"):
            for folder in (path / "checkpoints", path):
                if steps := steps_in(folder):
                    path = folder / step_name(steps[-1])
                    break
            there = bool(STEP_NAME.fullmatch(path.name)) and path.is_dir()
        if not there:
            raise ConfigError(f"--resume={resume}: no checkpoint there; give auto, never or a run")
        if steps_in(self.checkpoints):
            raise ConfigError(
                f"--resume={resume}: {self.path} has checkpoints of its own; continue it with "
                "--resume=auto, or choose another --workdir"
            )
        return path

    def adopt(self, checkpoint: Path) -> None:
        """Copy another run's checkpoint, and its records, into this empty run."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        records = checkpoint.parents[1] / "metrics.jsonl"
        if records.is_file():
            shutil.copy(records, self.path / "metrics.jsonl")
        # Renamed at the end: a run killed while it copies has no checkpoint, not a damaged one.
        aside = self.checkpoints / f".adopted_{checkpoint.name}"
        remove(aside)
        shutil.copytree(checkpoint, aside)
        aside.rename(self.checkpoints / checkpoint.name)

    @contextmanager
    def claimed(self) -> Iterator["RunFolder"]:
        """Create the folder and keep other processes out of it, until this one ends.

        A ConfigError before `note_start` leaves a new folder empty, for the next attempt.

        Raises:
            ConfigError: another process is at work there.
        """
        with file_errors("--workdir", "see that it may be written, or choose another --workdir"):
            self.path.mkdir(parents=True, exist_ok=True)
            new = not self._visible()
            opened = open(self.path / ".lock", "a")  # noqa: SIM115 - closed below
        with opened as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"--workdir: {TAKEN} {self.path}; stop it first, or choose another --workdir"
                ) from error
            except OSError as error:
                raise ConfigError(
                    f"--workdir: {self.path} cannot be locked ({error.strerror}), and two runs "
                    "in one folder would spoil both; choose a --workdir on a file system with locks"
                ) from error
            self._lock = os.fstat(lock.fileno())
            try:
                yield self
            except ConfigError:
                self.check_claim()
                if new and not self._started:
                    for written in self._visible():
                        remove(written)
                raise

    def _visible(self) -> list[Path]:
        """What lies there, but for the lock and what is being written."""
        return [path for path in self.path.iterdir() if not path.name.startswith(".")]

    def check_claim(self) -> None:
        """See that the claimed folder is still there, before more is written.

        Raises:
            ConfigError: somebody removed it, or put another in its place.
        """
        with suppress(FileNotFoundError):
            if self._lock is None or os.path.samestat(self._lock, os.stat(self.path / ".lock")):
                return
        raise ConfigError(
            f"--workdir: {self.path} (or its .lock) was removed while this run was writing there; "
            "start it again"
        )

    def note_config(self, config: str) -> None:
        """Write `config.gin`, unless the run goes on: from then on the folder is this run's."""
        path = self.path / "config.gin"
        if not (path.is_file() and steps_in(self.checkpoints)):
            write_atomically(path, config)

    def note_start(self, facts: dict[str, Any], config: str) -> None:
        """Add this start to `run.json`.

        A run that goes on under another configuration (`Checkpointer.override`) is that one's from
        here on: `config.gin` and the facts become those, and the start says what has changed.
        """
        self._started = True
        path = self.path / "run.json"
        run = read_object(path) or {}
        if not isinstance(run.get("starts"), list):
            if path.exists():
                log.warning("%s is damaged: written anew, without earlier starts", path)
            run = {"starts": []}
        start = {
            "time": time.time(),
            "argv": sys.argv,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "git_commit": git_commit(),
            "versions": versions(),
        }
        text = self.path / "config.gin"
        changed = differences(bindings(text.read_text()), bindings(config))
        if changed:
            start["config_changed"] = changed
            write_atomically(text, config)
        run = {**run, **facts, "starts": [*run["starts"], start]}
        write_atomically(path, json.dumps(run, indent=1) + "\n")

    def note_operative(self, text: str) -> None:
        """Write `operative.gin`: all that was read so far; a full disk is warned of."""
        try:
            write_atomically(self.path / "operative.gin", text)
        except OSError as error:
            if not disk_is_full(error):
                raise
            log.warning("Disk full: operative.gin is that of the start")


def git_commit() -> str | None:
    """The commit of the code, with "+" if files differ from it; None outside a repository."""
    command = ["git", "-C", str(root()), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
