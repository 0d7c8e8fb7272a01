"""What users get wrong: exit code 2 and one line, before any environment is built."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from runners import config, preflight, train
from runners.checkpoint import Checkpointer
from runners.evaluation import Evaluator
from runners.run_folder import RunFolder
from runners.signals import STOPPING

ROOT = Path(__file__).resolve().parents[1]
POINT_MASS = "--gin_file=gin/quick/must_point_mass.gin"
TINY = ["--gin=TOTAL_STEPS = 80", "--gin=WARMUP_STEPS = 20", "--gin=LOG_INTERVAL = 20"]
TINY += ["--gin=BATCH_SIZE = 8", "--gin=Evaluator.num_goals = 1"]
TINY += ["--gin=Logger.tensorboard = False"]

BAD = {
    "unknown name": (["--gin=SCA.discount = 0.9"], ["SCA", "SAC"]),
    "a reference for a number": (
        ["--gin=train.threads = @MLP"],
        ["train.threads", "expected int | None"],
    ),
    "unknown parameter": (["--gin=SAC.discout = 0.9"], ["discout", "discount"]),
    "unknown reference": (["--gin=SAC.actor = @Acter"], ["Acter", "Actor"]),
    "unbound macro": (["--gin=SAC.discount = %DISCOUN"], ["DISCOUN", "DISCOUNT"]),
    "syntax": (["--gin=SAC.discount 0.9"], ["SAC.discount 0.9"]),
    "string without quotes": (["--gin=DEVICE = cuda"], ["cuda is no value", "quotes"]),
    "open bracket": (["--gin=HIDDEN = (64, 64"], ["HIDDEN = (64, 64", "not closed"]),
    "string for a number": (["--gin=DISCOUNT = 'high'"], ["SAC.discount", "float", "high"]),
    "float for an integer": (["--gin=BATCH_SIZE = 8.0"], ["TaskReplay.batch_size", "int"]),
    "missing file": (["--gin_file=gin/must_m10.gin"], ["gin/must_m10.gin", "must_mt10.gin"]),
    "ratio of one": (["--gin=PRUNING_RATIO = 1.0"], ["pruning_ratio", "1.0"]),
    "negative ratio": (["--gin=PRUNING_RATIO = -0.1"], ["pruning_ratio", "-0.1"]),
    "batch and tasks": (["--gin=BATCH_SIZE = 7"], ["batch_size", "7", "8"]),
    "mixed batches for masks": (
        ["--gin=TaskReplay.stratified = False"],
        ["TaskReplay.stratified", "MaskedSAC"],
    ),
    "masks without trajectories": (
        ["--gin=OffPolicyLoop.trajectories = None"],
        ["MaskedSAC needs trajectories", "OffPolicyLoop.trajectories = @TrajectoryStore"],
    ),
    "too much memory": (["--gin=REPLAY_CAPACITY = 9999999999999"], ["memory"]),
    "unknown flag": (["--gin_flie=x"], ["gin_flie"]),
    "not a number": (["--seed=one"], ["seed"]),
    "stray word": (["gin/must_mt10.gin"], ["gin/must_mt10.gin"]),
    "no checkpoint": (["--resume=nowhere"], ["--resume=nowhere"]),
    "no threads": (["--gin=train.threads = 0"], ["train.threads", "at least 1", "got 0"]),
    "too many threads": (
        ["--gin=train.threads = 3000000000"],
        ["train.threads", "at most 1024", "got 3000000000"],
    ),
    "negative seed": (["--gin=Evaluator.seed = -1"], ["Evaluator.seed", "at least 0", "got -1"]),
    "seed that torch cannot take": (
        [f"--gin=Evaluator.seed = {2**63}"],
        ["Evaluator.seed", f"at most {2**63 - 1}", f"got {2**63}"],
    ),
    "class in place of an object": (
        ["--gin=train.evaluator = @Evaluator"],
        ["train.evaluator is Evaluator", "parentheses", "train.evaluator = @Evaluator()"],
    ),
    "number in place of an object": (
        ["--gin=train.suite = 3"],
        ["train.suite is 3", "train.suite = @Name()"],
    ),
    "a service of another kind": (
        ["--gin=train.progress = @Logger()"],
        ["train.progress: Logger has no 'update'", "a part that fits there"],
    ),
    "a service in place of an evaluator": (
        ["--gin=train.evaluator = @Checkpointer()"],
        ["train.evaluator: Checkpointer has no 'write_result'", "a part that fits there"],
    ),
    "a suite in place of an evaluator": (
        ["--gin=train.evaluator = @PointMassSuite()"],
        ["train.evaluator: PointMassSuite has no 'write_result'"],
    ),
    "an object in place of what makes the learner": (
        ["--gin=train.algorithm = @Evaluator()"],
        ["train.algorithm is an object of Evaluator", "without parentheses"],
    ),
    "an object in place of what makes the loop": (
        ["--gin=train.loop = @Evaluator()"],
        ["train.loop is an object of Evaluator", "without parentheses"],
    ),
    "a part within itself": (
        ["--gin=SAC.actor = @SAC()"],
        ["built of itself", "SAC.actor = @SAC"],
    ),
    "trajectories as a replay": (
        ["--gin=OffPolicyLoop.replay = @TrajectoryStore"],
        ["OffPolicyLoop.replay: TrajectoryStore", "bind it to @TaskReplay"],
    ),
    "contexts as a replay": (
        ["--gin=import buffers.context_replay", "--gin=OffPolicyLoop.replay = @ContextReplay"],
        ["OffPolicyLoop.replay: ContextReplay", "bind it to @TaskReplay"],
    ),
    "a replay as trajectories": (
        ["--gin=OffPolicyLoop.trajectories = @TaskReplay"],
        ["OffPolicyLoop.trajectories: TaskReplay", "bind it to @TrajectoryStore or None"],
    ),
    "object in place of a factory": (
        ["--gin=train.algorithm = @MaskedSAC()"],
        ["MaskedSAC", "'sizes'", "without parentheses: @MaskedSAC"],
    ),
    "bound that turns gradients round": (["--gin=SAC.max_norm = -1.0"], ["SAC.max_norm", "-1.0"]),
    "steps below zero": (["--gin=MaskedSAC.sl_steps = -1"], ["MaskedSAC.sl_steps", "-1"]),
    "generators that never learn": (
        ["--gin=MaskedSAC.rl_generator_lr = 0.0"],
        ["MaskedSAC.rl_generator_lr", "positive", "0.0"],
    ),
    "generators that turn round": (
        ["--gin=MaskedSAC.sl_generator_lr = -1.0"],
        ["MaskedSAC.sl_generator_lr", "positive", "-1.0"],
    ),
    "updates too seldom": (["--gin=UPDATES_PER_STEP = 1e-7"], ["updates_per_step", "1e-07"]),
    "masks frozen before the start": (
        ["--gin=MaskedSAC.freeze_after = -1"],
        ["MaskedSAC.freeze_after", "at least 0", "-1"],
    ),
    "device that nothing is made for": (
        ["--gin=DEVICE = 'mps'"],
        ["train.device", "'mps'", "'cpu'"],
    ),
    "device of the replay": (["--gin=TaskReplay.device = 'abc'"], ["TaskReplay", "abc"]),
    "width that overflows": (["--gin=MaskGenerator.hidden = 10000000000000000"], ["MaskGenerator"]),
    "macro of itself": (["--gin=DISCOUNT = %DISCOUNT"], ["%DISCOUNT stands for itself"]),
    "actor in place of a critic": (
        ["--gin=SAC.critic = @Actor"],
        ["SAC", "'Actor'", "no attribute", "bound to SAC"],
    ),
    "device of the replay that is not there": (
        ["--gin=TaskReplay.device = 'cuda:99'"],
        ["TaskReplay: no CUDA device: ", "bind DEVICE = 'cpu', or TaskReplay.device alone"],
    ),
    "no such device": (["--gin=DEVICE = 'tpu9'"], ["tpu9"]),
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    from envs.suite import Suite

    def refuse(*args, **kwargs):
        raise AssertionError("an environment was built")

    monkeypatch.setattr(Suite, "vector", refuse)


def one_line(capsys):
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


@pytest.mark.parametrize("case", BAD)
def test_exit_code_2_and_one_line(case, tmp_path, capsys, monkeypatch):
    arguments, words = BAD[case]
    monkeypatch.chdir(tmp_path)  # from any folder
    assert train.main(["train", POINT_MASS, f"--workdir={tmp_path}", *TINY, *arguments]) == 2
    line = one_line(capsys)
    for word in words:
        assert word in line


NAVIGATION = "--gin_file=gin/quick/cavia_navigation.gin"
CT_GRAPH = "--gin_file=gin/quick/cavia_ct_graph.gin"
POINT_ROBOT = "--gin_file=gin/quick/pearl_point_robot.gin"
POSTERIOR = "--gin_file=gin/runners/posterior_schedule.gin"
PEARL = "--gin_file=gin/algorithms/pearl.gin"
LATENT_MLP = "--gin_file=gin/networks/latent_mlp.gin"
META_LOOP = "--gin_file=gin/runners/meta_on_policy.gin"
CAVIA = "--gin_file=gin/algorithms/cavia.gin"
MTSAC = "--gin_file=gin/quick/mtsac_point_mass.gin"

FAMILIES = "--gin_file=gin/quick/tigr_point_robot.gin"
WINDOWS = "--gin_file=gin/runners/window_schedule.gin"

BAD_META = {
    "gates of another kind": (
        ["--gin_file=gin/quick/nm_cavia_navigation.gin", "--gin=GATE = 'firm'"],
        ["NeuromodulatedPolicy: gate must be one of", "'firm'"],
    ),
    "a context that no learner gives": (
        ["--gin_file=gin/quick/dendrites_point_mass.gin", "--gin=CONTEXT = 'prototype'"],
        ["SAC.actor", "TaskContext.source = 'prototype'", "bind 'one_hot'"],
    ),
    "classes that cannot share the tasks": (
        ["--gin_file=gin/nm_cavia_ml45.gin", "--gin=META_BATCH = 20"],
        ["MetaOnPolicyLoop.tasks_per_iteration", "META_BATCH", "multiple of the 45", "got 20"],
    ),
    "classes of the test split": (
        ["--gin_file=gin/nm_cavia_ml45.gin", "--gin=MetaEvaluator.num_tasks = 46"],
        ["MetaEvaluator.num_tasks", "multiple of the 45", "'train'", "got 46"],
    ),
    "no tasks": ([NAVIGATION, "--gin=META_BATCH = 0"], ["tasks", "at least 1", "got 0"]),
    "no test episodes": (
        [NAVIGATION, "--gin=TEST_EPISODES = 0"],
        ["MetaEvaluator.episodes", "at least 1", "got 0"],
    ),
    "context without an adapted one": (
        [NAVIGATION, "--gin=CAVIA.adapted = 'weights'"],
        ["CAVIA.adapted = 'weights'", "num_context = 0", "got 5"],
    ),
    "no context to adapt": (
        [NAVIGATION, "--gin=NUM_CONTEXT = 0"],
        ["CAVIA.adapted = 'context'", "num_context of at least 1", "got 0"],
    ),
    "continuous policy, discrete actions": (
        [CT_GRAPH, "--gin=ContextPolicy.distribution = 'gaussian'"],
        ["CAVIA.policy", "discrete", "ContextPolicy.distribution = 'categorical'"],
    ),
    "discrete policy, continuous actions": (
        [NAVIGATION, "--gin=ContextPolicy.distribution = 'categorical'"],
        ["CAVIA.policy", "continuous", "ContextPolicy.distribution = 'gaussian'"],
    ),
    "rounds and episodes": (
        [NAVIGATION, "--gin=EPISODES_AT_ONCE = 4", "--gin=TEST_EPISODES = 8"],
        ["MetaOnPolicyLoop.episodes_at_once", "episodes_per_task = 10", "4", "EPISODES_AT_ONCE"],
    ),
    "rounds and test episodes": (
        [NAVIGATION, "--gin=EPISODES_AT_ONCE = 5", "--gin=TEST_EPISODES = 8"],
        ["MetaEvaluator.episodes_at_once", "MetaEvaluator.episodes = 8", "5", "EPISODES_AT_ONCE"],
    ),
    "meta-learner in the off-policy loop": (
        [MTSAC, "--gin_file=gin/networks/context_policy.gin", CAVIA],
        ["OffPolicyLoop", "CAVIA", "gin/runners/meta_on_policy.gin"],
    ),
    "off-policy learner in the meta loop": (
        [MTSAC, META_LOOP],
        ["MetaOnPolicyLoop", "SAC", "gin/runners/off_policy.gin"],
    ),
    "evaluator of meta-learners": (
        [MTSAC, "--gin=train.evaluator = @MetaEvaluator()"],
        ["MetaEvaluator", "SAC", "train.evaluator = @Evaluator()"],
    ),
    "evaluator of other learners": (
        [NAVIGATION, "--gin=train.evaluator = @Evaluator()"],
        ["Evaluator", "CAVIA", "train.evaluator = @MetaEvaluator()"],
    ),
    "plain learner in the off-policy meta loop": (
        [MTSAC, POSTERIOR],
        ["MetaOffPolicyLoop", "SAC", "gin/runners/off_policy.gin"],
    ),
    "on-policy meta-learner in the off-policy meta loop": (
        [NAVIGATION, POSTERIOR],
        ["MetaOffPolicyLoop", "CAVIA", "gin/runners/meta_on_policy.gin"],
    ),
    "PEARL in the on-policy meta loop": (
        [POINT_ROBOT, META_LOOP],
        ["MetaOnPolicyLoop", "PEARL", "gin/runners/posterior_schedule.gin"],
    ),
    "PEARL in the off-policy loop": (
        [MTSAC, LATENT_MLP, PEARL],
        ["OffPolicyLoop", "PEARL", "gin/runners/posterior_schedule.gin"],
    ),
    "PEARL before CAVIA's evaluator": (
        [POINT_ROBOT, "--gin=train.evaluator = @MetaEvaluator()"],
        ["MetaEvaluator", "PEARL", "train.evaluator = @PosteriorEvaluator()"],
    ),
    "CAVIA before PEARL's evaluator": (
        [POSTERIOR, NAVIGATION, "--gin=train.evaluator = @PosteriorEvaluator()"],
        ["PosteriorEvaluator", "CAVIA", "train.evaluator = @MetaEvaluator()"],
    ),
    "a latent for networks that are told the task": (
        [MTSAC, "--gin=Critic.task_key = 'latent'"],
        ["SAC.critic", "'latent'", "'task_id'", "PEARL"],
    ),
    "MUST with networks that read a latent": (
        ["--gin_file=gin/quick/must_point_mass.gin", "--gin=Actor.task_key = 'latent'"],
        ["SAC.actor", "'latent'", "'task_id'"],
    ),
    "PEARL without a latent for its networks": (
        [POINT_ROBOT, "--gin=Actor.task_key = 'task_id'"],
        ["PEARL.actor", "task_id", "gin/networks/latent_mlp.gin"],
    ),
    "PEARL with another replay": (
        [
            POINT_ROBOT,
            "--gin=import buffers.task_replay",
            "--gin=PosteriorSchedule.replay = @TaskReplay",
        ],
        ["PosteriorSchedule.replay", "TaskReplay", "@ContextReplay"],
    ),
    "PEARL with a replay too small": (
        [POINT_ROBOT, "--gin=REPLAY_CAPACITY = 400"],
        ["ContextReplay.capacity", "10 transitions", "set it to 3160"],
    ),
    "sparse rewards where there are none": (
        [POINT_ROBOT, "--gin=SPARSE = True"],
        ["sparse_context", "point-robot", "False"],
    ),
    "PEARL, discrete actions": (
        [POINT_ROBOT, "--gin_file=gin/envs/ct_graph_d2.gin"],
        ["MetaOffPolicyLoop", "ct-graph-d2", "discrete", "gin/runners/meta_on_policy.gin"],
    ),
    "nothing for contexts to come from": (
        [POINT_ROBOT, "--gin=PRIOR_STEPS = 0", "--gin=POSTERIOR_STEPS = 0"],
        ["PosteriorSchedule.prior_steps", "posterior_steps"],
    ),
    "TIGR in the on-policy meta loop": (
        [FAMILIES, META_LOOP],
        ["MetaOnPolicyLoop", "TIGR", "gin/runners/window_schedule.gin"],
    ),
    "TIGR under PEARL's schedule": (
        [FAMILIES, POSTERIOR],
        ["PosteriorSchedule", "TIGR", "gin/runners/window_schedule.gin"],
    ),
    "PEARL under TIGR's schedule": (
        [POINT_ROBOT, WINDOWS],
        ["WindowSchedule", "PEARL", "gin/runners/posterior_schedule.gin"],
    ),
    "TIGR before PEARL's evaluator": (
        [POSTERIOR, FAMILIES, "--gin=train.evaluator = @PosteriorEvaluator()"],
        ["PosteriorEvaluator", "TIGR", "train.evaluator = @WindowEvaluator()"],
    ),
    "PEARL before TIGR's evaluator": (
        [WINDOWS, POINT_ROBOT, "--gin=train.evaluator = @WindowEvaluator()"],
        ["WindowEvaluator", "PEARL", "train.evaluator = @PosteriorEvaluator()"],
    ),
    "TIGR without a latent for its networks": (
        [FAMILIES, "--gin=Critic.task_key = 'task_id'"],
        ["LatentSAC.critic", "task_id", "gin/networks/latent_mlp.gin"],
    ),
    "TIGR with another replay": (
        [FAMILIES, "--gin=import buffers.task_replay", "--gin=WindowSchedule.replay = @TaskReplay"],
        ["WindowSchedule.replay", "TaskReplay", "@WindowReplay"],
    ),
    "TIGR with a replay too small": (
        [FAMILIES, "--gin=REPLAY_CAPACITY = 400"],
        ["WindowSchedule.replay", "400 transitions", "bring 800", "REPLAY_CAPACITY"],
    ),
    "TIGR with more families than components": (
        [FAMILIES, "--gin=NUM_COMPONENTS = 1"],
        ["TIGR.label_weight", "2 families", "NUM_COMPONENTS", "LABEL_WEIGHT"],
    ),
    "an encoder with a layer of nothing": (
        [POINT_ROBOT, "--gin=ENCODER_HIDDEN = (8, -1)"],
        ["SetEncoder: hidden", "each at least 1", "(8, -1)"],
    ),
    "TIGR with labels that are not kept": (
        [FAMILIES, "--gin=WindowReplay.labelled = False"],
        ["WindowReplay.labelled", "TIGR learns from labels", "LABEL_WEIGHT to 0"],
    ),
    "an encoder without end": (
        [FAMILIES, "--gin=GRUMixtureEncoder.complexity = 1e400"],
        ["GRUMixtureEncoder: complexity", "got inf"],
    ),
    "a decoder without end": (
        [FAMILIES, "--gin=TransitionDecoder.state_hidden = (1.0, 1e400)"],
        ["TransitionDecoder: state_hidden", "positive and finite", "inf"],
    ),
    "a number predicted twice": (
        [FAMILIES, "--gin=TransitionDecoder.reconstructed = (0, 0)"],
        ["TransitionDecoder: reconstructed", "each once", "(0, 0)"],
    ),
    "an endless target of the entropy": (
        [FAMILIES, "--gin=LatentSAC.target_entropy_factor = -1e400"],
        ["LatentSAC.target_entropy_factor", "finite", "-inf"],
    ),
    "a seed of goals that numpy does not take": (
        [FAMILIES, "--gin=GOAL_SEED = 4294967296"],
        ["PointRobotSuite: goal_seed", "at most 4294967295"],
    ),
    "a negative seed of windows": (
        [FAMILIES, "--gin=WindowReplay.seed = -1"],
        ["WindowReplay.seed is -1", "at least 0"],
    ),
    "a class for the evaluator's suite": (
        [FAMILIES, "--gin=WindowEvaluator.suite = @PointRobotSuite"],
        ["WindowEvaluator.suite is the class PointRobotSuite", "@PointRobotSuite()"],
    ),
    "a name for the evaluator's suite": (
        [FAMILIES, "--gin=WindowEvaluator.suite = 'PointRobotSuite'"],
        ["WindowEvaluator.suite is 'PointRobotSuite', no suite", "@Name()"],
    ),
    "no goals for PEARL's evaluator": (
        ["--gin_file=gin/quick/pearl_point_robot.gin", "--gin=PosteriorEvaluator.test_goals = 0"],
        ["PosteriorEvaluator.test_goals", "at least 1", "got 0"],
    ),
    "a class for a change of task": (
        [
            "--gin_file=gin/papers/cemrl/cheetah_changing_direction.gin",
            "--gin=RobotSuite.change = @LocationChange",
        ],
        ["RobotSuite.change", "envs.changes.Change", "write @LocationChange()"],
    ),
    "patience of a learner that keeps no best encoder": (
        [FAMILIES, "--gin=PATIENCE = 100"],
        ["WindowSchedule.patience", "TIGR", "PATIENCE to None"],
    ),
    "negative seed of CAVIA's evaluator": (
        [NAVIGATION, "--gin=MetaEvaluator.seed = -1"],
        ["MetaEvaluator.seed", "at least 0", "got -1"],
    ),
    "negative seed of TIGR's evaluator": (
        [FAMILIES, "--gin=WindowEvaluator.seed = -1"],
        ["WindowEvaluator.seed", "at least 0", "got -1"],
    ),
    "separation without a gradient": (
        [FAMILIES, "--gin=TIGR.separation_bound = 0.0"],
        ["TIGR.separation_bound", "positive", "0.0"],
    ),
    "PEARL with TIGR's encoder": (
        [
            POINT_ROBOT,
            "--gin=import networks.gru_mixture",
            "--gin=PEARL.encoder = @GRUMixtureEncoder",
        ],
        ["PEARL.encoder", "GRUMixtureEncoder", "@SetEncoder"],
    ),
    "TIGR with PEARL's encoder": (
        [
            FAMILIES,
            "--gin=import networks.set_encoder",
            "--gin=WindowLearner.encoder = @SetEncoder",
        ],
        ["WindowLearner.encoder", "SetEncoder", "windows"],
    ),
    "off-policy learner, discrete actions": (
        [MTSAC, "--gin_file=gin/envs/ct_graph_d2.gin"],
        ["OffPolicyLoop", "ct-graph-d2", "discrete", "gin/runners/meta_on_policy.gin"],
    ),
}


@pytest.mark.parametrize("case", BAD_META)
def test_exit_code_2_and_one_line_of_meta_learning(case, tmp_path, capsys, monkeypatch):
    arguments, words = BAD_META[case]
    monkeypatch.chdir(tmp_path)
    assert train.main(["train", f"--workdir={tmp_path}", *arguments]) == 2
    line = one_line(capsys)
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())


def test_an_object_in_place_of_a_factory(tmp_path, capsys):
    arguments = [NAVIGATION, "--gin=CAVIA.trust_region = @TrustRegion()"]
    assert train.main(["train", f"--workdir={tmp_path}", *arguments]) == 2
    line = one_line(capsys)
    assert line.startswith("error: CAVIA.trust_region = @TrustRegion(): got")
    assert "expected" in line and line.endswith("or write @TrustRegion")  # no parentheses
    assert not list(tmp_path.iterdir())


def test_unknown_task(tmp_path, capsys):
    arguments = ["--gin_file=gin/mtsac_mt10.gin", "--gin=MetaWorldSuite.benchmark = ['rech-v3']"]
    assert train.main(["train", f"--workdir={tmp_path}", *arguments]) == 2
    line = one_line(capsys)
    assert "rech-v3" in line and "reach-v3" in line


def test_no_gin_file(capsys):
    assert train.main(["train"]) == 2
    assert "--gin_file" in one_line(capsys)


def test_missing_part(tmp_path, capsys):
    arguments = ["--gin_file=gin/envs/point_mass.gin", f"--workdir={tmp_path}"]
    assert train.main(["train", *arguments]) == 2
    assert "algorithm" in one_line(capsys)


def test_include_that_is_missing(tmp_path, capsys):
    (tmp_path / "mine.gin").write_text("\ninclude 'gin/envs/mt11.gin'\n")
    assert train.main(["train", f"--gin_file={tmp_path / 'mine.gin'}"]) == 2
    line = one_line(capsys)
    assert "mine.gin line 2" in line and "mt11.gin" in line


def test_files_that_include_each_other(tmp_path, capsys):
    one, other = tmp_path / "one.gin", tmp_path / "other.gin"
    one.write_text(f"include '{other}'\n")
    other.write_text(f"\ninclude '{one}'\n")
    assert train.main(["train", f"--gin_file={one}"]) == 2
    line = one_line(capsys)
    assert "other.gin line 2" in line and "includes itself" in line


def test_file_that_is_no_text(tmp_path, capsys):
    (tmp_path / "mine.gin").write_bytes(b"\xff\xfe\x00")
    assert train.main(["train", f"--gin_file={tmp_path / 'mine.gin'}"]) == 2
    line = one_line(capsys)
    assert "--gin_file" in line and "mine.gin" in line and "no readable text" in line


def test_a_byte_order_mark_is_told_of(tmp_path, capsys):
    text = f"include '{ROOT / 'gin/quick/mtsac_point_mass.gin'}'\n"
    (tmp_path / "mine.gin").write_text(text, encoding="utf-8-sig")
    assert train.main(["train", f"--gin_file={tmp_path / 'mine.gin'}"]) == 2
    line = one_line(capsys)
    assert "--gin_file" in line and "mine.gin" in line and "byte order mark" in line


@pytest.mark.parametrize(
    ("name", "words"), [("a\\0b", "holds no NUL"), ("a\\udcff", "is no UTF-8")]
)
def test_names_that_no_file_can_have(name, words, tmp_path, capsys):
    flags = [POINT_MASS, f"--workdir={tmp_path}", f"--gin=train.experiment = '{name}'", *TINY]
    assert train.main(["train", *flags]) == 2
    line = one_line(capsys)
    assert "--workdir" in line and "train.experiment" in line and words in line
    assert not list(tmp_path.iterdir())


def test_file_in_place_of_a_folder(tmp_path, capsys):
    (tmp_path / "runs").write_text("")
    assert train.main(["train", POINT_MASS, f"--workdir={tmp_path / 'runs'}", *TINY]) == 2
    line = one_line(capsys)
    assert "--workdir" in line and f"{tmp_path / 'runs'} is no folder" in line


def test_folder_that_may_not_be_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert train.main(["train", POINT_MASS, f"--workdir={tmp_path}", *TINY]) == 2
    line = one_line(capsys)
    assert "--workdir" in line and "may not be written" in line


def forbid(monkeypatch, method, *names):
    """As if files and folders of these names were another user's; root may read everything."""
    allowed = getattr(Path, method)

    def refuse(path, *arguments, **options):
        if path.name in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return allowed(path, *arguments, **options)

    monkeypatch.setattr(Path, method, refuse)


