"""Messages between a process and its workers: a ticket, and what is pickled after it.

Most messages are a ticket alone, one step each. They pass through one system call on either side,
where `Connection.send_bytes` and `recv_bytes` take several times as long.
"""

import math
import os
import pickle
import select
import struct
import time
from multiprocessing.connection import Connection
from typing import Any

HEADER = struct.Struct("<qq")  # the ticket, and how many bytes follow


def send(pipe: Connection, ticket: int, content: Any = None, deadline: float = math.inf) -> None:
    """Send a ticket, and what is not None with it.

    A pipe that does not block is waited for until the deadline, in seconds of `time.monotonic`.

    Raises:
        TimeoutError: the other side does not read.
        OSError: it is gone.
    """
    body = b"" if content is None else pickle.dumps(content)
    rest = memoryview(HEADER.pack(ticket, len(body)) + body)
    while rest:
        try:
            rest = rest[os.write(pipe.fileno(), rest) :]
        except BlockingIOError:
            _wait(pipe, select.POLLOUT, deadline)


def receive(pipe: Connection, deadline: float = math.inf) -> tuple[int, Any]:
    """Wait for a message, as `send` does; return its ticket and what came with it, or None.

    Raises:
        TimeoutError: the other side stopped within it.
        EOFError, OSError: it is gone.
    """
    ticket, size = HEADER.unpack(_read(pipe, HEADER.size, deadline))
    return ticket, pickle.loads(_read(pipe, size, deadline)) if size else None


def new_poller(pipe: Connection) -> select.poll:
    """What `pipe.poll` makes anew in each call, and takes most of its time for."""
    poller = select.poll()
    poller.register(pipe.fileno(), select.POLLIN)
    return poller


def _read(pipe: Connection, size: int, deadline: float) -> bytes:
    pieces, missing = [], size
    while missing:
        try:
            piece = os.read(pipe.fileno(), missing)
        except BlockingIOError:
            _wait(pipe, select.POLLIN, deadline)
            continue
        if not piece:
            raise EOFError
        pieces.append(piece)
        missing -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _wait(pipe: Connection, event: int, deadline: float) -> None:
    poller = select.poll()
    poller.register(pipe.fileno(), event)
    left = deadline - time.monotonic()
    if not poller.poll(None if left == math.inf else 1000.0 * max(0.0, left)):
        raise TimeoutError
