"""What all command lines have in common: `--help` answers before anything heavy is loaded."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import runners
from runners import command_line

RUNNERS = Path(runners.__file__).resolve().parent
GIN = "gin_file gin_bindings gin_search_path"
FLAGS = {
    "describe": f"{GIN} values",
    "doctor": "workdir nospeed",
    "evaluate": "checkpoint tasks episodes seed activations activation_episodes latents",
    "export": "checkpoint to",
    "plot": "out metric x statistic last until label mix published",
    "record": "checkpoint to tasks episodes every size sheet_only seed",
    "sweep": f"{GIN} sweep_file seeds grid jobs workdir launcher slurm interval",
    "train": f"{GIN} workdir seed resume dry_run",
}
HEAVY = {"torch", "numpy", "mujoco", "metaworld", "gymnasium", "matplotlib", "PIL"}
INNER = {"speed", "sweep_check", "sweep_child"}
"""Programs that other command lines start."""


def test_these_are_all_command_lines():
    programs = {file.stem for file in RUNNERS.glob("*.py") if '== "__main__"' in file.read_text()}
    assert programs == set(FLAGS) | INNER


@pytest.mark.parametrize("verb", FLAGS)
def test_help_loads_nothing_heavy(verb):
    """So it is there at once; what it loads is the same on every machine, its time is not."""
    command = [sys.executable, "-X", "importtime", "-m", f"runners.{verb}", "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=RUNNERS.parent, env=environment, check=True
    )
    assert set(FLAGS[verb].split()) <= set(re.findall(r"--(?:\[no\])?(\w+)", done.stdout))
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    heavy = HEAVY if verb == "sweep" else HEAVY | {"gin"}  # a sweep file binds what sweep is given
    assert "runners" in loaded and not heavy & loaded


def test_a_terminal_of_ascii_alone_is_written_to():
    command = [sys.executable, "-m", "runners.plot", "--published=list"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(RUNNERS.parent)}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"\\x" in done.stdout and done.stdout.isascii()


def run(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(RUNNERS.parent)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["train", "--help"], ["plot", "--published=list"]])
def test_output_on_a_full_disk_is_one_line(arguments):
    with open("/dev/full", "w") as full:
        done = run(f"runners.{arguments[0]}", *arguments[1:], stdout=full)
    said = "error: standard output: No space left on device; what was to be shown is lost\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("arguments", [["doctor", "--nospeed"], ["plot", "--published=list"]])
def test_a_reader_that_goes_away_is_quiet(arguments):
    reads, writes = os.pipe()
    os.close(reads)
    done = run(f"runners.{arguments[0]}", *arguments[1:], stdout=writes)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


def test_home_is_where_it_is_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "runs", "", flag_values=values)
    flags.DEFINE_multi_string("gin", [], "", flag_values=values)
    flags.DEFINE_integer("seed", None, "", flag_values=values)
    flags.DEFINE_boolean("help", False, "", flag_values=values)
    command = ["train", "--workdir=~/runs", "--gin=~/a.gin", "--gin=A = 'b~/c'"]
    assert command_line.parse(values, command, None, lambda rest: "") == []
    assert values.workdir == str(tmp_path / "runs") and values.seed is None
    assert values.gin == [str(tmp_path / "a.gin"), "A = 'b~/c'"]


ENDED = """
import os, signal, sys
from runners.command_line import run_program

def main(argv):
    if {code} == 75:
        raise KeyboardInterrupt
    return {code}

code = run_program(main)
os.kill(os.getpid(), signal.SIGINT)
sys.exit(code)
"""


@pytest.mark.parametrize(("code", "end"), [(0, 0), (2, 2), (75, -signal.SIGINT)])
def test_who_presses_ctrl_c_when_all_is_done_changes_no_exit_code(code, end):
    """But whoever presses it a second time has his way."""
    environment = {**os.environ, "PYTHONPATH": str(RUNNERS.parent)}
    command = [sys.executable, "-c", ENDED.format(code=code)]
    done = subprocess.run(command, env=environment, stderr=subprocess.DEVNULL)
    assert done.returncode == end
