"""A contact sheet: all tasks of a benchmark on one page, each a row of pictures over time."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from runners.files import write_atomically
from runners.filming import Film

THUMBNAIL, GAP, MARGIN = 150, 6, 16
LABEL, CAPTION, TITLE = 190, 20, 44
ROWS = 13
"""Of one column; more tasks go into further ones."""
INK, FADED, PAPER = (20, 20, 20), (90, 90, 90), (255, 255, 255)
COLOURS = {"success": (0, 78, 122), "failure": (213, 124, 0), "episode": FADED}
"""Apart in grey, and to the colour-blind; the word stands beside them."""


def contact_sheet(films: Sequence[Film], title: str) -> Image.Image:
    """Draw the sheet.

    Args:
        films: one for each task, of a few pictures.
        title: stands on top.

    Raises:
        ValueError: no films.
    """
    if not films:
        raise ValueError("films must hold at least one film, got none")
    count = max(len(film.pictures) for film in films)
    columns = -(-len(films) // ROWS)
    rows = -(-len(films) // columns)
    row = THUMBNAIL + CAPTION + GAP
    wide = LABEL + count * (THUMBNAIL + GAP)
    size = (
        2 * MARGIN + columns * wide + (columns - 1) * 2 * MARGIN,
        MARGIN + TITLE + rows * row + MARGIN // 2,
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, _font(20))
    for number, film in enumerate(films):
        column, place = divmod(number, rows)
        left = MARGIN + column * (wide + 2 * MARGIN)
        _row(sheet, draw, film, left, MARGIN + TITLE + place * row)
    return sheet


def write_contact_sheet(path: Path | str, films: Sequence[Film], title: str) -> Path:
    """Draw the sheet and write it as a PNG file; one that is there is replaced as a whole."""
    path, drawn = Path(path), io.BytesIO()
    contact_sheet(films, title).save(drawn, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, drawn.getvalue())
    return path


def _row(sheet: Image.Image, draw: ImageDraw.ImageDraw, film: Film, left: int, top: int) -> None:
    episode = film.episode
    colour = COLOURS[episode.outcome]
    draw.rectangle((left, top, left + 5, top + THUMBNAIL), colour)
    middle = top + THUMBNAIL // 2
    lines = [
        *((part, INK, 15) for part in _folded(episode.task.name)),
        (episode.outcome, INK, 14),
        (f"goal {episode.task.goals[0]}", FADED, 12),
        (f"{len(episode.actions)} steps", FADED, 12),
        (f"return {episode.total:.4g}", FADED, 12),
    ]
    y = middle - sum(size + 5 for *_, size in lines) // 2
    for text, ink, size in lines:
        draw.text((left + 14, y), text, ink, _font(size))
        y += size + 5
    for number, (step, picture) in enumerate(zip(film.steps, film.pictures, strict=True)):
        x = left + LABEL + number * (THUMBNAIL + GAP)
        small = Image.fromarray(picture).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        sheet.paste(small, (x, top))
        caption = "start" if step == 0 else f"step {step}"
        draw.text((x + THUMBNAIL // 2, top + THUMBNAIL + 3), caption, FADED, _font(12), "mt")


def _folded(name: str, width: int = 20) -> list[str]:
    """A task's name in lines that fit."""
    lines = [""]
    for part in name.replace("-", "- ").split():
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
