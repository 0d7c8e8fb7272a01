"""Train what a gin file describes.

    python -m runners.train --gin_file=gin/must_mt10.gin --seed=1

A run lives in <workdir>/<experiment>/seed_<seed>; the same command continues it where it stopped.
Exit codes: 0 finished, 2 wrong configuration or flags, 75 interrupted and resumable, 1 failed.
"""

import importlib
import sys
from collections.abc import Sequence

from absl import flags

FINISHED, FAILED, WRONG, RESUMABLE = 0, 1, 2, 75


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = flags.FlagValues()
    for name, text in {
        "gin_file": "Gin file; may be repeated, later files win.",
        "gin_bindings": "One binding, Name.parameter=value; may be repeated, wins over files.",
        "gin_search_path": "Further folder to look for gin files in; may be repeated.",
    }.items():
        flags.DEFINE_multi_string(name, [], text, flag_values=values)
    flags.DEFINE_alias("gin", "gin_bindings", flag_values=values)
    flags.DEFINE_string("workdir", "runs", "Holds the folders of all runs.", flag_values=values)
    flags.DEFINE_alias("logdir", "workdir", flag_values=values)
    flags.DEFINE_integer("seed", None, "Seed of the run (train.seed).", flag_values=values)
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
    flags.DEFINE_boolean("help", False, "Show this.", short_name="h", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags and gin, train, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()
    try:
        rest = values(list(argv))[1:]
        if rest:
            raise flags.Error(f"{rest[0]!r} is no flag; gin files go to --gin_file={rest[0]}")
        if not values.help and not values.gin_file:
            raise flags.Error("--gin_file is missing; for example --gin_file=gin/must_mt10.gin")
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}; see --help", file=sys.stderr)
        return WRONG
    if values.help:
        print(f"{__doc__}\nFlags:\n{values.get_help()}")
        return FINISHED
    return run(values)


def run(values: flags.FlagValues) -> int:
    """Train as the parsed flags say; the parts are imported here, after them."""
    config = importlib.import_module("runners.config")
    bindings = list(values.gin_bindings)
    if values.seed is not None:
        bindings.append(f"train.seed = {values.seed}")
    try:
        config.check_files(values.gin_file, values.gin_search_path)
        training = importlib.import_module("runners.training")
        config.parse(values.gin_file, bindings, values.gin_search_path)
        with config.config_errors(before=training.train):
            status = training.train(
                workdir=values.workdir, resume=values.resume, dry_run=values.dry_run
            )
    except config.ConfigError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        return WRONG
    return RESUMABLE if status == training.INTERRUPTED else FINISHED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
