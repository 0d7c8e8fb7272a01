"""Sweeps: killed and gone on with they end as if nothing had happened; mistakes start no run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from runners import preflight, sweeping, train
from runners import sweep as verb
from runners.checkpoint_files import read_part, step_name, steps_in
from runners.config import ConfigError
from runners.grid import configurations
from runners.sweep import sweep
from runners.sweep_check import look
from runners.sweep_plan import Plan
from runners.sweep_runs import exit_code

ROOT = Path(__file__).resolve().parents[1]
FILE = "gin/quick/mtsac_point_mass.gin"
SMALL = [
    "TOTAL_STEPS = 600",
    "WARMUP_STEPS = 20",
    "LOG_INTERVAL = 50",
    "EVALUATION_INTERVAL = 200",
    "REPLAY_CAPACITY = 400",
    "HIDDEN = (16, 16)",
    "Evaluator.num_goals = 1",
    "Logger.tensorboard = False",
]
STOP = Plan([], [], [])
GRID = "BATCH_SIZE = 8, 16"


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(workdir, *flags):
    command = [sys.executable, "-m", "runners.sweep", f"--gin_file={FILE}", *flags]
    command += [f"--gin={line}" for line in SMALL] + [f"--workdir={workdir}"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=workdir,
    )


def finish(process, code, seconds=400):
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, out
    return out


def state(folder):
    try:
        return json.loads((folder / "status.json").read_text())["state"]
    except (OSError, ValueError, KeyError):
        return None


def wait_until(condition, process, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.02)


def folders(workdir, sizes=(8, 16), seeds=(0,)):
    return [
        workdir / f"mtsac_point_mass,BATCH_SIZE={size}" / f"seed_{seed}"
        for size in sizes
        for seed in seeds
    ]


def reference(workdir, sizes, seeds):
    """The same runs by `train`, one by one, never disturbed."""
    for size in sizes:
        for seed in seeds:
            lines = [*SMALL, f"BATCH_SIZE = {size}"]
            lines.append(f"train.experiment = 'mtsac_point_mass,BATCH_SIZE={size}'")
            flags = [f"--gin_file={FILE}", f"--workdir={workdir}", f"--seed={seed}"]
            assert train.main(["train", *flags, *(f"--gin={line}" for line in lines)]) == 0


def assert_same(one, other, path=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num()), path
    else:
        assert one == other or (one != one and other != other), path


def records(folder):
    clock = ("wall_time", "perf/", "sys/")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(clock)} for line in lines
    ]


def assert_same_run(one, other):
    """Every parameter, optimizer state, replay row, random stream and metric."""
    last = steps_in(one / "checkpoints")[-1]
    assert last == steps_in(other / "checkpoints")[-1]
    for part in ("learner", "loop", "evaluator", "random"):
        name = f"checkpoints/{step_name(last)}"
        assert_same(read_part(one / name, part), read_part(other / name, part), part)
    assert records(one) == records(other) and len(records(one)) > 10


def at_work(folder):
    return state(folder) == "RUNNING" and (folder / "metrics.jsonl").stat().st_size > 0


def stopped(workdir, flags, here):
    """A sweep that is stopped by SIGTERM while its first runs are under way."""
    process = start(workdir, *flags)
    wait_until(lambda: any(map(at_work, here)), process)
    process.send_signal(signal.SIGTERM)
    out = finish(process, 75)
    assert "INTERRUPTED" in out
    assert any(state(folder) == "INTERRUPTED" for folder in here)
    assert all(state(folder) in ("INTERRUPTED", "DONE", None) for folder in here)


def killed(workdir, flags, here):
    """A sweep that is killed when half of its runs are done; those that are."""
    process = start(workdir, *flags)
    wait_until(lambda: sum(state(f) == "DONE" for f in here) >= len(here) // 2, process)
    wait_until(lambda: any(map(at_work, here)), process)
    runs = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(runs, timeout=60)
    assert not alive  # no run outlives its sweep
    assert {state(folder) for folder in here} - {None, "DONE"} <= {"INTERRUPTED", "RUNNING"}
    return [folder for folder in here if state(folder) == "DONE"]


def brought_to_its_end(tmp_path, flags, seeds):
    """The same command again: all done, and the same as by `train`, undisturbed."""
    there, here = folders(tmp_path / "a", seeds=seeds), folders(tmp_path / "b", seeds=seeds)
    out = finish(start(tmp_path / "b", *flags), 0)
    lines = [line.split("\t") for line in out.splitlines()[-len(here) :]]
    assert [line[2] for line in lines] == ["DONE"] * len(here), out
    reference(tmp_path / "a", (8, 16), seeds)
    for one, other in zip(there, here, strict=True):
        assert_same_run(one, other)


def sweep_flags(tmp_path, seeds):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    numbers = ",".join(map(str, seeds))
    return [f"--grid={GRID}", f"--seeds={numbers}", "--jobs=2", "--interval=1"]


def test_stopped_while_it_plans_it_ends_at_once_and_leaves_no_process(tmp_path):
    process = start(
        tmp_path, "--seeds=0", "--grid=BATCH_SIZE = " + ", ".join(map(str, range(1, 99)))
    )
    children = psutil.Process(process.pid).children
    end = time.monotonic() + 60
    while len(found := children(recursive=True)) < 2 and time.monotonic() < end:
        time.sleep(0.05)  # until the check works in a fork of its own
    assert len(found) >= 2
    process.send_signal(signal.SIGTERM)
    finish(process, 75, seconds=15)
    assert not psutil.wait_procs(found, timeout=10)[1] and not list(tmp_path.iterdir())


def test_stopped_and_started_again_it_ends_with_the_same_numbers(tmp_path):
    flags = sweep_flags(tmp_path, [0])
    stopped(tmp_path / "b", flags, folders(tmp_path / "b"))
    brought_to_its_end(tmp_path, flags, [0])


@pytest.mark.slow
def test_two_configurations_three_seeds_stopped_and_killed_half_way(tmp_path):
    seeds = [0, 1, 2]
    flags = sweep_flags(tmp_path, seeds)
    here = folders(tmp_path / "b", seeds=seeds)
    stopped(tmp_path / "b", flags, here)
    done = killed(tmp_path / "b", flags, here)
    at = {folder: (folder / "status.json").stat().st_mtime_ns for folder in done}
    brought_to_its_end(tmp_path, flags, seeds)
    for folder in done:  # left alone
        assert (folder / "status.json").stat().st_mtime_ns == at[folder]


FAILING = """
import gin
from algorithms.sac import SAC


