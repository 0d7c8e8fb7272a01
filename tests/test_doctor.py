"""`python -m runners.doctor`: every finding has a level and a fix; the exit code; bare Pythons."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from runners import doctor, examination, rendering, requirements, speed
from runners.examination import BAD, GOOD, NOTE, Finding
from runners.rendering import Attempt

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def quick(monkeypatch):
    """Back ends and torch are not really asked."""
    monkeypatch.setattr(rendering, "attempt", lambda name: Attempt(name, "", 0.1, "llvmpipe"))
    told = {"threads": 2, "cuda": None, "gpus": [], "gpu_memory": 0, "answer": 512.0}
    answers = {"-c": told}
    monkeypatch.setattr(examination, "_ask", lambda command, **o: (answers.get(command[1], {}), ""))
    return answers


def findings(**options):
    return {one.what: one for one in examination.examine("runs", **options)}


def test_here_training_can_run(quick, capsys):
    assert doctor.main(["doctor", "--nospeed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "training can run"
    for what in ("python", "libraries", "processor", "torch", "threads", "gpu", "memory", "disk"):
        assert any(line.startswith((f"ok    {what}:", f"note  {what}:")) for line in lines), what
    assert any("pictures, egl: llvmpipe (in software), 0.10 s" in line for line in lines)


def test_what_is_missing_or_old_cannot_run(quick, capsys, monkeypatch):
    versions = {"torch": "2.1.0", "gin-config": None, "wandb": None}
    real = examination.installed
    monkeypatch.setattr(
        examination,
        "installed",
        lambda name: versions.get(name, "") or versions.get(name, real(name)),
    )
    found = findings(speed=False)
    assert found["torch"].level in (GOOD, BAD)
    assert found["gin-config"] == Finding(
        BAD, "gin-config", "is not installed", examination.INSTALL
    )
    assert found["wandb"].level == NOTE and "wandb" in found["wandb"].fix
    assert doctor.main(["doctor", "--nospeed"]) == 1
    out = capsys.readouterr().out
    assert "BAD   torch: 2.1.0 is installed, >=2.11 is needed" in out
    assert out.splitlines()[-1].startswith("training cannot run: 2")


def test_every_trouble_has_a_fix(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(rendering, "attempt", lambda name: Attempt(name, "no library"))
    monkeypatch.setattr(examination, "_read", lambda path: "")
    monkeypatch.setattr(examination, "usable_cores", lambda: 1.0)
    monkeypatch.setattr(examination, "FREE_DISK", 2**80)
    monkeypatch.setattr(examination.os, "getloadavg", lambda: (99.0, 0, 0))
    monkeypatch.setattr(examination.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(examination, "installed", lambda name: None)
    quick["-m"] = {**speed.DOCUMENTED, "update_ms": 9999.0, "documented": speed.DOCUMENTED}
    found = findings()
    for one in found.values():
        assert one.level in (GOOD, NOTE, BAD)
        assert one.fix or one.level == GOOD, one
    assert found["threads"].level == found["load"].level == found["gpu"].level == NOTE
    assert found["disk"].level == NOTE and "--workdir" in found["disk"].fix
    assert "no CUDA" in found["gpu"].text
    assert found["stepping"].level == GOOD and "1.00 times" in found["stepping"].text
    assert found["updating"].level == NOTE


def test_back_ends_that_do_not_work(quick, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    problems = {"egl": "", "osmesa": "no library", "glfw": "no display"}
    monkeypatch.setattr(rendering, "BACKENDS", ("egl", "osmesa"))
    monkeypatch.setattr(rendering, "attempt", lambda name: Attempt(name, problems[name], 0.1, "x"))
    found = {one.what: one for one in examination.pictures()}
    assert found["pictures, egl"].level == GOOD
    assert (
        found["pictures, osmesa"].level == GOOD and "not needed" in found["pictures, osmesa"].text
    )
    assert found["pictures, glfw"].level == NOTE  # it was asked for
    problems["egl"] = "no library either"
    found = {one.what: one for one in examination.pictures()}
    assert "libegl1" in found["pictures, egl"].fix and found["pictures, egl"].level == NOTE


def test_a_broken_torch_or_a_training_that_fails_is_bad(quick):
    quick["-c"] = {}
    found = findings()
    assert found["torch"].level == BAD and "stepping" not in found
    quick["-c"] = {"threads": 1, "cuda": "13", "gpus": ["H"], "gpu_memory": 2**30, "answer": 512.0}
    found = findings()
    assert found["gpu"].text.startswith("H, 1 GiB") and found["speed"].level == BAD


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    assert examination.disk(tmp_path / "runs").level == BAD


def test_versions_and_ranges():
    assert requirements.satisfies("0.14.3", ">=0.14,<0.15")
    assert requirements.satisfies("2.13.0+cpu", ">=2.11")
    assert not requirements.satisfies("0.15.0rc1", ">=0.14,<0.15")
    assert not requirements.satisfies("2.9", ">=2.11")
    wanted = requirements.requirements()
    assert wanted["torch"] == ">=2.11" and "metaworld" in wanted and "polytask-envs" not in wanted
    assert requirements.pins()["torch"] == "2.13.0"


def test_the_speeds_are_those_of_the_page():
    """What the doctor compares with stands in docs/performance.md."""
    page = (ROOT / "docs" / "performance.md").read_text()
    stepping = re.search(r"\| ours, 2 workers \| (\d+) \|", page)
    update = re.search(r"\| MT-SAC update \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|", page)
    assert speed.DOCUMENTED == {
        "steps_per_second": float(stepping[1]),
        "update_ms": float(update[1]),
    }


@pytest.mark.slow
def test_speed_is_measured():
    command = [sys.executable, "-m", "runners.speed", "--seconds=0.5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["steps_per_second"] > 0 and told["update_ms"] > 0


def test_a_python_without_any_library_is_told_what_to_install(tmp_path):
    """Not even absl is there."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(python), "-m", "runners.doctor", "--nospeed"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 1 and done.stderr == ""
    for line in ("BAD   torch: is not installed", "BAD   absl-py: is not installed", "fix: pip"):
        assert line in done.stdout
    assert "training cannot run" in done.stdout.splitlines()[-1]


def test_wrong_flags_are_one_line_and_2(capsys):
    for flags in (["--sped"], ["runs"]):
        assert doctor.main(["doctor", *flags]) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1 and flags[0] in error
