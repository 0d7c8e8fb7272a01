import io
import json

import pytest

from runners.console import LastingConsole
from runners.sweep_runs import SweptRun
from runners.sweep_table import SweepTable


def run_in(folder, configuration, seed, state, step=None, success=None):
    run = SweptRun(configuration, seed, folder / configuration / f"seed_{seed}", total_steps=100)
    run.state = state
    if step is not None:
        run.folder.mkdir(parents=True)
        record = {"step": step, "wall_time": 60.0, "eval/success_rate": success}
        line = json.dumps(record, separators=(",", ":"))
        (run.folder / "metrics.jsonl").write_text(line + "\n")
        (run.folder / "run.json").write_text('{"starts": [{"time": 0.0}]}')
    return run


@pytest.fixture
def runs(tmp_path):
    return [
        run_in(tmp_path, "A=1", 0, "DONE", 100, 0.5),
        run_in(tmp_path, "A=1", 1, "RUNNING", 50, 0.25),
        run_in(tmp_path, "A=2", 0, "FAILED"),
        run_in(tmp_path, "A=2", 1, "WAITING"),
    ]


def plain():
    return LastingConsole(file=io.StringIO(), width=40)


def test_a_line_says_how_many_and_how_far(runs):
    line = SweepTable(runs, 30.0, plain()).line()
    assert line == "4 runs: 1 done, 1 failed, 1 running, 1 waiting; A=1 seed 1 50 (50%), 25% at 50"


def test_without_a_terminal_changes_and_now_and_then_a_line(runs):
    console = plain()
    with SweepTable(runs, 1000.0, console) as table:
        table.update()
        runs[3].state = "RUNNING"
        table.update()
        runs[1].state = "DONE"
        table.update()
    lines = console.file.getvalue().splitlines()
    assert lines[0].startswith("4 runs: ")
    assert lines[1:] == ["A=2 seed 1: RUNNING", "A=1 seed 1: DONE, 25% at 50"]
    with SweepTable(runs, 1e-9, console) as table:
        table.update()
    assert (
        console.file.getvalue().splitlines()[-1].startswith("4 runs: 2 done, 1 failed, 1 running")
    )
    assert "starting" in console.file.getvalue()


def test_the_summary_has_a_line_for_each_run_and_the_last_lines_of_failed_ones(runs):
    console = plain()
    runs[2].reason, runs[2].tail = "exit code 1", ["Traceback", "[lost] \\[it]"]
    SweepTable(runs, 30.0, console).summary()
    lines = console.file.getvalue().splitlines()
    assert [line.split("\t") for line in lines[:5]] == [
        ["configuration", "seed", "status", "steps", "last evaluation", "minutes"],
        ["A=1", "0", "DONE", "100 (100%)", "50% at 100", "1.0"],
        ["A=1", "1", "RUNNING", "50 (50%)", "25% at 50", lines[2].split("\t")[5]],
        ["A=2", "0", "FAILED", "-", "-", "-"],
        ["A=2", "1", "WAITING", "-", "-", "-"],
    ]
    rest = "\n".join(lines[5:])
    assert "A=2 seed 0 failed (exit code 1)" in rest and "output_seed_0.txt" in rest
    assert "    [lost] \\[it]" in rest
    assert lines[-1] == "1 waiting: the same command goes on with it"


@pytest.mark.parametrize("width, height", [(80, 24), (60, 10), (200, 60)])
def test_the_live_table_fits_the_screen(tmp_path, width, height):
    states = ["DONE"] * 20 + ["RUNNING"] * 2 + ["WAITING"] * 20
    runs = [run_in(tmp_path, "BATCH_SIZE=64", i, s) for i, s in enumerate(states)]
    console = LastingConsole(file=io.StringIO(), width=width, height=height, force_terminal=True)
    with SweepTable(runs, 30.0, console) as table:
        pass
    console = LastingConsole(file=io.StringIO(), width=width, height=height)
    console.print(table._table())
    text = console.file.getvalue()
    assert len(text.splitlines()) <= height
    assert text.count("RUNNING") == 2  # shown before those that wait
    assert ("more" in text) == (height < 50)


def test_a_terminal_gets_a_frame_in_the_end(runs):
    console = LastingConsole(file=io.StringIO(), width=100, force_terminal=True)
    SweepTable(runs, 30.0, console).summary()
    text = console.file.getvalue()
    assert "━" in text or "─" in text and "50% at 100" in text
