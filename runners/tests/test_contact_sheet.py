from collections import namedtuple

import numpy as np
import pytest

from runners.filming import Episode, Film

Image = pytest.importorskip("PIL.Image", reason="needs polytask-runners[record]")
sheets = pytest.importorskip("runners.contact_sheet")
Task = namedtuple("Task", "name task_id split goals")


def film(name, success, pictures=6):
    episode = Episode(Task(name, 0, "train", (3,)), tuple(np.zeros((50, 4))), success, 1.0)
    shades = [np.full((40, 40, 3), 40 * i, np.uint8) for i in range(pictures)]
    return Film(episode, tuple(range(0, 10 * pictures, 10)), tuple(shades), 20.0)


def test_each_task_is_a_row_of_its_pictures(tmp_path):
    films = [film("reach-v3", True), film("a-very-long-name-of-a-task-v3", False, 4)]
    path = sheets.write_contact_sheet(tmp_path / "new" / "sheet.png", films, "MT2")
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]
    sheet = np.array(Image.open(path))
    row = sheets.THUMBNAIL + sheets.CAPTION + sheets.GAP
    for number, one in enumerate(films):
        top = sheets.MARGIN + sheets.TITLE + number * row
        assert tuple(sheet[top + 9, sheets.MARGIN + 2]) == sheets.COLOURS[one.episode.outcome]
        for place in range(6):
            x = sheets.MARGIN + sheets.LABEL + place * (sheets.THUMBNAIL + sheets.GAP) + 20
            shade = 40 * place if place < len(one.pictures) else 255
            assert tuple(sheet[top + 70, x]) == (shade,) * 3
        # labels keep out of the pictures
        assert (sheet[top : top + 150, sheets.MARGIN + sheets.LABEL - 8 :][:, :6] == 255).all()


def test_fifty_tasks_fit_side_by_side():
    sheet = sheets.contact_sheet([film(f"task-{i}", i % 2 == 0) for i in range(50)], "MT50")
    assert sheet.height < 2600 and sheet.width < 4800


def test_no_films():
    with pytest.raises(ValueError, match="at least one"):
        sheets.contact_sheet([], "nothing")


def test_a_video_has_every_picture_and_is_replaced_as_a_whole(tmp_path):
    reader = pytest.importorskip("imageio_ffmpeg", reason="needs polytask-runners[record]")
    video = pytest.importorskip("runners.video")
    pictures = [np.full((64, 48, 3), 20 * i, np.uint8) for i in range(10)]
    for count in (10, 4):
        path = video.write_video(tmp_path / "videos" / "a.mp4", pictures[:count], 8.0)
        assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]
        frames = reader.read_frames(str(path))
        about = next(frames)
        assert about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p")
        assert tuple(about["size"]) == (48, 64) and about["fps"] == 8.0
        shades = [np.frombuffer(frame, np.uint8).mean() for frame in frames]
        assert len(shades) == count + round(video.HOLD * 8.0)
        assert np.allclose(shades[:count], [20 * i for i in range(count)], atol=4)
