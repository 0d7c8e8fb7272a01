import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from envs.arrays import Rules
from envs.episodes import Seed
from envs.errors import TaskError
from envs.plane import build
from envs.point_mass import PointMassSuite
from envs.vector import VectorTasks
from envs.workers import WorkerFault, WorkerPool

MANY_GOALS = 10**5
"""Tasks with as many are more than a pipe holds."""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def shared_segments():
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def gone(pids, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def step(vector):
    td = vector.current()
    td["action"] = torch.full((vector.num_envs, 2), 0.5)
    return vector.step(td)


def test_both_modes_and_snapshots_across_them(rollout, same):
    before = shared_segments()
    with PointMassSuite(3).vector(seed=4) as vector:
        expected = rollout(vector, 40)
        state = vector.state_dict()
        later = rollout(vector, 40, seed=1, start=vector.current())
    with PointMassSuite(3, workers=2).vector(seed=4) as vector:
        pids = vector.worker_pids
        assert len(pids) == 2
        same(rollout(vector, 40), expected)
        own = vector.state_dict()
        same(rollout(vector, 40, seed=1, start=vector.current()), later)
        vector.load_state_dict(state)
        same(rollout(vector, 40, seed=1, start=vector.current()), later)
        vector.load_state_dict(own)
        tasks = PointMassSuite(3).tasks("test")
        vector.assign(tasks)
        vector.reset()
        with PointMassSuite(3).vector() as other:
            other.load_state_dict(own)
            other.assign(tasks)
            same(vector.current(), other.reset())
    assert gone(pids) and shared_segments() <= before


def test_killed_and_hung_workers_are_replaced(caplog):
    before = shared_segments()
    with PointMassSuite(3, workers=2, timeout=8.0).vector(seed=4) as vector:
        root = vector.reset()
        first, second = vector.worker_pids
        for signals, victim in ((signal.SIGKILL, second), (signal.SIGSTOP, first)):
            step(vector)
            root = vector.current()
            os.kill(victim, signals)
            td = step(vector)
            lost = [False, True, True] if victim == second else [True, False, False]
            assert (~td["next", "valid"][:, 0]).tolist() == lost
            assert td["next", "truncated"][:, 0].tolist() == lost
            assert not td["next", "terminated"].any()
            rows = torch.tensor(lost)
            assert torch.equal(td["next", "observation"][rows], root["observation"][rows])
            fresh = vector.current()
            assert fresh["is_init"][:, 0].tolist() == lost
            assert torch.equal(fresh["episode"] - root["episode"], rows.long())
            assert step(vector)["next", "valid"].all()
        assert vector.faults["worker_restarts"] == 2
        assert f"process {second}) ended with signal 9" in caplog.text
        pids = (first, second, *vector.worker_pids)
        state = vector.state_dict()
    assert gone(pids) and shared_segments() <= before
    with PointMassSuite(3).vector() as vector:
        vector.load_state_dict(state)
        assert vector.faults["worker_restarts"] == 2  # counters survive


def test_a_worker_that_stops_within_a_large_message_is_replaced(caplog):
    """It has read, or written, as much as a pipe holds; its `timeout` counts all the same."""
    with PointMassSuite(1000, workers=1, timeout=8.0).vector() as vector:
        vector.reset()
        state = vector.state_dict()
        os.kill(vector.worker_pids[0], signal.SIGSTOP)
        vector.load_state_dict(state)
        assert "worker 0 took no message in time (8 s)" in caplog.text
        pool, stopped = vector._chunk, vector.worker_pids[0]
        pool._ticket += 1
        pool._ask(0, "state")
        assert pool._pollers[0].poll(8000.0)
        time.sleep(0.5)  # it waits for the rest, more than a pipe holds, to be read
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(WorkerFault, match="worker 0 gave no answer in time"):
            pool._answer(0, 2.0)
        assert step(vector)["next", "valid"].any() or vector.worker_pids[0] != stopped


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_leaves_the_workers_alone():
    with PointMassSuite(2, workers=2).vector() as vector:
        vector.reset()
        child = os.fork()
        if child == 0:
            vector.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert step(vector)["next", "valid"].all() and vector.faults["worker_restarts"] == 0


def test_vectors_made_in_several_threads_leave_the_environment_as_it_was():
    before, errors = dict(os.environ), []

    def make():
        try:
            PointMassSuite(2, workers=2).vector().close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and dict(os.environ) == before


def test_answers_to_an_interrupted_call_are_passed_over():
    """A Ctrl-C between asking and hearing leaves answers behind; later calls do not take them."""
    steps = []
    for interrupted in (False, True):
        with PointMassSuite(3, workers=2).vector(seed=4) as vector:
            vector.reset()
            for _ in range(3):
                if interrupted:
                    pool = vector._chunk
                    pool._ticket += 1
                    for index in range(2):
                        pool._ask(index, "state")
                    assert pool._all("step", answers=(heard := {})) == {}
                    assert heard == {0: None, 1: None}
                else:
                    vector._chunk.step()
                steps.append(vector.current())
    for plain, other in zip(steps[:3], steps[3:], strict=True):
        assert (plain == other).all()


@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="no /proc")
@pytest.mark.parametrize("own", [None, "glibc.malloc.perturb=0"])
def test_workers_have_one_thread_and_huge_pages_unless_told_otherwise(monkeypatch, own):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if own:
        monkeypatch.setenv("GLIBC_TUNABLES", own)
    before = dict(os.environ)
    with PointMassSuite(2, workers=1).vector() as vector:
        settings = Path(f"/proc/{vector.worker_pids[0]}/environ").read_bytes().decode().split("\0")
    assert "OMP_NUM_THREADS=1" in settings
    assert f"GLIBC_TUNABLES={own or 'glibc.malloc.hugetlb=1'}" in settings
    assert dict(os.environ) == before


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_one_worker_for_each_core_keeps_to_it_fewer_do_not():
    before = os.sched_getaffinity(0)
    cores = set(sorted(before)[:2])
    os.sched_setaffinity(0, cores)
    try:
        for workers, expected in ((2, [{core} for core in sorted(cores)]), (1, [cores])):
            with PointMassSuite(3, workers=workers).vector(seed=4) as vector:
                vector.reset()
                assert [os.sched_getaffinity(pid) for pid in vector.worker_pids] == expected
    finally:
        os.sched_setaffinity(0, before)


