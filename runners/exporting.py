"""What `python -m runners.export` does, as a function."""

import functools
from pathlib import Path

from runners.config import ConfigError, file_errors
from runners.policy_card import facts
from runners.policy_file import CARD, TENSORS, export_policy
from runners.saved_run import SavedRun


def export(
    run: Path | str, checkpoint: str = "latest", folder: Path | str | None = None
) -> tuple[Path, Path]:
    """Write the policy of one checkpoint of a run, with its card.

    Args:
        run: the run's folder.
        checkpoint: "latest", "best", or a step.
        folder: where to; RUN/policy or RUN/policy_<checkpoint> if None. An exported policy there is
            replaced.

    Returns:
        The two files.

    Raises:
        ConfigError: no run, no such checkpoint, or a folder that holds something else or cannot be
            written to.
    """
    run = Path(run)
    name = "policy" if checkpoint == "latest" else f"policy_{checkpoint}"
    target = run / name if folder is None else Path(folder)
    writing = functools.partial(file_errors, f"--to={target}", "name another folder")
    with writing():
        if target.exists() and not target.is_dir():
            raise ConfigError(f"--to={target}: is a file; name a folder")
        there = {path.name for path in target.iterdir()} if target.exists() else set()
    others = there - {CARD, TENSORS}
    if others and CARD not in there:
        raise ConfigError(f"--to={target}: holds {min(others)}; name a new folder, or an empty one")
    saved = SavedRun(run, checkpoint)
    if saved.exported:
        raise ConfigError(f"{run} is an exported policy already; copy the folder")
    about = facts(saved.config, saved.suite, run, saved.step)
    with writing():
        return export_policy(target, saved.learner, saved.step, **about)
