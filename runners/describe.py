"""Show what a gin file or a run wires together, without an environment or a step of training.

    python -m runners.describe --gin_file=gin/must_mt10.gin --values
    python -m runners.describe runs/must_mt10/seed_0

Parts, shapes, parameters of each network, memory and disk, and bindings that nothing reads; of a
run also how far it came and its checkpoints, each compared with its checksums.
Exit codes: 0, 2 wrong configuration or flags.
"""

import importlib
import sys
from collections.abc import Sequence

from absl import flags

from runners.command_line import (
    FINISHED,
    define_gin_flags,
    new_flags,
    no_gin_file,
    one_folder,
    parse,
    run_program,
    wrong,
)


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    define_gin_flags(values)
    text = "Also print every parameter that was read, defaults included, as operative.gin has it."
    flags.DEFINE_boolean("values", False, text, flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags, print the tables, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()

    def complaint(rest: list[str]) -> str:
        if not rest or rest[0].endswith(".gin"):
            return no_gin_file(values, rest)
        if values.gin_file or values.gin_bindings:
            return f"{rest[0]} has its own configuration; leave out --gin_file and --gin_bindings"
        return one_folder(rest)

    parsed = parse(values, argv, __doc__, complaint)
    if isinstance(parsed, int):
        return parsed
    config = importlib.import_module("runners.config")
    try:
        if parsed:
            importlib.import_module("runners.description").describe_run(
                parsed[0], values=values.values
            )
            return FINISHED
        config.check_files(values.gin_file, values.gin_search_path)
        training = importlib.import_module("runners.training")
        config.parse(values.gin_file, values.gin_bindings, values.gin_search_path)
        with config.config_errors():
            description = importlib.import_module("runners.description")
            description.describe(training.train, values=values.values)
    except config.ConfigError as error:
        return wrong(error.line())
    return FINISHED


if __name__ == "__main__":
    sys.exit(run_program(main))
