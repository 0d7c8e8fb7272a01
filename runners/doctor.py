"""See whether this machine and environment can train, and how fast; each trouble with a fix.

    python -m runners.doctor
    python -m runners.doctor --nospeed --workdir=/data/runs

Versions, processor, threads, GPU, memory, back ends for pictures (really tried), disk, and half a
minute of stepping and updating beside the figures of docs/performance.md. Works where parts are
missing, and says which. Exit codes: 0 training can run, 1 it cannot, 2 wrong flags.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from runners import examination

FINISHED, FAILED, WRONG = 0, 1, 2
"""As in `runners.command_line`, which needs absl, and that may be missing."""


class Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Print it and exit."""
        self.exit(WRONG, f"error: {message}; see --help\n")


def main(argv: Sequence[str]) -> int:
    """Parse flags, examine, print, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser("python -m runners.doctor", description=__doc__, formatter_class=form)
    parser.add_argument("--workdir", "--logdir", default="runs", help="where runs will be kept")
    parser.add_argument("--nospeed", action="store_true", help="do not measure how fast it is")
    try:
        given = parser.parse_args(list(argv)[1:])
    except SystemExit as end:  # help was asked for, or a flag is wrong
        return int(end.code or FINISHED)
    bad = 0
    for finding in examination.examine(os.path.expanduser(given.workdir), not given.nospeed):
        print(f"{finding.level:<5} {finding.what}: {finding.text}", flush=True)
        if finding.fix:
            print(f"      fix: {finding.fix}", flush=True)
        bad += finding.level == examination.BAD
    print(f"training cannot run: {bad} to fix" if bad else "training can run")
    return FAILED if bad else FINISHED


def run() -> int:
    """`main` as other programs run, interruptions and closed pipes included, if absl is there."""
    try:
        command_line = importlib.import_module("runners.command_line")
    except ImportError:
        return main(sys.argv)
    return int(command_line.run_program(main))


if __name__ == "__main__":
    sys.exit(run())
