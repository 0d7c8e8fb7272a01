import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gin
import numpy as np
import pytest
import torch

from envs.body import Physics
from envs.changes import LocationChange, TimedChange
from envs.robots import BENCHMARKS, RobotSuite

# Observation, actions, specification, tasks of each split, horizon, positions to reconstruct.
TABLE = {
    "cheetah-direction": (20, 6, 1, [2], [2], 200, 8),
    "cheetah-continual": (20, 6, 1, [1], [1], 800, 8),
    "cheetah-velocity": (20, 6, 1, [100], [30], 200, 8),
    "cheetah-families": (20, 6, 1, [10] * 8, [5] * 8, 200, 8),
    "cheetah-five": (20, 6, 1, [12] * 5, [6] * 5, 200, 8),
    "cheetah-mass": (17, 6, 1, [8] * 7, [4] * 7, 400, 8),
    "cheetah-damping": (17, 6, 1, [10] * 6, [5] * 6, 400, 8),
    "ant-direction": (27, 8, 1, [100], [30], 200, 13),
    "ant-forward-back": (27, 8, 1, [2], [2], 200, 13),
    "ant-goal": (29, 8, 2, [150], [30], 200, 15),
    "ant-families": (29, 8, 2, [10] * 9, [5] * 9, 200, 15),
    "ant-reversal": (30, 8, 1, [2], [2], 800, 13),
    "ant-velocity": (30, 8, 1, [100], [30], 800, 13),
    "ant-limp": (27, 8, 4, [1, 3], [1, 1], 200, 13),
    "humanoid-direction": (376, 17, 1, [100], [30], 200, 22),
    "walker-parameters": (17, 6, 65, [40], [10], 200, 8),
    "hopper-parameters": (11, 3, 41, [40], [10], 200, 5),
    "walker-velocity": (17, 6, 1, [100], [30], 200, 8),
    "hopper-velocity": (14, 3, 1, [100], [30], 200, 5),
    "walker-shifting": (17, 6, 65, [100], [30], 800, 8),
    "walker-shifting-hidden": (8, 6, 41, [100], [30], 400, 8),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_table_of_benchmarks(name):
    suite, (seen, acted, width, train, test, horizon, positions) = RobotSuite(name), TABLE[name]
    spec = suite.spec
    assert (spec.observation_dim, spec.action_dim, spec.specification_dim) == (seen, acted, width)
    assert suite.counts == {"train": train, "test": test} and spec.horizon == horizon
    assert suite.positions == tuple(range(positions)) and spec.num_tasks == len(train)
    for split, counts in suite.counts.items():
        assert [len(task.goals) for task in suite.tasks(split)] == counts
        each = suite.each(split)
        assert len(each) == sum(counts) and all(len(task.goals) == 1 for task in each)
        specifications = {(task.task_id, *suite.specification(task)) for task in each}
        distinct = name not in ("cheetah-five", "ant-families")
        assert len(specifications) == len(each) or not distinct
        again = RobotSuite(name)
        for task in each:
            given = suite.specification(task)
            assert given.dtype == np.float32 and given.shape == (width,)
            assert np.array_equal(given, again.specification(task))


@pytest.mark.parametrize(
    "name", ["cheetah-velocity", "cheetah-families", "ant-goal", "ant-families"]
)
def test_invariant_3_splits_are_disjoint_and_follow_the_seed(name):
    suite, other = RobotSuite(name), RobotSuite(name, goal_seed=1)
    sets = [
        {(task.task_id, *made.specification(task).tolist()) for task in made.each(split)}
        for made in (suite, other)
        for split in ("train", "test")
    ]
    assert not sets[0] & sets[1] and not sets[2] & sets[3] and sets[0] != sets[2]


def test_a_family_has_the_same_tasks_in_any_company_and_order():
    whole = RobotSuite(
        "cheetah-families", families=["jump", "velocity", "stand_back"], sizes=(30, 15)
    )
    alone = RobotSuite("cheetah-families", families=["stand_back"], sizes=(10, 5))
    assert [task.task_id for task in whole.tasks()] == [0, 1, 2]
    assert np.array_equal(whole._tables["train"][2], alone._tables["train"][0])
    assert whole.name == "cheetah-families-3" and alone.name == "cheetah-families-stand_back"
    assert RobotSuite("cheetah-families").name == "cheetah-families"
    eight = RobotSuite("cheetah-families").spec.task_names
    assert eight == ("velocity_forward", "velocity_backward", "stand_back", "stand_front") + (
        "goal_forward",
        "goal_backward",
        "flip_forward",
        "jump",
    )


def run(suite, rollout, tasks):
    with suite.vector(tasks, seed=3) as vector:
        first = rollout(vector, 12)
        state = vector.state_dict()
        vector.assign(suite.sample(len(tasks), "test", np.random.default_rng(1)))
        parts = [first, rollout(vector, 12, start=vector.current()), rollout(vector, 5)]
        vector.load_state_dict(state)
        return [*parts, rollout(vector, 12, seed=2, start=vector.current())]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cheetah-families", TimedChange(steps=3, probability=0.5)),
        ("walker-parameters", TimedChange(steps=2)),
        ("hopper-velocity", LocationChange(distance=0.006, interval=0.001)),
    ],
)
def test_both_modes_and_snapshots_across_them(name, change, rollout, same):
    runs = []
    for workers in (0, 2):
        suite = RobotSuite(name, horizon=9, change=change, terminates=False, workers=workers)
        runs.append(run(suite, rollout, suite.sample(4, "train", np.random.default_rng(0))))
    for one, other in zip(*runs, strict=True):
        same(one, other)
    td = torch.cat(runs[0])
    changed = td["next", "task_changed"][..., 0]
    assert changed.any() and not changed[runs[0][0]["is_init"][..., 0].nonzero()[0, 0]].any()
    assert td["next", "specification"].shape[-1] == suite.spec.specification_dim
    # The root names the assigned task, whatever the step was paid for.
    if name == "cheetah-families":
        assert (td["task_id"] != td["next", "task_id"]).any()
    first = td["is_init"][..., 0]
    assert torch.equal(td["task_id"][first], td["next", "task_id"][first])
    assert not changed[first].any()