def test_gin_file_in_a_place_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    forbid(monkeypatch, "is_file", "mine.gin")
    assert train.main(["train", f"--gin_file={tmp_path / 'mine.gin'}"]) == 2
    line = one_line(capsys)
    assert f"--gin_file: {tmp_path / 'mine.gin'}: Permission denied" in line


@pytest.mark.parametrize(
    "method, name", [("iterdir", "seed_0"), ("iterdir", "checkpoints"), ("open", "metrics.jsonl")]
)
def test_run_that_may_not_be_read(method, name, tmp_path, capsys, monkeypatch):
    run = RunFolder(tmp_path, "one", 0)
    run.checkpoints.mkdir(parents=True)
    (run.path / "config.gin").write_text("")
    (run.path / "metrics.jsonl").write_text("")
    run.check("", "auto")
    forbid(monkeypatch, method, name)
    with pytest.raises(config.ConfigError, match=f"^--workdir: .*{name}: Permission denied; see"):
        run.check("", "auto")
    if name == "checkpoints":
        other = RunFolder(tmp_path, "other", 0)
        with pytest.raises(config.ConfigError, match="^--resume=.*checkpoints: Permission denied"):
            other.source(str(run.path))


def test_name_that_is_too_long(tmp_path, capsys):
    name = f"--gin=train.experiment = '{'x' * 300}'"
    for arguments in (
        [str(tmp_path)],
        [str(tmp_path / "new")],
        [str(tmp_path / "new"), "--dry_run"],
    ):
        workdir, *rest = arguments
        assert train.main(["train", POINT_MASS, f"--workdir={workdir}", *TINY, name, *rest]) == 2
        line = one_line(capsys)
        assert "--workdir" in line and "too long" in line and "train.experiment" in line