def test_without_autoreset_a_lost_episode_rests():
    with PointMassSuite(2, workers=1).vector(autoreset=False) as vector:
        vector.reset()
        os.kill(vector.worker_pids[0], signal.SIGKILL)
        for _ in range(2):
            td = step(vector)
            assert td["next", "done"].all() and not td["next", "valid"].any()
            after = vector.current()
            assert not after["is_init"].any() and after["episode"].tolist() == [0, 0]
        after = vector.reset()
        assert after["is_init"].all() and after["episode"].tolist() == [1, 1]
        assert step(vector)["next", "valid"].all()


@pytest.mark.parametrize("goals", [50, MANY_GOALS])
def test_a_worker_killed_as_it_starts_is_replaced(monkeypatch, goals):
    """Also where what it works on is more than a pipe holds."""
    start, killed = WorkerPool._start, []

    def start_and_kill(pool, index):
        start(pool, index)
        if index == 1 and not killed:
            killed.append(pool.pids[1])
            os.kill(pool.pids[1], signal.SIGKILL)

    monkeypatch.setattr(WorkerPool, "_start", start_and_kill)
    with PointMassSuite(3, workers=2, num_goals=goals).vector(seed=4) as vector:
        assert (
            killed and killed[0] not in vector.worker_pids and vector.faults["worker_restarts"] == 1
        )
        assert vector.reset()["is_init"].all() and step(vector)["next", "valid"].all()


def test_a_replacement_killed_before_it_rests_is_replaced_too(monkeypatch):
    ask, killed = WorkerPool._ask, []

    def kill_and_ask(pool, index, verb, payload=None):
        if verb == "rest" and not killed:
            killed.append(pool.pids[index])
            os.kill(killed[0], signal.SIGKILL)
        ask(pool, index, verb, payload)

    monkeypatch.setattr(WorkerPool, "_ask", kill_and_ask)
    with PointMassSuite(2, workers=1).vector(autoreset=False) as vector:
        vector.reset()
        os.kill(vector.worker_pids[0], signal.SIGKILL)
        td = step(vector)
        assert killed and td["next", "done"].all() and not td["next", "valid"].any()
        td = step(vector)
        assert td["next", "done"].all() and not td["next", "valid"].any()


def test_too_many_failures_stop_with_the_traceback(monkeypatch):
    monkeypatch.setattr(WorkerPool, "max_restarts", 1)
    tasks = PointMassSuite(1).tasks()
    vector = VectorTasks(
        partial(build, "no number"),
        tasks,
        Rules(6, 2, 30),
        seeds=[Seed(0)],
        check=lambda tasks: None,
        workers=1,
    )
    pids = vector.worker_pids
    with pytest.raises(RuntimeError, match="(?s)failed 2 times.*Traceback.*plane.py"):
        vector.reset()
    assert gone(pids)
    with pytest.raises(RuntimeError, match="workers were ended"):
        vector.reset()
    vector.close()


def test_a_worker_that_cannot_be_replaced_leaves_none_behind(monkeypatch):
    """Where memory is short, the system may refuse a new process too."""

    def refuse(pool, index):
        raise OSError("Cannot allocate memory")

    with PointMassSuite(3, workers=2).vector() as vector:
        vector.reset()
        pids = vector.worker_pids
        monkeypatch.setattr(WorkerPool, "_start", refuse)
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(OSError, match="memory"):
            step(vector)
    assert gone(pids)


def test_a_script_without_a_guard_ends_with_an_error(tmp_path):
    """Its workers run the script again as they start, and die of that, whatever waits for them."""
    script = tmp_path / "script.py"
    script.write_text(
        "from envs.point_mass import PointMassSuite\n"
        f"PointMassSuite(2, workers=2, num_goals={MANY_GOALS}).vector()\n"
    )
    found = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 1 and "worker did not start" in found.stderr
    assert "__main__" in found.stderr  # what multiprocessing says of it


def test_what_the_system_refuses_is_one_line(monkeypatch):
    def refuse(process):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    with pytest.raises(TaskError, match="Too many open files.*ulimit -n.*workers = 0"):
        PointMassSuite(3, workers=2).vector()


SCRIPT = """
import sys, time
from envs.point_mass import PointMassSuite
if __name__ == "__main__":
    vector = PointMassSuite(2, workers=2).vector()
    vector.reset()
    print(*vector.worker_pids, flush=True)
    if sys.argv[1] == "wait":
        time.sleep(600)
"""


@pytest.mark.parametrize("ending", ["wait", "leave"])
def test_workers_die_with_their_parent_and_ignore_signals_to_the_group(tmp_path, ending):
    before = shared_segments()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, str(script), ending],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    if ending == "wait":
        for pid in pids:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
                os.kill(pid, number)
        time.sleep(0.3)
        assert all(alive(pid) for pid in pids)
        parent.kill()
    assert parent.wait(timeout=30) == (0 if ending == "leave" else -signal.SIGKILL)
    parent.stdout.close()
    assert gone(pids) and shared_segments() <= before
