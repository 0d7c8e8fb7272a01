"""A folder of files that is whole or known to be damaged: its manifest holds every checksum.

`manifest.json` is written last. It lists size and sha256 of each file and ends with a sha256 of
itself, so a flipped byte anywhere in the folder, the manifest included, is noticed on reading.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runners.files import fingerprint, sync_folder, write_synced

NAME = "manifest.json"


class DamagedError(ValueError):
    """A checkpoint on disk is not what was written; the message names the file."""


def _text(content: dict[str, Any]) -> str:
    body = {key: value for key, value in content.items() if key != "sha256"}
    own = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": own}, sort_keys=True, indent=1) + "\n"


def seal(folder: Path | str, files: dict[str, dict[str, Any]], **facts: Any) -> None:
    """Write the manifest of `files` (`size` and `sha256` by name), and force the folder to disk.

    Raises:
        OSError: from the file system.
    """
    write_synced(Path(folder) / NAME, [_text({**facts, "files": files}).encode()])
    sync_folder(folder)


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest, after checking it against its own checksum.

    Raises:
        DamagedError: if it is missing or altered.
    """
    path = Path(folder) / NAME
    try:
        text = path.read_text()
        content = json.loads(text)
        if isinstance(content, dict) and _text(content) == text and "files" in content:
            return content
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: {error}") from error
    raise DamagedError(f"{path}: does not match its own checksum")


def verify(folder: Path | str, only: Iterable[str] | None = None) -> dict[str, Any]:
    """Compare the folder's files with its manifest, and return the manifest.

    Args:
        folder: what `seal` has closed.
        only: names of the files to look at; all of them, and no file too many, if None. Hidden
            files, which file systems and file managers leave, are not looked at.

    Raises:
        DamagedError: naming the first file that is missing, too many or altered.
    """
    folder = Path(folder)
    content = read_manifest(folder)
    files: dict[str, dict[str, Any]] = content["files"]
    for name in files if only is None else only:
        path = folder / name
        if name not in files:
            raise DamagedError(f"{path}: not part of this checkpoint")
        try:
            size = path.stat().st_size
            found = fingerprint(path) if size == files[name]["size"] else {"size": size}
        except OSError as error:
            raise DamagedError(f"{path}: {error.strerror or error}") from error
        if found["size"] != files[name]["size"]:
            raise DamagedError(f"{path}: {found['size']} bytes, not {files[name]['size']}")
        if found["sha256"] != files[name]["sha256"]:
            raise DamagedError(f"{path}: its checksum is not the manifest's")
    if only is None:
        for name in sorted(set(os.listdir(folder)) - set(files) - {NAME}):
            if not name.startswith("."):
                raise DamagedError(f"{folder / name}: is not in the manifest")
    return content
