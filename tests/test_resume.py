"""Kill a run anywhere and go on: every parameter, row, random stream and metric is the same."""

import errno
import fcntl
import functools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from envs.errors import TaskError
from runners import checkpoint_files, evaluate, files, manifest, storage, train, training
from runners.checkpoint import Checkpointer
from runners.checkpoint_files import read_part, step_name, steps_in
from runners.evaluation import Evaluator
from runners.meta_evaluation import MetaEvaluator
from runners.meta_on_policy import MetaOnPolicyLoop
from runners.off_policy import OffPolicyLoop

ROOT = Path(__file__).resolve().parents[1]
KILLS = 10
SMALL = {
    "TOTAL_STEPS": 400,
    "WARMUP_STEPS": 20,
    "LOG_INTERVAL": 20,
    "EVALUATION_INTERVAL": 100,
    "BATCH_SIZE": 8,
    "REPLAY_CAPACITY": 200,
    "HIDDEN": "(16, 16)",
    "Evaluator.num_goals": 1,
    "Logger.tensorboard": False,
    "Checkpointer.steps": 6,
}
MUST = {"STEPS_PER_ITERATION": 7, "UPDATE_INTERVAL": 3, "MaskGenerator.hidden": 8}
META_WORLD = {
    "TASKS": "['reach-v3', 'drawer-close-v3']",
    "HORIZON": 20,
    "WARMUP_STEPS": 30,
    "TOTAL_STEPS": 2400,  # long enough for all the kills
    "EVALUATION_INTERVAL": 400,
    "Checkpointer.steps": 20,
}


def without(values, name):
    return {key: value for key, value in values.items() if key != name}


