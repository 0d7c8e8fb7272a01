"""Worker processes, each stepping a fixed chunk of environments per message.

One anonymous block of shared memory holds all inputs and outputs; a pipe per worker carries the
verbs, each with the number of the call: "step" is that number alone, in both directions. The block
has no name (its file is unlinked when it is made), so nothing can be left behind, not even by
SIGKILL. What a worker does is in `envs.worker`.
"""

import logging
import multiprocessing
import os
import pickle
import select
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from envs.arrays import Rules, block, block_size, silence
from envs.episodes import Build, Chunk, Seed, Task
from envs.errors import TaskError
from envs.messages import new_poller, receive, send
from envs.worker import child_settings, work

log = logging.getLogger("absl")


class WorkerPool:
    """The environments of a `Chunk`, spread over processes; the same verbs.

    Args:
        build: makes the simulator of a task; picklable.
        tasks: one per environment.
        seeds: one per environment.
        rules: see `envs.arrays.Rules`.
        workers: number of processes.
        timeout: seconds a worker may take to answer, before it counts as hung.

    A worker that dies, hangs or raises is replaced; one that only starts yet, if it was killed. Its
    environments begin a fresh episode, from the random stream with the number of the restart added
    to its key; if that happens within a step, the step ends their old episodes with "valid" False,
    truncated, reward 0. More than `max_restarts` within `window` seconds are a RuntimeError that
    shows the worker's traceback. An environment that breaks the rules is a TaskError at once.
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
        self._finalizer = weakref.finalize(self, _end, os.getpid(), self._processes, self._pipes)
        try:
            for index in range(workers):
                self._start(index)
            for index in [i for i in range(workers) if self._begun(self._employ, i)]:
                self._begun(self._ready, index)
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
        before = {name: self.arrays[name].copy() for name in ("observation", "episode")}
        failed = self._all("step")
        for index, fault in failed.items():
            self._replace(index, fault)
            rows = self._slices[index]
            self._void(rows, before["observation"])
            if not self._rules.autoreset:
                while (again := self._rest(index)) is not None:
                    self._replace(index, again)
                for name, old in before.items():
                    self.arrays[name][rows] = old[rows]
                self.arrays["is_init"][rows] = False

    def _rest(self, index: int) -> "WorkerFault | None":
        """Let a worker's environments wait for the next reset; what went wrong, if anything."""
        try:
            self._ask(index, "rest")
            self._answer(index, self._timeout)
        except WorkerFault as fault:
            return fault
        return None

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
            except WorkerFault as fault:
                failed[index] = fault
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
        self._send(index, None if verb == "step" else (verb, payload), self._timeout)

    def _send(self, index: int, content: Any, timeout: float) -> None:
        """Send a worker something; WorkerFault if it is gone, or does not read it in time."""
        try:
            send(self._pipes[index], self._ticket, content, time.monotonic() + timeout)
        except TimeoutError:
            raise WorkerFault(f"worker {index} took no message in time ({timeout:.3g} s)") from None
        except OSError:
            raise self._obituary(index) from None

    def _answer(self, index: int, timeout: float) -> Any:
        pipe = self._pipes[index]
        deadline = time.monotonic() + timeout
        ticket = -1
        try:
            poller = self._pollers[index]
            while ticket != self._ticket:  # older ones are left from an interrupted call
                if not poller.poll(1000.0 * max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                ticket, content = receive(pipe, deadline)
        except TimeoutError:
            raise WorkerFault(f"worker {index} gave no answer in time ({timeout:.3g} s)") from None
        except (EOFError, OSError):
            raise self._obituary(index) from None
        verdict, value = content or ("done", None)
        if verdict == "refused":  # a new worker would come to the same
            self.close()
            raise TaskError(value)
        if verdict == "error":
            raise WorkerFault(value)
        return value

    def _obituary(self, index: int) -> "WorkerFault":
        process = self._processes[index]
        process.join(timeout=5.0)
        code = process.exitcode
        who = f"worker {index} (process {process.pid}) ended with"
        if code is not None and code < 0:
            return WorkerKilled(f"{who} signal {-code}")
        return WorkerFault(f"{who} exit code {code}")

    def _begun(self, part: Callable[[int], None], index: int) -> bool:
        """Do a part of a new worker's start; if that was killed, replace it, and return False."""
        try:
            part(index)
        except WorkerKilled as fault:
            self._replace(index, fault)
            return False
        return True

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
            log.warning("an environment worker is replaced: %s", fault)
            self.restarts += 1
            _stop(self._processes[index], self._pipes[index])
            self._start(index)
            try:
                self._employ(index)
                self._ready(index)
                self._ask(index, "reset")
                self._answer(index, self._timeout)
                return
            except WorkerFault as again:
                fault = again

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
        """Start a process; what it works on comes later, see `_employ`."""
        rows = self._slices[index]
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=work,
            args=(theirs, self._ticket, self._buffer, len(self._tasks), rows, self._rules)
            + (index, len(self._slices)),
            name=f"environments {rows.start}-{rows.stop - 1}",
            daemon=True,
        )
        with child_settings():
            process.start()
        theirs.close()
        os.set_blocking(ours.fileno(), False)  # whoever hangs may do so within a message
        if index < len(self._processes):
            self._processes[index], self._pipes[index] = process, ours
            self._pollers[index] = new_poller(ours)
        else:
            self._processes.append(process)
            self._pipes.append(ours)
            self._pollers.append(new_poller(ours))

    def _employ(self, index: int) -> None:
        """Give a new process its environments.

        They may be large, and are no arguments of the process: `Process.start` waits for ever for
        one that ends, say for want of memory, before it has read more than a pipe holds.
        """
        rows = self._slices[index]
        seeds = self._seeds[rows]
        if self.restarts:
            key = self.restarts
            seeds = tuple(replace(seed, spawn_key=(*seed.spawn_key, key)) for seed in seeds)
        try:
            self._send(index, (self._build, self._tasks[rows], seeds), self.start_timeout)
        except (AttributeError, TypeError, RuntimeError, pickle.PicklingError) as error:
            raise TaskError(
                f"task {self._tasks[rows.start].name}: what builds it cannot be sent to a worker "
                f"process ({str(error).splitlines()[0]}); let Suite.build return a function of a "
                "module, or a functools.partial of one, or bind workers = 0"
            ) from error

    def _ready(self, index: int) -> None:
        """Wait until a new worker has built its environments."""
        self._answer(index, self.start_timeout)


class WorkerFault(Exception):
    """A worker died, hung or raised; the message says which, with its traceback if it has one."""


class WorkerKilled(WorkerFault):
    """A signal ended a worker."""


def _stop(process: BaseProcess, pipe: Connection, grace: float = 0.0) -> None:
    pipe.close()
    process.join(timeout=grace)
    if process.is_alive():
        process.kill()
    process.join()  # not closed: it is stopped again at the end if it cannot be replaced


def _end(owner: int, processes: list[BaseProcess], pipes: list[Connection]) -> None:
    if os.getpid() != owner:  # a fork of it, whose workers they are not
        return
    for pipe in pipes:
        try:
            send(pipe, 0, ("close", None), deadline=0.0)
        except OSError:
            continue  # it is dead already
    while processes:
        _stop(processes.pop(), pipes.pop(), grace=2.0)