def test_too_little_disk(tmp_path, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10, 10))
    assert train.main(["train", POINT_MASS, f"--workdir={tmp_path}", *TINY]) == 2
    assert "disk" in one_line(capsys)


def test_needs_are_those_of_the_checkpointer():
    learner, loop = nn.Linear(3, 2), SimpleNamespace(replay=SimpleNamespace(nbytes=1000))
    few = preflight.needs(learner, loop, Checkpointer(keep=1))
    many = preflight.needs(learner, loop, Checkpointer(keep=3, exclude_buffer=True))
    assert few.checkpoint == many.checkpoint + 1000 > 1000
    for wanted, written in ((few, 2), (many, 4)):
        assert wanted.disk == written * wanted.checkpoint + preflight.LOG_BYTES


def test_room_for_the_checkpoint_that_is_being_written(tmp_path, monkeypatch):
    """An older one goes only when the new one is whole."""
    wanted = preflight.Needs(4 * 2**20, 0, "cpu", "cpu", buffer_saved=True, kept=2)
    room = 2 * wanted.checkpoint + preflight.LOG_BYTES
    monkeypatch.setattr(preflight, "free_disk", lambda folder: room)
    with pytest.raises(config.ConfigError, match="3 checkpoints"):
        preflight.check(wanted, tmp_path)
    preflight.check(wanted, tmp_path, on_disk=wanted.checkpoint)


