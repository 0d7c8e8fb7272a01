"""Which back end draws pictures here: each is really tried, in a process that may crash."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Where `envs` is found: the repository, or the folder of installed packages."""
BACKENDS = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
TIMEOUT = 120.0
FIX = "on Debian or Ubuntu: apt-get install -y libegl1 libegl-mesa0 (EGL), or libosmesa6 (OSMesa)"


class RenderingError(RuntimeError):
    """No back end works; the message is one line, with what each said and what to install."""


@dataclass(frozen=True)
class Attempt:
    """What came of trying a back end."""

    backend: str
    problem: str = ""
    """Why it does not work; "" if it does."""
    seconds: float = 0.0
    """For one picture of 480x480."""
    drawn_by: str = ""
    """The graphics device."""


def attempt(backend: str, timeout: float = TIMEOUT) -> Attempt:
    """Take some pictures with a back end, in a process of its own.

    Args:
        backend: as MUJOCO_GL calls it.
        timeout: seconds after which it counts as hung.
    """
    environment = {**os.environ, "MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)  # set by whatever back end was imported here
    command = [sys.executable, "-m", "envs.camera"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        return Attempt(backend, f"no picture within {timeout:.0f} s")
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        return Attempt(backend, "", float(told["seconds"]), str(told["drawn_by"]))
    except (IndexError, ValueError, KeyError, TypeError):
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return Attempt(backend, lines[-1] if lines else f"ended with {done.returncode}")


def attempts() -> Iterator[Attempt]:
    """Try what MUJOCO_GL names, then the others, one after the other."""
    given = os.environ.get("MUJOCO_GL", "").lower()
    for backend in dict.fromkeys([given, *BACKENDS] if given else BACKENDS):
        yield attempt(backend)


def choose() -> Attempt:
    """Set MUJOCO_GL, for this process and those it starts, to the first back end that works.

    It decides for pictures that are taken later, whenever MuJoCo was imported.

    Raises:
        RenderingError: none works.
    """
    problems = []
    for tried in attempts():
        if not tried.problem:
            os.environ["MUJOCO_GL"] = tried.backend
            os.environ.pop("PYOPENGL_PLATFORM", None)
            return tried
        problems.append(f"{tried.backend}: {tried.problem}")
    raise RenderingError(f"no back end for pictures works ({'; '.join(problems)}); {FIX}")
