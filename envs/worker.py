"""The process of a worker: what it starts with, and its life.

It is spawned, runs on one thread, ignores the signals that a terminal or a scheduler sends to the
whole group, and ends when its parent does.
"""

import multiprocessing
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from envs.arrays import Arrays, Rules, block
from envs.episodes import Chunk
from envs.errors import TaskError
from envs.messages import new_poller, receive, send

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""A chunk's models are far apart: with small pages, steps wait for addresses. Of Linux alone."""
GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_ENVIRON = threading.Lock()
AWAKE = 1e-3
"""Seconds that a worker looks out for the next message before it sleeps."""


@contextmanager
def child_settings() -> Iterator[None]:
    """What a child starts with: one thread for its libraries, and huge pages unless told otherwise.

    No signal to the group reaches it before it learned to ignore them. One thread at a time: the
    environment is the process's.
    """
    with _ENVIRON:
        settings = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", HUGE_PAGES)} | ONE_THREAD
        saved = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def work(
    pipe: Connection,
    ticket: int,
    buffer: Any,
    num_envs: int,
    rows: slice,
    rules: Rules,
    index: int,
    workers: int,
) -> None:
    """The life of a worker: build its chunk, then serve verbs until the pipe closes."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    awake = _settle(index, workers)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        arrays: Arrays = {
            name: array[rows] for name, array in block(buffer, num_envs, rules).items()
        }
        ticket, (build, tasks, seeds) = receive(pipe)  # not an argument: see `WorkerPool._employ`
        chunk = Chunk(build, tasks, seeds, rules, arrays)
        send(pipe, ticket, ("ready", None))
        poller = new_poller(pipe)
        while True:
            if awake:
                _look_out(poller)
            ticket, content = receive(pipe)
            if content is None:
                chunk.step()
                send(pipe, ticket)
                continue
            verb, payload = content
            if verb == "close":
                chunk.close()
                return
            method = getattr(chunk, verb)
            answer = method() if payload is None else method(payload)
            send(pipe, ticket, ("done", answer))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except TaskError as error:
        send(pipe, ticket, ("refused", str(error)))
    except BaseException:
        send(pipe, ticket, ("error", traceback.format_exc()))


def _look_out(poller: select.poll) -> None:
    """Until a message is there, for at most `AWAKE` seconds; whoever wants the core has it.

    A core without work goes to sleep, and on a virtual machine wakes up later than the next step is
    asked for while transitions are collected.
    """
    end = time.perf_counter() + AWAKE
    while not poller.poll(0) and time.perf_counter() < end:
        os.sched_yield()


def _settle(index: int, workers: int) -> bool:
    """Take a core, where there is one worker for each; return whether each could have one.

    Woken together, two workers may be put on one core one after the other, for as long as the
    calling process has the other one. Fewer workers than cores are left to the scheduler, which
    knows what else runs.
    """
    if not hasattr(os, "sched_setaffinity"):
        return False
    cores = sorted(os.sched_getaffinity(0))
    if workers == len(cores) > 1:
        os.sched_setaffinity(0, {cores[index]})
    return workers <= len(cores)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
