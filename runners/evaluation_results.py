"""What every evaluator has: when it is due, how its result is printed, and where it is written."""

import io
import json
import logging
import math
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runners.command_line import LARGEST_SEED
from runners.files import disk_is_full, write_atomically
from runners.logs import record_values

log = logging.getLogger("absl")


class Table(NamedTuple):
    """Cells as text; the rows of `foot` are set apart."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    foot: Sequence[Sequence[str]]


class Scheduled:
    """Due once per whole interval.

    Args:
        interval: steps of the run between two evaluations.
        seed: of the tasks drawn and of all that is random in an evaluation.

    Raises:
        ValueError: the interval is below 1, or torch takes no such seed.
    """

    def __init__(self, interval: int, seed: int) -> None:
        if interval < 1:
            raise ValueError(f"{type(self).__name__}.interval must be at least 1, got {interval!r}")
        if seed < 0:
            raise ValueError(f"{type(self).__name__}.seed must be at least 0, got {seed}")
        if seed > LARGEST_SEED:
            raise ValueError(
                f"{type(self).__name__}.seed must be at most {LARGEST_SEED}, got {seed}"
            )
        self.interval, self.seed = interval, seed
        self._asked = self._rounds_done = 0

    def due(self, step: int) -> bool:
        """Whether an evaluation is due at this step."""
        self._asked = step
        return step // self.interval > self._rounds_done

    def _done(self) -> None:
        """Note that the evaluation last asked for has been made."""
        self._rounds_done = self._asked // self.interval

    def state_dict(self) -> dict[str, Any]:
        """Which evaluations have been done."""
        return {"asked": self._asked, "rounds_done": self._rounds_done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from `state_dict`."""
        self._asked, self._rounds_done = state["asked"], state["rounds_done"]

    @abstractmethod
    def result(self, step: int, suite: Any, metrics: dict[str, float]) -> dict[str, Any]:
        """The last evaluation and all one must know to compare it, ready for JSON."""

    def write_result(
        self,
        folder: Path | str,
        step: int,
        suite: Any,
        metrics: dict[str, float],
        *,
        name: str = "",
    ) -> Path | None:
        """Write `result` as `<folder>/<step>.json` or under another `name`, and what is `recorded`.

        Returns:
            The path; None if any of it cannot be written, which is warned of.
        """
        path = write_result(folder, name or str(step), self.result(step, suite, metrics))
        if path is None:
            return None
        written = [write_arrays(path, what, arrays) for what, arrays in self.recorded().items()]
        return path if all(written) else None

    def recorded(self) -> dict[str, dict[str, NDArray[Any]]]:
        """What of the last evaluation is written beside its JSON, by what it is."""
        return {}


def write_result(folder: Path | str, name: str, result: dict[str, Any]) -> Path | None:
    """Write `<folder>/<name>.json`, in which null stands for numbers that are not finite.

    Returns:
        The path; None if it cannot be written (a full disk, a folder that may not be written to),
        which is warned of: the scores are worth more than their file.
    """
    path = Path(folder) / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(_strict(result), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        log.warning("%s: no %s", _why(error), path)
        return None
    return path


def try_out(evaluator: Any, suite: Any, metrics: Any) -> None:
    """Do with the metrics of a short evaluation what a run does with them, and keep nothing.

    Raises:
        TypeError: they are no dict.
        Exception: whatever comes of them.
    """
    if not isinstance(metrics, dict):
        raise TypeError(f"an evaluation must give a dict of metrics, got {metrics!r}")
    record_values(metrics, [task.name for task in suite.tasks()])
    evaluator.score(metrics)
    with tempfile.TemporaryDirectory() as folder:
        evaluator.write_result(folder, 0, suite, metrics)


def warn_of_broken(metrics: Mapping[str, float]) -> None:
    """Say that episodes broke off, which the scores alone do not show."""
    if broken := metrics.get("eval/broken_episodes"):
        log.warning(
            "%d episodes of this evaluation broke off: a simulator broke down in them or gave "
            "numbers that are not finite, or their worker process was replaced "
            "(eval/broken_episodes)",
            broken,
        )


def _strict(value: Any) -> Any:
    """The same with None, JSON's null, for every nan and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _strict(part) for key, part in value.items()}
    return [_strict(part) for part in value] if isinstance(value, list | tuple) else value


def write_arrays(result: Path, what: str, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Write arrays beside a result, as `<its name>_<what>.npz`.

    Returns:
        Whether it was written; if not, that is warned of, as in `write_result`.
    """
    try:
        with io.BytesIO() as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            write_atomically(result.with_name(f"{result.stem}_{what}.npz"), file.getvalue())
    except OSError as error:
        log.warning("%s: no %s beside %s", _why(error), what, result)
        return False
    return True


def _why(error: OSError) -> str:
    """What the file system said, in a few words."""
    return "Disk full" if disk_is_full(error) else error.strerror or str(error)
