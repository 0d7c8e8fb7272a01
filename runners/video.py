"""Pictures as an MP4 file that every player and browser shows: H.264, yuv420p."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

HOLD = 0.75
"""Seconds for which the last picture stands still."""


def write_video(path: Path | str, pictures: Sequence[NDArray[np.uint8]], rate: float) -> Path:
    """Write pictures `[height, width, 3]` of even height and width.

    Args:
        path: the file; its folder is created if need be. One that is there is replaced as a whole.
        pictures: one or more, all of one size.
        rate: pictures a second.

    Raises:
        OSError: from the file system, or from ffmpeg.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures[0].shape[:2]
    aside = path.with_name(f".{path.name}")
    last = [pictures[-1]] * round(HOLD * rate)
    writer: Any = imageio_ffmpeg.write_frames(
        str(aside),
        (width, height),
        fps=rate,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=7,
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-movflags", "+faststart"],
    )
    try:
        writer.send(None)
        for picture in (*pictures, *last):
            writer.send(np.ascontiguousarray(picture))
        writer.close()
        os.replace(aside, path)
    finally:
        writer.close()
        aside.unlink(missing_ok=True)
    return path
