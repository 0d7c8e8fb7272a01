"""The goals of Meta-World's benchmarks, drawn by Meta-World itself and kept on disk."""

import envs.opengl  # noqa: F401

# isort: split
import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import metaworld
import numpy as np
from numpy.typing import NDArray

Goals = dict[str, list[NDArray[np.float64]]]  # name -> goal vectors in the benchmark's order
SPLITS = ("train", "test")
LIBRARIES = ("metaworld", "mujoco", "numpy")


def draw(benchmark: str, seed: int, task: str | None = None) -> dict[str, Goals]:
    """The 50 goals of every task of a benchmark: `metaworld.<benchmark>([task,] seed=seed)`.

    Meta-World draws the goals of all classes from one stream, in order, with a full reset for each:
    4 seconds for MT10, 20 for MT50. The result is therefore cached per benchmark, seed and
    versions; a cache that is missing, damaged or read-only only costs that time.

    Returns:
        split ("train", "test") -> task name -> 50 vectors.
    """
    path = _path(benchmark if task is None else f"{benchmark}-{task}", seed)
    goals = _read(path)
    if goals is None:
        family = getattr(metaworld, benchmark)
        made = family(seed=seed) if task is None else family(task, seed=seed)
        goals = {"train": {}, "test": {}}
        for split, tasks in zip(SPLITS, (made.train_tasks, made.test_tasks), strict=True):
            for entry in tasks:
                vector = np.array(pickle.loads(entry.data)["rand_vec"], dtype=np.float64)
                goals[split].setdefault(entry.env_name, []).append(vector)
        _write(path, goals)
    return goals


def _path(name: str, seed: int) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    versions = "-".join(f"{library}{version(library)}" for library in LIBRARIES)
    return Path(home) / "polytask" / "goals" / f"{name}-seed{seed}-{versions}.json"


def _checksum(goals: object) -> str:
    return hashlib.sha256(json.dumps(goals, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Goals] | None:
    try:
        stored = json.loads(path.read_text())
        plain = stored["goals"]
        if stored["sha256"] != _checksum(plain) or set(plain) != set(SPLITS):
            return None
        return {
            split: {
                name: [np.array(vector, dtype=np.float64) for vector in vectors]
                for name, vectors in plain[split].items()
            }
            for split in SPLITS
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path, goals: Mapping[str, Goals]) -> None:
    plain = {
        split: {name: [vector.tolist() for vector in vectors] for name, vectors in tasks.items()}
        for split, tasks in goals.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    except OSError:
        return
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"sha256": _checksum(plain), "goals": plain}, file)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
