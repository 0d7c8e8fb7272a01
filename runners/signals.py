"""Requests to stop: noted by a handler, acted upon between two updates."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class Interruption(BaseException):
    """A request to stop, raised only where `at_once` allows it."""


class Signals:
    """While entered, SIGTERM, SIGUSR1, SIGINT and SIGHUP (a closed terminal) ask for a stop.

    A second SIGINT ends the process. SIGHUP stays ignored where it is, as under nohup. Only the
    main thread can install handlers; elsewhere nothing is installed.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._at_once = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            numbers = [n for n in STOPPING if not (ignored and n == signal.SIGHUP)]
            self._old = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put back the handlers that were there."""
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a request raise `Interruption` here: for work that can be dropped and done again."""
        self._at_once = True
        try:
            if self.requested:
                raise Interruption(self.requested)
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested == "SIGINT" == name:
            os._exit(1)
        self.requested = name
        if self._at_once:
            self._at_once = False
            raise Interruption(name)
