import csv
import errno
import json
import logging
import math
import os
import types
from pathlib import Path

import pytest
import torch
from absl import logging as absl_logging
from tensordict import TensorDict

from runners import back_ends, files, records
from runners.logs import Logger, to_floats
from runners.status import failure_reason, log_file, read_status, write_status


def make(folder, **arguments):
    return Logger(tensorboard=False, **arguments).bind(folder, ("reach-v3", "push-v3"))


def table(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_records_and_growing_columns(tmp_path):
    logger = make(tmp_path)
    logger.write(0, {})
    logger.write(1, TensorDict({"loss/critic": torch.tensor(0.5), "n": torch.tensor(3)}))
    logger.write(1, {"alpha": torch.tensor([1.0, 2.0]), "loss/critic": 0.25})
    logger.write(2, {"n": True})
    logger.close()
    found = lines(tmp_path)
    assert [r["step"] for r in found] == [1, 1, 2]
    assert found[1]["alpha/reach-v3"] == 1.0 and found[1]["alpha/push-v3"] == 2.0
    rows = table(tmp_path)
    assert len(rows) == 3
    assert list(rows[0]) == [
        "step", "wall_time", "loss/critic", "n", "alpha/reach-v3", "alpha/push-v3",
    ]  # fmt: skip
    assert rows[2]["n"] == "1.0" and rows[2]["loss/critic"] == ""


@pytest.mark.parametrize("name", ["step", "wall_time"])
def test_a_metric_called_like_a_column_of_every_record_is_refused(name, tmp_path):
    logger = make(tmp_path)
    with pytest.raises(ValueError, match=f"^metric '{name}' has the name of .*'learner/{name}'$"):
        logger.write(7, {name: torch.tensor(0.5)})
    assert not lines(tmp_path)


def test_the_table_grows_only_when_a_tag_is_new(tmp_path, monkeypatch):
    logger = make(tmp_path)
    logger.write(1, {"a": 1})
    monkeypatch.setattr(records, "write_atomically", lambda *_: pytest.fail("rewritten"))
    logger.write(2, {"a": 2})
    assert len(table(tmp_path)) == 2


def test_not_finite_is_null_and_json_is_strict(tmp_path):
    logger = make(tmp_path)
    values = logger.write(1, {"x": torch.tensor(math.nan), "y": math.inf})
    assert math.isnan(values["x"])
    assert lines(tmp_path)[0]["x"] is None and lines(tmp_path)[0]["y"] is None


def test_one_transfer_for_each_dtype(monkeypatch):
    calls = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: calls.append(1) or real(self))
    metrics = {f"m{i}": torch.tensor(float(i)) for i in range(30)} | {"n": torch.tensor(2)}
    metrics["t"] = torch.tensor([5.0, 6.0])
    values = to_floats(metrics, ("a", "b"))
    assert len(calls) == 2
    assert values == {f"m{i}": float(i) for i in range(30)} | {"n": 2.0, "t/a": 5.0, "t/b": 6.0}
    with pytest.raises(ValueError, match="odd"):
        to_floats({"odd": torch.zeros(3)}, ("a", "b"))


def test_an_editors_byte_order_mark_costs_no_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"step":1}\n{"step":2}\n')
    assert [record["step"] for record in records.read_records(path)] == [1, 2]


def test_a_torn_last_line_is_dropped(tmp_path):
    logger = make(tmp_path)
    logger.write(1, {"a": 1})
    logger.write(2, {"a": 2})
    logger.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    logger = make(tmp_path)
    logger.write(2, {"a": 2.5})
    assert [r["a"] for r in lines(tmp_path)] == [1.0, 2.5]
    assert [r["a"] for r in table(tmp_path)] == ["1.0", "2.5"]


def test_truncate_drops_later_records(tmp_path):
    logger = make(tmp_path)
    for step in (10, 20, 30):
        logger.write(step, {"a": step})
    logger.truncate(20)
    logger.write(25, {"a": 0})
    assert [r["step"] for r in lines(tmp_path)] == [10, 20, 25]
    assert [r["step"] for r in table(tmp_path)] == ["10", "20", "25"]


def test_restored_position_splits_equal_steps(tmp_path):
    logger = make(tmp_path)
    logger.write(10, {"a": 1})
    state = logger.state_dict()
    logger.write(10, {"a": 2})
    logger.write(20, {"a": 3, "late": 4})
    logger.close()
    resumed = make(tmp_path)
    resumed.load_state_dict(state)
    resumed.write(10, {"a": 2})
    assert [r["a"] for r in lines(tmp_path)] == [1.0, 2.0]
    assert "late" not in table(tmp_path)[0]
    assert resumed.state_dict() == {"records": 2, "step": 10}


def test_lost_records_are_warned_of(tmp_path, caplog):
    make(tmp_path).load_state_dict({"records": 3})
    assert "lost 3 records" in caplog.text


def test_a_damaged_line_lets_no_later_record_stay(tmp_path, caplog):
    logger = make(tmp_path)
    for step in (10, 20, 30, 40):
        logger.write(step, {"a": step})
        if step == 20:
            state = logger.state_dict()
    logger.close()
    path = tmp_path / "metrics.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text(first[:-9] + "\n" + "".join(others))
    resumed = make(tmp_path)
    resumed.load_state_dict(state)
    resumed.write(30, {"a": 30})
    assert [r["step"] for r in lines(tmp_path)] == [20, 30]
    assert "lost 1 records" in caplog.text


