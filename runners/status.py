"""Where a run stands, for people and supervisors: `status.json` and `log.txt` in the run folder."""

import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runners.files import disk_is_full, read_object, write_atomically

log = logging.getLogger("absl")

RUNNING, DONE, INTERRUPTED, FAILED = "RUNNING", "DONE", "INTERRUPTED", "FAILED"
STATES = (RUNNING, DONE, INTERRUPTED, FAILED)
TAKEN = "another process is training in"
"""How a run is refused whose folder is in use; a sweep knows it by this."""


def write_status(
    folder: Path | str,
    state: str,
    *,
    step: int,
    reason: str | None = None,
    exit_code: int | None = None,
) -> None:
    """Replace `status.json` atomically; on a full disk, write over it, or warn.

    Args:
        folder: the run's.
        state: one of `STATES`.
        step: environment steps so far.
        reason: why the run failed or stopped.
        exit_code: what the process will return, once it is known.

    Raises:
        ValueError: for a state that is none of the four.
        OSError: from the file system, other than a full disk.
    """
    if state not in STATES:
        raise ValueError(f"state must be one of {STATES}, got {state!r}")
    status = {
        "state": state,
        "reason": reason,
        "exit_code": exit_code,
        "step": step,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "time": time.time(),
    }
    path, text = Path(folder) / "status.json", json.dumps(status, indent=1) + "\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        if not disk_is_full(error):
            raise
        try:
            with path.open("r+") as file:  # over the old one, where it has its room already
                file.write(text)
                file.truncate()
        except OSError:
            log.warning("Disk full: status.json still says something older than %s", state)


def failure_reason(error: Exception) -> str:
    """An exception in one line: the first of what it says.

    One that only announces the rest is followed by the last line, where a traceback has its cause.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]  # some say nothing
    text = f"{lines[0]} {lines[-1].strip()}" if lines[0].endswith(":") and lines[1:] else lines[0]
    return f"KeyError: {text}" if isinstance(error, KeyError) else text  # it says the key alone


class ScarcityError(RuntimeError):
    """A run that has begun cannot go on, or not end, for want of disk or memory."""


def memory_lack(error: BaseException) -> str:
    """What an exception of too little memory says, on a CPU or a GPU; "" of any other one."""
    text = str(error)
    first = text.splitlines()[0] if text else ""
    if not isinstance(error, MemoryError) and not re.search("allocate|out of memory", first):
        return ""
    size = re.search(r"allocate (\d+) bytes", text)
    return "not enough memory" + (f" ({int(size[1]) / 2**30:.0f} GiB asked for)" if size else "")


def read_status(folder: Path | str) -> dict[str, Any] | None:
    """What `write_status` wrote, or None where there is no such file (or no JSON in it)."""
    return read_object(Path(folder) / "status.json")


class _LogFile(logging.FileHandler):
    """A log that a full disk keeps waiting: what it refuses is written later, if there is room."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing; there is no place left to say it."""

    def close(self) -> None:
        """Close the file, whatever is still waiting."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(folder: Path | str) -> Iterator[Path]:
    """Append everything that absl logs meanwhile to `log.txt` in the run folder.

    The traceback of an exception that ends it goes in as well; a terminal is shown that by Python.
    A full disk ends nothing; what does not go in at the end is lost.
    """
    path = Path(folder) / "log.txt"
    handler = _LogFile(path, encoding="utf-8")
    form = "%(asctime)s %(levelname)s %(filename)s:%(lineno)d %(message)s"
    handler.setFormatter(logging.Formatter(form))
    logger = logging.getLogger("absl")
    logger.addHandler(handler)
    try:
        yield path
    except Exception:
        place, fault = (__file__, 0), sys.exc_info()
        handler.handle(
            logger.makeRecord(logger.name, logging.ERROR, *place, "The run failed:", (), fault)
        )
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