@gin.configurable
class Failing(SAC):
    def __init__(self, sizes, **sac):
        super().__init__(sizes, **sac)

    def update(self, batch):
        raise RuntimeError("the lamp went out")
"""


def test_a_failed_run_is_named_and_the_others_are_done(tmp_path, capsys, monkeypatch):
    """Called from Python; the grid's values are references."""
    module = f"failing_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(FAILING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    grid = ["train.algorithm = @Failing, @SAC"]
    lines = [f"import {module}", *SMALL, "TOTAL_STEPS = 100", "BATCH_SIZE = 8"]
    runs = sweep(FILE, grid=grid, bindings=lines, workdir=str(tmp_path / "runs"), jobs=2)
    assert [run.state for run in runs] == ["FAILED", "DONE"] and exit_code(runs) == 1
    assert runs[0].folder.parent.name == "mtsac_point_mass,train.algorithm=@Failing"
    assert "RuntimeError: the lamp went out" in runs[0].tail
    assert runs[1].evaluation["step"] == 100 and runs[1].minutes > 0
    out = capsys.readouterr().out
    assert "train.algorithm=@Failing seed 0 failed (exit code 1: the lamp went out" in out


def one_line(capsys):
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


BAD_FLAGS = {
    "no gin file": ([], ["--gin_file"]),
    "stray word": ([FILE], ["gin files go to --gin_file"]),
    "unknown flag": (["--gird=x"], ["gird"]),
    "no such launcher": ([f"--gin_file={FILE}", "--launcher=cloud"], ["launcher", "slurm"]),
    "bad axis": ([f"--gin_file={FILE}", "--grid=BATCH_SIZE"], ["--grid", "no values"]),
    "bad seeds": ([f"--gin_file={FILE}", "--seeds=a"], ["--seeds=a", "0,1,2"]),
    "no job": ([f"--gin_file={FILE}", "--jobs=0"], ["--jobs", "0"]),
    "no interval": ([f"--gin_file={FILE}", "--interval=0"], ["--interval", "0"]),
    "an option of no use": ([f"--gin_file={FILE}", "--slurm=timeout_min=1"], ["--launcher=slurm"]),
    "an option without value": ([f"--gin_file={FILE}", "--slurm=timeout_min"], ["name=value"]),
    "missing sweep file": (["--sweep_file=gin/sweeps/no.gin"], ["--sweep_file", "gin/sweeps/no"]),
    "a sweep file that binds no sweep": ([f"--sweep_file={FILE}"], ["gin_files"]),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_end_with_2_and_one_line(case, tmp_path, capsys, monkeypatch):
    arguments, words = BAD_FLAGS[case]
    monkeypatch.chdir(tmp_path)
    assert verb.main(["sweep", *arguments]) == 2
    line = one_line(capsys)
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())


def test_a_bad_configuration_starts_no_run(tmp_path, capsys):
    flags = [f"--gin_file={FILE}", "--grid=BATCH_SIZE = 8, 7", f"--workdir={tmp_path}"]
    flags += [f"--gin={line}" for line in SMALL]
    assert verb.main(["sweep", *flags]) == 2
    line = one_line(capsys)
    for word in ("BATCH_SIZE=7: ", "TaskReplay.batch_size", "set it to 8"):
        assert word in line
    assert not list(tmp_path.iterdir())