def test_steps_tell_the_specification_of_an_assigned_task(rollout):
    suite = RobotSuite("ant-families", horizon=6, workers=0)
    tasks = suite.sample(5, "test", np.random.default_rng(0))
    with suite.vector(tasks, autoreset=False) as vector:
        td = rollout(vector, 8)
    expected = np.stack([suite.specification(task) for task in tasks])
    told = td["next", "specification"]
    assert torch.equal(told, torch.from_numpy(expected).expand(8, 5, 2))
    assert torch.equal(td["next", "task_id"], td["task_id"])
    assert td["next", "task_changed"].shape == (8, 5, 1) and not td["next", "task_changed"].any()
    assert td["next", "valid"][..., 0].sum(0).tolist() == [6] * 5


def test_resting_environments_report_no_change(rollout):
    suite = RobotSuite("cheetah-families", horizon=5, change=TimedChange(steps=4), workers=0)
    with suite.vector(
        suite.sample(6, "train", np.random.default_rng(0)), autoreset=False
    ) as vector:
        changed = rollout(vector, 8)["next", "task_changed"][..., 0]
    assert changed[4].sum() >= 5 and changed.sum() == changed[4].sum()


def test_a_simulation_that_explodes_reports_no_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    suite = RobotSuite("cheetah-families", change=TimedChange(steps=1), workers=0)
    with suite.vector(suite.each()[:2], autoreset=False) as vector:
        td = vector.reset()
        td["action"] = torch.zeros(2, 6)
        before = vector.step(td)["next"]
        vector._chunk._environments[1]._body.data.qvel[3] = 1e12
        after = vector.step(td)["next"]
    assert after["valid"][:, 0].tolist() == [True, False]
    assert after["task_changed"][:, 0].tolist() == [True, False]
    assert torch.equal(after["specification"][1], before["specification"][1])


def test_invariant_5_seven_segments_of_80_steps(rollout):
    suite = RobotSuite("cheetah-families", horizon=560, change=TimedChange(), workers=0)
    tasks = suite.sample(2, "test", np.random.default_rng(0))
    with suite.vector(tasks) as vector:
        td = rollout(vector, 561)
    for row in range(2):
        assert td["next", "truncated"][:, row, 0].nonzero()[:, 0].tolist() == [559]
        ids = td["next", "task_id"][:, row, None]
        told = torch.cat([td["next", "specification"][:, row], ids], -1)
        segments = told[:560].view(7, 80, 2)
        assert torch.equal(segments, segments[:, :1].expand(7, 80, 2))
        differs = (told[1:] != told[:-1]).any(-1)
        differs[559] = False  # the next episode has the assigned task again
        assert torch.equal(told[560], told[0]) and differs.sum() >= 4
        assert torch.equal(td["next", "task_changed"][1:, row, 0], differs)


