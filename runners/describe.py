"""Show what a gin file wires together, without building an environment or training a step.

    python -m runners.describe --gin_file=gin/must_mt10.gin

Parts, shapes, parameters of each network, memory and disk, and bindings that nothing reads.
Exit codes: 0, 2 wrong configuration or flags.
"""

import functools
import importlib
import sys
from collections.abc import Sequence

from runners.command_line import (
    FINISHED,
    define_gin_flags,
    new_flags,
    no_gin_file,
    parse,
    run_program,
    wrong,
)


def main(argv: Sequence[str]) -> int:
    """Parse flags, print the tables, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = new_flags()
    define_gin_flags(values)
    parsed = parse(values, argv, __doc__, functools.partial(no_gin_file, values))
    if isinstance(parsed, int):
        return parsed
    config = importlib.import_module("runners.config")
    try:
        config.check_files(values.gin_file, values.gin_search_path)
        training = importlib.import_module("runners.training")
        config.parse(values.gin_file, values.gin_bindings, values.gin_search_path)
        with config.config_errors():
            description = importlib.import_module("runners.description")
            description.describe(training.train)
    except config.ConfigError as error:
        return wrong(error.line())
    return FINISHED


if __name__ == "__main__":
    sys.exit(run_program(main))
