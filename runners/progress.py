"""Progress: a live table on a terminal, a plain line now and then everywhere else."""

import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

import gin
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from runners.console import LastingConsole

REFRESH_SECONDS = 0.5
RATE_SECONDS = 60.0
"""Rates are averaged over the last minute, or more: back to before the last step was counted."""


def duration(seconds: float) -> str:
    """`47 s`, `12 min`, `3 h 05 min` or `2 d 07 h`; `?` for what cannot be known."""
    if not math.isfinite(seconds):
        return "?"
    minutes = int(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02d} h"


def short(number: float) -> str:
    """`950`, `12.3k`, `4.56M`: three digits that say enough."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


@gin.configurable
class Progress:
    """Shows how far a run is and how well it does; a context manager around the loop.

    Where what it writes to is gone, a closed terminal or pipe, the run goes on without it.

    Args:
        interval: seconds between two lines where the output is not a terminal.
        console: where to write; standard output if None.
    """

    def __init__(self, *, interval: float = 30.0, console: Console | None = None) -> None:
        if not interval > 0:
            raise ValueError(f"Progress.interval must be positive, got {interval!r}")
        self.interval = interval
        self.console = console or LastingConsole()
        self.title, self.unit = "", "steps"
        self.total_steps, self.step, self.updates = 1, 0, 0
        self.task_names: tuple[str, ...] = ()
        self.values: dict[str, float] = {}
        self._marks: deque[tuple[float, int, int]] = deque()  # time, steps, updates
        self._started = self._shown = 0.0
        self._live: Live | None = None

    def bind(
        self,
        total_steps: int,
        task_names: Sequence[str],
        *,
        start: int = 0,
        updates: int = 0,
        title: str = "",
        unit: str = "steps",
    ) -> "Progress":
        """Say what is coming.

        Args:
            total_steps: environment steps at which the run ends.
            task_names: in the order they are to be shown.
            start: step at which this process begins, after a resume.
            updates: updates made by then.
            title: shown on top.
            unit: what the steps are: environment steps, or iterations of a loop that counts those.
        """
        self.total_steps, self.step = max(1, total_steps), start
        self.title, self.unit = title, unit
        self.updates = updates
        self.task_names = tuple(task_names)
        return self

    def __enter__(self) -> "Progress":
        """Begin to measure and to show."""
        self._started = self._shown = time.monotonic()
        self._marks = deque([(self._started, self.step, self.updates)])
        if self.console.is_terminal:
            self._live = Live(
                self.render(), console=self.console, auto_refresh=False, transient=False
            )
            with suppress(OSError):  # the terminal is gone
                self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Show the last state and leave it on the screen."""
        self._show(time.monotonic())
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None

    def update(
        self, step: int, metrics: dict[str, float] | None = None, updates: int | None = None
    ) -> None:
        """Note the step and what was logged; shows it if it is time to.

        Args:
            step: environment steps so far.
            metrics: floats by tag, as `Logger.write` returns them.
            updates: updates so far; None if that is not known here.
        """
        self.step = step
        if updates is not None:
            self.updates = updates
        if metrics:
            self.values.update(metrics)
        now = time.monotonic()
        wait = self.interval if self._live is None else REFRESH_SECONDS
        if now - self._shown >= wait:
            self._show(now)

    def rates(self) -> tuple[float, float]:
        """Environment steps and updates a second; NaN before there are any.

        An iteration may be thousands of steps and then minutes of updates, so the time looked back
        on begins before the last step that was counted.
        """
        first, last = self._marks[0], self._marks[-1]
        seconds = last[0] - first[0]
        if seconds <= 0:
            return math.nan, math.nan
        return (last[1] - first[1]) / seconds, (last[2] - first[2]) / seconds

    def _show(self, now: float) -> None:
        self._shown = now
        self._marks.append((now, self.step, self.updates))
        marks = self._marks
        while len(marks) > 2 and now - marks[1][0] > RATE_SECONDS and marks[1][1] < self.step:
            marks.popleft()
        with suppress(OSError):
            if self._live is None:
                self.console.print(self.line(), highlight=False, soft_wrap=True, markup=False)
            else:
                self._live.update(self.render(), refresh=True)

    def _facts(self) -> dict[str, str]:
        rate, updating = self.rates()
        left = (self.total_steps - self.step) / rate if rate > 0 else math.nan
        facts = {f"{self.unit}/s": short(rate) if rate == rate else "?"}
        if self.updates and self.unit == "steps":
            facts["updates"] = f"{self.updates:,}"
            facts["updates/s"] = short(updating) if updating == updating else "?"
        facts["elapsed"] = duration(time.monotonic() - self._started)
        facts["left"] = duration(left if self.step < self.total_steps else 0.0)
        return facts

    def _scores(self) -> dict[str, str]:
        tags = {
            "train success": "train/success",
            "train return": "train/return",
            "train return before": "train/return_before",
            "train return after": "train/return_after",
            "eval success": "eval/success_rate",
            "eval return before": "eval/return_before",
            "eval return after": "eval/return",
        }
        return {
            name: short(self.values[tag]) if "return" in name else _percent(self.values[tag])
            for name, tag in tags.items()
            if tag in self.values
        }

    def line(self) -> str:
        """Everything but the single tasks, in one line of plain text."""
        done = 100 * min(1.0, self.step / self.total_steps)
        facts = ", ".join(f"{value} {name}" for name, value in self._facts().items())
        scores = "".join(f", {name} {value}" for name, value in self._scores().items())
        return f"{self.step:,} of {self.total_steps:,} {self.unit} ({done:.1f}%), {facts}{scores}"

    def render(self) -> RenderableType:
        """The whole display for the console's width."""
        done = min(1.0, self.step / self.total_steps)
        head = Text.assemble(
            (f"{self.title}  " if self.title else "", "bold"),
            (f"{self.step:,}", "bold cyan"),
            f" of {self.total_steps:,} {self.unit}  ",
            (f"{100 * done:.1f}%", "bold"),
        )
        facts = Text("  ".join(f"{name} {value}" for name, value in self._facts().items()))
        bar = Table.grid(expand=True)  # a bar alone would not end its line
        bar.add_row(ProgressBar(total=1.0, completed=done))
        parts: list[RenderableType] = [head, bar, facts]
        if scores := self._scores():
            text = Text()
            for name, value in scores.items():
                text.append(f"{name} ").append(value, "bold").append("  ")
            parts.append(text)
        if self._has("train/success/") or self._has("eval/success_rate/"):
            parts.append(self._task_columns())
        return Group(*parts)

    def _has(self, prefix: str) -> bool:
        return any(f"{prefix}{name}" in self.values for name in self.task_names)

    def _task_columns(self) -> RenderableType:
        """Success per task, in as many blocks side by side as fit and no more than needed."""
        names = self.task_names
        room = max(1, self.console.width)
        shown = max(8, min(max(map(len, names)), room - 14))
        width = shown + 14  # two columns of five, and the space around them
        lines = max(4, self.console.height - 8)
        blocks = max(1, min(room // (width + 2), math.ceil(len(names) / min(lines, 10))))
        each = math.ceil(len(names) / blocks)
        tables = []
        for start in range(0, len(names), each):
            table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
            table.add_column("task", width=shown, no_wrap=True, overflow="ellipsis", style="dim")
            table.add_column("train", width=5, justify="right")
            table.add_column("eval", width=5, justify="right")
            for name in names[start : start + each]:
                train = self.values.get(f"train/success/{name}", math.nan)
                evaluated = self.values.get(f"eval/success_rate/{name}", math.nan)
                table.add_row(name, _coloured(train), _coloured(evaluated))
            tables.append(table)
        return Columns(tables, padding=(0, 2))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f}%"


def _coloured(share: float) -> Text:
    colour = "dim" if math.isnan(share) else "red" if share < 0.2 else "yellow"
    return Text(_percent(share), style="green" if share >= 0.8 else colour)
