"""What TensorBoard and wandb hold after a kill and a resume is what an unbroken run holds."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runners.back_ends import Wandb, values_of
from runners.logs import Logger

HERE = Path(__file__).parent
BLOCK, HEADER = 32768, 7  # of wandb's files: the layout of LevelDB's logs


def metrics(step, part):
    """Two records a step, as after an iteration and an evaluation; none has a tag twice."""
    if part == 0:
        return {"loss": step / 7, "alpha": math.nan if step == 20 else 0.5}
    return {"eval/success_rate": step / 100}


def write(logger, steps, parts=(0, 1)):
    for step in steps:
        for part in parts:
            logger.write(step, metrics(step, part))


def unbroken(folder, **arguments):
    logger = Logger(**arguments).bind(folder)
    write(logger, range(10, 70, 10))
    logger.close()


def until_killed(folder, **arguments):
    """A checkpoint between the two records of step 30, and a SIGKILL after step 50."""
    logger = Logger(**arguments).bind(folder)
    logger.truncate(-1)
    write(logger, (10, 20))
    write(logger, (30,), (0,))
    (folder / "state.json").write_text(json.dumps(logger.state_dict()))
    write(logger, (30,), (1,))
    write(logger, (40, 50))
    os.kill(os.getpid(), signal.SIGKILL)


def resumed(folder, **arguments):
    logger = Logger(**arguments).bind(folder)
    logger.load_state_dict(json.loads((folder / "state.json").read_text()))
    write(logger, (30,), (1,))
    write(logger, (40, 50, 60))
    logger.close()


def events(folder):
    """Every tag's steps and values, as TensorBoard shows them."""
    reader = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, repr(event.value)) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def rows(folder):
    """The rows of all wandb files under a run folder, by wandb's step, and the ids of the run."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found, ids = [], set()
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        data, place, parts = path.read_bytes(), HEADER, b""
        while place + HEADER <= len(data):
            if BLOCK - place % BLOCK < HEADER:
                place += BLOCK - place % BLOCK
                continue
            _, size, kind = struct.unpack("<IHB", data[place : place + HEADER])
            parts += data[place + HEADER : place + HEADER + size]
            place += HEADER + size
            if kind in (1, 4):  # whole, or the last part of one
                record, parts = messages.Record.FromString(parts), b""
                if record.WhichOneof("record_type") == "history":
                    items = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
                    found.append(
                        {k: v for k, v in items.items() if k[1:] not in ("timestamp", "runtime")}
                    )
                elif record.WhichOneof("record_type") == "run":
                    ids.add(record.run.run_id)
    return found, ids


def test_tensorboard_curves_go_on_after_a_kill(tmp_path):
    unbroken(tmp_path / "a")
    if (child := os.fork()) == 0:
        until_killed(tmp_path / "b")
    os.waitpid(child, 0)
    resumed(tmp_path / "b")
    whole = events(tmp_path / "a")
    assert [step for step, _ in whole["loss"]] == [10, 20, 30, 40, 50, 60]
    assert events(tmp_path / "b") == whole
    assert len(list((tmp_path / "b" / "tb").iterdir())) == 2


def test_tensorboard_curves_go_on_after_a_clean_stop(tmp_path):
    unbroken(tmp_path / "a")
    logger = Logger().bind(tmp_path / "b")
    write(logger, (10, 20, 30))
    state = logger.state_dict()
    logger.close()
    logger = Logger().bind(tmp_path / "b")
    logger.load_state_dict(state)
    write(logger, (40, 50, 60))
    logger.close()
    assert events(tmp_path / "b") == events(tmp_path / "a")


def test_tensorboard_shows_the_records_of_an_adopted_run(tmp_path):
    unbroken(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "metrics.jsonl").write_text((tmp_path / "a" / "metrics.jsonl").read_text())
    logger = Logger().bind(tmp_path / "b")
    logger.load_state_dict({"records": 8})
    write(logger, (50, 60))
    logger.close()
    assert events(tmp_path / "b") == events(tmp_path / "a")


@pytest.mark.slow
def test_wandb_offline_curves_go_on_after_a_kill(tmp_path):
    pytest.importorskip("wandb")
    a, b, arguments = tmp_path / "a", tmp_path / "b", {"tensorboard": False, "wandb": "offline"}
    unbroken(a, **arguments)
    code = f"import sys; sys.path[:0] = {[str(HERE), str(HERE.parents[1])]}; import pathlib\n"
    code += f"import test_back_ends as t; t.until_killed(pathlib.Path({str(b)!r}), **{arguments})"
    # A process of its own, with a service of its own: wandb's outlives a forked child.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    killed = subprocess.run([sys.executable, "-c", code], env=environment)
    assert killed.returncode == -signal.SIGKILL
    resumed(b, **arguments)
    deadline = time.monotonic() + 30
    while len(rows(b)[0]) < 6 and time.monotonic() < deadline:
        time.sleep(0.2)  # its service writes the file after the run has finished
    (whole, one), (found, other) = rows(a), rows(b)
    assert [int(row["_step"]) for row in whole] == [10, 20, 30, 40, 50, 60]
    assert whole[1]["alpha"] == "NaN" and float(whole[5]["eval/success_rate"]) == 0.6
    assert found == whole
    assert len(one) == len(other) == 1  # all folders belong to one run
    assert len(list((b / "wandb").glob("offline-run-*"))) == 1


class Remote:
    """A run of the fake library that has had rows up to `step - 1`."""

    def __init__(self, step):
        self.step, self.logged = step, []

    def log(self, values, step):
        self.logged.append(step)


def fake_wandb(monkeypatch, run):
    class Fake:
        @staticmethod
        def init(**arguments):
            return run

    monkeypatch.setattr("runners.back_ends.importlib.import_module", lambda name: Fake)


def test_wandb_online_takes_only_what_it_lacks(tmp_path, monkeypatch):
    run = Remote(step=31)
    fake_wandb(monkeypatch, run)
    kept = [{"step": step, "wall_time": 1.0, "loss": 0.0} for step in (20, 30, 40)]
    back_end = Wandb(tmp_path, "online", "polytask", kept)
    back_end.write(30, {"loss": 0.0})
    back_end.write(50, {"loss": 0.0})
    assert run.logged == [40, 50]


def test_wandb_offline_after_an_upload_writes_only_what_is_newer(tmp_path, monkeypatch):
    run = Remote(step=0)
    fake_wandb(monkeypatch, run)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run_id").write_text("abc")
    uploaded = tmp_path / "wandb" / "offline-run-1-abc"
    uploaded.mkdir()
    (uploaded / "run-abc.wandb.synced").touch()
    os.utime(uploaded / "run-abc.wandb.synced", (5.0, 5.0))
    kept = [{"step": step, "wall_time": step, "loss": 0.0} for step in (4, 6)]
    Wandb(tmp_path, "offline", "polytask", kept)
    assert run.logged == [6] and uploaded.exists()


def test_null_comes_back_as_nan():
    values = values_of({"step": 1, "wall_time": 2.0, "loss": None, "alpha": 0.5})
    assert math.isnan(values["loss"]) and values["alpha"] == 0.5 and len(values) == 2
