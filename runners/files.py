"""Files that survive a crash: written aside, forced to disk, then renamed into place."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHUNK = 16 * 2**20
"""Bytes hashed and written at a time."""

FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers that say the disk, the quota or the file system has no room left."""


def existing(path: Path) -> Path:
    """The nearest folder above that is there, or the path itself; maybe a link that leads nowhere.

    Raises:
        OSError: if that cannot be told.
    """
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists() or place.is_symlink())


def disk_is_full(error: OSError) -> bool:
    """Whether `error` means that nothing more fits, which passes once somebody makes room."""
    return error.errno in FULL_DISK


def sync_folder(folder: Path | str) -> None:
    """Force the names in `folder` to disk, so that a rename inside it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path | str, chunks: Iterable[Any]) -> dict[str, Any]:
    """Write byte chunks to a new file, force it to disk and return its `size` and `sha256`.

    Args:
        path: the file; one of that name is replaced in place.
        chunks: objects with the buffer interface; each is hashed and written piece by piece.

    Raises:
        OSError: from the file system, the disk being full among others.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "wb", buffering=0) as file:
        for chunk in chunks:
            whole = memoryview(chunk).cast("B")
            for start in range(0, len(whole), CHUNK):
                piece = whole[start : start + CHUNK]
                digest.update(piece)
                while piece:
                    written = file.write(piece)
                    size += written
                    piece = piece[written:]
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def fingerprint(path: Path | str) -> dict[str, Any]:
    """`size` and `sha256` of the file as it lies on disk.

    Raises:
        OSError: if it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


def read_object(path: Path | str) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file, or something else in it."""
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_atomically(path: Path | str, content: str | bytes) -> None:
    """Replace the file by `content`: readers and crashes see the old or the new one, never a part.

    There must be one writer at a time; what a killed one left aside, the next overwrites.

    Raises:
        OSError: from the file system; the old file is then as it was, and no temp file is left.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(aside, [content.encode() if isinstance(content, str) else content])
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
