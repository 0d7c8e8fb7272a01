"""What all command lines have in common: `--help` answers before anything heavy is loaded."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import runners

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