def test_too_little_memory(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preflight, "free_memory", lambda: 10**5)
    assert train.main(["train", POINT_MASS, f"--workdir={tmp_path}", *TINY]) == 2
    assert "memory" in one_line(capsys)


def test_folder_of_another_configuration(tmp_path, capsys):
    folder = tmp_path / "must_point_mass" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "config.gin").write_text("SAC.discount = 0.5\n")
    assert train.main(["train", POINT_MASS, f"--workdir={tmp_path}", *TINY, "--seed=0"]) == 2
    line = one_line(capsys)
    assert "another configuration" in line and "--workdir" in line
    assert (folder / "config.gin").read_text() == "SAC.discount = 0.5\n"


def test_never_resume_into_a_run(tmp_path, capsys):
    folder = tmp_path / "must_point_mass" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "config.gin").write_text("")
    flags = [f"--workdir={tmp_path}", "--seed=0", "--resume=never"]
    for dry in ([], ["--dry_run"]):
        assert train.main(["train", POINT_MASS, *TINY, *flags, *dry]) == 2
        assert "--resume=never" in one_line(capsys)


def test_folder_that_is_no_run(tmp_path, capsys):
    folder = tmp_path / "must_point_mass" / "seed_0"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("")
    assert train.main(["train", POINT_MASS, *TINY, f"--workdir={tmp_path}"]) == 2
    assert "holds no run" in one_line(capsys)