def test_a_full_disk_loses_no_record(tmp_path, monkeypatch, caplog):
    logger = make(tmp_path)
    logger.write(1, {"a": 1})
    real = logger._files._lines._file

    class Full:
        def write(self, data):
            real.write(bytes(data)[:5])  # half a line goes in
            raise OSError(errno.ENOSPC, "No space left on device")

        def __getattr__(self, name):
            return getattr(real, name)

    logger._files._lines._file = Full()
    logger.write(2, {"a": 2})
    logger.write(3, {"a": 3})
    assert caplog.text.count("No space left") == 1
    assert [r["step"] for r in lines(tmp_path)] == [1]  # whole lines only
    logger._files._lines._file = real
    logger.write(4, {"a": 4})
    assert [r["step"] for r in lines(tmp_path)] == [1, 2, 3, 4]


def test_tensorboard_events_and_resume(tmp_path):
    logger = Logger().bind(tmp_path)
    logger.write(1, {"a": 1.0})
    logger.close()
    assert list((tmp_path / "tb").glob("events*"))
    resumed = Logger().bind(tmp_path)
    resumed.load_state_dict({"records": 0})
    resumed.write(1, {"a": 2.0})
    resumed.close()
    assert len(list((tmp_path / "tb").glob("events*"))) == 2


def test_missing_packages_are_warned_of_once(tmp_path, monkeypatch, caplog):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(back_ends.importlib, "import_module", missing)
    logger = Logger(wandb="offline").bind(tmp_path)
    for step in range(5):
        logger.write(step, {"a": 1})
    logger.close()
    assert caplog.text.count("TensorBoard failed") == 1
    assert caplog.text.count("wandb failed") == 1
    assert len(lines(tmp_path)) == 5


class FakeRun:
    def __init__(self, fail):
        self.fail, self.logged, self.step = fail, [], 0

    def log(self, values, step):
        if self.fail:
            raise ConnectionError("network down")
        self.logged.append((step, values))

    def finish(self):
        self.logged.append("finished")


@pytest.mark.parametrize("fail", [False, True])
def test_wandb(tmp_path, monkeypatch, caplog, fail):
    calls, run = [], FakeRun(fail)
    fake = types.SimpleNamespace(init=lambda **arguments: calls.append(arguments) or run)
    monkeypatch.setattr(back_ends.importlib, "import_module", lambda name: fake)
    for _ in range(2):
        logger = Logger(tensorboard=False, wandb="offline").bind(tmp_path)
        logger.write(1, {"a": 1.0})
        logger.write(2, {"a": 2.0})
        logger.close()
    assert calls[0]["id"] == calls[1]["id"]  # the same run when resumed
    assert calls[0]["mode"] == "offline" and calls[0]["resume"] == "allow"
    if fail:
        assert caplog.text.count("network down") == 2 and not run.logged
    else:
        assert run.logged[:3] == [(1, {"a": 1.0}), (2, {"a": 2.0}), "finished"]
    assert len(lines(tmp_path)) == 4


def test_bad_wandb_mode():
    with pytest.raises(ValueError, match="Logger.wandb"):
        Logger(wandb="maybe")


def test_status(tmp_path, monkeypatch, caplog):
    assert read_status(tmp_path) is None
    write_status(tmp_path, "RUNNING", step=5)
    write_status(tmp_path, "FAILED", step=6, reason="worker died", exit_code=1)
    status = read_status(tmp_path)
    assert status["state"] == "FAILED" and status["reason"] == "worker died"
    assert status["pid"] == os.getpid() and status["step"] == 6 and status["exit_code"] == 1
    with pytest.raises(ValueError, match="BROKEN"):
        write_status(tmp_path, "BROKEN", step=1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    write_status(tmp_path, "DONE", step=7)
    assert read_status(tmp_path)["step"] == 7 and not caplog.text  # in the room of the old one
    assert sorted(os.listdir(tmp_path)) == ["status.json"]
    (tmp_path / "status.json").unlink()
    write_status(tmp_path, "DONE", step=8)
    assert read_status(tmp_path) is None and "Disk full" in caplog.text


def test_log_file(tmp_path):
    with log_file(tmp_path) as path:
        absl_logging.warning("a worker died: %d", 3)
    absl_logging.warning("not in there")
    text = path.read_text()
    assert "WARNING" in text and "a worker died: 3" in text and "not in there" not in text
    assert not any(
        isinstance(handler, logging.FileHandler) for handler in logging.getLogger("absl").handlers
    )


def test_log_file_keeps_the_traceback_of_what_ends_a_run(tmp_path, capsys):
    with pytest.raises(KeyError), log_file(tmp_path) as path:
        {}["hidden"]
    text = path.read_text()
    assert "The run failed:\nTraceback" in text and text.endswith("KeyError: 'hidden'\n")
    assert capsys.readouterr().err == ""  # Python shows it, once


def test_reason_of_a_failure_is_one_line_with_its_cause():
    fault = "Traceback (most recent call last):\n  File ...\nValueError: my own bug\n"
    error = RuntimeError(f"workers failed 4 times; the last failure:\n{fault}")
    said = failure_reason(error)
    assert said == "workers failed 4 times; the last failure: ValueError: my own bug"
    assert failure_reason(ValueError("one\ntwo")) == "one"
    assert failure_reason(ValueError()) == "ValueError"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_does_not_end_a_log(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with log_file(tmp_path):
        logging.getLogger("absl").warning("one")
    assert "Error" not in capsys.readouterr().err
