"""Messages between a process and its workers: a ticket, and what is pickled after it.

Most messages are a ticket alone, one step each. They pass through one system call on either side,
where `Connection.send_bytes` and `recv_bytes` take several times as long.
"""

import os
import pickle
import select
import struct
from multiprocessing.connection import Connection
from typing import Any

HEADER = struct.Struct("<qq")  # the ticket, and how many bytes follow


def send(pipe: Connection, ticket: int, content: Any = None) -> None:
    """Send a ticket, and what is not None with it.

    Raises:
        OSError: the other side is gone.
    """
    body = b"" if content is None else pickle.dumps(content)
    rest = memoryview(HEADER.pack(ticket, len(body)) + body)
    while rest:
        rest = rest[os.write(pipe.fileno(), rest) :]


def receive(pipe: Connection) -> tuple[int, Any]:
    """Wait for a message; return its ticket and what came with it, or None.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    ticket, size = HEADER.unpack(_read(pipe, HEADER.size))
    return ticket, pickle.loads(_read(pipe, size)) if size else None


def new_poller(pipe: Connection) -> select.poll:
    """What `pipe.poll` makes anew in each call, and takes most of its time for."""
    poller = select.poll()
    poller.register(pipe.fileno(), select.POLLIN)
    return poller


def _read(pipe: Connection, size: int) -> bytes:
    piece = os.read(pipe.fileno(), size)
    if len(piece) == size:
        return piece
    pieces, missing = [piece], size - len(piece)
    while missing:
        if not piece:
            raise EOFError
        piece = os.read(pipe.fileno(), missing)
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
