"""How a sweep is shown: a live table on a terminal, lines everywhere else, a summary at the end."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runners.console import LastingConsole
from runners.status import DONE, FAILED, INTERRUPTED, RUNNING
from runners.sweep_runs import WAITING, SweptRun

REFRESH_SECONDS = 1.0
ORDER = (FAILED, RUNNING, INTERRUPTED, WAITING, DONE)
"""Which runs are shown first where not all have room."""
UNFINISHED = (RUNNING, INTERRUPTED, WAITING)
STYLES = {DONE: "green", RUNNING: "cyan", INTERRUPTED: "yellow", FAILED: "bold red", WAITING: "dim"}
HEADER = ("configuration", "seed", "status", "steps", "last evaluation", "minutes")

Row = tuple[str, ...]


class SweepTable:
    """Shows the runs while they go on; a context manager around the loop.

    Args:
        runs: all of them.
        interval: seconds between two lines where the output is not a terminal.
        console: where to write.
    """

    def __init__(self, runs: Sequence[SweptRun], interval: float, console: LastingConsole) -> None:
        self.runs, self.interval, self.console = runs, interval, console
        self._rows: dict[int, tuple[str, Row]] = {}
        self._states: dict[int, str] = {id(run): run.state for run in runs}
        self._shown = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> "SweepTable":
        """Begin to show."""
        if self.console.is_terminal:
            self._live = Live(self._table(), console=self.console, auto_refresh=False)
            self._live.start()
        else:
            self.console.print_line(self.line())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the live table away; the summary takes its place."""
        self.update()
        if self._live is not None:
            self._live.transient = True
            self._live.stop()
            self._live = None

    def update(self) -> None:
        """Show what has changed, if it is time to."""
        now = time.monotonic()
        if self._live is not None:
            if now - self._shown >= REFRESH_SECONDS:
                self._shown = now
                self._live.update(self._table(), refresh=True)
            return
        for run in self.runs:
            if run.state != self._states[id(run)]:
                self._states[id(run)] = run.state
                score = f", {run.score()}" if run.state == DONE and run.evaluation else ""
                self.console.print_line(f"{run.name}: {run.state}{score}")
        if now - self._shown >= self.interval:
            self._shown = now
            self.console.print_line(self.line())

    def line(self) -> str:
        """How many runs are in which state, and how far the running ones are."""
        counts = Counter(run.state for run in self.runs)
        texts = [f"{counts[state]} {state.lower()}" for state in (DONE, *ORDER) if counts[state]]
        parts = [f"{len(self.runs)} runs: {', '.join(dict.fromkeys(texts))}"]
        for run in self.runs:
            if run.state == RUNNING:
                _, _, _, steps, score, _ = self._row(run)
                steps = "starting" if steps == "-" else steps
                parts.append(f"{run.name} {steps}{'' if score == '-' else ', ' + score}")
        return "; ".join(parts)

    def summary(self) -> None:
        """Print the table of all runs, and what the failed ones wrote last."""
        self._rows.clear()
        say = self.console.print_line
        rows = [self._row(run) for run in self.runs]
        if self.console.is_terminal:
            self.console.print(_framed(self.runs, rows, whole=True))
        else:
            for row in (HEADER, *rows):
                say("\t".join(row))
        for run in self.runs:
            if run.state == FAILED:
                say(f"\n{run.name} failed ({run.reason}); its output ends in {run.output}:")
                for line in run.tail:
                    say(f"    {line}")
        left = Counter((run.state, run.reason) for run in self.runs if run.state in UNFINISHED)
        for (state, reason), count in left.items():
            say(f"{count} {state.lower()}: {reason or 'the same command goes on with it'}")

    def _table(self) -> Table:
        """As many rows as the screen has room for."""
        room = max(3, self.console.height - 7)
        shown = list(self.runs)
        if len(shown) > room:
            kept = sorted(range(len(shown)), key=lambda i: (ORDER.index(shown[i].state), i))
            shown = [self.runs[index] for index in sorted(kept[: room - 1])]
        counts = Counter(run.state for run in self.runs)
        table = _framed(shown, [self._row(run) for run in shown])
        table.title = ", ".join(
            f"{counts[s]} {s.lower()}" for s in (DONE, *ORDER[:-1]) if counts[s]
        )
        if hidden := len(self.runs) - len(shown):
            table.caption = f"and {hidden} more"
        return table

    def _row(self, run: SweptRun) -> Row:
        """The run's cells; files are read again while it is running or after its state changed."""
        state, row = self._rows.get(id(run), ("", ()))
        if state == run.state != RUNNING:
            return row
        run.curve.read()
        minutes = run.minutes
        shown = "-" if minutes is None else f"{minutes:.1f}"
        row = (run.configuration, str(run.seed), run.state, run.progress(), run.score(), shown)
        self._rows[id(run)] = run.state, row
        return row


def _framed(runs: Sequence[SweptRun], rows: Sequence[Row], whole: bool = False) -> Table:
    """The rows as a table; `whole` breaks long configurations instead of cutting them off."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(HEADER[0], overflow="fold" if whole else "ellipsis")
    for index, name in list(enumerate(HEADER))[1:]:
        width = max(len(name), *(len(row[index]) for row in rows))  # only the first one shrinks
        table.add_column(name, no_wrap=True, min_width=width)
        if name != "status":
            table.columns[-1].justify = "right"
    for run, row in zip(runs, rows, strict=True):
        cells = [Text(cell, style=STYLES[run.state] if cell == run.state else "") for cell in row]
        cells[0].no_wrap = not whole
        table.add_row(*cells)
    return table