DENDRITES = {
    "KWinners.boost_strength": 1.0,
    "KWinners.boost_decay": 0.9,
}
PROTOCOL = {  # the options that PTSL's and the dendrites' publications need
    "OffPolicyLoop.catch_up": True,
    "OffPolicyLoop.reward_scaler": "@RewardScaler",
    "TaskReplay.stratified": False,
    "Evaluator.explore": True,
}
CAVIA = {
    "ITERATIONS": 120,  # long enough for all the kills
    "META_BATCH": 3,
    "EPISODES": 4,
    "TEST_EPISODES": 4,
    "TEST_STEPS": 1,
    "EVALUATION_INTERVAL": 20,
    "LOG_INTERVAL": 3,
    "HIDDEN": "(16, 16)",
    "Logger.tensorboard": False,
    "Checkpointer.steps": 4,
    "TrustRegion.cg_iterations": 3,
}
SHORT = {"ITERATIONS": 60, "HORIZON": 10}
PEARL = {
    "ITERATIONS": 24,  # long enough for all the kills
    "PointRobotSuite.sizes": "(6, 3)",
    "HORIZON": 5,
    "TASKS_PER_ITERATION": 3,
    "INITIAL_STEPS": 10,
    "PRIOR_STEPS": 10,
    "POSTERIOR_STEPS": 10,
    "EXTRA_STEPS": 10,
    "UPDATES": 6,
    "META_BATCH": 3,
    "BATCH_SIZE": 8,
    "CONTEXT_SIZE": 8,
    "REPLAY_CAPACITY": 600,
    "EVALUATION_STEPS": 10,
    "REPETITIONS": 1,
    "EVALUATION_INTERVAL": 10,
    "LOG_INTERVAL": 3,
    "HIDDEN": "(16, 16)",
    "ENCODER_HIDDEN": "(16, 16)",
    "Logger.tensorboard": False,
    "Checkpointer.steps": 4,
}
PEARL_CHEETAH = {
    **{name: value for name, value in PEARL.items() if not name.startswith("PointRobot")},
    "RobotSuite.workers": 2,
    "REPLAY_CAPACITY": 200,
}
SIMULATORS = {"HORIZON": 10, "EPISODES_AT_ONCE": 2, "HalfCheetahSuite.workers": 2}
WINDOWS = {
    "ITERATIONS": 60,
    "PointRobotSuite.sizes": "(10, 4)",
    "HORIZON": 10,
    "TASKS_PER_EPOCH": 4,
    "INFERENCE_STEPS": 6,
    "INFERENCE_BATCH": 8,
    "VALIDATION_INTERVAL": 2,
    "POLICY_STEPS": 6,
    "BATCH_SIZE": 8,
    "REPLAY_CAPACITY": 300,  # full after the fifth epoch
    "EVALUATION_INTERVAL": 20,
    "LOG_INTERVAL": 3,
    "WINDOW": 4,
    "COMPLEXITY": 1.0,
    "HIDDEN": "(16, 16)",
    "Logger.tensorboard": False,
    "Checkpointer.steps": 4,
}
CASES = {
    "sac": ("gin/quick/mtsac_point_mass.gin", SMALL),
    "must": ("gin/quick/must_point_mass.gin", {**SMALL, **MUST}),
    "soft-modular": ("gin/quick/softmod_point_mass.gin", without(SMALL, "HIDDEN")),
    "small-soft-modular": ("gin/quick/softmod_small_point_mass.gin", without(SMALL, "HIDDEN")),
    "care": ("gin/quick/care_point_mass.gin", SMALL),
    "ptsl": ("gin/quick/ptsl_point_mass.gin", {**SMALL, **PROTOCOL}),
    "dendrites": ("gin/quick/dendrites_point_mass.gin", {**SMALL, **DENDRITES}),
    "cavia": ("gin/quick/nm_cavia_navigation.gin", {**CAVIA, **SHORT}),
    "cavia-navigation": ("gin/quick/cavia_navigation.gin", {**CAVIA, "HORIZON": 20}),
    "cavia-ct-graph": ("gin/quick/cavia_ct_graph.gin", CAVIA),
    "cavia-half-cheetah": ("gin/quick/cavia_half_cheetah.gin", {**CAVIA, **SIMULATORS}),
    "maml-ct-graph": ("gin/papers/nm_cavia/ctd2_maml.gin", CAVIA),
    "tigr": ("gin/quick/tigr_point_robot.gin", WINDOWS),
    "cemrl": ("gin/quick/cemrl_point_robot.gin", WINDOWS),
    "pearl": ("gin/quick/pearl_point_robot.gin", PEARL),
    "pearl-half-cheetah": ("gin/quick/pearl_cheetah_direction.gin", PEARL_CHEETAH),
    "sac-meta-world": ("gin/quick/mtsac_two_tasks.gin", {**SMALL, **META_WORLD}),
    "must-meta-world": ("gin/quick/must_two_tasks.gin", {**SMALL, **META_WORLD, **MUST}),
}


def start(case, workdir, *flags, **streams):
    file, values = CASES[case]
    bindings = [f"--gin={name} = {value}" for name, value in values.items()]
    command = [sys.executable, "-m", "runners.train", f"--gin_file={file}", *bindings]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", "--seed=5", *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=workdir,
        text=True,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **streams},
    )


def folder_of(case, workdir):
    return Path(workdir) / Path(CASES[case][0]).stem / "seed_5"


def finish(case, workdir, *flags):
    process = start(case, workdir, *flags)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return folder_of(case, workdir)


def newest(folder):
    steps = steps_in(folder / "checkpoints")
    return steps[-1] if steps else -1


