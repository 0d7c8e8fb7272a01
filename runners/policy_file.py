"""The actor alone, for sharing: `policy.safetensors` and `policy.json`."""

import json
from pathlib import Path
from typing import Any, Protocol

from runners.files import sync_folder, write_atomically
from runners.storage import load_state, save_state


class Learner(Protocol):
    """What can export its policy."""

    def policy_state(self) -> dict[str, Any]:
        """The state of all that `act(td, explore=False)` needs, observation statistics included."""
        ...


def export_policy(
    folder: Path | str, learner: Learner, step: int, **facts: Any
) -> tuple[Path, Path]:
    """Write the learner's policy into `folder`.

    Args:
        folder: created if need be.
        learner: only its `policy_state()` is asked for.
        step: environment steps the policy has been trained for.
        facts: further JSON values worth keeping: benchmark, protocol, configuration.

    Returns:
        The two files.

    Raises:
        OSError: from the file system.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder, "policy", learner.policy_state())
    state = json.loads((folder / "policy.json").read_text())
    text = json.dumps({"format": 1, "step": step, **facts, "state": state}, indent=1)
    write_atomically(folder / "policy.json", text + "\n")
    sync_folder(folder)
    return folder / "policy.safetensors", folder / "policy.json"


def read_policy(folder: Path | str) -> tuple[Any, dict[str, Any]]:
    """Read an exported policy.

    Returns:
        The state for `policy_state`'s counterpart, and the facts stored beside it.

    Raises:
        OSError, ValueError, KeyError: if a file is missing or damaged.
    """
    facts = json.loads((Path(folder) / "policy.json").read_text())
    structure = facts.pop("state")
    return load_state(folder, "policy", structure), facts
