"""Show what a gin file wires together, without building an environment or training a step.

    python -m runners.describe --gin_file=gin/must_mt10.gin

Parts, shapes, parameters of each network, memory and disk, and bindings that nothing reads.
Exit codes: 0, 2 wrong configuration or flags.
"""

import importlib
import sys
from collections.abc import Sequence

from absl import flags

FINISHED, WRONG = 0, 2


def main(argv: Sequence[str]) -> int:
    """Parse flags, print the tables, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = flags.FlagValues()
    for name, text in {
        "gin_file": "Gin file; may be repeated, later files win.",
        "gin_bindings": "One binding, Name.parameter=value; may be repeated, wins over files.",
        "gin_search_path": "Further folder to look for gin files in; may be repeated.",
    }.items():
        flags.DEFINE_multi_string(name, [], text, flag_values=values)
    flags.DEFINE_alias("gin", "gin_bindings", flag_values=values)
    flags.DEFINE_boolean("help", False, "Show this.", short_name="h", flag_values=values)
    try:
        rest = values(list(argv))[1:]
        if rest or not (values.help or values.gin_file):
            raise flags.Error(f"give --gin_file=FILE{', not ' + rest[0] if rest else ''}")
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}; see --help", file=sys.stderr)
        return WRONG
    if values.help:
        print(f"{__doc__}\nFlags:\n{values.get_help()}")
        return FINISHED
    config = importlib.import_module("runners.config")
    try:
        config.check_files(values.gin_file, values.gin_search_path)
        training = importlib.import_module("runners.training")
        config.parse(values.gin_file, values.gin_bindings, values.gin_search_path)
        with config.config_errors():
            description = importlib.import_module("runners.description")
            description.describe(training.train)
    except config.ConfigError as error:
        print(f"error: {error.line()}", file=sys.stderr)
        return WRONG
    return FINISHED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
