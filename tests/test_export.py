"""Exported policies: the same actions as the run's, from the folder alone; damage is said."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import gin
import numpy as np
import pytest
import torch
from gin import config as gin_config
from tensordict import TensorDict

from runners import config, evaluate, export, policy_card, train, training
from runners.checkpoint_files import steps_in
from runners.exporting import export as export_run
from runners.isolation import learner_config
from runners.manifest import DamagedError
from runners.policy import MetaPolicy, load_policy
from runners.policy_file import export_policy, read_card
from runners.rollouts import Rollouts
from runners.saved_run import SavedRun

ROOT = Path(__file__).resolve().parents[1]
NORMALISED = ["import algorithms.normalization", "SAC.normalizer = @ObservationNormalizer"]
LEARNERS = {
    "SAC": ("gin/quick/mtsac_point_mass.gin", NORMALISED),
    "MaskedSAC": ("gin/quick/must_point_mass.gin", ["MaskedSAC.initial_masks = 'random'"]),
    "EncoderSAC": ("gin/quick/care_point_mass.gin", []),
    "dendrites": ("gin/quick/dendrites_point_mass.gin", []),
    "Soft Modularization": ("gin/quick/softmod_point_mass.gin", []),
}
META = {
    "CAVIA": "gin/quick/cavia_navigation.gin",
    "neuromodulated CAVIA": "gin/quick/nm_cavia_navigation.gin",
    "MAML": "gin/papers/nm_cavia/ctd2_maml.gin",
}


def built(file, bindings=()):
    """Suite and learner of a gin file, every tensor of the learner changed a little."""
    config.parse([file], bindings)
    parts = gin.get_bindings(training.train)
    learner = parts["algorithm"](parts["suite"].spec)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        normalizer = getattr(learner, "normalizer", None)
        if normalizer is not None:
            seen = 2.0 * torch.randn(50, parts["suite"].spec.observation_dim) + 1.0
            normalizer.observe(seen, torch.ones(50, 1, dtype=torch.bool))
    return parts["suite"], learner.eval()


def exported(file, folder, bindings=()):
    suite, learner = built(file, bindings)
    about = policy_card.facts(config.config_text(), suite, folder, 7)
    export_policy(folder, learner, 7, **about)
    return suite, learner


@pytest.mark.parametrize("name", LEARNERS)
def test_the_exported_policy_acts_as_the_learner_bit_for_bit(name, tmp_path):
    suite, learner = exported(LEARNERS[name][0], tmp_path / "policy", LEARNERS[name][1])
    policy = load_policy(tmp_path / "policy")
    rows = 40
    task = torch.arange(rows) % suite.spec.num_tasks
    observation = 3.0 * torch.randn(rows, suite.spec.observation_dim)
    for explore in (False, True):
        torch.manual_seed(3)
        td = TensorDict({"observation": observation, "task_id": task}, [rows])
        wanted = learner.act(td, explore)["action"]
        torch.manual_seed(3)
        found = policy(observation, task, explore=explore)
        assert torch.equal(wanted, found)
    names = [suite.tasks()[i].name for i in task.tolist()]
    as_array = policy(observation.numpy(), names)
    assert isinstance(as_array, np.ndarray)
    assert np.array_equal(as_array, policy(observation, task).numpy())
    one = policy(observation[0], names[0])
    assert one.shape == (suite.spec.action_dim,)
    assert torch.allclose(one, policy(observation, task)[0], atol=1e-6)
    assert not any(parameter.requires_grad for parameter in policy.parameters())


@pytest.mark.parametrize("name", META)
def test_the_exported_meta_policy_acts_and_adapts_as_the_learner(name, tmp_path):
    suite, learner = exported(META[name], tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    assert isinstance(policy, MetaPolicy)
    tasks = suite.sample(3, "train", np.random.default_rng(0))
    made = []
    for one in (learner, policy):
        torch.manual_seed(5)
        rollouts = Rollouts(suite, 3, 4, seed=1)
        prior = one.prior(3)
        experience = rollouts.collect(one, tasks, prior["latent"])
        latent = one.adapt(experience, prior)
        after = rollouts.collect(one, tasks, latent["latent"])
        rollouts.close()
        made.append((prior, experience, latent, after))
    for wanted, found in zip(*made, strict=True):
        assert (wanted == found).all()
    assert not torch.equal(made[0][0]["latent"], made[0][2]["latent"])
    observation = made[0][1]["observation"][:, :, 0]
    td = TensorDict({"observation": observation, "latent": latent["latent"][:, None]}, [3])
    assert torch.equal(policy(observation, latent), learner.act(td, False)["action"])
    assert torch.equal(policy(observation)[0], policy(observation[0]))
    assert policy(observation[0, 0]).shape == policy(observation).shape[2:]


def test_loading_leaves_gin_and_the_random_streams_alone(tmp_path):
    exported("gin/quick/must_point_mass.gin", tmp_path / "policy")
    config.parse(["gin/quick/mtsac_point_mass.gin"], ["HIDDEN = (3, 3)"])
    before = {
        "text": gin.config_str(),
        "operative": gin.operative_config_str(),
        "locked": gin.config_is_locked(),
        "singletons": dict(vars(gin_config)["_SINGLETONS"]),
    }
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
    )
    policy = load_policy(tmp_path / "policy")
    assert type(policy.learner).__name__ == "MaskedSAC"
    assert policy.learner.actor.trunk.linears()[0].weight.shape[0] != 3  # not the process's HIDDEN
    assert before == {
        "text": gin.config_str(),
        "operative": gin.operative_config_str(),
        "locked": gin.config_is_locked(),
        "singletons": dict(vars(gin_config)["_SINGLETONS"]),
    }
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert python_state == random.getstate()


def test_loading_needs_no_simulator_and_no_configuration(tmp_path):
    """Three lines in a new process; neither Meta-World nor MuJoCo is imported."""
    exported("gin/quick/mtsac_two_tasks.gin", tmp_path / "policy")
    program = (
        "import sys\n"
        "from runners.policy import load_policy\n"
        f"policy = load_policy({str(tmp_path / 'policy')!r})\n"
        "action = policy([0.1] * 39, 'drawer-close-v3')\n"
        "assert action.shape == (4,)\n"
        "simulators = [name for name in ('metaworld', 'mujoco', 'envs.meta_world')]\n"
        "print([name for name in simulators if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_suite_of_the_users_own_is_not_needed_to_load(tmp_path, monkeypatch):
    (tmp_path / "my_own_suite.py").write_text(
        "import gin\nfrom envs.point_mass import PointMassSuite\n\n"
        "@gin.configurable\nclass MySuite(PointMassSuite):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    lines = ["import my_own_suite", "train.suite = @MySuite()", "MySuite.horizon = 5"]
    config.parse(["gin/quick/mtsac_point_mass.gin"], lines)
    name, text = learner_config(config.config_text())
    assert name == "SAC" and "my_own_suite" not in text and "MySuite" not in text
    assert "HIDDEN" in text and "SAC.critic = @Critic" in text and "import networks.mlp" in text
    assert "envs" not in text and "REPLAY_CAPACITY" not in text


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["TOTAL_STEPS = 200", "WARMUP_STEPS = 20", "BATCH_SIZE = 8", "HIDDEN = (8, 8)"]
    flags += ["Evaluator.num_goals = 3", "EVALUATION_INTERVAL = 100", "Logger.tensorboard = False"]
    flags += ["Checkpointer.steps = 100"]
    given = [f"--gin={flag}" for flag in flags]
    file = "--gin_file=gin/quick/mtsac_point_mass.gin"
    assert train.main(["train", file, f"--workdir={folder}", "--seed=4", *given]) == 0
    return folder / "mtsac_point_mass" / "seed_4"


def call(*arguments):
    return export.main(["export", *map(str, arguments)])


def test_a_finished_run_and_the_verb_write_the_same_policy(run, tmp_path, capsys):
    assert call(run, f"--to={tmp_path / 'out'}") == 0
    assert str(tmp_path / "out" / "policy.json") in capsys.readouterr().out
    for name in ("policy.json", "policy.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (run / "policy" / name).read_bytes()
    card = read_card(run / "policy")
    assert (card["step"], card["seed"], card["suite"]) == (200, 4, "point-mass-2")
    assert card["success"]["step"] == 200 and set(card["success"]["tasks"]) == {"turn-0", "turn-1"}
    assert card["protocol"]["horizon"] == 30 and "torch" in card["versions"]
    assert any(line.startswith("SAC.actor") for line in card["config"])


def test_another_checkpoint_has_a_folder_of_its_own(run, capsys):
    step = steps_in(run / "checkpoints")[0]
    assert step < 200 and call(run, f"--checkpoint={step}") == 0
    assert read_card(run / f"policy_{step}")["step"] == step
    assert call(run, "--checkpoint=best") == 0
    assert (run / "policy_best" / "policy.safetensors").is_file()


def test_the_loaded_policy_acts_as_the_run(run):
    learner = SavedRun(run).learner.eval()
    policy = load_policy(run / "policy")
    observation, task = torch.randn(20, 6), torch.arange(20) % 2
    td = TensorDict({"observation": observation, "task_id": task}, [20])
    assert torch.equal(learner.act(td, False)["action"], policy(observation, task))


def test_evaluate_takes_the_exported_folder(run, tmp_path, capsys):
    shutil.copytree(run / "policy", tmp_path / "shared")
    assert evaluate.main(["evaluate", str(run)]) == 0
    wanted = capsys.readouterr().out
    assert evaluate.main(["evaluate", str(tmp_path / "shared")]) == 0
    assert capsys.readouterr().out == wanted
    one, other = (
        json.loads((folder / "eval" / "evaluate_200_seed_0.json").read_text())
        for folder in (run, tmp_path / "shared")
    )
    assert one == other


def one_line(capsys, *words):
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith("error: "), error
    for word in words:
        assert word in error


def test_wrong_input_is_one_line_and_2(run, tmp_path, capsys):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for arguments, words in [
        ((), ["one run folder"]),
        ((tmp_path / "nothing",), ["no config.gin", "seed_<n>"]),
        ((tmp_path / "empty",), ["no config.gin"]),
        ((tmp_path / "foreign",), ["no config.gin"]),
        ((run, "--checkpoint=7"), ["there are:"]),
        ((run, f"--to={tmp_path / 'foreign'}"), ["thesis.tex", "new folder"]),
        ((run, f"--to={tmp_path / 'file'}"), ["is a file"]),
        ((run, f"--to={tmp_path / 'file' / 'a'}"), ["--to=", "Not a directory", "another folder"]),
        ((run / "policy",), ["exported policy already"]),
        ((run, "--format=onnx"), ["format"]),
    ]:
        assert call(*arguments) == 2, arguments
        one_line(capsys, *words)


def test_damage_is_noticed(run, tmp_path, capsys):
    for damage in ("weights", "card", "no weights", "old", "other network"):
        folder = tmp_path / damage
        shutil.copytree(run / "policy", folder)
        weights, card = folder / "policy.safetensors", folder / "policy.json"
        text = card.read_text()
        if damage == "weights":
            whole = weights.read_bytes()
            weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        elif damage == "card":
            card.write_text(text[: len(text) // 2])
        elif damage == "no weights":
            weights.unlink()
        elif damage == "old":
            card.write_text(text.replace('"format": 2', '"format": 1'))
        else:
            card.write_text(text.replace("HIDDEN = (8, 8)", "HIDDEN = (9, 9)"))
        with pytest.raises(DamagedError):
            load_policy(folder)
        assert evaluate.main(["evaluate", str(folder)]) == 2, damage
        one_line(capsys, str(folder))


@pytest.mark.parametrize("name", ["learner", "sizes"])
def test_a_card_that_cannot_say_how_to_build_the_learner(name, run, tmp_path):
    shutil.copytree(run / "policy", tmp_path / "shared")
    card = tmp_path / "shared" / "policy.json"
    content = json.loads(card.read_text())
    del content[name]
    card.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match=f"no '{name}'; write it anew"):
        load_policy(tmp_path / "shared")


@pytest.mark.parametrize("name", ["config", "versions", "step"])
def test_a_card_that_lacks_something_is_one_line_and_2(name, run, tmp_path, capsys):
    shutil.copytree(run / "policy", tmp_path / "shared")
    card = tmp_path / "shared" / "policy.json"
    content = json.loads(card.read_text())
    del content[name]
    card.write_text(json.dumps(content))
    assert evaluate.main(["evaluate", str(tmp_path / "shared")]) == 2
    one_line(capsys, str(card), name, "write it anew")


def test_a_damaged_run_is_one_line_and_2(run, tmp_path, capsys):
    for name, content in (("config.gin", b"\xff\xfe"), ("config.gin", b"train.suite = @Nothing()")):
        folder = tmp_path / str(len(content))
        shutil.copytree(run, folder)
        (folder / name).write_bytes(content)
        assert call(folder) == 2
        one_line(capsys, "config.gin")
    folder = tmp_path / "about"
    shutil.copytree(run, folder)
    for path in folder.glob("checkpoints/*/about.json"):
        path.write_text("{")
    assert call(folder) == 2
    one_line(capsys, "about.json")


def test_an_exported_policy_is_one_checkpoint(run, capsys):
    assert evaluate.main(["evaluate", str(run / "policy"), "--checkpoint=best"]) == 2
    one_line(capsys, "--checkpoint=best", "leave it out")


def test_wrong_observations_and_tasks_are_named(run):
    policy = load_policy(run / "policy")
    with pytest.raises(ValueError, match="6 numbers wide"):
        policy(np.zeros(5))
    with pytest.raises(ValueError, match="turn-9"):
        policy(np.zeros(6), "turn-9")
    with pytest.raises(ValueError, match="below 2"):
        policy(np.zeros(6), 2)


def test_a_run_put_together_in_python_says_so(tmp_path):
    suite, learner = built("gin/quick/mtsac_point_mass.gin")
    export_policy(tmp_path, learner, 1, **policy_card.facts("", suite, tmp_path, 1))
    with pytest.raises(ValueError, match="not put together by gin"):
        load_policy(tmp_path)


def test_export_returns_the_files(run, tmp_path):
    files = export_run(run, "latest", tmp_path / "out")
    assert [file.name for file in files] == ["policy.safetensors", "policy.json"]
