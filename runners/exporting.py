"""What `python -m runners.export` does, as a function."""

from pathlib import Path

from runners.config import ConfigError
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
        ConfigError: no run, no such checkpoint, or a folder that holds something else.
        OSError: from the file system.
    """
    run = Path(run)
    name = "policy" if checkpoint == "latest" else f"policy_{checkpoint}"
    target = run / name if folder is None else Path(folder)
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--to={target}: is a file; name a folder")
    others = {path.name for path in target.iterdir()} - {CARD, TENSORS} if target.exists() else ()
    if others and not (target / CARD).exists():
        raise ConfigError(f"--to={target}: holds {min(others)}; name a new folder, or an empty one")
    saved = SavedRun(run, checkpoint)
    if saved.exported:
        raise ConfigError(f"{run} is an exported policy already; copy the folder")
    about = facts(saved.config, saved.suite, run, saved.step)
    try:
        return export_policy(target, saved.learner, saved.step, **about)
    except PermissionError as error:
        raise ConfigError(f"--to={target}: {error.strerror}; name another folder") from error
