"""Every experiment under gin/ trains for a few steps, at reduced size, with nothing unread."""

import gc
import importlib
import json
import re
from pathlib import Path

import gin
import pytest

from envs.meta_world import BENCHMARKS
from runners import config, train

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("algorithms", "envs", "methods", "networks", "runners", "settings", "sweeps")
FILES = [
    file.relative_to(ROOT)
    for file in sorted((ROOT / "gin").rglob("*.gin"))
    if not set(file.relative_to(ROOT).parts[1:-1]) & set(PARTS)
]
SAMPLE = (
    "ptsl_mt10_200k_*",
    "ptsl_mt10_proj_independent.gin",
    "ptsl_mt10_res_[lps]*",
    "base.gin",
    "baseline_5d.gin",
    "overlap_both_10d.gin",
    "no_overlap_10d_preprocess_kw.gin",
    "no_preprocess_final.gin",
    "dendrite_1seg.gin",
    "dendrite_three_layer.gin",
    "dendrites_relu_with_plots.gin",
    "metaworld_base.gin",
    "mlp_final.gin",
    "2dnav_nm.gin",
    "cheetahvel_nm.gin",
    "ctd2_*maml.gin",
    "ctd3_nm.gin",
    "melts_gauss.gin",
    "cemrl/cheetah_five.gin",
    "cemrl/ml10.gin",
    "sparse_point_robot.gin",
    "hopper_parameters.gin",
    "ml1push_nm.gin",
)
FAMILIES = ("ptsl", "dendrites", "nm_cavia", "pearl", "nm_pearl", "tigr", "cemrl")
"""Folders of published runs most of which differ in numbers alone."""
NUM_TASKS = {"mt10": 10, "mt25": 25, "mt50": 50, "mt1": 1}


def reduced(file):
    """Bindings that make any experiment small; each names a macro or a part it has."""
    text = _whole(file)
    if "runners/window_schedule.gin" in text:
        return _flags(_reduced_window(text))
    if "runners/meta_on_policy.gin" in text:
        return _flags(_reduced_meta(text))
    if "runners/posterior_schedule.gin" in text:
        return _flags(_reduced_posterior(text))
    tasks = next((n for name, n in NUM_TASKS.items() if f"envs/{name}.gin" in text), 2)
    if "envs/tasks.gin" in text:
        tasks = 10
    if "settings/eight_turns.gin" in text:
        tasks = 8
    # Too many to build all their simulators: MUST stands for the others on MT50.
    large = "envs/mt50.gin" in text and "methods/must.gin" not in text
    few = large or ("envs/mt10.gin" in text and "papers" in Path(file).parts)
    if few:
        tasks = 2
    hidden = "(16, 16, 16)" if "LAYERS_MODULATED" in text else "(16, 16)"
    values = {
        "TOTAL_STEPS": 16 * tasks,
        "WARMUP_STEPS": 4,
        "LOG_INTERVAL": 4 * tasks,
        "EVALUATION_INTERVAL": 10**9,
        "BATCH_SIZE": 4 * 2 * tasks,
        "REPLAY_CAPACITY": 100 * tasks,
        "STEPS_PER_ITERATION": 4 if "STEPS_PER_ITERATION" in text else None,
        "UPDATE_INTERVAL": 2 if "UPDATE_INTERVAL" in text else None,
        "HORIZON": 10 if "HORIZON" in text else None,
        "HIDDEN": hidden if "HIDDEN" in text else None,
        "Evaluator.num_goals": 1,
        "Logger.tensorboard": False,
        "RANK": 4 if "RANK" in text else None,
        "SOFT_WIDTH": 8 if "SOFT_WIDTH" in text else None,
        "MaskGenerator.hidden": 8 if "@MaskGenerator" in text else None,
        "MaskGenerator.rank": 2 if "@MaskGenerator" in text else None,
        "MetaWorldSuite.benchmark": "['reach-v3', 'push-v3']" if few else None,
        "MetaWorldSuite.workers": 0 if "@MetaWorldSuite" in text else None,
    }
    return _flags(values)


def _reduced_meta(text):
    """The same for a meta-learner; one class of Meta-World stands for ML45."""
    values = {
        "ITERATIONS": 2,
        "META_BATCH": 2,
        "EPISODES": 2,
        "TEST_EPISODES": 2,
        "TEST_STEPS": 1,
        "EVALUATION_INTERVAL": 10**9,
        "HIDDEN": "(16, 16)",
        "HORIZON": 5 if "HORIZON" in text else None,
        "Logger.tensorboard": False,
    }
    for suite in ("MetaWorldSuite", "HalfCheetahSuite"):
        values[f"{suite}.workers"] = 0 if f"@{suite}" in text else None
    if "envs/ml45.gin" in text:
        values |= {"MetaWorldSuite.benchmark": "'ML1'", "MetaWorldSuite.task": "'push-v3'"}
    return values


