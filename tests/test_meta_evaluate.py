"""`python -m runners.evaluate` on runs of meta-learners: table, JSON, activations, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs.meta_world import MetaWorldSuite
from networks.context_policy import ContextPolicy
from runners import evaluate, evaluating, meta_evaluation, train
from runners.rollouts import Rollouts

TINY = {
    "ITERATIONS": 2,
    "META_BATCH": 3,
    "EPISODES": 4,
    "TEST_EPISODES": 4,
    "TEST_STEPS": 2,
    "EVALUATION_INTERVAL": 10,
    "HIDDEN": "(8, 6)",
    "Logger.tensorboard": False,
}
NAVIGATION = {"HORIZON": 6}
GATED = ("drive", "modulators", "gates")
RUNS = {
    "cavia": ("gin/cavia_navigation.gin", NAVIGATION),
    "neuromodulated": ("gin/nm_cavia_navigation.gin", NAVIGATION),
    "maml": ("gin/papers/nm_cavia/ctd2_maml.gin", {}),
    "push": ("gin/nm_cavia_ml1_push.gin", {"HORIZON": 4, "MetaWorldSuite.workers": 0}),
}
LAYERED = ("cavia", "neuromodulated", "maml")


def trained(name, folder):
    file, values = RUNS[name]
    flags = [f"--gin={key} = {value}" for key, value in (TINY | values).items()]
    assert (
        train.main(["train", f"--gin_file={file}", f"--workdir={folder}", "--seed=0", *flags]) == 0
    )
    (run,) = folder.glob("*/seed_0")
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind, trained when first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = trained(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def call(*arguments):
    return evaluate.main(["evaluate", *map(str, arguments)])


def test_table_and_json_are_those_of_the_run(runs, capsys):
    run = runs("cavia")
    capsys.readouterr()
    assert call(run) == 0
    out, error = capsys.readouterr()
    path = run / "eval" / "evaluate_2_seed_0.json"
    assert f"written to {path}\n" in error
    result = json.loads(path.read_text())
    assert result["step"] == 2 and result["episodes_per_step"] == 4 and result["seed"] == 0
    assert result["suite"] == "navigation" and result["policy"] == "stochastic"
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["split", "adaptations", "return", "±95 %", "success", "at the end"]
    places = [(split, str(step)) for split in ("train", "test") for step in range(3)]
    assert [tuple(line[:2]) for line in lines[1:]] == places
    steps = [step for split in ("train", "test") for step in result["splits"][split]["steps"]]
    assert [line[2] for line in lines[1:]] == [f"{step['return']:.2f}" for step in steps]
    # The last evaluation of the run itself was of the same weights, tasks and seed.
    assert json.loads((run / "eval" / "2.json").read_text()) == result
    assert not list(path.parent.glob(f"{path.stem}*.npz"))


def test_episodes_seed_and_checkpoint(runs, capsys):
    run = runs("cavia")
    assert call(run, "--episodes=2", "--seed=7", "--checkpoint=best") == 0
    (path,) = (run / "eval").glob("evaluate_*_episodes_2_seed_7.json")
    result = json.loads(path.read_text())
    assert result["episodes_per_step"] == 2 and result["seed"] == 7
    assert [len(task["returns"]) for task in result["splits"]["test"]["tasks"]] == [3] * 3
    before = json.loads((run / "eval" / "2.json").read_text())
    goals = [task["goal"] for task in result["splits"]["test"]["tasks"]]
    assert goals != [task["goal"] for task in before["splits"]["test"]["tasks"]]
    capsys.readouterr()
    for arguments, says in [
        (("--checkpoint=1",), "there are: 2, best"),
        (("--episodes=0",), "episodes"),
        (("--activation_episodes=2",), "without --activations"),
    ]:
        assert call(run, *arguments) == 2
        out, error = capsys.readouterr()
        assert out == "" and error.count("\n") == 1 and says in error


def test_another_number_of_tasks(runs):
    run = runs("cavia")
    for tasks in (2, 9):
        assert call(run, f"--tasks={tasks}", "--seed=5") == 0
        path = run / "eval" / f"evaluate_2_tasks_{tasks}_seed_5.json"
        splits = json.loads(path.read_text())["splits"]
        goals = [[task["goal"] for task in there["tasks"]] for there in splits.values()]
        assert [len(drawn) for drawn in goals] == [tasks, tasks] and goals[0] != goals[1]


def test_the_result_of_one_task_is_strict_json(runs):
    run = runs("cavia")
    assert call(run, "--tasks=1", "--episodes=2", "--seed=6") == 0
    text = (run / "eval" / "evaluate_2_tasks_1_episodes_2_seed_6.json").read_text()
    steps = json.loads(text, parse_constant=pytest.fail)["splits"]["test"]["steps"]
    assert all(step["return_ci95_over_tasks"] is None for step in steps)  # one has no interval
    assert all(isinstance(step["return"], float) for step in steps)


@pytest.fixture
def sizes(monkeypatch):
    """Numbers of tasks at once of the evaluations, where more than five are to be grouped."""
    noted = []

    class Noted(Rollouts):
        def __init__(self, suite, num_tasks, *arguments, **options):
            noted.append(num_tasks)
            super().__init__(suite, num_tasks, *arguments, **options)

    monkeypatch.setattr(meta_evaluation, "Rollouts", Noted)
    monkeypatch.setattr(evaluating, "AT_ONCE", 5)
    return noted


def test_many_tasks_are_run_in_groups(runs, sizes):
    run = runs("cavia")
    sizes.clear()  # those of its training, if it is trained only now
    for tasks in (5, 12):
        assert call(run, f"--tasks={tasks}", "--seed=5") == 0
        path = run / "eval" / f"evaluate_2_tasks_{tasks}_seed_5.json"
        splits = json.loads(path.read_text())["splits"]
        assert [len(there["tasks"]) for there in splits.values()] == [tasks, tasks]
    plain = path.read_text()
    assert call(run, "--tasks=12", "--seed=5", "--activations") == 0  # which changes nothing
    assert sizes == [5, 5, 5] and path.read_text() == plain
    with np.load(path.with_name(f"{path.stem}_activations.npz")) as arrays:
        assert len(arrays["test/layer_1/output"]) == 12


def test_the_runs_own_number_of_tasks_at_once_stays(tmp_path, sizes):
    flags = [f"--gin={key} = {value}" for key, value in (TINY | NAVIGATION).items()]
    flags += ["--gin=MetaEvaluator.tasks_at_once = 2", f"--workdir={tmp_path}"]
    assert train.main(["train", "--gin_file=gin/cavia_navigation.gin", *flags]) == 0
    sizes.clear()
    assert call(tmp_path / "cavia_navigation" / "seed_0", "--tasks=7") == 0
    assert sizes == [2]


def test_tasks_that_cannot_be_drawn(runs, monkeypatch, capsys):
    def sample(self, num_tasks, split, generator):
        raise ValueError("one too many")

    run = runs("push")
    monkeypatch.setattr(MetaWorldSuite, "sample", sample)
    capsys.readouterr()
    assert call(run, "--tasks=51") == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert "--tasks=51: " in error and "one too many" in error


@pytest.mark.parametrize("name", LAYERED)
def test_activations_by_name(name, runs, capsys):
    run = runs(name)
    assert call(run, "--activations", "--seed=3") == 0
    recorded = json.loads((run / "eval" / "evaluate_2_seed_3.json").read_text())
    file = run / "eval" / "evaluate_2_seed_3_activations.npz"
    assert f"written to {file}\n" in capsys.readouterr().err
    with np.load(file) as loaded:
        arrays = dict(loaded)
    file.unlink()
    assert call(run, "--seed=3") == 0
    assert json.loads((run / "eval" / "evaluate_2_seed_3.json").read_text()) == recorded
    assert not file.exists()
    shown = {"layer_1/output": 8, "layer_2/output": 6}
    if name == "neuromodulated":
        widths = {1: 8, 2: 6}
        shown |= {f"layer_{i}/{part}": widths[i] for i in widths for part in GATED}
        shown |= {"layer_1/modulators": 4, "layer_2/modulators": 4}
    shown |= {"head/logits": 3} if name == "maml" else {"head/mean": 2, "head/std": 2}
    shown |= {"observation": 17 if name == "maml" else 2}
    plain = {"reward", "success", "mask", "task", "goal"}
    plain |= set() if name == "maml" else {"context"}
    splits = recorded["splits"]
    assert set(arrays) == {f"{split}/{part}" for split in splits for part in {*shown, *plain}}
    for split, there in splits.items():
        mask = arrays[f"{split}/mask"]
        time = mask.shape[-1]
        assert mask.shape == (3, 3, 4, time) and 0 < time <= 7 and mask.any(-1).all()
        for part, width in shown.items():
            value = arrays[f"{split}/{part}"]
            assert value.shape == (3, 3, 4, time, width) and value.dtype == np.float32
            assert np.isfinite(value).all() and not value[~mask].any()
        total = arrays[f"{split}/reward"].sum(-1).mean(-1)
        returns = np.array([task["returns"] for task in there["tasks"]])
        assert total == pytest.approx(returns, rel=1e-5, abs=1e-6)
        assert arrays[f"{split}/task"].tolist() == [task["name"] for task in there["tasks"]]
        assert arrays[f"{split}/goal"].tolist() == [task["goal"] for task in there["tasks"]]
        if name != "maml":
            context = arrays[f"{split}/context"]
            assert context.shape == (3, 3, 5) and not context[:, 0].any() and context[:, 1:].any()
        if name == "neuromodulated":
            drive, gates = (arrays[f"{split}/layer_1/{part}"] for part in ("drive", "gates"))
            output = np.maximum(drive * gates, 0.0)
            assert np.array_equal(arrays[f"{split}/layer_1/output"], output)


def test_a_few_episodes(runs):
    run = runs("cavia")
    assert call(run, "--activations", "--activation_episodes=2", "--seed=4") == 0
    with np.load(run / "eval" / "evaluate_2_seed_4_activations.npz") as arrays:
        assert arrays["test/reward"].shape[:3] == (3, 3, 2)


def test_a_policy_that_does_not_tell_its_layers_is_an_error_of_one_line(runs, capsys, monkeypatch):
    run = runs("cavia")
    monkeypatch.delattr(ContextPolicy, "representations")
    capsys.readouterr()
    assert call(run, "--activations") == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert "--activations: ContextPolicy does not tell" in error


def test_the_part_file_records_in_training(tmp_path, monkeypatch):
    file = tmp_path / "recorded.gin"
    file.write_text("include 'gin/cavia_navigation.gin'\ninclude 'gin/runners/activations.gin'\n")
    flags = [f"--gin={key} = {value}" for key, value in (TINY | NAVIGATION).items()]
    flags += ["--gin=LayerRecorder.episodes = 1", f"--workdir={tmp_path}"]
    assert train.main(["train", f"--gin_file={file}", *flags]) == 0
    run = tmp_path / "recorded" / "seed_0"
    file = run / "eval" / "2_activations.npz"
    with np.load(file) as arrays:
        assert arrays["train/layer_2/output"].shape[:3] == (3, 3, 1)
    for given, said in ((file, "one episode of each task"), (run / "config.gin", "no file of")):
        script = Path(__file__).parents[1] / "benchmarks" / "representation_plot.py"
        found = subprocess.run([sys.executable, script, given], capture_output=True, text=True)
        assert found.returncode == 1 and said in found.stderr and "Traceback" not in found.stderr
    monkeypatch.setattr(evaluating, "AT_ONCE", 3)  # the recorder puts the groups together
    assert call(run, "--tasks=5") == 0
    with np.load(run / "eval" / "evaluate_2_tasks_5_seed_0_activations.npz") as arrays:
        assert arrays["train/layer_2/output"].shape[:3] == (5, 3, 1)


def test_the_protocol_of_meta_world(runs, monkeypatch, capsys):
    official = evaluating.PROTOCOLS["meta-world"]
    for line in (
        "MetaWorldSuite.horizon = 500",
        "MetaEvaluator.splits = ('test',)",
        "MetaEvaluator.num_tasks = None",
        "MetaEvaluator.episodes = 10",
        "MetaEvaluator.adaptations = 1",
    ):
        assert line in official
    short = ["MetaWorldSuite.horizon = 6", "MetaEvaluator.episodes = 2"]
    short.append("MetaEvaluator.tasks_at_once = 10")
    monkeypatch.setitem(evaluating.PROTOCOLS, "meta-world", [*official, *short])
    run = runs("push")
    capsys.readouterr()
    assert call(run, "--protocol=meta-world") == 0
    out, _ = capsys.readouterr()
    assert [line.split("\t")[:2] for line in out.splitlines()[1:]] == [["test", "0"], ["test", "1"]]
    result = json.loads((run / "eval" / "evaluate_2_seed_0_meta_world.json").read_text())
    assert result["horizon"] == 6 and result["episodes_per_step"] == 2
    assert list(result["splits"]) == ["test"]
    tasks = result["splits"]["test"]["tasks"]
    assert len({task["goal"] for task in tasks}) == len(tasks) == 50
    assert list(result["splits"]["test"]["classes"]) == ["push-v3"]


def test_the_protocol_of_meta_world_is_not_for_other_runs(runs, capsys):
    run = runs("cavia")
    capsys.readouterr()
    assert call(run, "--protocol=meta-world") == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "ML1, ML10 and ML45" in error


@pytest.mark.parametrize("flag", ["--tasks=2", "--episodes=2"])
def test_the_protocol_of_meta_world_decides_what_is_run(flag, runs, capsys):
    run = runs("push")
    capsys.readouterr()
    assert call(run, "--protocol=meta-world", flag) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and flag.split("=")[0] in error
