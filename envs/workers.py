"""Worker processes, each stepping a fixed chunk of environments per message.

One anonymous block of shared memory holds all inputs and outputs; a pipe per worker carries the
verbs, each with the number of the call: "step" is that number alone, in both directions. The block
has no name (its file is unlinked when it is made), so nothing can be left behind, not even by
SIGKILL. Workers are spawned, run on one thread, ignore the signals a terminal or a scheduler sends
to the whole group, and end when their parent does.
"""

import multiprocessing
import os
import select
import signal
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from envs.arrays import Arrays, Rules, block, block_size, silence
from envs.episodes import Build, Chunk, Seed, Task
from envs.messages import receive, send

SETTINGS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""A chunk's models are far apart: with small pages, steps wait for addresses. Of Linux alone."""
GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
AWAKE = 1e-3
"""Seconds that a worker looks out for the next message before it sleeps."""


class WorkerPool:
    """The environments of a `Chunk`, spread over processes; the same verbs.

    Args:
        build: makes the simulator of a task; picklable.
        tasks: one per environment.
        seeds: one per environment.
        rules: see `envs.arrays.Rules`.
        workers: number of processes.
        timeout: seconds a worker may take to answer, before it counts as hung.

    A worker that dies, hangs or raises is replaced. Its environments begin a fresh episode, from
    the random stream with the number of the restart added to its key; if that happens within a
    step, the step ends their old episodes with "valid" False, truncated, reward 0. More than
    `max_restarts` within `window` seconds are a RuntimeError that shows the worker's traceback.
    """

    max_restarts = 5
    window = 600.0
    start_timeout = 300.0
    assigned = staticmethod(Chunk.assigned)

    def __init__(
        self,
        build: Build,
        tasks: Sequence[Task],
        seeds: Sequence[Seed],
        rules: Rules,
        workers: int,
        timeout: float,
    ) -> None:
        self._build, self._rules, self._timeout = build, rules, timeout
        self._tasks, self._seeds = list(tasks), tuple(seeds)
        self._context = multiprocessing.get_context("spawn")
        self._buffer = self._context.RawArray("b", block_size(len(tasks), rules))
        self.arrays = block(self._buffer, len(tasks), rules)
        self.arrays["episode"][:] = -1
        self.restarts = 0
        self._times: deque[float] = deque()
        self._ticket = 0
        edges = np.linspace(0, len(tasks), workers + 1).astype(int).tolist()
        self._slices = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._pollers: list[select.poll] = []
        self._finalizer = weakref.finalize(self, _end, self._processes, self._pipes)
        try:
            for index in range(workers):
                self._start(index)
            for index in range(workers):
                self._answer(index, self.start_timeout)
        except WorkerFault as fault:
            self.close()
            raise RuntimeError(f"an environment worker did not start\n{fault}") from None
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids."""
        return tuple(process.pid or 0 for process in self._processes)

    def reset(self) -> None:
        """Begin a new episode in every environment."""
        failed = self._all("reset")
        for index in failed:
            self._replace(index, failed[index])

    def step(self) -> None:
        """One step of every environment."""
        before = self.arrays["observation"].copy()
        failed = self._all("step")
        for index, fault in failed.items():
            self._replace(index, fault)
            self._void(self._slices[index], before)
            if not self._rules.autoreset:
                self._ask(index, "rest")
                self._answer(index, self._timeout)
                self.arrays["observation"][self._slices[index]] = before[self._slices[index]]

    def assign(self, tasks: Sequence[Task]) -> None:
        """New tasks, in effect from the next episode on."""
        self._tasks = list(tasks)
        failed = self._all("assign", lambda rows: self._tasks[rows])
        for index, fault in failed.items():
            self._replace(index, fault)

    def state(self) -> list[dict[str, Any]]:
        """The states of all environments, in order."""
        while True:
            answers: dict[int, Any] = {}
            failed = self._all("state", answers=answers)
            if not failed:
                return [state for index in sorted(answers) for state in answers[index]]
            for index, fault in failed.items():
                self._replace(index, fault)

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue where `state` was taken."""
        self._tasks = list(self.assigned(states))
        while failed := self._all("load", lambda rows: list(states[rows])):
            for index, fault in failed.items():
                self._replace(index, fault)

    def close(self) -> None:
        """End the processes; may be called twice."""
        self._finalizer()

    def _all(
        self,
        verb: str,
        payload: Callable[[slice], Any] | None = None,
        answers: dict[int, Any] | None = None,
    ) -> dict[int, "WorkerFault"]:
        """Send a verb to every worker and collect the answers; returns the workers that failed."""
        if not self._processes:
            raise RuntimeError("the environment workers were ended; build the vector anew")
        failed: dict[int, WorkerFault] = {}
        self._ticket += 1
        for index, rows in enumerate(self._slices):
            try:
                self._ask(index, verb, payload(rows) if payload else None)
            except OSError:
                failed[index] = WorkerFault(self._obituary(index))
        deadline = time.monotonic() + self._timeout
        for index in range(len(self._slices)):
            if index not in failed:
                try:
                    answer = self._answer(index, max(0.0, deadline - time.monotonic()))
                    if answers is not None:
                        answers[index] = answer
                except WorkerFault as fault:
                    failed[index] = fault
        return failed

    def _ask(self, index: int, verb: str, payload: Any = None) -> None:
        content = None if verb == "step" else (verb, payload)
        send(self._pipes[index], self._ticket, content)

    def _answer(self, index: int, timeout: float) -> Any:
        pipe = self._pipes[index]
        deadline = time.monotonic() + timeout
        ticket = -1
        try:
            poller = self._pollers[index]
            while ticket != self._ticket:  # older ones are left from an interrupted call
                if not poller.poll(1000.0 * max(0.0, deadline - time.monotonic())):
                    raise WorkerFault(f"worker {index} gave no answer in time ({timeout:.3g} s)")
                ticket, content = receive(pipe)
        except (EOFError, OSError):
            raise WorkerFault(self._obituary(index)) from None
        verdict, value = content or ("done", None)
        if verdict == "error":
            raise WorkerFault(value)
        return value

    def _obituary(self, index: int) -> str:
        process = self._processes[index]
        process.join(timeout=5.0)
        code = process.exitcode
        cause = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"worker {index} (process {process.pid}) ended with {cause}"

    def _replace(self, index: int, fault: "WorkerFault") -> None:
        """A new worker in place of a failed one, its environments in a fresh episode."""
        while True:
            now = time.monotonic()
            self._times.append(now)
            while self._times[0] < now - self.window:
                self._times.popleft()
            if len(self._times) > self.max_restarts:
                self.close()
                raise RuntimeError(
                    f"environment workers failed {len(self._times)} times within "
                    f"{self.window:g} seconds; the last failure:\n{fault}"
                )
            self.restarts += 1
            _stop(self._processes[index], self._pipes[index])
            self._start(index)
            try:
                self._answer(index, self.start_timeout)
                self._ask(index, "reset")
                self._answer(index, self._timeout)
                return
            except WorkerFault as again:
                fault = again
            except OSError:
                fault = WorkerFault(self._obituary(index))

    def _void(self, rows: slice, before: Any) -> None:
        arrays = self.arrays
        arrays["next_observation"][rows] = before[rows]
        arrays["reward"][rows] = 0.0
        arrays["terminated"][rows] = False
        arrays["truncated"][rows] = True
        arrays["success"][rows] = False
        arrays["valid"][rows] = False
        silence(arrays, rows)

    def _start(self, index: int) -> None:
        rows = self._slices[index]
        seeds = self._seeds[rows]
        if self.restarts:
            key = self.restarts
            seeds = tuple(replace(seed, spawn_key=(*seed.spawn_key, key)) for seed in seeds)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work,
            args=(theirs, self._ticket, self._buffer, len(self._tasks), rows, self._rules)
            + (self._build, self._tasks[rows], seeds, index, len(self._slices)),
            name=f"environments {rows.start}-{rows.stop - 1}",
            daemon=True,
        )
        with _child_settings():
            process.start()
        theirs.close()
        if index < len(self._processes):
            self._processes[index], self._pipes[index] = process, ours
            self._pollers[index] = _poller(ours)
        else:
            self._processes.append(process)
            self._pipes.append(ours)
            self._pollers.append(_poller(ours))