def _reduced_window(text):
    """The same for a learner that infers from windows."""
    values = {
        "ITERATIONS": 2,
        "TASKS_PER_EPOCH": 2,
        "INITIAL_TRANSITIONS": 0,
        "TRANSITIONS": 5,
        "INFERENCE_STEPS": 2,
        "INFERENCE_BATCH": 4,
        "POLICY_STEPS": 2,
        "BATCH_SIZE": 4,
        "REPLAY_CAPACITY": 1000,
        "EVALUATION_INTERVAL": 10**9,
        "WINDOW": 3,
        "COMPLEXITY": 0.5,
        "HIDDEN": "(16, 16)",
        "HORIZON": 5,
        "WindowEvaluator.num_tasks": 2,
        "Logger.tensorboard": False,
    }
    for suite in ("MetaWorldSuite", "RobotSuite"):
        values[f"{suite}.workers"] = 0 if f"@{suite}" in text else None
    if "envs/ml45.gin" in text or "envs/ml10.gin" in text:
        values |= {"MetaWorldSuite.benchmark": "'ML1'", "MetaWorldSuite.task": "'push-v3'"}
    return values


def _reduced_posterior(text):
    """The same for PEARL; one class of Meta-World stands for several."""
    values = {
        "ITERATIONS": 2,
        "TASKS_PER_ITERATION": 2,
        "INITIAL_STEPS": 5,
        "PRIOR_STEPS": 5,
        "POSTERIOR_STEPS": 5,
        "EXTRA_STEPS": 5,
        "UPDATES": 2,
        "META_BATCH": 2,
        "BATCH_SIZE": 4,
        "CONTEXT_SIZE": 4,
        "REPLAY_CAPACITY": 10000,
        "TRAIN_GOALS": 4,
        "TEST_TASKS": 2,
        "EVALUATION_STEPS": 10,
        "PRIOR_EPISODES": 1,
        "REPETITIONS": 1,
        "EVALUATION_INTERVAL": 10**9,
        "HIDDEN": "(16, 16)",
        "ENCODER_HIDDEN": "(16, 16)",
        "HORIZON": 5,
        "Logger.tensorboard": False,
    }
    for suite in ("MetaWorldSuite", "RobotSuite"):
        values[f"{suite}.workers"] = 0 if f"@{suite}" in text else None
    if "envs/ml45.gin" in text or "envs/ml10.gin" in text:
        values |= {"MetaWorldSuite.benchmark": "'ML1'", "MetaWorldSuite.task": "'push-v3'"}
    return values


def _flags(values):
    return [f"--gin={name} = {value}" for name, value in values.items() if value is not None]


@pytest.fixture(autouse=True)
def _tidy():
    """Learners refer to themselves: without this their replays wait for a collection."""
    yield
    gc.collect()


def _whole(file):
    lines = (ROOT / file).read_text().splitlines()
    included = [line.split("'")[1] for line in lines if line.startswith("include")]
    return "\n".join([*lines, *included, *map(_whole, included)])


def _runs():
    """Every file; marked slow those that differ from others in numbers alone."""
    for file in FILES:
        many = file.parent.name in FAMILIES
        slow = many and not any(file.match(pattern) for pattern in SAMPLE)
        slow |= file.name == "must_mt50.gin"  # must_mt10.gin with five times the tasks
        yield pytest.param(file, marks=pytest.mark.slow if slow else (), id=str(file))


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[1] == "papers"], ids=str)
def test_every_published_experiment_parses(file):
    """Names, types and references are right; those marked slow below train as well."""
    importlib.import_module("runners.training")  # as the entry point does
    config.parse([ROOT / file])
    assert config.experiment_name() == file.stem


def bound(name):
    """What a parameter is bound to, a macro's value in the place of the macro."""
    value = gin.query_parameter(name)
    return getattr(value, "scoped_configurable_fn", lambda: value)()


@pytest.mark.parametrize("file", [f for f in FILES if "goal_draw" in _whole(f)], ids=str)
def test_a_runs_own_seed_draws_its_goals_as_well(file):
    """Runs of different seeds would otherwise share the goals of seed 0."""
    importlib.import_module("runners.training")
    config.parse([ROOT / file])
    assert bound("MetaWorldSuite.goal_draw") == bound("train.seed")