def looked_at(workdir, *grid, seeds=(0,), elsewhere=False, files=(FILE,)):
    """What the check says of the grid's first configuration."""
    (point, *_) = configurations(grid)
    request = {
        "files": [str(ROOT / file) for file in files],
        "search_paths": [],
        "bindings": SMALL,
        "seeds": list(seeds),
        "workdir": str(workdir),
        "elsewhere": elsewhere,
    }
    return look(request, {"label": point.label, "bindings": point.bindings})


@pytest.mark.parametrize(
    "axis, words",
    [
        ("DISCOUNT = 'high'", ["SAC.discount", "float"]),
        ("SAC.discout = 0.9", ["did you mean 'discount'"]),
        ("SAC.actor = @Acter", ["Acter", "Actor"]),
        ("DEVICE = 'tpu9'", ["tpu9"]),
        ("REPLAY_CAPACITY = 9999999999999", ["memory"]),
    ],
)
def test_configurations_are_checked_as_train_does(axis, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        looked_at(tmp_path, axis)
    for word in words:
        assert word in caught.value.line()


def test_what_the_check_finds(tmp_path):
    found = looked_at(tmp_path, "BATCH_SZE = 8")
    assert found["unread"] == ["BATCH_SZE"]
    assert found["experiment"] == "mtsac_point_mass,BATCH_SZE=8"
    assert found["memory"] > 0 and found["checkpoint"] > 0 and found["unit"] == "steps"
    assert looked_at(tmp_path)["experiment"] == "mtsac_point_mass" and not found["devices"]
    named = looked_at(tmp_path, "train.progress = None")["bindings"]
    assert named == ["train.experiment = 'mtsac_point_mass,train.progress=None'"]
    assert not list(tmp_path.iterdir())


def test_what_lies_on_the_disk_is_not_asked_for_again(tmp_path):
    """Of each seed by itself; the first has a checkpoint that is half there."""
    before = looked_at(tmp_path, seeds=(0, 1))
    assert before["missing"] == [2 * before["checkpoint"]] * 2
    folder = tmp_path / "mtsac_point_mass/seed_0/checkpoints"
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(bytes(1000))
    (folder.parent / "config.gin").write_text(before["config"])
    first, second = looked_at(tmp_path, seeds=(0, 1))["missing"]
    assert first == before["missing"][0] - 1000 and second == before["missing"][1]


def test_memory_and_devices_of_other_machines_are_not_asked_of_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="memory"):
        looked_at(tmp_path, "BATCH_SIZE = 8")
    found = looked_at(tmp_path, "DEVICE = 'cuda'", elsewhere=True)
    assert "DEVICE = 'cuda'" in found["config"]


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    """Even of the second seed, and even if that run is done."""
    folder = tmp_path / "mtsac_point_mass,BATCH_SIZE=8" / "seed_1"
    folder.mkdir(parents=True)
    (folder / "config.gin").write_text("SAC.discount = 0.5\n")
    (folder / "status.json").write_text('{"state": "DONE"}')
    with pytest.raises(ConfigError, match="seed_1 holds another configuration"):
        looked_at(tmp_path, "BATCH_SIZE = 8", seeds=(0, 1))


def test_a_file_in_the_way_is_refused_before_any_run_starts(tmp_path):
    (tmp_path / "mtsac_point_mass").write_text("")
    for workdir in (tmp_path, tmp_path / "mtsac_point_mass"):
        with pytest.raises(ConfigError, match="--workdir: .*mtsac_point_mass is no folder"):
            looked_at(workdir)
    assert looked_at(tmp_path, elsewhere=True)["experiment"] == "mtsac_point_mass"


@pytest.mark.parametrize("file", sorted((ROOT / "gin/sweeps").glob("*.gin")), ids=lambda f: f.stem)
def test_sweep_files_can_be_read(file, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(sweeping, "plan", lambda *arguments: seen.update(plan=arguments) or STOP)
    assert verb.main(["sweep", f"--sweep_file={file}", "--seeds=5", f"--workdir={tmp_path}"]) == 0
    experiment, points, seeds, jobs = seen["plan"]
    assert (ROOT / experiment.gin_files[0]).is_file() and len(points) > 1
    assert (seeds, jobs) == ([5], 1)  # flags win over the file


def test_jobs_of_submitit_go_on_after_their_time_is_over(tmp_path):
    """Its local executor stands for a cluster; one job is told, as SLURM does, to make way."""
    pytest.importorskip("submitit", reason="submitit is not installed (the extra `slurm`)")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here = folders(tmp_path / "b", sizes=(8,))[0]
    flags = ["--grid=BATCH_SIZE = 8,", "--launcher=slurm"]
    flags += ["--slurm=cluster=local", "--slurm=timeout_min=30"]
    process = start(tmp_path / "b", *flags)
    wait_until(lambda: at_work(here), process)
    (job,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "submitit.core._submit" in child.cmdline()
    ]
    job.send_signal(signal.SIGUSR2)
    out = finish(process, 0)
    assert out.splitlines()[-1].split("\t")[2] == "DONE"
    assert len(json.loads((here / "run.json").read_text())["starts"]) == 2
    reference(tmp_path / "a", (8,), (0,))
    assert_same_run(folders(tmp_path / "a", sizes=(8,))[0], here)
