import fcntl
import json
import os
import sys
import textwrap
import time

import pytest

from runners import local_pool, sweep_child
from runners.local_pool import LocalPool, held, shares
from runners.status import TAKEN
from runners.sweep_runs import SweptRun

# Stands for a training: notes when and how it ran, and ends as its last argument says.
RUN = """
import json, os, signal, sys, time
folder, ending = sys.argv[1], sys.argv[2]
os.makedirs(folder, exist_ok=True)
def status(state):
    with open(os.path.join(folder, "status.json"), "w") as file:
        json.dump({"state": state, "step": 1}, file)
def stop(*_):
    status("INTERRUPTED")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
status("RUNNING")
about = {
    "begin": time.monotonic(),
    "cores": sorted(os.sched_getaffinity(0)),
    "threads": os.environ["OMP_NUM_THREADS"],
    "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
}
time.sleep(600 if ending == "hang" else 0.2)
with open(os.path.join(folder, "about.json"), "w") as file:
    json.dump({**about, "end": time.monotonic()}, file)
if ending == "fail":
    print("first line")
    raise RuntimeError("the lamp went out")
status("DONE")
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Makes runs that end in the given ways."""
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(RUN))
    monkeypatch.setattr(sweep_child, "COMMAND", (sys.executable, str(script)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def make(*endings):
        folders = [tmp_path / "work" / f"seed_{i}" for i in range(len(endings))]
        return [
            SweptRun("A=1", i, folder, [str(folder), ending])
            for i, (folder, ending) in enumerate(zip(folders, endings, strict=True))
        ]

    return make


def work(pool, seconds=30.0):
    end = time.monotonic() + seconds
    while pool.active:
        assert time.monotonic() < end
        pool.step()
        time.sleep(0.02)


def about(run):
    return json.loads((run.folder / "about.json").read_text())


def test_shares_are_disjoint_and_even():
    assert shares(range(8), 3) == [(0, 1), (2, 3, 4), (5, 6, 7)]
    assert shares([3, 5], 1) == [(3, 5)]
    assert shares([3, 5], 3) == [(3,), (5,), (3,)]
    for cores in range(1, 20):
        for jobs in range(1, cores + 1):
            found = shares(range(cores), jobs)
            assert sorted(core for share in found for core in share) == list(range(cores))
            assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity")
def test_every_run_gets_its_share_of_cores_threads_and_devices(runs, monkeypatch):
    mine = os.sched_getaffinity(0)
    three, pool = runs("done", "done", "done"), LocalPool(2, ["0", "3"])
    pool.submit(three)
    work(pool)
    assert [run.state for run in three] == ["DONE"] * 3
    expected = shares(sorted(mine), 2)
    for run in three:
        place = expected.index(tuple(about(run)["cores"])) if len(mine) > 1 else 0
        assert about(run)["threads"] == str(len(expected[place]))
    assert {about(run)["device"] for run in three} == {"0", "3"}
    assert os.sched_getaffinity(0) == mine
    events = [(about(r)["begin"], 1) for r in three] + [(about(r)["end"], -1) for r in three]
    running = 0
    for _, change in sorted(events):
        running += change
        assert running <= 2


def test_a_users_limit_of_threads_is_kept(runs, monkeypatch):
    monkeypatch.setattr(local_pool, "available_cores", lambda: list(range(6)))
    for given, threads in (("1", "1"), ("64", "6"), ("", "6")):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        (place,) = LocalPool(1)._places
        assert place.environment() == {"OMP_NUM_THREADS": threads}


def test_a_failed_run_does_not_stop_the_others(runs):
    three, pool = runs("fail", "done", "done"), LocalPool(1)
    pool.submit(three)
    work(pool)
    assert [run.state for run in three] == ["FAILED", "DONE", "DONE"]
    assert three[0].reason == "exit code 1"
    assert three[0].tail[0] == "first line"
    assert three[0].tail[-1] == "RuntimeError: the lamp went out"
    assert "A=1" not in three[0].tail[0] and len(three[0].tail) <= 8


def test_a_stop_is_passed_on_and_starts_nothing_more(runs):
    three, pool = runs("hang", "hang", "done"), LocalPool(2)
    pool.submit(three)
    pool.step()
    end = time.monotonic() + 20
    while not all((run.folder / "status.json").exists() for run in three[:2]):
        assert time.monotonic() < end
        time.sleep(0.02)
    pool.stop()
    work(pool)
    assert [run.state for run in three] == ["INTERRUPTED", "INTERRUPTED", "WAITING"]
    assert not three[2].folder.exists()


def test_a_run_held_by_another_process_waits_and_may_be_finished_there(runs, monkeypatch):
    monkeypatch.setattr(local_pool, "HELD_SECONDS", 0.05)
    two, pool = runs("done", "done"), LocalPool(1)
    for run in two:
        run.folder.mkdir(parents=True)
    with open(two[0].folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert held(two[0]) and not held(two[1])
        pool.submit(two)
        end = time.monotonic() + 20
        while two[1].state != "DONE":
            assert time.monotonic() < end
            pool.step()
        assert two[0].state == "WAITING" and "another process" in two[0].reason
        (two[0].folder / "status.json").write_text('{"state": "DONE"}')
    work(pool)
    assert two[0].state == "DONE"
    assert not (two[0].folder / "about.json").exists()  # it was not done twice


def test_a_file_in_the_way_fails_the_run_and_holds_nothing(runs):
    one, other = runs("done", "done")
    one.folder.parent.mkdir()
    one.folder.write_text("")
    one.flags[1:] = ["fail"]
    blocked = SweptRun("A=2", 0, one.folder / "seed_0", other.flags)
    assert not held(one) and not held(blocked)
    pool = LocalPool(1)
    pool.submit([one, blocked, other])
    work(pool)
    assert [run.state for run in (one, blocked, other)] == ["FAILED", "FAILED", "DONE"]
    assert "could not be started" in blocked.reason and "seed_0" in blocked.reason


def refused(runs, said):
    """A run whose process has just ended with 2 and these last words, and its pool."""
    (run,), pool = runs("done"), LocalPool(1)
    pool.submit([run])
    pool.step()
    process = pool._places[0].process
    process.wait()
    process.returncode = 2
    with run.output.open("a") as file:
        file.write(f"error: {said}\n")
    return run, pool


def test_a_run_that_another_process_took_first_is_tried_again(runs):
    run, pool = refused(runs, f"--workdir: {TAKEN} runs/mine/seed_0; stop it first")
    assert not held(run)  # the other one has let go of it meanwhile
    (run.folder / "status.json").write_text('{"state": "INTERRUPTED"}')
    pool.step()
    assert run.state == "RUNNING"
    work(pool)
    assert run.state == "DONE"


def test_a_wrong_run_is_not_tried_again(runs):
    run, pool = refused(runs, "train.threads must be at least 1, got 0")
    pool.step()
    assert (run.state, pool.active) == ("FAILED", False)


def test_a_run_stops_when_its_starter_is_gone(tmp_path):
    """With its standard input closed the process gets SIGTERM."""
    code = (
        "import sys, time\n"
        "from runners import sweep_child, train\n"
        "train.main = lambda argv: print('begun', flush=True) or time.sleep(600)\n"
        "sys.exit(sweep_child.main(['x']))\n"
    )
    command = (sys.executable, "-c", code)
    old, sweep_child.COMMAND = sweep_child.COMMAND, command
    try:
        process = sweep_child.start([], tmp_path / "output.txt")
    finally:
        sweep_child.COMMAND = old
    end = time.monotonic() + 30
    while not sweep_child.last_lines(tmp_path / "output.txt", 0):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=20) == -15