def _documented():
    """What matches the tags of docs/metrics.md, where <...> stands for anything but a slash."""
    cells = re.findall(r"^\| (`.+?) \| ", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    tags = [tag for cell in cells for tag in re.findall("`([^`]+)`", cell)]
    tags += ["step", "wall_time"]
    return re.compile("|".join(re.sub("<.+?>", "[^/]+", re.escape(tag)) for tag in tags))


DOCUMENTED = _documented()


@pytest.mark.parametrize("file", list(_runs()))
def test_every_experiment_trains(file, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    flags = ["train", f"--gin_file={file}", f"--workdir={tmp_path}", *reduced(file)]
    assert train.main(flags) == 0
    assert "nothing reads it" not in caplog.text
    (folder,) = (tmp_path / file.stem).glob("seed_*")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tags = {tag for record in records for tag in record}
    assert "updates" in tags
    assert {tag for tag in tags if not DOCUMENTED.fullmatch(tag)} == set()


@pytest.mark.slow
def test_all_classes_of_ml45(tmp_path, monkeypatch, caplog):
    """With every simulator; above one class stands for them."""
    monkeypatch.chdir(tmp_path)
    file = Path("gin/nm_cavia_ml45.gin")
    own = {"META_BATCH": 45, "MetaWorldSuite.benchmark": None, "MetaWorldSuite.task": None}
    flags = _flags(_reduced_meta(_whole(file)) | own)
    assert train.main(["train", f"--gin_file={file}", f"--workdir={tmp_path}", *flags]) == 0
    assert "nothing reads it" not in caplog.text
    splits = json.loads((tmp_path / "nm_cavia_ml45/seed_378/eval/2.json").read_text())["splits"]
    names = {split: [task["name"] for task in there["tasks"]] for split, there in splits.items()}
    assert sorted(names["train"]) == sorted(BENCHMARKS["ML45"][0])
    assert sorted(names["test"]) == sorted(BENCHMARKS["ML45"][1] * 9)


def test_one_include_turns_must_into_the_multi_head_learner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "gin/must_mt10.gin").read_text()
    old, new = "include 'gin/methods/must.gin'", "include 'gin/methods/mtmhsac.gin'"
    assert text.count(old) == 1
    file = tmp_path / "swapped.gin"
    file.write_text(text.replace(old, new))
    assert train.main(["train", f"--gin_file={file}", f"--workdir={tmp_path}", *reduced(file)]) == 0
    operative = (tmp_path / "swapped/seed_0/operative.gin").read_text()
    assert "MultiHeadMLP" in operative and "Masked" not in operative


def test_a_method_given_after_another_leaves_nothing_of_its_loop():
    importlib.import_module("runners.training")
    config.parse([ROOT / "gin/must_mt10.gin", ROOT / "gin/methods/mtmhsac.gin"])
    swapped = [bound(f"OffPolicyLoop.{name}") for name in ("trajectories", "steps_per_iteration")]
    config.parse([ROOT / "gin/mtmhsac_mt10.gin"])
    assert swapped == [None, 1]
    assert bound("OffPolicyLoop.steps_per_iteration") == 1


NETWORKS = ("mlp", "multi_head", "masked", "soft_modular", "care", "projected", "dendritic")
LEARNERS = ("sac", "sequential_sac", "encoder_sac", "masked_sac", "must_reference")


def paired(network, learner, tmp_path):
    """Exit code of a few steps of one network under one learner on the point mass."""
    file = tmp_path / "pair.gin"
    parts = [f"networks/{network}", f"algorithms/{learner}", "runners/off_policy"]
    if learner == "encoder_sac":
        parts.insert(0, "networks/care_encoder")
    lines = [f"include 'gin/{part}.gin'\n" for part in ("envs/point_mass", *parts)]
    if learner == "encoder_sac" or network == "care":
        lines.append("TaskEncoder.kind = 'learned'\n")
    file.write_text("".join(lines))
    return train.main(["train", f"--gin_file={file}", f"--workdir={tmp_path}", *reduced(file)])


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_trunk_under_every_learner(network, learner, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = paired(network, learner, tmp_path)
    if "sac" in learner and learner != "masked_sac" or network == "masked":
        assert code == 0
    else:
        assert code == 2
        assert "gin/networks/masked.gin" in capsys.readouterr().err


@pytest.mark.parametrize("learner", LEARNERS)
def test_small_soft_modules_need_their_encoder(learner, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = paired("small_soft_modular", learner, tmp_path)
    if learner == "encoder_sac":
        assert code == 0
    else:
        assert code == 2
        assert "in_features must hold features and code" in capsys.readouterr().err


@pytest.mark.parametrize("width", ["FeedforwardEncoder.width", "TaskEncoder.code_dim"])
def test_small_soft_modules_need_features_as_wide_as_codes(width, capsys, tmp_path):
    file = "gin/quick/softmod_small_point_mass.gin"
    arguments = [f"--gin_file={file}", f"--gin={width} = 60", f"--workdir={tmp_path}"]
    assert train.main(["train", *arguments, "--dry_run"]) == 2
    assert re.search(
        r"error: .*\((60, 50|50, 60), 0\) numbers, but SAC.actor's trunk takes them for "
        r"\(50, 50, 10\); bind SOFT_FEATURES alone",
        capsys.readouterr().err,
    )