def test_invariant_10_the_horizon_truncates_and_never_terminates(rollout):
    suite = RobotSuite("ant-families", horizon=4, workers=0)
    with suite.vector(suite.tasks()[:2]) as vector:
        td = rollout(vector, 9)
    assert td["next", "truncated"][..., 0].any(1).nonzero()[:, 0].tolist() == [3, 7]
    assert not td["next", "terminated"].any() and not td["next", "success"].any()


def test_invariant_9_actions_outside_are_clipped():
    suite = RobotSuite("humanoid-direction", workers=0)
    rewards = []
    for scale in (1.0, 5.0):
        with suite.vector(suite.each()[:1]) as vector:
            td = vector.reset()
            td["action"] = torch.full((1, 17), scale)
            rewards.append(vector.step(td)["next", "reward"].item())
    assert rewards[0] == rewards[1]


def test_invariant_11_numpys_global_generator_is_left_alone():
    state = np.random.get_state()[1].copy()
    suite = RobotSuite("walker-parameters", workers=0)
    with suite.vector(suite.sample(2, "train", np.random.default_rng(0))) as vector:
        vector.reset()
    assert np.array_equal(np.random.get_state()[1], state)


def test_a_worker_knows_neither_torch_nor_gin():
    code = "import sys, envs.errand, envs.ant_tasks, envs.biped_tasks; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    modules = subprocess.check_output(command, env=environment, text=True).split()
    assert "envs.errand" in modules and not {"torch", "gin", "tensordict"} & set(modules)


def test_parts_bound_by_gin_reach_a_worker():
    gin.parse_config("""
        RobotSuite.benchmark = 'walker-velocity'
        RobotSuite.change = @TimedChange()
        RobotSuite.physics = @Physics()
        TimedChange.steps = 7
        Physics.legacy_feet = False
    """)
    suite = gin.get_configurable("RobotSuite")()
    build = pickle.loads(pickle.dumps(suite.build(suite.tasks())))
    plan = build.args[0]
    assert plan.change == TimedChange(steps=7) and type(plan.change) is TimedChange
    assert plan.physics == Physics(legacy_feet=False)
    assert suite.protocol()["change"] == "TimedChange(steps=7, probability=1.0)"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"benchmark": "cheetah"}, "benchmark"),
        ({"families": []}, "families"),
        ({"families": ["velocity", "velocity"]}, "families"),
        ({"families": ["jump"]}, "families"),
        ({"sizes": (0, 3)}, "sizes"),
        ({"benchmark": "cheetah-direction", "sizes": (2, 2)}, "sizes"),
        ({"benchmark": "cheetah-families", "sizes": (7, 8)}, "sizes"),
        ({"span": (1.0, 0.0)}, "span"),
        ({"span": (1.0,)}, "span"),
        ({"benchmark": "cheetah-direction", "span": (0.0, 1.0)}, "span"),
        ({"benchmark": "cheetah-families", "span": (0.0, 1.0)}, "span"),
        (
            {"benchmark": "ant-limp", "families": ["sound"], "change": TimedChange(steps=2)},
            "change draws new tasks from",
        ),
        ({"horizon": 0}, "horizon"),
        ({"goal_seed": -1}, "goal_seed"),
        ({"physics": Physics(legacy_feet=True)}, "legacy_feet"),
        ({"workers": -1}, "workers"),
    ],
)
def test_bad_arguments_name_themselves(arguments, word):
    with pytest.raises(ValueError, match=word):
        RobotSuite(**arguments)


def test_tasks_the_suite_does_not_have_are_refused():
    suite = RobotSuite("cheetah-velocity", workers=0)
    (task,) = suite.tasks("test")
    for wrong in (replace(task, goals=(30,)), replace(task, name="jump")):
        with pytest.raises(ValueError, match="tasks"):
            suite.vector([wrong])
