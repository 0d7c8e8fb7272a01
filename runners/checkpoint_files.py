"""One checkpoint on disk: how its folder is written, found, verified and read.

A checkpoint is a folder `step_000001000000` with two files a part (`runners.storage`), `about.json`
(versions, configuration) and `manifest.json` (`runners.manifest`). It is written under a hidden
name, each file forced to disk, the manifest last, and then renamed: it is there whole, or not at
all.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runners.compatibility import versions
from runners.files import sync_folder, write_synced
from runners.manifest import seal, verify
from runners.storage import load_state, save_state

FORMAT = 1
STEP_NAME = re.compile(r"step_(\d{12,})")


def step_name(step: int) -> str:
    """What the checkpoint of a step is called."""
    return f"step_{step:012d}"


def steps_in(folder: Path | str) -> list[int]:
    """Steps of the checkpoints in `folder`, oldest first; whether they are whole is not asked."""
    folder = Path(folder)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := STEP_NAME.fullmatch(name)))


def read_about(checkpoint: Path | str) -> dict[str, Any]:
    """`step`, `config`, `versions`, `parts` and more of one checkpoint, verified.

    Raises:
        DamagedError: naming the damaged file.
    """
    verify(checkpoint, only=["about.json"])
    about: dict[str, Any] = json.loads((Path(checkpoint) / "about.json").read_text())
    return about


def read_part(checkpoint: Path | str, part: str) -> Any:
    """One part's state out of a checkpoint, verified; tensors are on the CPU.

    Raises:
        DamagedError: naming the damaged file.
    """
    verify(checkpoint, only=[f"{part}.safetensors", f"{part}.json"])
    return load_state(checkpoint, part)


def write_checkpoint(target: Path, states: Iterable[tuple[str, Any]], about: dict[str, Any]) -> int:
    """Write a checkpoint that is there whole or not at all, and force it to disk.

    Args:
        target: its folder; a checkpoint of that name is replaced.
        states: names and states of the parts; each state is asked for when its turn comes.
        about: what `read_about` gives back, besides parts, versions and the format's number.

    Returns:
        Its size in bytes.

    Raises:
        TypeError: if a state holds something that cannot be stored.
        OSError: from the file system. In either case all is as it was before.
    """
    aside = target.with_name(f".writing_{target.name}")
    old = target.with_name(f".old_{target.name}")
    placed = False
    try:
        remove(aside)
        aside.mkdir(parents=True)
        files: dict[str, dict[str, Any]] = {}
        parts = []
        for name, state in states:
            files |= save_state(aside, name, state)
            parts.append(name)
        about = {"format": FORMAT, "parts": parts, "versions": versions(), **about}
        text = json.dumps(about, indent=1).encode()
        files["about.json"] = write_synced(aside / "about.json", [text])
        seal(aside, files, format=FORMAT, step=about["step"])
        remove(old)
        if target.exists():
            target.rename(old)
        aside.rename(target)
        placed = True
        sync_folder(target.parent)
    except BaseException:
        remove(target if placed else aside)
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    remove(old)
    return sum(file["size"] for file in files.values())


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
