"""Train what a gin file describes.

    python -m runners.train --gin_file=gin/must_mt10.gin --seed=1

A run lives in <workdir>/<experiment>/seed_<seed>; the same command continues it where it stopped.
Exit codes: 0 finished, 2 wrong configuration or flags, 75 interrupted and resumable, 1 failed.
"""

import functools
import importlib
import sys
from collections.abc import Sequence

from absl import flags

from envs.errors import TaskError
from runners.command_line import (
    FAILED,
    FINISHED,
    RESUMABLE,
    define_gin_flags,
    new_flags,
    no_gin_file,
    parse,
    run_program,
    wrong,
)
from runners.status import ScarcityError


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    define_gin_flags(values)
    flags.DEFINE_string("workdir", "runs", "Holds the folders of all runs.", flag_values=values)
    flags.DEFINE_alias("logdir", "workdir", flag_values=values)
    flags.DEFINE_integer("seed", None, "Seed of the run (SEED).", flag_values=values)
    flags.DEFINE_string(
        "resume",
        "auto",
        "auto: go on with what is there; never: want an empty folder; "
        "PATH: start from another run's checkpoint.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "dry_run", False, "Build, try and measure everything, then stop.", flag_values=values
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags and gin, train, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()
    parsed = parse(values, argv, __doc__, functools.partial(no_gin_file, values))
    return parsed if isinstance(parsed, int) else run(values)


def run(values: flags.FlagValues) -> int:
    """Train as the parsed flags say; the parts are imported here, after them."""
    config = importlib.import_module("runners.config")
    bindings = list(values.gin_bindings)
    if values.seed is not None:
        bindings += config.seed_bindings(values.seed)
    try:
        config.check_files(values.gin_file, values.gin_search_path)
        training = importlib.import_module("runners.training")
        config.parse(values.gin_file, bindings, values.gin_search_path)
        with config.config_errors(before=training.train):
            status = training.train(
                workdir=values.workdir, resume=values.resume, dry_run=values.dry_run
            )
    except config.ConfigError as error:
        return wrong(error.line())
    except TaskError as error:
        return wrong(str(error).splitlines()[0])  # gin adds where it was called
    except ScarcityError as error:
        wrong(str(error).splitlines()[0])
        return FAILED
    return RESUMABLE if status == training.INTERRUPTED else FINISHED


if __name__ == "__main__":
    sys.exit(run_program(main))
