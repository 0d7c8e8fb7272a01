"""Tests of the folder of one run."""

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext

import pytest

from runners import run_folder
from runners.checkpoint_files import step_name
from runners.config import ConfigError
from runners.examination import BAD, disk
from runners.run_folder import RunFolder
from runners.status import FAILED, write_status

CONFIG = "train.total_steps = 10\n"


def test_only_one_process_may_train_in_a_folder(tmp_path):
    run = RunFolder(tmp_path, "one", 0)
    other = (
        "from runners.run_folder import RunFolder\n"
        "from runners.config import ConfigError\n"
        "try:\n"
        f"    with RunFolder({str(tmp_path)!r}, 'one', 0).claimed(): print('in')\n"
        "except ConfigError as error: print(error.line())"
    )

    def attempt():
        command = [sys.executable, "-c", other]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with run.claimed():
        assert "--workdir: another process is training in" in attempt()
    assert attempt() == "in\n"


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_was_removed_is_noticed(again, tmp_path):
    run = RunFolder(tmp_path, "one", 0)
    with run.claimed():
        run.check_claim()
        shutil.rmtree(run.path)
        with RunFolder(tmp_path, "one", 0).claimed() if again else nullcontext():
            with pytest.raises(ConfigError, match="was removed while this run was writing"):
                run.check_claim()


def test_a_run_that_never_began_leaves_its_folder_to_the_next(tmp_path):
    run, other = RunFolder(tmp_path, "one", 0), CONFIG.replace("10", "20")
    with pytest.raises(ConfigError, match="does not fit"), run.claimed():
        run.note_config(CONFIG)
        (run.checkpoints / "step_000000000003").mkdir(parents=True)  # adopted
        raise ConfigError("does not fit")
    assert [path.name for path in run.path.iterdir()] == [".lock"]
    with pytest.raises(ConfigError, match="a part failed"), run.claimed():
        run.note_config(CONFIG)
        run.note_start({}, CONFIG)
        raise ConfigError("a part failed")
    assert (run.path / "config.gin").exists()
    with pytest.raises(ConfigError, match="another configuration"):
        run.check(other, "auto")
    write_status(run.path, FAILED, step=1)
    with pytest.raises(ConfigError, match="another configuration"):
        run.check(other, "auto")
    write_status(run.path, FAILED, step=0)
    run.check(other, "auto")


def test_a_run_that_cannot_be_written_to_does_not_go_on(tmp_path, monkeypatch):
    run = RunFolder(tmp_path, "one", 0)
    with run.claimed():
        run.note_config(CONFIG)
        run.note_start({}, CONFIG)
    (run.checkpoints / "step_000000000003").mkdir(parents=True)
    run.check(CONFIG, "auto")
    (run.path / "log.txt").mkdir()
    with pytest.raises(ConfigError, match="--workdir: .*log.txt: Is a directory; see that it"):
        run.check(CONFIG, "auto")
    (run.path / "log.txt").rmdir()
    (run.path / "status.json").mkdir()
    with pytest.raises(ConfigError, match="--workdir: .*status.json: Is a directory"):
        run.check(CONFIG, "auto")
    (run.path / "status.json").rmdir()
    (run.path / "policy").touch()
    with pytest.raises(ConfigError, match="--workdir: .*policy is no folder"):
        run.check(CONFIG, "auto")
    (run.path / "policy").unlink()
    allowed = os.access  # root may write everywhere
    for place in (run.checkpoints, run.checkpoints / "step_000000000003"):
        monkeypatch.setattr(
            "os.access", lambda p, mode, place=place: p != place and allowed(p, mode)
        )
        with pytest.raises(ConfigError, match=f"--workdir: .*{place.name} may not be written to"):
            run.check(CONFIG, "auto")


def test_a_link_that_leads_nowhere_is_no_place_for_runs(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "unmounted")
    said = f"--workdir: .*runs is a link to {tmp_path / 'unmounted'}, which is not there"
    for workdir in (tmp_path / "runs", tmp_path / "runs" / "today"):
        with pytest.raises(ConfigError, match=said):
            RunFolder(workdir, "one", 0).check_place()
    assert disk(tmp_path / "runs").level == BAD
    (tmp_path / "unmounted").mkdir()
    RunFolder(tmp_path / "runs", "one", 0).check_place()
    assert disk(tmp_path / "runs").level != BAD


