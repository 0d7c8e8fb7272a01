"""Export the policy of a run alone: weights and a card, enough to act and to be evaluated.

    python -m runners.export runs/must_mt10/seed_0
    python -m runners.export runs/must_mt10/seed_0 --checkpoint=best --to=share/must

Writes policy.safetensors and policy.json (configuration, protocol, success, versions), by default
into RUN/policy, or RUN/policy_<checkpoint>. In Python, without the run and its tasks:

    from runners.policy import load_policy
    policy = load_policy("share/must")
    action = policy(observation, "reach-v3")

Exit codes: 0 done, 2 wrong input, 1 failed.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from runners.command_line import FINISHED, new_flags, one_folder, parse, run_program, wrong


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    flags.DEFINE_string(
        "checkpoint", "latest", "latest, best or a step of the run.", flag_values=values
    )
    flags.DEFINE_string(
        "to",
        None,
        "Folder to write into; one that is there is replaced.",
        flag_values=values,
    )
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags, export, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()
    parsed = parse(values, argv, __doc__, one_folder)
    if isinstance(parsed, int):
        return parsed
    config = importlib.import_module("runners.config")
    exporting = importlib.import_module("runners.exporting")
    to = None if values.to is None else Path(values.to)
    try:
        files = exporting.export(parsed[0], values.checkpoint, to)
    except config.ConfigError as error:
        return wrong(error.line())
    for file in files:
        print(file)
    return FINISHED


if __name__ == "__main__":
    sys.exit(run_program(main))
