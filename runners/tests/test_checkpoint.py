import errno
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from runners import checkpoint as module
from runners import files
from runners.checkpoint import Checkpointer, CheckpointError, ConfigMismatch
from runners.checkpoint_files import read_about, read_part, step_name
from runners.compatibility import bindings, differences
from runners.manifest import DamagedError, verify


class Counter:
    """A part: a number and a tensor made from it."""

    def __init__(self, value=0, size=50):
        self.value, self.size = value, size

    def state_dict(self):
        return {"value": self.value, "tensor": torch.full((self.size,), float(self.value))}

    def load_state_dict(self, state):
        assert torch.equal(state["tensor"], torch.full((self.size,), float(state["value"])))
        self.value = state["value"]


def make(folder, config="", **arguments):
    return Checkpointer(**arguments).bind(folder, config)


def hidden(folder):
    return [path.name for path in Path(folder).iterdir() if path.name.startswith(".")]


def test_save_restore_prune_latest(tmp_path):
    saver = make(tmp_path, keep=2)
    for step in (10, 20, 30):
        assert saver.save(step, loop=Counter(step), extra={"list": [step]})
    assert saver.steps_on_disk() == [20, 30]
    assert (tmp_path / "latest").read_text() == "step_000000000030\n"
    assert hidden(tmp_path) == []
    part = Counter()
    assert make(tmp_path).restore(loop=part) == 30
    assert part.value == 30
    assert read_part(tmp_path / "step_000000000030", "extra") == {"list": [30]}
    assert not list(tmp_path.rglob("*.pkl"))


def test_nothing_there(tmp_path):
    assert make(tmp_path / "new").restore(loop=Counter()) is None


def test_saving_the_same_step_again_replaces_it(tmp_path):
    saver = make(tmp_path)
    saver.save(10, loop=Counter(1))
    saver.save(10, loop=Counter(2))
    part = Counter()
    assert saver.restore(loop=part) == 10
    assert part.value == 2 and hidden(tmp_path) == []


def test_due(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    saver = make(tmp_path, minutes=1.0, steps=100)
    assert not saver.due(0)
    assert not saver.due(99)
    assert saver.due(100)
    saver.save(100, loop=Counter())
    assert not saver.due(101)
    now[0] += 61
    assert saver.due(101)
    saver.save(101, loop=Counter())
    assert not saver.due(102)
    never = make(tmp_path, minutes=None)
    assert not never.due(0) and not never.due(10**9)


@pytest.mark.parametrize(
    "arguments", [{"minutes": 0}, {"minutes": -1.0}, {"steps": 0}, {"keep": 0}]
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=f"Checkpointer.{next(iter(arguments))}"):
        Checkpointer(**arguments)


def two_checkpoints(folder):
    saver = make(folder, config="A.b = 1\n")
    saver.save(10, loop=Counter(1), learner=torch.nn.Linear(3, 2))
    saver.save(20, loop=Counter(2), learner=torch.nn.Linear(3, 2))
    return folder / "step_000000000020"


FILES = [
    "loop.safetensors",
    "loop.json",
    "learner.safetensors",
    "learner.json",
    "about.json",
    "manifest.json",
]


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_noticed(tmp_path, name):
    newest = two_checkpoints(tmp_path)
    assert sorted(os.listdir(newest)) == sorted(FILES)
    path = newest / name
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        with pytest.raises(DamagedError, match=name):
            verify(newest)
    path.write_bytes(whole)
    verify(newest)  # no false alarm


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fault", ["flip", "truncate", "empty", "zeros", "longer", "missing"])
def test_a_damaged_file_makes_the_older_checkpoint_the_one(tmp_path, name, fault, caplog):
    path = two_checkpoints(tmp_path) / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "flip": whole[:middle] + bytes([whole[middle] ^ 0x40]) + whole[middle + 1 :],
                "truncate": whole[:middle],
                "empty": b"",
                "zeros": bytes(len(whole)),
                "longer": whole + b"\n",
            }[fault]
        )
    part = Counter()
    saver = make(tmp_path)
    with caplog.at_level(logging.WARNING, logger="absl"):
        assert saver.restore(loop=part, learner=torch.nn.Linear(3, 2)) == 10
    assert part.value == 1
    assert str(path) in caplog.text
    saver.save(15, loop=part)  # goes on from there: the damaged future is gone
    assert saver.steps_on_disk() == [10, 15]
    assert saver.restore(loop=part) == 15


def test_a_foreign_file_is_noticed(tmp_path):
    newest = two_checkpoints(tmp_path)
    (newest / "code.pkl").write_bytes(b"x")
    assert make(tmp_path).restore(loop=Counter()) == 10