def test_a_lock_that_cannot_be_opened(tmp_path):
    run = RunFolder(tmp_path, "one", 0)
    (run.path / ".lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"--workdir: .*\.lock: Is a directory"), run.claimed():
        pass


def test_a_folder_that_cannot_be_locked_is_no_other_process(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    with (
        pytest.raises(ConfigError, match=r"cannot be locked \(No locks available\)"),
        RunFolder(tmp_path, "one", 0).claimed(),
    ):
        pass


def test_a_folder_is_this_run_or_an_error_says_what_to_do(tmp_path):
    run = RunFolder(tmp_path, "one", 0)
    run.check(CONFIG, "auto")
    run.check(CONFIG, "never")
    with run.claimed():
        run.check(CONFIG, "never")  # the lock is no run
        (run.path / ".config.gin.tmp").touch()  # of a process killed while it wrote
        run.check(CONFIG, "never")
        run.note_config(CONFIG)
    run.check(CONFIG, "auto")
    for resume, config, words in (
        ("never", CONFIG, "--resume=never"),
        ("auto", CONFIG.replace("10", "20"), "train.total_steps"),
    ):
        with pytest.raises(ConfigError, match=words):
            run.check(config, resume)
    run.check(CONFIG.replace("10", "20"), "auto", override=True)
    (run.path / "config.gin").rename(run.path / "notes.txt")
    with pytest.raises(ConfigError, match="holds no run"):
        run.check(CONFIG, "auto")


@pytest.mark.parametrize("name", ["..", "a/../..", "/elsewhere"])
def test_an_experiment_stays_within_the_folder_of_all(name, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.experiment"):
        RunFolder(tmp_path, name, 0)


def test_starts_are_added_and_the_config_of_a_run_that_goes_on_stays(tmp_path):
    run = RunFolder(tmp_path, "one", 3)
    run.path.mkdir(parents=True)
    later = CONFIG.replace("10", "20")
    for config in (later, CONFIG):  # the first was killed before it had a checkpoint
        run.note_config(config)
        run.note_start({"seed": 3}, config)
    noted = json.loads((run.path / "run.json").read_text())
    assert noted["seed"] == 3 and len(noted["starts"]) == 2
    assert {"argv", "host", "pid", "git_commit", "versions"} < set(noted["starts"][0])
    (run.checkpoints / "step_000000000010").mkdir(parents=True)
    run.note_config(later)
    assert (run.path / "config.gin").read_text() == CONFIG


def test_a_run_that_goes_on_under_another_configuration_is_that_ones(tmp_path):
    run = RunFolder(tmp_path, "one", 3)
    run.path.mkdir(parents=True)
    later = CONFIG.replace("10", "20")
    for config, horizon in ((CONFIG, 10), (CONFIG, 10), (later, 20)):
        run.note_config(config)
        (run.checkpoints / "step_000000000010").mkdir(parents=True, exist_ok=True)
        run.note_start({"seed": 3, "protocol": {"horizon": horizon}}, config)
    assert (run.path / "config.gin").read_text() == later
    noted = json.loads((run.path / "run.json").read_text())
    assert noted["protocol"] == {"horizon": 20} and len(noted["starts"]) == 3
    changed = [start.get("config_changed") for start in noted["starts"]]
    assert changed == [None, None, ["train.total_steps: 10 -> 20"]]


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"seed": 3, "starts": 1}'])
def test_a_damaged_run_json_is_written_anew(text, tmp_path, caplog):
    run = RunFolder(tmp_path, "one", 3)
    run.path.mkdir(parents=True)
    run.note_config(CONFIG)
    run.note_start({"seed": 3}, CONFIG)
    assert not caplog.records
    (run.path / "run.json").write_text(text)
    run.note_start({"seed": 3}, CONFIG)
    noted = json.loads((run.path / "run.json").read_text())
    assert noted["seed"] == 3 and len(noted["starts"]) == 1
    assert len(caplog.records) == 1 and "run.json is damaged" in caplog.text


def test_the_source_of_a_run_is_its_newest_checkpoint(tmp_path):
    old, new = RunFolder(tmp_path, "old", 0), RunFolder(tmp_path, "new", 0)
    for step in (10, 20):
        (old.checkpoints / step_name(step)).mkdir(parents=True)
    newest, older = (old.checkpoints / step_name(step) for step in (20, 10))
    assert new.source(str(old.path)) == new.source(str(old.checkpoints)) == newest
    assert new.source(str(older)) == older
    (older / "learner.json").write_text("{}")
    (old.path / "metrics.jsonl").write_text('{"step": 5}\n')
    half = new.checkpoints / f".adopted_{older.name}"  # of a process killed while it copied
    half.mkdir(parents=True)
    (half / "loop.json").touch()
    new.adopt(new.source(str(older)))
    assert [f.name for f in new.checkpoints.rglob("*")] == [older.name, "learner.json"]
    assert (new.checkpoints / older.name / "learner.json").read_text() == "{}"
    assert (new.path / "metrics.jsonl").read_text() == '{"step": 5}\n'
    with pytest.raises(ConfigError, match="has checkpoints of its own"):
        new.source(str(old.path))
    with pytest.raises(ConfigError, match="no checkpoint there"):
        RunFolder(tmp_path, "third", 0).source(str(tmp_path))
