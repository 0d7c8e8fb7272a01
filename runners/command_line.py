"""What the command lines of `runners` have in common: gin's flags, --help, errors, exit codes."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from absl import flags

from envs.errors import TaskError
from runners.signals import STOPPING

# Threads of one product wait for each other at its end, by default spinning: where another process
# holds a core they spin as long as it does, and an update takes many times as long. So they spin
# only briefly before they sleep, which costs nothing on an idle machine (docs/performance.md). The
# OpenMP runtime reads this when torch is loaded, which no entry point does before this module.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

FINISHED, FAILED, WRONG, RESUMABLE = 0, 1, 2, 75
LARGEST_SEED = 2**63 - 1
"""Of an evaluation or a recording: torch takes no larger one."""


def new_flags() -> flags.FlagValues:
    """A namespace of flags that holds --help."""
    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "Show this.", short_name="h", flag_values=values)
    return values


def define_gin_flags(values: flags.FlagValues) -> None:
    """Add --gin_file, --gin_bindings (or --gin) and --gin_search_path."""
    for name, text in {
        "gin_file": "Gin file; may be repeated, later files win.",
        "gin_bindings": "One binding, Name.parameter=value; may be repeated, wins over files.",
        "gin_search_path": "Further folder to look for gin files in; may be repeated.",
    }.items():
        flags.DEFINE_multi_string(name, [], text, flag_values=values)
    flags.DEFINE_alias("gin", "gin_bindings", flag_values=values)


def parse(
    values: flags.FlagValues,
    argv: Sequence[str],
    doc: str | None,
    complaint: Callable[[list[str]], str],
) -> int | list[str]:
    """Read a command line into `values`, and answer --help.

    Args:
        values: the flags.
        argv: as `sys.argv`.
        doc: what --help prints before the flags.
        complaint: what is wrong with the flags read and the arguments that are none; "" if nothing.

    Returns:
        The arguments that are no flags; or the exit code of a program that ends here.
    """
    try:
        rest = values(list(argv))[1:]
        for flag in (values[name] for name in values):
            flag.value = _at_home(flag.value)
        if values.help:
            print(f"{doc or ''}\nFlags:\n{values.get_help()}")
            return FINISHED
        if text := complaint(rest):
            raise flags.Error(text)
    except flags.Error as error:
        return wrong(f"{' '.join(str(error).split())}; see --help")
    return rest


def _at_home(value: Any) -> Any:
    """A path with the user's folder for `~`, which shells leave as it is behind `--flag=`."""
    if isinstance(value, list):
        return [_at_home(part) for part in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def no_gin_file(values: flags.FlagValues, rest: list[str]) -> str:
    """The complaint of a program that wants --gin_file and no other arguments."""
    if rest:
        return f"{rest[0]!r} is no flag; gin files go to --gin_file={rest[0]}"
    if not values.gin_file:
        return "--gin_file is missing; for example --gin_file=gin/must_mt10.gin"
    return ""


def one_folder(rest: list[str]) -> str:
    """The complaint of a program that wants the folder of one run, and no other arguments."""
    if len(rest) != 1:
        return f"one run folder is needed, got {len(rest)}"
    return ""


def run_program(main: Callable[[Sequence[str]], int]) -> int:
    """Run a program on the process's arguments; two ends that are no faults are quiet.

    An environment that breaks the rules ends it with one line, as a wrong configuration does. What
    is logged, warnings and worse, goes to standard error.

    Returns:
        What `main` does; `RESUMABLE` if a request to stop ended it where nobody waits for one,
        since the same command begins anew or goes on; `FAILED` if not all of its output was taken.
    """
    for number in STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever began the process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
        getattr(sys, name).reconfigure(errors="backslashreplace")  # a terminal may know ASCII alone
    if not logging.root.handlers:
        logging.root.addHandler(_StandardError(logging.WARNING))
    code = FAILED
    try:
        code = main(sys.argv)
    except TaskError as error:
        code = wrong(str(error).splitlines()[0])
    except KeyboardInterrupt:
        _complain("interrupted")
        code = RESUMABLE
    except OSError as error:
        reason = error.errno or getattr(error.__context__, "errno", None)  # gin hides its own
        if not (isinstance(error, BrokenPipeError) or _output_is_lost(reason)):
            raise
        _give_up_output(reason)
    finally:
        # The exit code stands; a supervisor that asks again must not get that of a signal.
        for number in STOPPING:
            # Whoever presses Ctrl-C once more has his way.
            if number != signal.SIGINT or code != RESUMABLE:
                signal.signal(number, signal.SIG_IGN)
    try:
        sys.stdout.flush()
    except OSError as error:
        _give_up_output(error.errno)
        return code or FAILED
    return code


def _output_is_lost(number: int | None) -> bool:
    """Whether standard output is full or its terminal gone: it takes not one more line either."""
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return False
    try:
        os.write(1, b"\n")
    except OSError as error:
        return error.errno == number
    return False


def _give_up_output(number: int | None) -> None:
    """Say why, unless its reader has gone away; what Python flushes as it ends goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if number not in (None, errno.EPIPE):
        _complain(f"error: standard output: {os.strerror(number)}; what was to be shown is lost")


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads it any more
        print(text, file=sys.stderr)


class _StandardError(logging.Handler):
    """Writes to `sys.stderr` as it is at the time: a live table has its own there."""

    def emit(self, record: logging.LogRecord) -> None:
        _complain(f"{record.levelname.lower()}: {self.format(record)}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; but end the process where a module is being imported.

    Code that runs there may swallow the exception or make another one of it, an extension module
    even abort. Programs import before they write.
    """
    place = frame
    while place is not None:
        if place.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"interrupted\n")
            os._exit(RESUMABLE)
        place = place.f_back
    signal.default_int_handler(number, frame)


def wrong(message: str) -> int:
    """Print the one line of an error that is the caller's, and return its exit code."""
    print(f"error: {message}", file=sys.stderr)
    return WRONG
