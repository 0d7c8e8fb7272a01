"""`python -m runners.describe`: the parts of a gin file or a run, their values, its checkpoints."""

import io
import json
from pathlib import Path

import gin
import pytest
from rich.console import Console

from runners import describe, train
from runners.checkpoint_files import step_name, steps_in
from runners.description import describe_run

ROOT = Path(__file__).resolve().parents[1]
FILE = f"--gin_file={ROOT / 'gin/quick/mtsac_point_mass.gin'}"
SHORT = ("TOTAL_STEPS = 900", "SEED = 3", "Checkpointer.steps = 450", "DISCOUNT = 0.93")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    flags = [FILE, f"--workdir={folder}", *(f"--gin={line}" for line in SHORT)]
    assert train.main(["train", *flags]) == 0
    return folder / "mtsac_point_mass/seed_3"


def told(capsys, *arguments):
    assert describe.main(["describe", *arguments]) == 0
    return capsys.readouterr().out


def rows(text, first):
    """Cells of the rows of all tables whose first cell is this one."""
    lines = ([cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines())
    return [cells for cells in lines if cells and cells[0] == first]


def test_values_are_those_of_the_operative_configuration(run, capsys):
    """Defaults included: what a run would write, and did."""
    flags = [FILE, *(f"--gin={line}" for line in SHORT)]
    assert "SAC.discount" not in told(capsys, *flags)
    out = told(capsys, *flags, "--values")
    values = dict(line.split(" = ", 1) for line in out.splitlines() if " = " in line)
    assert (values["DISCOUNT"], values["SAC.discount"]) == ("0.93", "%DISCOUNT")
    assert values["SAC.weight_tasks"] == "False"  # a default
    written = (run / "operative.gin").read_text()
    parts = ("SAC.", "MLP.", "Actor.", "Critic.", "TaskReplay.", "PointMassSuite.", "Evaluator.")
    kept = [line for line in written.splitlines() if line.startswith(parts)]
    assert len(kept) > 25 and set(kept) <= set(out.splitlines())


def test_a_run_is_described_by_its_folder(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = told(capsys, str(run))
    assert f"{run} is DONE after 900 steps" in " ".join(out.splitlines())
    assert rows(out, "learner")[0][1] == "SAC" and "never read" not in out
    [row] = rows(out, "900")
    assert row[1] == "900" and row[-1] == "whole"
    [best] = rows(out, "best")
    assert int(best[1].replace(",", "")) <= 900 and best[3] == "learner"
    again = told(capsys, FILE, *(f"--gin={line}" for line in SHORT))
    assert out[out.index("networks") :] == again[again.index("networks") :]


def test_a_damaged_checkpoint_is_named(run):
    first, last = steps_in(run / "checkpoints")
    path = run / f"checkpoints/{step_name(first)}/learner.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        describe_run(run, Console(width=400, file=(written := io.StringIO())))
    finally:
        path.write_bytes(content)
    text = written.getvalue()
    [damaged], [whole] = rows(text, str(first)), rows(text, str(last))
    assert "damaged" in damaged[-1] and str(path) in damaged[-1] and whole[-1] == "whole"


def test_a_run_that_failed_says_why(run, capsys):
    path = run / "status.json"
    content = path.read_text()
    try:
        path.write_text(json.dumps({"state": "FAILED", "step": 450, "reason": "[disk] is full"}))
        assert "FAILED after 450 steps ([disk] is full)" in " ".join(told(capsys, str(run)).split())
        path.unlink()
        assert "of unknown state" in told(capsys, str(run))
    finally:
        path.write_text(content)


def test_a_byte_order_mark_in_a_runs_configuration_is_told_of(run, capsys):
    path = run / "config.gin"
    content = path.read_text()
    try:
        path.write_text(content, encoding="utf-8-sig")
        assert describe.main(["describe", str(run)]) == 2
        assert "config.gin: it begins with a byte order mark" in capsys.readouterr().err
    finally:
        path.write_text(content)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--gin_file is missing"),
        (("mine.gin",), "--gin_file=mine.gin"),
        (("nowhere",), "nowhere is no run folder: it has no config.gin"),
        (("run", "other"), "one run folder is needed, got 2"),
        (("run", "--gin=SEED = 1"), "leave out --gin_file and --gin_bindings"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, capsys):
    gin.clear_config()
    assert describe.main(["describe", *arguments]) == 2
    out, error = capsys.readouterr()
    assert words in error and error.count("\n") == 1 and not out
