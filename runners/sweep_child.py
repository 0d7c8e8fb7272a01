"""One run of a sweep: `runners.train` in a process that stops when whoever started it is gone.

The starter holds the other end of standard input and writes nothing; when that end closes, by the
starter's death at the latest, the run is asked to stop as SIGTERM would: it writes a checkpoint and
can be gone on with. No run is left behind that nobody watches.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from runners import train

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "runners.sweep_child")


def main(argv: Sequence[str]) -> int:
    """Train as `runners.train` does, as long as standard input stays open.

    Args:
        argv: as `sys.argv`; the flags of `runners.train`.
    """
    if hasattr(signal, "SIGUSR2"):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # meant for the job around us
    threading.Thread(target=_stop_with_starter, daemon=True).start()
    return train.main(argv)


def start(
    flags: Sequence[str],
    output: Path,
    *,
    cores: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a run; closing the process's `stdin` stops it.

    Args:
        flags: of `runners.train`.
        output: file that its output is appended to.
        cores: that it keeps to, where the system can do that; all if empty.
        environment: variables that differ from this process's.
    """
    variables = {**os.environ, **(environment or {})}
    # Found even where the caller's own path is known to nobody else.
    path = [str(ROOT), *filter(None, [variables.get("PYTHONPATH")])]
    variables["PYTHONPATH"] = os.pathsep.join(path)
    variables["PYTHONUNBUFFERED"] = "1"
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output, "ab") as file, _confined(cores):
        file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(flags)}\n".encode())
        file.flush()
        return subprocess.Popen(
            [*COMMAND, *flags],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which passes it on once
        )


def last_lines(output: Path, start: int, count: int = 8) -> list[str]:
    """The last lines, empty ones left out, that were written after byte `start`."""
    try:
        with open(output, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 64 * 2**10))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines if line.strip() and not line.startswith("--- ")][
        -count:
    ]


def _stop_with_starter() -> None:
    try:
        while os.read(0, 1024):
            pass
    except OSError:
        return  # no standard input at all: started by hand
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _confined(cores: Sequence[int]) -> Iterator[None]:
    """Let processes started meanwhile inherit an affinity; this one has its own back after it."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except OSError:  # a sandbox that forbids it
        before = set()
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
