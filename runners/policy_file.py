"""The policy alone, for sharing: `policy.safetensors` and its card, `policy.json`."""

import json
from pathlib import Path
from typing import Any, Protocol

from runners.files import fingerprint, sync_folder, write_atomically
from runners.manifest import DamagedError
from runners.storage import decode, encode, read_tensors, write_tensors

FORMAT = 2
CARD, TENSORS = "policy.json", "policy.safetensors"


class Learner(Protocol):
    """What can export its policy."""

    def policy_state(self) -> dict[str, Any]:
        """The state of all that `act(td, explore=False)` needs, observation statistics included."""
        ...


def export_policy(
    folder: Path | str, learner: Learner, step: int, /, **facts: Any
) -> tuple[Path, Path]:
    """Write the learner's policy into `folder`, over one that is there.

    The card is written last and holds the checksum of the weights: a kill in between leaves a
    folder that reading refuses.

    Args:
        folder: created if need be.
        learner: only its `policy_state()` is asked for.
        step: environment steps the policy has been trained for.
        facts: further JSON values worth keeping, see `runners.policy_card`.

    Returns:
        The two files.

    Raises:
        OSError: from the file system.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    structure, tensors = encode(learner.policy_state())
    aside = folder / f".{TENSORS}.tmp"
    try:
        written = write_tensors(aside, tensors)
        aside.replace(folder / TENSORS)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    card = {"format": FORMAT, "step": step, **facts, "tensors": written, "state": structure}
    write_atomically(folder / CARD, json.dumps(card, indent=1) + "\n")
    sync_folder(folder)
    return folder / TENSORS, folder / CARD


def read_card(folder: Path | str) -> dict[str, Any]:
    """All that the card says.

    Raises:
        DamagedError: it is missing, no card, or one of another format.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text())
        form = card["format"]
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: is no card of a policy") from error
    if form != FORMAT:
        raise DamagedError(
            f"{path}: has format {form}, this version reads {FORMAT}; "
            "write it anew with `python -m runners.export RUN`"
        )
    return dict(card)


def check_card(card: dict[str, Any], folder: Path | str, **kinds: Any) -> None:
    """See that a card has entries of these names and types.

    Raises:
        DamagedError: it lacks one.
    """
    for name, kind in kinds.items():
        if name not in card or not isinstance(card[name], kind):
            raise DamagedError(
                f"{Path(folder) / CARD}: has no {name!r}; write it anew with "
                "`python -m runners.export RUN`"
            )


def read_policy(folder: Path | str) -> tuple[Any, dict[str, Any]]:
    """Read an exported policy.

    Returns:
        The state for `policy_state`'s counterpart, and the card without it.

    Raises:
        DamagedError: a file is missing, or not what was written.
    """
    folder = Path(folder)
    card = read_card(folder)
    try:
        structure, written = card.pop("state"), card.pop("tensors")
        found = fingerprint(folder / TENSORS)
        if found != written:
            raise DamagedError(f"{folder / TENSORS}: its checksum is not the one in {CARD}")
        return decode(structure, read_tensors(folder / TENSORS)), card
    except OSError as error:
        raise DamagedError(f"{folder / TENSORS}: {error.strerror or error}") from error
    except KeyError as error:
        raise DamagedError(f"{folder / CARD}: lacks {error}") from error