def wait_for(process, folder, state, seconds=120):
    """Until the run is at work (a status of this very process says so)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            status = json.loads((folder / "status.json").read_text())
        except (OSError, ValueError):
            status = {}
        if status.get("pid") == process.pid and status.get("state") == state:
            return True
        time.sleep(0.01)
    return False


def assert_same(one, other, path=""):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape, path
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), path
    elif isinstance(one, float) and math.isnan(one):
        assert math.isnan(other), path
    else:
        assert one == other, path


def records(folder):
    """Metrics without what depends on the clock or the process."""
    clock = ("wall_time", "perf/", "sys/")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(clock)} for line in lines
    ]


def assert_same_run(one, other):
    last = newest(one)
    assert last == newest(other)
    for part in ("learner", "loop", "evaluator", "random"):
        name = f"checkpoints/{step_name(last)}"
        assert_same(read_part(one / name, part), read_part(other / name, part), part)
    assert records(one) == records(other)
    for result in (one / "eval").iterdir():
        assert result.read_bytes() == (other / "eval" / result.name).read_bytes()


def killed_and_resumed(case, workdir, kills, sent):
    """Kill the run `kills` times at random moments after it began to work; then let it finish."""
    draw, folder, done = random.Random(f"{case} {sent}"), folder_of(case, workdir), 0
    attempts = 0
    while done < kills and attempts < 5 * kills:
        attempts += 1
        process = start(case, workdir)
        before = newest(folder)
        assert wait_for(process, folder, "RUNNING") or process.poll() is not None
        if process.poll() is None:
            time.sleep(draw.uniform(0.0, 0.6))
            # Now and then wait for progress, so that the run gets anywhere at all.
            while attempts % 2 and newest(folder) <= before and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(sent)
        _, err = process.communicate(timeout=120)
        if process.returncode == 0:
            break
        expected = -signal.SIGKILL if sent == signal.SIGKILL else 75
        assert process.returncode == expected, err
        if expected == 75:
            status = json.loads((folder / "status.json").read_text())
            assert status["state"] == "INTERRUPTED" and status["exit_code"] == 75
            assert newest(folder) == status["step"]
        done += 1
    return done


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a case's uninterrupted run, made once."""
    return functools.cache(lambda case: finish(case, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("case", ["sac", "must"])
def test_ten_kills_change_nothing(case, tmp_path, whole):
    (tmp_path / "b").mkdir()
    one = whole(case)
    assert killed_and_resumed(case, tmp_path / "b", KILLS // 2, signal.SIGKILL) == KILLS // 2
    assert_same_run(one, finish(case, tmp_path / "b"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["soft-modular", "small-soft-modular", "care", "ptsl", "dendrites"]
)
def test_five_kills_change_nothing_with_other_networks(case, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = finish(case, tmp_path / "a")
    assert killed_and_resumed(case, tmp_path / "b", KILLS // 2, signal.SIGKILL) == KILLS // 2
    assert_same_run(one, finish(case, tmp_path / "b"))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sac-meta-world", "must-meta-world"])
def test_ten_kills_change_nothing_on_meta_world(case, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = finish(case, tmp_path / "a")
    assert killed_and_resumed(case, tmp_path / "b", KILLS, signal.SIGKILL) == KILLS
    assert_same_run(one, finish(case, tmp_path / "b"))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["pearl", "pearl-half-cheetah", "tigr", "cemrl"])
def test_five_kills_change_nothing_in_off_policy_meta_learning(case, tmp_path):
    """Kills strike within the first collection, an iteration's, and its updates."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = finish(case, tmp_path / "a")
    assert killed_and_resumed(case, tmp_path / "b", KILLS // 2, signal.SIGKILL) == KILLS // 2
    assert_same_run(one, finish(case, tmp_path / "b"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["cavia-navigation", "cavia-ct-graph", "cavia-half-cheetah", "maml-ct-graph"]
)
def test_ten_kills_change_nothing_in_meta_learning(case, tmp_path):
    """Half-cheetahs live in worker processes."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = finish(case, tmp_path / "a")
    assert killed_and_resumed(case, tmp_path / "b", KILLS, signal.SIGKILL) == KILLS
    assert_same_run(one, finish(case, tmp_path / "b"))


def test_kills_and_signals_change_nothing_in_meta_learning(tmp_path, whole):
    (tmp_path / "b").mkdir()
    one = whole("cavia")
    assert killed_and_resumed("cavia", tmp_path / "b", 2, signal.SIGKILL) == 2
    assert killed_and_resumed("cavia", tmp_path / "b", 1, signal.SIGTERM) == 1
    assert_same_run(one, finish("cavia", tmp_path / "b"))


def test_sigterm_leaves_a_checkpoint_and_says_75(tmp_path, whole):
    (tmp_path / "b").mkdir()
    one = whole("must")
    assert killed_and_resumed("must", tmp_path / "b", 2, signal.SIGTERM) == 2
    assert_same_run(one, finish("must", tmp_path / "b"))


def test_a_closed_terminal_leaves_a_checkpoint_and_says_75(tmp_path, whole):
    """The signal comes, and whatever is written to the terminal from then on is an error."""
    folder = folder_of("must", tmp_path)
    ours, its = os.openpty()

    def own_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # not so under nohup
        os.setsid()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    streams = dict.fromkeys(("stdin", "stdout", "stderr"), its)
    process = start("must", tmp_path, preexec_fn=own_terminal, **streams)
    os.close(its)
    assert wait_for(process, folder, "RUNNING")
    os.close(ours)
    assert process.wait(120) == 75
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("INTERRUPTED", "SIGHUP")
    assert newest(folder) == status["step"]
    assert_same_run(whole("must"), finish("must", tmp_path))


def test_an_evaluation_that_a_signal_cut_short_is_made_again(tmp_path, monkeypatch):
    """Even where the signal comes after the last episode."""
    done, sent = Evaluator._done, []

    def done_and_stopped(evaluator):
        done(evaluator)
        if not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Evaluator, "_done", done_and_stopped)
    for code in (75, 0):
        folder, _ = trained("sac", tmp_path, code=code, TOTAL_STEPS=200)
    assert {file.name for file in (folder / "eval").iterdir()} == {"100.json", "200.json"}


def test_a_signal_on_a_full_disk_keeps_the_last_checkpoint_and_says_75(tmp_path, monkeypatch):
    step, write = OffPolicyLoop.__next__, files.write_synced

    def stopped(loop):
        if loop.step == 60:
            os.kill(os.getpid(), signal.SIGTERM)
            for module in (files, checkpoint_files, manifest, storage):
                monkeypatch.setattr(module, "write_synced", refused)
        return step(loop)

    def refused(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(OffPolicyLoop, "__next__", stopped)
        _, last = trained("sac", tmp_path, code=75, TOTAL_STEPS=100)
    assert 0 < int(last.name.removeprefix("step_")) < 60
    for module in (files, checkpoint_files, manifest, storage):
        monkeypatch.setattr(module, "write_synced", write)
    trained("sac", tmp_path, TOTAL_STEPS=100)


@pytest.mark.parametrize("lost", ["the last checkpoint", "the policy"])
def test_a_run_whose_end_does_not_fit_on_the_disk_is_not_done(lost, tmp_path, monkeypatch, capsys):
    """It has failed, so that no job queues again for ever; the same command writes the rest."""
    save, export = Checkpointer.save, training.export_policy

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def saved(self, step, **parts):
        return step < 100 and save(self, step, **parts)

    with monkeypatch.context() as patched:
        if lost == "the policy":
            patched.setattr(training, "export_policy", full)
        else:
            patched.setattr(Checkpointer, "save", saved)
        folder, _ = trained("sac", tmp_path, code=1, TOTAL_STEPS=100)
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("FAILED", 1)
    assert "the end of the run could not be written" in status["reason"]
    assert f"error: {status['reason']}" in capsys.readouterr().err
    assert training.export_policy is export
    folder, last = trained("sac", tmp_path, TOTAL_STEPS=100)
    assert last.name == "step_000000000100" and (folder / "policy/policy.json").is_file()


@pytest.mark.parametrize(
    ("case", "lower"), [("sac", "REPLAY_CAPACITY or BATCH_SIZE"), ("cavia", "(META_BATCH) or")]
)
def test_memory_that_runs_out_is_one_line(case, lower, tmp_path, monkeypatch, capsys):
    """In a run, in a dry run and in an evaluation, each with what to lower; all can be repeated."""

    def greedy(*_):
        torch.empty(2**46)

    def told():
        lines = capsys.readouterr().err.splitlines()
        return [line for line in lines if line.startswith("error: ")][0]

    loop = {"sac": OffPolicyLoop, "cavia": MetaOnPolicyLoop}[case]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "__next__", greedy)
        assert train.main(flags_of(case, tmp_path)) == 1
    folder = folder_of(case, tmp_path)
    asked = "not enough memory (262144 GiB asked for)"
    assert f"{asked}: replay and learner take" in (line := told()) and lower in line
    assert json.loads((folder / "status.json").read_text())["state"] == "FAILED"
    with monkeypatch.context() as patched:
        patched.setattr(loop, "rehearse", greedy)
        assert train.main([*flags_of(case, tmp_path), "--dry_run"]) == 2
    assert f"{asked}; lower" in (line := told()) and lower in line
    trained(case, tmp_path)
    kind = {"sac": Evaluator, "cavia": MetaEvaluator}[case]
    monkeypatch.setattr(kind, "__call__", greedy)
    assert evaluate.main(["evaluate", str(folder)]) == 2
    assert f"the evaluation: {asked}; lower --episodes" in told()


def test_a_refusal_of_the_system_is_not_the_runs_own_memory(tmp_path, monkeypatch, capsys):
    """A worker that cannot be started says so itself."""

    def refused(loop):
        raise TaskError("no worker process could be started (Cannot allocate memory)")

    monkeypatch.setattr(OffPolicyLoop, "__next__", refused)
    assert train.main(flags_of("sac", tmp_path)) == 2
    status = json.loads((folder_of("sac", tmp_path) / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("FAILED", 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {status['reason']}"]


def test_a_failure_without_a_message_is_told_by_its_name(tmp_path, monkeypatch):
    def failed(loop):
        raise EOFError

    monkeypatch.setattr(OffPolicyLoop, "__next__", failed)
    with pytest.raises(EOFError):
        trained("sac", tmp_path)
    status = json.loads((folder_of("sac", tmp_path) / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("FAILED", "EOFError")


def test_a_run_killed_before_it_began_begins_anew(tmp_path, monkeypatch):
    """Killed between the first and the last file of its folder, a run goes on by the same flags."""

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    for name in ("_open", "log_file"):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(training, name, killed)
            trained("sac", tmp_path, TOTAL_STEPS=60)
    trained("sac", tmp_path, TOTAL_STEPS=60)


def test_another_folder_goes_on_from_a_run(tmp_path, whole):
    """--resume=PATH copies the checkpoint; the run it came from stays as it was."""
    one = whole("must")
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
    assert killed_and_resumed("must", tmp_path / "b", 1, signal.SIGTERM) == 1
    stopped = folder_of("must", tmp_path / "b")
    before = {f: f.read_bytes() for f in stopped.rglob("*") if f.is_file()}
    assert_same_run(one, finish("must", tmp_path / "c", f"--resume={stopped}"))
    assert before == {f: f.read_bytes() for f in stopped.rglob("*") if f.is_file()}


def test_a_checkpoint_that_cannot_be_gone_on_with_leaves_no_folder(tmp_path, whole, capsys):
    """Of another seed, or damaged: one line each, and the next try is no worse off."""
    other, damaged = tmp_path / "other", tmp_path / "damaged"
    for copy in (other, damaged):
        shutil.copytree(whole("must"), copy)
    last = damaged / "checkpoints" / step_name(newest(damaged)) / "learner.safetensors"
    last.write_bytes(last.read_bytes()[:-1] + b"?")
    file, values = CASES["must"]
    bindings = [f"--gin={name} = {value}" for name, value in values.items()]
    command = ["train", f"--gin_file={file}", *bindings, f"--workdir={tmp_path / 'new'}"]
    for flags, said in (
        (["--seed=6", f"--resume={other}"], "SEED: 5 -> 6"),
        (["--seed=5", f"--resume={damaged}"], "learner.safetensors"),
    ):
        for dry in ([], ["--dry_run"]):
            assert train.main([*command, *flags, *dry]) == 2
            error = capsys.readouterr().err
            assert said in error and "Traceback" not in error
    assert not (tmp_path / "new").exists()
    misfit = ["--gin=HIDDEN = (9, 9)", "--gin=Checkpointer.override = True"]
    assert train.main([*command, *misfit, "--seed=5", f"--resume={other}"]) == 2
    assert "does not fit in spite of Checkpointer.override" in capsys.readouterr().err
    assert [path.name for path in folder_of("must", tmp_path / "new").iterdir()] == [".lock"]


def test_a_flipped_byte_is_caught_and_the_older_checkpoint_used(tmp_path, whole):
    (tmp_path / "b").mkdir()
    one = whole("must")
    assert killed_and_resumed("must", tmp_path / "b", 1, signal.SIGTERM) == 1
    folder = folder_of("must", tmp_path / "b")
    damaged = folder / "checkpoints" / step_name(newest(folder)) / "learner.safetensors"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    finish("must", tmp_path / "b")
    assert "damaged" in (folder / "log.txt").read_text()
    assert_same_run(one, folder)


def flags_of(case, workdir, **changes):
    file, values = CASES[case]
    bindings = [f"--gin={name} = {value}" for name, value in {**values, **changes}.items()]
    return ["train", f"--gin_file={file}", *bindings, f"--workdir={workdir}", "--seed=5"]


def trained(case, workdir, code=0, **changes):
    """The folder of a run in this process that ends with `code`, and its last checkpoint."""
    assert train.main(flags_of(case, workdir, **changes)) == code
    folder = folder_of(case, workdir)
    return folder, folder / "checkpoints" / step_name(newest(folder))


@pytest.mark.parametrize("case", ["cavia", "maml-ct-graph", "pearl", "tigr"])
def test_evaluation_of_a_meta_learner_changes_nothing(case, tmp_path):
    """Same parameters, environments and random streams with and without it."""
    states = []
    for name, interval in (("often", 2), ("never", 10**9)):
        changes = {"EVALUATION_INTERVAL": interval, "ITERATIONS": 6, "Checkpointer.steps": 10**9}
        folder, last = trained(case, tmp_path / name, **changes)
        assert len(list((folder / "eval").iterdir())) == (3 if name == "often" else 1)
        states.append({part: read_part(last, part) for part in ("learner", "loop", "random")})
    assert_same(*states)


def test_evaluation_changes_nothing(tmp_path):
    """Same parameters with and without evaluation during training, and around each commit."""
    around = {"train.commit_evaluator": "@commit/Evaluator()", "commit/Evaluator.num_goals": 1}
    states = []
    for name, interval in (("often", 20), ("never", 10**9)):
        changes = {"EVALUATION_INTERVAL": interval, "TOTAL_STEPS": 200}
        changes |= around if name == "often" else {}
        folder, last = trained("must", tmp_path / name, **changes)
        states.append((read_part(last, "learner"), read_part(last, "random")))
        if name == "often":
            lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            rows = [row for row in lines if "commit/success_rate_before" in row]
            assert len(rows) >= 3 and all("commit/success_rate_after" in row for row in rows)
    learner, streams = states[0]
    for key in [k for k in learner if k in ("_success", "_ever")]:  # what evaluations told it
        del learner[key], states[1][0][key]
    assert_same(learner, states[1][0])
    assert_same(streams, states[1][1])