def command(*arguments):
    return [sys.executable, "-m", "runners.train", *arguments]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_one_line_from_a_real_process(tmp_path):
    done = subprocess.run(
        command(POINT_MASS, "--gin=SAC.discout = 0.9"),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("ending", ["ctrl-c", "pipe"])
def test_ends_that_are_no_faults_have_no_traceback(ending, tmp_path):
    said = "raise KeyboardInterrupt" if ending == "ctrl-c" else "print('x' * 10**6)"
    code = (
        "import sys; from runners.command_line import run_program\n"
        f"def main(argv): {said}; return 0\n"
        "sys.exit(run_program(main))"
    )
    done = subprocess.run(
        f'{sys.executable} -c "{code}" | true; exit ${{PIPESTATUS[0]}}',
        shell=True,
        executable="bash",
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == (75 if ending == "ctrl-c" else 1), done.stderr
    assert len(done.stderr.splitlines()) == (1 if ending == "ctrl-c" else 0), done.stderr


def test_a_signal_after_the_last_word_does_not_change_the_exit_code():
    code = (
        "import atexit, sys, time; from runners.command_line import run_program\n"
        "atexit.register(lambda: print('ending', flush=True) or time.sleep(1))\n"
        "sys.exit(run_program(lambda argv: 75))"
    )
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment()
        )
        assert process.stdout.readline() == "ending\n"
        process.send_signal(number)
        assert process.wait(20) == 75
        process.stdout.close()


def test_warnings_reach_standard_error():
    code = (
        "import logging, sys; from runners.command_line import run_program\n"
        "log = logging.getLogger('absl'); log.addHandler(logging.NullHandler())\n"
        "def main(argv): log.warning('%s is damaged', 'one'); return 0\n"
        "sys.exit(run_program(main))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "warning: one is damaged\n")


def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path):
    lines = [POINT_MASS, *TINY, "--gin=Progress.interval = 1e-9", "--gin=train.evaluator = None"]
    process = subprocess.Popen(
        command(*lines, f"--workdir={tmp_path}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert "of 80 steps" in process.stdout.readline()
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait(120) == 0, told
    process.stderr.close()
    (status,) = tmp_path.glob("*/*/status.json")
    assert json.loads(status.read_text())["state"] == "DONE"


IMPORTED = {
    "slow": "print('begun', flush=True)\ntime.sleep(60)\n",
    # Code that catches everything would train on, where nobody asks for the exception.
    "greedy": "try:\n print('begun', flush=True)\n time.sleep(60)\nexcept BaseException:\n pass\n",
}


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("part", IMPORTED)
def test_a_request_to_stop_while_it_imports(part, number, tmp_path):
    (tmp_path / "a_part.py").write_text(f"import time\n{IMPORTED[part]}")
    process = subprocess.Popen(
        command(POINT_MASS, *TINY, "--gin=import a_part", f"--workdir={tmp_path}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # ignored in background
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert err == "interrupted\n"


def test_a_closed_output_is_no_fault(tmp_path):
    program = [*command(POINT_MASS, *TINY, f"--workdir={tmp_path}")]
    closed = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *program], stderr=subprocess.PIPE, text=True,
        env=environment(), cwd=ROOT, check=False,
    )  # fmt: skip
    assert closed.returncode == 0 and "Traceback" not in closed.stderr


class TestGoodInput:
    """With environments."""

    @pytest.fixture(autouse=True)
    def no_environment(self):
        """Let them be built."""

    def test_unread_binding_is_reported(self, tmp_path, caplog):
        arguments = [f"--workdir={tmp_path}", "--gin=GRUMBLE = 3", "--gin=x/SAC.discount = 0.1"]
        assert train.main(["train", POINT_MASS, *TINY, *arguments]) == 0
        for name in ("GRUMBLE", "x/SAC.discount"):
            assert f"{name} is bound but nothing reads it" in caplog.text

    def test_a_folder_that_is_removed_during_its_run(self, tmp_path, monkeypatch, capsys):
        evaluate = Evaluator.__call__

        def vandalise(*arguments):
            shutil.rmtree(tmp_path)
            return evaluate(*arguments)

        monkeypatch.setattr(Evaluator, "__call__", vandalise)
        assert train.main(["train", POINT_MASS, *TINY, f"--workdir={tmp_path}"]) == 2
        assert "was removed while this run was writing there" in capsys.readouterr().err
        assert not tmp_path.exists()

    def test_parts_that_only_masks_need_are_reported(self, tmp_path, caplog, recwarn):
        flags = ["--gin_file=gin/networks/mlp.gin", "--gin_file=gin/algorithms/sac.gin", *TINY]
        assert train.main(["train", POINT_MASS, *flags, f"--workdir={tmp_path / 'swapped'}"]) == 0
        assert not any("trajectories" in str(warning.message) for warning in recwarn)
        flags += ["--gin=OffPolicyLoop.trajectories = @TrajectoryStore"]
        flags += ["--gin=train.commit_evaluator = @commit/Evaluator()"]
        flags += ["--gin=commit/Evaluator.num_goals = 1"]
        with pytest.warns(UserWarning, match="OffPolicyLoop.trajectories keeps what SAC does not"):
            assert train.main(["train", POINT_MASS, *flags, f"--workdir={tmp_path}"]) == 0
        assert "train.commit_evaluator evaluates around new masks, and SAC has none" in caplog.text

    def test_a_run_too_short_for_an_update_is_reported(self, tmp_path, caplog, capsys):
        steps = ["--gin=WARMUP_STEPS = 25", "--gin=STEPS_PER_ITERATION = 10"]
        for total, says in ((68, "is 68, and the first update comes after 70 steps"), (70, "")):
            caplog.clear()
            flags = [*TINY, *steps, f"--gin=TOTAL_STEPS = {total}", f"--workdir={tmp_path / says}"]
            assert train.main(["train", POINT_MASS, *flags]) == 0
            assert says in caplog.text and ("nothing will be learnt" in caplog.text) == bool(says)
            assert (" 10 updates," in capsys.readouterr().out) != bool(says)

    def test_a_small_run(self, tmp_path, caplog):
        flags = ["train", POINT_MASS, *TINY, f"--workdir={tmp_path}", "--seed=3"]
        assert train.main(flags) == 0
        assert "nothing reads it" not in caplog.text
        folder = tmp_path / "must_point_mass" / "seed_3"
        for name in ("config.gin", "operative.gin", "metrics.jsonl", "log.txt", "eval/80.json"):
            assert (folder / name).is_file(), name
        assert json.loads((folder / "status.json").read_text())["state"] == "DONE"
        run = json.loads((folder / "run.json").read_text())
        assert run["seed"] == 3 and run["protocol"]["suite"] == "point mass"
        assert {"argv", "host", "git_commit", "versions"} <= run["starts"][0].keys()
        text = (folder / "config.gin").read_text()
        assert "SEED = 3" in text and "train.seed = %SEED" in text
        assert train.main(flags) == 0  # done already: nothing happens
        repeat = [f"--gin_file={folder / 'operative.gin'}", f"--workdir={tmp_path / 'again'}"]
        assert train.main(["train", *repeat]) == 0

    def test_what_is_left_of_a_run_is_not_lost(self, tmp_path, capsys):
        flags = ["train", POINT_MASS, *TINY, f"--workdir={tmp_path}", "--seed=3"]
        assert train.main(flags) == 0
        folder = tmp_path / "must_point_mass" / "seed_3"
        metrics = (folder / "metrics.jsonl").read_bytes()
        capsys.readouterr()
        for manifest in folder.glob("checkpoints/step_*/manifest.json"):
            manifest.write_text("")
        assert train.main(flags) == 2
        line = one_line(capsys)
        assert "--workdir" in line and "no whole checkpoint" in line and "manifest.json" in line
        shutil.rmtree(folder / "checkpoints")
        assert train.main(flags) == 2
        line = one_line(capsys)
        assert "is DONE" in line and "checkpoints are gone" in line
        assert (folder / "metrics.jsonl").read_bytes() == metrics
        (folder / "config.gin").write_bytes(b"\xff\xfe")
        (folder / "status.json").unlink()
        assert train.main(flags) == 2
        assert "config.gin cannot be read" in one_line(capsys)

    @pytest.mark.parametrize("file", [POINT_MASS, CT_GRAPH, POINT_ROBOT])
    def test_dry_run(self, file, tmp_path, capsys):
        assert train.main(["train", file, f"--workdir={tmp_path}", "--dry_run"]) == 0
        assert "all parts work" in capsys.readouterr().out
        assert not list(tmp_path.iterdir())
