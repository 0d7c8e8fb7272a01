"""Film a run's policy: an MP4 of a success and of a failure for each task, and a contact sheet.

    python -m runners.record runs/must_mt10/seed_1
    python -m runners.record runs/must_mt10/seed_1 --checkpoint=best --tasks=reach-v3,push-v3
    python -m runners.record runs/must_mt10/seed_1/policy --sheet_only
    python -m runners.record --gin_file=gin/envs/mt10.gin --to=videos

The last shows the tasks of a gin file, under random actions. Files are RUN/videos/
step_<step>_<task>_<success or failure>.mp4 and step_<step>_sheet.png. Of each task some episodes
are played, with goals in turn, until there are both; those two are filmed. Of a learner that adapts
between episodes it is one episode before and one after, on a test task. Simulators need OpenGL:
the back end is what MUJOCO_GL names, EGL or OSMesa, the first that works. Without a graphics device
a picture of 480x480 takes 0.1 s or more.

Exit codes: 0 done, 2 wrong input or no back end, 1 failed.
"""

import functools
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from runners.command_line import (
    FINISHED,
    LARGEST_SEED,
    define_gin_flags,
    new_flags,
    one_folder,
    parse,
    run_program,
    wrong,
)


def define_flags() -> flags.FlagValues:
    """The flags, in a namespace of their own."""
    values = new_flags()
    define_gin_flags(values)
    flags.DEFINE_string(
        "checkpoint", "latest", "latest, best or a step of the run.", flag_values=values
    )
    flags.DEFINE_string("to", None, "Folder to write into; RUN/videos.", flag_values=values)
    flags.DEFINE_list("tasks", [], "Only these tasks, by name.", flag_values=values)
    flags.DEFINE_integer(
        "episodes",
        10,
        "At most so many episodes of each task are played to find a success and a failure.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "every",
        0,
        "Steps between two pictures; 0: as many as make 20 pictures a second.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "size",
        480,
        "Width and height of a video; even.",
        lower_bound=16,
        upper_bound=4096,
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "sheet_only", False, "No videos: a few pictures of each task.", flag_values=values
    )
    flags.DEFINE_integer(
        "adaptations",
        None,
        "Of a learner that adapts between episodes: how often before the second film of a task; "
        "as in the run's evaluations.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Of environments and random actions.",
        lower_bound=0,
        upper_bound=LARGEST_SEED,
        flag_values=values,
    )
    flags.DEFINE_string("device", "cpu", "Where the policy runs: cpu or cuda.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Parse flags, film, and return the exit code.

    Args:
        argv: as `sys.argv`.
    """
    values = define_flags()
    parsed = parse(values, argv, __doc__, functools.partial(_complaint, values))
    if isinstance(parsed, int):
        return parsed
    config = importlib.import_module("runners.config")
    try:
        recording = importlib.import_module("runners.recording")
    except ModuleNotFoundError as error:
        return wrong(f"{error.name} is not installed; pip install imageio-ffmpeg pillow")
    rendering = importlib.import_module("runners.rendering")
    try:
        if parsed:
            source = recording.policy_of(parsed[0], values.checkpoint, values.device)
        else:
            source = recording.random_on(
                values.gin_file, values.gin_bindings, values.gin_search_path
            )
        recording.record(
            source,
            Path(values.to) if values.to else None,
            tasks=values.tasks,
            episodes=values.episodes,
            every=values.every,
            size=values.size,
            sheet_only=values.sheet_only,
            adapted=values.adaptations,
            seed=values.seed,
        )
    except config.ConfigError as error:
        return wrong(error.line())
    except rendering.RenderingError as error:
        return wrong(str(error))
    return FINISHED


def _complaint(values: flags.FlagValues, rest: list[str]) -> str:
    if values.size % 2:
        return f"--size={values.size}: videos need an even number"
    if not values.gin_file:
        return one_folder(rest)
    if rest:
        return f"a run folder ({rest[0]}) or --gin_file, not both"
    if values.checkpoint != "latest":
        return "--checkpoint goes with a run folder, not with --gin_file"
    return "" if values.to else "--to is missing: where the pictures of --gin_file go"


if __name__ == "__main__":
    sys.exit(run_program(main))
