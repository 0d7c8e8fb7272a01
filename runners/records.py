"""A run's records on disk: `metrics.jsonl`, the truth, and `metrics.csv`, the same as a table."""

import csv
import io
import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runners.files import write_atomically

log = logging.getLogger("absl")

Record = dict[str, Any]

COLUMNS = ("step", "wall_time")
"""What every record has beside the metrics."""

PENDING = 10_000
"""Records kept in memory while the disk takes none."""


def read_records(path: Path | str) -> list[Record]:
    """All whole records of a JSONL file, oldest first; none if there is no such file.

    A last line torn by a kill, or any other line that is no JSON object with the number of a step,
    is passed over.
    """
    records = []
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        step = record.get("step") if isinstance(record, dict) else None
        if isinstance(step, int | float) and math.isfinite(step):
            records.append(record)
    return records


def line_of(record: Record) -> str:
    """The record as one line of strict JSON."""
    return json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"


class Appender:
    """Appends lines to a file; what a full disk refuses is kept and tried again with the next.

    A line that went in by halves is cut off before the next attempt, so the file holds whole
    lines only, unless the process is killed.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed in close()
        self._good = self._file.seek(0, os.SEEK_END)
        self._pending: deque[bytes] = deque(maxlen=PENDING)
        self._warned = False

    def append(self, line: str) -> None:
        """Write the line; never raises OSError."""
        self._pending.append(line.encode())
        try:
            while self._pending:
                rest = memoryview(self._pending[0])
                while rest:
                    rest = rest[self._file.write(rest) :]
                self._good += len(self._pending.popleft())
        except OSError as error:
            self._cut()
            if not self._warned:
                log.warning("%s: %s; its lines are kept in memory", self.path, error)
            self._warned = True
        else:
            self._warned = False

    def _cut(self) -> None:
        try:
            os.ftruncate(self._file.fileno(), self._good)
        except OSError as error:
            log.warning("%s: cannot cut off half a line: %s", self.path, error)

    def sync(self) -> None:
        """Force what was written to disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RecordFiles:
    """The two files of one run; call `close` at the end.

    The table's columns grow: when a tag appears for the first time the whole table is written
    anew, from the JSONL file, with one column more.

    Args:
        folder: the run's; existing records are kept.
    """

    def __init__(self, folder: Path | str) -> None:
        self.jsonl, self.csv = Path(folder) / "metrics.jsonl", Path(folder) / "metrics.csv"
        self.columns: list[str] = []
        self.count = 0
        self.last_step: int | None = None
        self._lines: Appender | None = None
        self._rows: Appender | None = None
        self.keep(lambda index, record: True)

    def keep(self, wanted: Callable[[int, Record], bool]) -> None:
        """Rewrite both files with the records for which `wanted(index, record)` holds."""
        self.close()
        records = read_records(self.jsonl)
        kept = [record for index, record in enumerate(records) if wanted(index, record)]
        text = "".join(map(line_of, kept))
        if not self.jsonl.exists() or self.jsonl.read_bytes() != text.encode():
            write_atomically(self.jsonl, text)
        self._write_table(kept)
        self.count = len(kept)
        self.last_step = kept[-1]["step"] if kept else None
        self._lines = Appender(self.jsonl)

    def append(self, record: Record) -> None:
        """Add one record to both files; never raises OSError."""
        assert self._lines is not None, "the files are closed"
        self._lines.append(line_of(record))
        self.count += 1
        self.last_step = record["step"]
        if record.keys() <= set(self.columns) and self._rows is not None:
            self._rows.append(self._table([record]))
            return
        try:
            self._write_table(read_records(self.jsonl))
        except OSError as error:
            log.warning("%s: %s", self.csv, error)

    def sync(self) -> None:
        """Force both files to disk."""
        for file in (self._lines, self._rows):
            if file is not None:
                file.sync()

    def close(self) -> None:
        """Close both files."""
        for file in (self._lines, self._rows):
            if file is not None:
                file.close()
        self._lines = self._rows = None

    def _write_table(self, records: list[Record]) -> None:
        columns = dict.fromkeys(COLUMNS)
        for record in records:
            columns |= dict.fromkeys(record)
        self.columns = list(columns)
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        header = dict(zip(self.columns, self.columns, strict=True))
        write_atomically(self.csv, self._table([header, *records]))
        self._rows = Appender(self.csv)

    def _table(self, records: list[Record]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(records)
        return text.getvalue()
