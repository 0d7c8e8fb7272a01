"""Train every configuration of a grid with every seed, several runs at a time.

    python -m runners.sweep --gin_file=gin/quick/mtsac_point_mass.gin --seeds=0,1,2 \\
        --grid="BATCH_SIZE = 64, 128" --jobs=2
    python -m runners.sweep --sweep_file=gin/sweeps/point_mass_batch.gin --jobs=2

Each configuration is an experiment of its own, <workdir>/<experiment>,BATCH_SIZE=64/seed_<n>. The
same command goes on where it was stopped: finished runs are left alone. A file with what the flags
say binds sweep.gin_files, sweep.seeds, sweep.grid, ...; flags win over it.
Exit codes: 0 all runs are done, 2 wrong configuration or flags (no run was started), 75 stopped,
the same command goes on, 1 some runs failed and the others are done.
"""

import ast
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from runners.command_line import define_gin_flags, new_flags, parse, run_program, wrong
from runners.config import ConfigError, check_files, config_errors
from runners.config import parse as parse_gin
from runners.grid import read_seeds
from runners.sweep_runs import exit_code
from runners.sweeping import LAUNCHERS, sweep

__all__ = ["main", "sweep"]


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    define_gin_flags(values)
    text = "Gin file that binds the parameters of `sweep`, for example sweep.grid."
    flags.DEFINE_string("sweep_file", None, text, flag_values=values)
    text = "Seeds of each configuration: 0,1,2 or 0-4; 0 if not given."
    flags.DEFINE_string("seeds", None, text, flag_values=values)
    text = "NAME = value, value: what to sweep over; may be repeated, all combinations are run."
    flags.DEFINE_multi_string("grid", [], text, flag_values=values)
    text = "Runs at a time, which share the cores out; 1 if not given, no limit on a cluster."
    flags.DEFINE_integer("jobs", None, text, flag_values=values)
    text = "Holds the folders of all runs; runs/ if not given."
    flags.DEFINE_string("workdir", None, text, flag_values=values)
    flags.DEFINE_alias("logdir", "workdir", flag_values=values)
    text = "local: processes here; slurm: jobs sent by submitit."
    flags.DEFINE_enum("launcher", None, LAUNCHERS, text, flag_values=values)
    text = "name=value: a parameter of submitit's executor, timeout_min=240; may be repeated."
    flags.DEFINE_multi_string("slurm", [], text, flag_values=values)
    text = "Seconds between two lines where the output is no terminal; 30 if not given."
    flags.DEFINE_float("interval", None, text, flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags, sweep, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()

    def complaint(rest: list[str]) -> str:
        if rest:
            return f"{rest[0]!r} is no flag; gin files go to --gin_file={rest[0]}"
        if not (values.gin_file or values.sweep_file):
            return "--gin_file is missing; for example --gin_file=gin/quick/mtsac_point_mass.gin"
        return ""

    parsed = parse(values, argv, __doc__, complaint)
    if isinstance(parsed, int):
        return parsed
    try:
        given = _given(values)
        if values.sweep_file:
            _read(values.sweep_file, values.gin_search_path)
        with config_errors(before=sweep):
            return exit_code(sweep(**given))
    except ConfigError as error:
        return wrong(error.line())


def _given(values: flags.FlagValues) -> dict[str, Any]:
    """The arguments of `sweep` that the flags say; a sweep file says the others."""
    given = {
        "gin_files": values.gin_file,
        "bindings": values.gin_bindings,
        "search_paths": values.gin_search_path,
        "grid": values.grid,
        "slurm": dict(map(_option, values.slurm)),
    }
    given = {name: value for name, value in given.items() if value}
    if values.seeds is not None:
        given["seeds"] = read_seeds(values.seeds)
    names = ("jobs", "workdir", "launcher", "interval")
    return given | {name: values[name].value for name in names if values[name].value is not None}


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--slurm={text}: no value; write name=value, as in timeout_min=240")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()


def _read(file: str, search_paths: Sequence[str]) -> None:
    try:
        check_files([file], search_paths)
        parse_gin([file], (), search_paths)
    except ConfigError as error:
        raise ConfigError(error.line().replace("--gin_file", "--sweep_file")) from error


if __name__ == "__main__":
    sys.exit(run_program(main))
