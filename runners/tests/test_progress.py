import errno
import io
import math
import random
import string

import pytest
from rich.console import Console

from runners import progress as module
from runners.progress import Progress, duration, short


def console(width=100, height=40, terminal=True):
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=terminal, record=True,
        color_system=None,
    )  # fmt: skip


def names(count):
    chance = random.Random(0)
    return [
        "".join(chance.choices(string.ascii_lowercase, k=chance.randint(5, 22))) + "-v3"
        for _ in range(count)
    ]


def metrics(tasks):
    values = {"train/success": 0.42, "train/return": 1234.5, "eval/success_rate": 0.5}
    for i, name in enumerate(tasks):
        values[f"train/success/{name}"] = i / max(1, len(tasks) - 1)
        values[f"eval/success_rate/{name}"] = 1.0
    return values


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def text_of(progress):
    """What a Live display of that size shows: lines cut at the width."""
    screen = console(progress.console.width, progress.console.height)
    lines = screen.render_lines(progress.render())
    return "\n".join("".join(piece.text for piece in line) for line in lines)


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
@pytest.mark.parametrize("count", [1, 2, 10, 25, 50])
def test_every_task_is_shown_at_any_width(width, count, clock):
    tasks = names(count)
    progress = Progress(console=console(width, 60)).bind(1_000_000, tasks, title="must_mt10")
    with progress:
        clock[0] += 10
        progress.update(5000, metrics(tasks))
        clock[0] += 10
        progress.update(10000, {}, updates=1746)
    text = text_of(progress)
    assert all(len(line) <= width for line in text.splitlines())
    assert text.count("100%") >= count
    assert all(name[: 8 if width > 20 else 4] in text for name in tasks)
    if width >= 80:
        assert all(name in text for name in tasks)
        assert "10,000 of 1,000,000 steps" in text and "1.0%" in text
        assert "steps/s 500" in text and "left 33 min" in text
        assert "updates 1,746  updates/s 87.3" in text
        assert "train success 42%" in text and "eval success 50%" in text


def test_fifty_tasks_take_several_columns(clock):
    tasks = names(50)
    progress = Progress(console=console(160, 30)).bind(100, tasks)
    progress.values = metrics(tasks)
    with progress:
        text = text_of(progress)
    assert len(text.splitlines()) < 24


def test_plain_lines_every_interval(clock):
    screen = console(60, terminal=False)
    with Progress(interval=30.0, console=screen).bind(100_000, names(3)) as progress:
        for step in range(0, 60_001, 1000):
            clock[0] += 1
            progress.update(step, {"train/success": 0.25} if step == 1000 else None)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) == 3  # two intervals and the end
    assert lines[0].startswith("29,000 of 100,000 steps (29.0%), 967 steps/s")
    assert "left" in lines[1] and "train success 25%" in lines[1]
    assert "\x1b" not in screen.file.getvalue()


class Gone(io.StringIO):
    """A closed terminal."""

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_goes_on_without_its_terminal(clock, terminal):
    with Progress(interval=1.0, console=console(terminal=terminal)).bind(10, ["a"]) as progress:
        progress.console.file = Gone()
        for step in range(10):
            clock[0] += 2
            progress.update(step, {"train/success": 0.5})
    assert progress.step == 9 and progress.values == {"train/success": 0.5}


def test_updates_between_refreshes_draw_nothing(clock, monkeypatch):
    with Progress(console=console()).bind(100, ["a"]) as progress:
        monkeypatch.setattr(progress, "render", lambda: pytest.fail("drawn"))
        for step in range(100):
            progress.update(step, {})
        monkeypatch.undo()


def test_resumed_run_counts_its_own_steps_only(clock):
    with Progress(console=console()).bind(2000, ["a"], start=1000) as progress:
        clock[0] += 10
        progress.update(1100)
        assert progress.rates() == (10.0, 0.0)
        assert "left 1 min" in text_of(progress)


def test_long_iterations_are_timed_as_a_whole(clock):
    """5,000 steps in two seconds, then four minutes of 480 updates, again and again."""
    screen = console(60, terminal=False)
    with Progress(interval=30.0, console=screen).bind(100_000, ["a"], updates=7) as progress:
        for iteration in (1, 2):
            clock[0] += 2
            progress.update(5000 * iteration, updates=480 * (iteration - 1) + 7)
            for update in range(480):
                clock[0] += 0.5
                progress.update(5000 * iteration, updates=480 * (iteration - 1) + 8 + update)
        steps, updates = progress.rates()
        assert steps == pytest.approx(10_000 / 484, rel=0.3)
        assert updates == pytest.approx(2.0, rel=0.1)
    lines = screen.file.getvalue().splitlines()
    assert all("? left" not in line and " 0 steps/s" not in line for line in lines[1:])
    assert "967 updates" in lines[-1]


def test_nothing_is_known_at_the_start(clock):
    with Progress(console=console()).bind(1000, ["a"]) as progress:
        assert "steps/s ?" in text_of(progress) and "left ?" in text_of(progress)


def test_formats():
    assert [duration(x) for x in (5, 125, 7500, 200000, math.inf, math.nan)] == [
        "5 s", "2 min", "2 h 05 min", "2 d 07 h", "?", "?",
    ]  # fmt: skip
    assert [short(x) for x in (0.1234, 12, 999, 12345, 2.5e6)] == [
        "0.123", "12", "999", "12.3k", "2.5M",
    ]  # fmt: skip


def test_bad_interval():
    with pytest.raises(ValueError, match="Progress.interval"):
        Progress(interval=0)