class WorkerFault(Exception):
    """A worker died, hung or raised; the message says which, with its traceback if it has one."""


def work(
    pipe: Connection,
    ticket: int,
    buffer: Any,
    num_envs: int,
    rows: slice,
    rules: Rules,
    build: Build,
    tasks: Sequence[Task],
    seeds: Sequence[Seed],
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
        chunk = Chunk(build, tasks, seeds, rules, arrays)
        send(pipe, ticket, ("ready", None))
        poller = _poller(pipe)
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
    except BaseException:
        send(pipe, ticket, ("error", traceback.format_exc()))


def _poller(pipe: Connection) -> select.poll:
    """What `pipe.poll` does in the time of many a step."""
    poller = select.poll()
    poller.register(pipe.fileno(), select.POLLIN)
    return poller


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

    Woken together, two workers may be put on one core behind each other, for as long as the
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


@contextmanager
def _child_settings() -> Iterator[None]:
    """One thread for the libraries of a child, and no Ctrl-C before it learned to ignore it."""
    settings = {name: os.environ.get(name, value) for name, value in HUGE_PAGES.items()} | SETTINGS
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


def _stop(process: BaseProcess, pipe: Connection, grace: float = 0.0) -> None:
    pipe.close()
    process.join(timeout=grace)
    if process.is_alive():
        process.kill()
    process.join()  # not closed: it is stopped again at the end if it cannot be replaced


def _end(processes: list[BaseProcess], pipes: list[Connection]) -> None:
    for pipe in pipes:
        try:
            send(pipe, 0, ("close", None))
        except OSError:
            continue  # it is dead already
    while processes:
        _stop(processes.pop(), pipes.pop(), grace=2.0)
