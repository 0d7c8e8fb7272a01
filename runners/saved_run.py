"""A run read back from its folder: suite and learner as its `config.gin` wires them together."""

import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
from absl import logging

from runners import config
from runners.checkpoint_files import read_about, read_part, step_name, steps_in
from runners.compatibility import differences, versions
from runners.config import ConfigError
from runners.devices import named_device
from runners.evaluation import Evaluator
from runners.manifest import DamagedError
from runners.policy import give
from runners.policy_file import CARD, check_card, read_policy


class SavedRun:
    """Suite and learner of a run, with the weights of one of its checkpoints.

    An exported policy does as well; of its learner the policy alone was trained.

    Args:
        folder: the run's, with `config.gin` and `checkpoints/`, or an exported policy's.
        checkpoint: "latest" (the newest whole one), "best", or an environment step; of an exported
            policy there is the latest.
        device: of the learner.
        bindings: gin lines that win over the run's own.

    Raises:
        ConfigError: the folder is no run or may not be read, it has no such checkpoint, or its
            configuration does not fit it.
    """

    def __init__(
        self,
        folder: Path | str,
        checkpoint: str = "latest",
        device: str = "cpu",
        bindings: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        with config.file_errors(str(folder), "see that it may be read"):
            self.exported = (self.folder / CARD).is_file()
            about, state = self._policy(checkpoint) if self.exported else self._run(checkpoint)
        self.step: int = about["step"]
        if lines := differences(about["versions"], versions()):
            logging.warning("%s was written with other versions: %s", folder, "; ".join(lines))
        importlib.import_module("runners.training")  # registers what config.gin binds
        self._parse(bindings)
        with config.config_errors():
            parts = gin.get_bindings("train")
            for name in {"suite", "algorithm"} - set(parts):
                raise ConfigError(
                    f"{folder}: its configuration binds no train.{name}; put back the one it was "
                    "written with"
                )
            self.suite: Any = parts["suite"]
            self.learner: Any = parts["algorithm"](self.suite.spec)
            self._evaluator: Any = parts.get("evaluator") or Evaluator()
        if self.exported:
            try:
                give(self.learner, state, folder)
            except DamagedError as error:
                raise ConfigError(str(error)) from error
        else:
            try:
                self.learner.load_state_dict(state)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                why = " ".join(str(error).split())[:200]
                raise ConfigError(
                    f"{self.checkpoint} does not fit {self.folder / 'config.gin'}: the learner is "
                    f"of another kind or size ({why}); put back the one it was written with"
                ) from error
        self.learner.to(named_device(device, f"--device={device}", "leave the flag out"))

    def evaluator(self, episodes: int | None = None, seed: int | None = None) -> Any:
        """The run's own evaluator, changed where an argument is given.

        Args:
            episodes: per task; at most the number of goals, or a multiple of it.
            seed: of the evaluation's environments.

        Raises:
            ConfigError: if the goals cannot be shared out evenly over the episodes.
        """
        try:
            self._evaluator.adjust(self.suite, episodes, seed)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return self._evaluator

    def _run(self, checkpoint: str) -> tuple[dict[str, Any], Any]:
        """What is known of a run's checkpoint, and the learner's state in it."""
        self.config = read_config(self.folder)
        self.checkpoint, state = _learner_state(self.folder / "checkpoints", checkpoint)
        try:
            about = read_about(self.checkpoint)
            return {"step": about["step"], "versions": about["versions"]}, state
        except (DamagedError, KeyError) as error:
            raise ConfigError(f"--checkpoint={checkpoint}: damaged: {error}") from error

    def _policy(self, checkpoint: str) -> tuple[dict[str, Any], Any]:
        """The card of an exported policy, and its state."""
        if checkpoint != "latest":
            raise ConfigError(
                f"--checkpoint={checkpoint}: {self.folder} is one exported policy; leave it out"
            )
        try:
            state, card = read_policy(self.folder)
            check_card(card, self.folder, step=int, versions=dict, config=list)
        except DamagedError as error:
            raise ConfigError(str(error)) from error
        self.checkpoint, self.config = self.folder, "\n".join(card["config"]) + "\n"
        return card, state

    def _parse(self, bindings: Sequence[str]) -> None:
        if not self.exported:
            return config.parse([(self.folder / "config.gin").resolve()], bindings)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.gin"
            path.write_text(self.config)
            config.parse([path], bindings)


def read_config(folder: Path) -> str:
    """The `config.gin` of a run.

    Raises:
        ConfigError: the folder is no run's.
    """
    path = folder / "config.gin"
    try:
        if (text := path.read_text()).startswith("\ufeff"):
            raise OSError("it begins with a byte order mark; save it as UTF-8 without one")
        return text
    except (OSError, UnicodeDecodeError) as error:
        why = "it has no config.gin" if not path.exists() else f"{path.name}: {error}"
        raise ConfigError(
            f"{folder} is no run folder: {why}; give <workdir>/<experiment>/seed_<n>"
        ) from error


def _learner_state(folder: Path, wanted: str) -> tuple[Path, Any]:
    steps = steps_in(folder)
    if wanted == "best":
        candidates = [folder / "best"]
    elif wanted == "latest":
        candidates = [folder / step_name(step) for step in reversed(steps)]
    elif wanted.isdecimal():
        candidates = [folder / step_name(int(wanted))]
    else:
        raise ConfigError(f"--checkpoint={wanted}: latest, best or a step")
    problems: dict[str, str] = {}
    for candidate in filter(Path.is_dir, candidates):
        try:
            state = read_part(candidate, "learner")
        except DamagedError as error:
            problems[candidate.name] = str(error)
            continue
        for problem in problems.values():
            logging.warning("Checkpoint damaged, the next older one is taken: %s", problem)
        return candidate, state
    what = f"damaged: {'; '.join(problems.values())}" if problems else f"not in {folder}"
    names = {step_name(step): str(step) for step in steps}
    names |= {"best": "best"} if (folder / "best").is_dir() else {}
    others = [shown for name, shown in names.items() if name not in problems]
    raise ConfigError(f"--checkpoint={wanted}: {what}; there are: {', '.join(others) or 'none'}")