@pytest.mark.parametrize("name", [".DS_Store", ".nfs00000001", ".about.json.swp"])
def test_a_hidden_file_that_others_left_is_no_damage(tmp_path, name):
    saver = make(tmp_path)
    saver.save(10, loop=Counter(1))
    (tmp_path / "step_000000000010" / name).touch()
    part = Counter()
    assert make(tmp_path).restore(loop=part) == 10 and part.value == 1


def test_none_whole_is_an_error(tmp_path):
    two_checkpoints(tmp_path)
    for path in tmp_path.glob("step_*/loop.json"):
        path.write_text("{}")
    with pytest.raises(CheckpointError, match="no whole checkpoint.*loop.json.*loop.json"):
        make(tmp_path).restore(loop=Counter())


def test_a_missing_part_is_named(tmp_path):
    make(tmp_path).save(1, loop=Counter())
    with pytest.raises(CheckpointError, match="learner"):
        make(tmp_path).restore(learner=Counter())


def test_latest_is_only_a_hint(tmp_path):
    two_checkpoints(tmp_path)
    (tmp_path / "latest").write_text("nonsense")
    assert make(tmp_path).restore(loop=Counter()) == 20


def test_leftovers_are_cleaned(tmp_path):
    two_checkpoints(tmp_path)
    for name in (".writing_step_000000000030", ".pruned_step_000000000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "loop.json").write_text("{}")
    (tmp_path / ".latest.tmp").write_text("")
    # killed between the two renames that replace a checkpoint by one of the same step
    os.rename(tmp_path / "step_000000000020", tmp_path / ".old_step_000000000020")
    assert make(tmp_path).restore(loop=Counter()) == 20
    assert hidden(tmp_path) == []


def test_config_mismatch_lists_the_bindings(tmp_path):
    make(tmp_path, config="SAC.discount = 0.99\nX.y = 1\n").save(1, loop=Counter())
    new = "X.y = 1  # same\n\nSAC.discount = \\\n   0.9\nCheckpointer.override = False\n"
    with pytest.raises(ConfigMismatch) as caught:
        make(tmp_path, config=new).restore(loop=Counter())
    text = str(caught.value)
    assert "SAC.discount: 0.99 -> 0.9" in text and "X.y" not in text
    assert "Checkpointer.override = True" in text and "\n" not in text
    assert make(tmp_path, config=new, override=True).restore(loop=Counter()) == 1


def test_version_mismatch(tmp_path, monkeypatch):
    make(tmp_path).save(1, loop=Counter())
    monkeypatch.setattr(module, "versions", lambda: {"torch": "99.0"})
    with pytest.raises(ConfigMismatch, match=r"torch: .* -> 99\.0"):
        make(tmp_path).restore(loop=Counter())


def test_bindings_of_a_gin_text():
    text = """
    # a comment with = in it
    import networks.mlp
    include 'x.gin'
    WIDTH = 400
    MLP.hidden = (400,
                  400)
    actor/MLP.name = 'a # b'
    """
    found = bindings(textwrap.dedent(text))
    assert found == {"WIDTH": "400", "MLP.hidden": "(400,400)", "actor/MLP.name": "'a#b'"}
    assert differences({"a": "1"}, {"a": "2", "b": "3"}) == ["a: 1 -> 2", "b: (unset) -> 3"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(tmp_path, bad, caplog):
    saver = make(tmp_path)
    learner = torch.nn.Linear(3, 2)
    assert saver.save(1, learner=learner)
    with torch.no_grad():
        learner.weight[0, 0] = bad
    assert not saver.save(2, learner=learner)
    assert not saver.mark_best(2, 1.0, learner=learner)
    assert not saver.save(2, learner=dict(learner.state_dict()))
    assert saver.steps_on_disk() == [1] and hidden(tmp_path) == []
    assert "weight is not finite" in caplog.text


def test_an_override_that_cannot_work_is_told_in_a_line(tmp_path):
    make(tmp_path, config="a = 1").save(1, learner=torch.nn.Linear(3, 2))
    with pytest.raises(ConfigMismatch, match="learner is of another kind or size") as caught:
        make(tmp_path, config="a = 2", override=True).restore(learner=torch.nn.Linear(4, 2))
    assert "size mismatch" in str(caught.value) and "\n" not in str(caught.value)
    make(tmp_path / "2", config="a = 1").save(1, loop={"other": 1})
    with pytest.raises(ConfigMismatch, match="its loop is .* \\(it has no 'tensor'\\)"):
        make(tmp_path / "2", config="a = 2", override=True).restore(loop=Counter())


def test_exclude_buffer(tmp_path, caplog):
    saver = make(tmp_path, exclude_buffer=True)
    assert "NOT equal" in caplog.text
    saver.save(1, loop={"replay": torch.ones(9), "trajectories": 1, "step": 1})
    assert read_part(tmp_path / "step_000000000001", "loop") == {"step": 1}
    assert read_about(tmp_path / "step_000000000001")["exclude_buffer"] is True


def test_best(tmp_path):
    saver = make(tmp_path)
    assert saver.mark_best(10, 0.5, learner=Counter(1))
    assert not saver.mark_best(20, 0.5, learner=Counter(2))
    assert saver.mark_best(30, 0.6, learner=Counter(3))
    assert not saver.mark_best(40, float("nan"), learner=Counter(4))
    assert read_part(tmp_path / "best", "learner")["value"] == 3
    assert read_about(tmp_path / "best")["step"] == 30
    again = make(tmp_path)
    assert again.best_score == 0.6
    assert not again.mark_best(50, 0.55, learner=Counter(5))
    assert again.steps_on_disk() == [] and hidden(tmp_path) == []
    os.rename(tmp_path / "best", tmp_path / ".old_best")  # killed while it was replaced
    assert make(tmp_path).best_score == 0.6


@pytest.mark.parametrize("calls", range(12))
def test_a_full_disk_at_any_moment(tmp_path, monkeypatch, caplog, calls):
    saver = make(tmp_path)
    saver.save(10, loop=Counter(1), learner=torch.nn.Linear(3, 2))
    real, left = os.fsync, [calls]

    def fsync(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    done = saver.save(20, loop=Counter(2), learner=torch.nn.Linear(3, 2))
    monkeypatch.undo()
    assert done == (calls >= 8)  # 5 files, manifest, its folder, the parent
    if calls < 10:
        assert "Disk full" in caplog.text
    assert [name for name in hidden(tmp_path) if name != ".latest.tmp"] == []
    part = Counter()
    assert make(tmp_path).restore(loop=part) == (20 if done else 10)
    assert saver.save(30, loop=Counter(3), learner=torch.nn.Linear(3, 2))


def test_other_errors_are_not_swallowed(tmp_path, monkeypatch):
    saver = make(tmp_path)

    def fsync(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input"):
        saver.save(1, loop=Counter())
    assert hidden(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(tiny_disk, caplog):
    saver = make(tiny_disk / "checkpoints")
    assert saver.save(10, loop=Counter(1, size=100_000))
    assert saver.save(20, loop=Counter(2, size=100_000))
    assert not saver.save(30, loop=Counter(3, size=100_000))
    assert "Disk full" in caplog.text
    assert saver.steps_on_disk() == [10, 20] and hidden(saver.folder) == []
    part = Counter(size=100_000)
    assert saver.restore(loop=part) == 20
    assert saver.save(40, loop=Counter(4, size=1000))


KILLED = """
import sys, torch
from runners.checkpoint import Checkpointer

saver = Checkpointer().bind(sys.argv[1])
state = {"value": 0, "tensor": torch.zeros(20_000)}
class Part:
    def state_dict(self): return state
    def load_state_dict(self, new): state.update(new)
step = saver.restore(loop=Part(), learner=Part()) or 0
assert bool((state["tensor"] == state["value"]).all())
while True:
    step += 1
    state = {"value": step, "tensor": torch.full((20_000,), float(step))}
    saver.save(step, loop=state, learner=state)
    if step % 3 == 0:
        saver.mark_best(step, step, learner=state)
    print(step, flush=True)
"""


def test_kill_at_random_moments_leaves_a_whole_checkpoint(tmp_path):
    """12 SIGKILLs, forked from one process that has imported torch: each between two lines."""
    chance = random.Random(0)
    known = 0
    context = KILLED.replace("sys.argv[1]", "folder")
    for _ in range(12):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(write, 1)
                sys.stdout = os.fdopen(1, "w")
                exec(context, {"folder": str(tmp_path)})
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read) as lines:
            announced = int(lines.readline())
            time.sleep(chance.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            rest = lines.read().split("\n")[:-1]  # a last line without its end does not count
        announced = int(rest[-1]) if rest else announced
        part = Counter(size=20_000)
        found = make(tmp_path).restore(loop=part)
        assert found is not None and found >= announced > known  # at most one interval is lost
        assert part.value == found and hidden(tmp_path) == []
        if (tmp_path / "best").exists():
            verify(tmp_path / "best")
        known = announced
    assert len(list(tmp_path.glob("step_*"))) <= 3
    assert json.loads((tmp_path / step_name(found) / "about.json").read_text())["step"] == found
