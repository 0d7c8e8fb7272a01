import json
import time

import pytest

from runners.status import write_status
from runners.sweep_runs import Curve, SweptRun, exit_code


def record(step, wall_time=0.0, **values):
    return (
        json.dumps({"step": step, "wall_time": wall_time, **values}, separators=(",", ":")) + "\n"
    )


def test_a_curve_reads_only_what_was_added(tmp_path):
    path = tmp_path / "metrics.jsonl"
    curve = Curve(path)
    curve.read()
    assert curve.step is None
    path.write_text(record(10, 1.5, **{"eval/success_rate": 0.25}) + record(20, 2.5))
    curve.read()
    assert (curve.step, curve.evaluation["step"], curve.times) == (20, 10, [1.5, 2.5])
    with open(path, "a") as file:
        file.write(record(30, 3.5)[:-4])  # half a line
        file.flush()
        curve.read()
        assert curve.step == 20
        file.write(record(30, 3.5)[-4:] + "nonsense\n")
    curve.read()
    assert (curve.step, curve.times) == (30, [1.5, 2.5, 3.5])


def test_a_curve_that_was_cut_is_read_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(record(10) + record(20, **{"eval/success_rate": 1.0}) + record(30))
    curve = Curve(path)
    curve.read()
    aside = tmp_path / "aside"
    aside.write_text(record(10))
    aside.replace(path)
    curve.read()
    assert (curve.step, curve.evaluation) == (10, {})


def test_minutes_count_what_was_not_lost(tmp_path, monkeypatch):
    run = SweptRun("A=1", 0, tmp_path)
    assert run.minutes is None
    starts = [{"time": 1000.0}, {"time": 5000.0}]
    (tmp_path / "run.json").write_text(json.dumps({"starts": starts}))
    (tmp_path / "metrics.jsonl").write_text(
        record(1, 1060.0) + record(2, 1120.0) + record(3, 5030.0)
    )
    run = SweptRun("A=1", 0, tmp_path)
    assert run.minutes == 2.5  # the last start was killed: it ends with its last record
    (tmp_path / "status.json").write_text(json.dumps({"state": "DONE", "time": 5060.0}))
    assert run.minutes == 3.0
    run.state = "RUNNING"
    monkeypatch.setattr(time, "time", lambda: 5120.0)
    assert run.minutes == 4.0


def test_how_it_is_shown(tmp_path):
    run = SweptRun("A=1", 7, tmp_path, total_steps=40)
    assert (run.name, run.score(), run.progress()) == ("A=1 seed 7", "-", "-")
    (tmp_path / "metrics.jsonl").write_text(record(1000) + record(10, **{"eval/success_rate": 0.5}))
    run.curve.read()
    assert (run.score(), run.progress()) == ("50% at 10", "10 (25%)")
    other = SweptRun("A=1", 7, tmp_path)
    (tmp_path / "metrics.jsonl").write_text(record(1000, **{"eval/return": -12.25}))
    assert (other.score(), other.progress()) == ("return -12.2 at 1k", "1k")


ENDINGS = [
    # exit code, status.json, asked to stop, state
    (0, "DONE", False, "DONE"),
    (0, None, False, "FAILED"),
    (75, "INTERRUPTED", False, "INTERRUPTED"),
    (75, "INTERRUPTED", True, "INTERRUPTED"),
    (-15, None, True, "INTERRUPTED"),  # it was still importing
    (-15, "RUNNING", False, "FAILED"),
    (-15, "DONE", True, "DONE"),  # it had just finished
    (-9, "RUNNING", False, "FAILED"),
    (1, "FAILED", False, "FAILED"),
    (1, "FAILED", True, "FAILED"),
    (2, None, False, "FAILED"),
]


@pytest.mark.parametrize("code, status, stopping, state", ENDINGS)
def test_what_an_ending_means(tmp_path, code, status, stopping, state):
    if status:
        write_status(tmp_path, status, step=5)
    run = SweptRun("A=1", 0, tmp_path)
    run.ended(code, ["lost"], stopping)
    assert run.state == state
    assert run.tail == (["lost"] if state == "FAILED" else [])


@pytest.mark.parametrize(
    "states, code",
    [
        ("DONE DONE", 0),
        ("DONE FAILED", 1),
        ("DONE INTERRUPTED", 75),
        ("FAILED WAITING", 75),
        ("DONE RUNNING", 75),
    ],
)
def test_exit_codes(tmp_path, states, code):
    assert exit_code([SweptRun("", 0, tmp_path, state=state) for state in states.split()]) == code
