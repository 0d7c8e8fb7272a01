from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from tensordict import TensorDict

from envs.breakdowns import Breakdowns
from envs.errors import TaskError
from envs.plain import tensors
from envs.plane import PointMass
from envs.point_mass import PointMassSuite
from envs.suite import Spec

NEXT = {
    "observation": (6, torch.float32),
    "reward": (1, torch.float32),
    "terminated": (1, torch.bool),
    "truncated": (1, torch.bool),
    "done": (1, torch.bool),
    "success": (1, torch.bool),
    "valid": (1, torch.bool),
}


def plain(tree):
    if isinstance(tree, dict):
        return all(isinstance(key, str) and plain(value) for key, value in tree.items())
    if isinstance(tree, list):
        return all(plain(value) for value in tree)
    return tree is None or type(tree) in (bool, int, float, str, torch.Tensor)


def test_keys_shapes_and_types():
    with PointMassSuite(3).vector() as vector:
        td = vector.reset()
        assert td.batch_size == (3,)
        assert set(td.keys()) == {"observation", "task_id", "is_init", "episode"}
        assert td["observation"].shape == (3, 6) and td["observation"].dtype == torch.float32
        assert td["task_id"].tolist() == [0, 1, 2] and td["task_id"].dtype == torch.int64
        assert td["is_init"].shape == (3, 1) and td["is_init"].all()
        assert td["episode"].tolist() == [0, 0, 0] and td["episode"].dtype == torch.int64
        td["action"] = torch.zeros(3, 2)
        out = vector.step(td)
        assert out is td
        assert set(td["next"].keys()) == set(NEXT)
        for name, (width, dtype) in NEXT.items():
            assert td["next", name].shape == (3, width) and td["next", name].dtype == dtype
        assert td["next", "valid"].all() and not vector.current()["is_init"].any()


def test_same_seed_same_trajectory_and_purposes_differ(rollout, same):
    suite = PointMassSuite(2)

    def run(seed, purpose="train"):
        with suite.vector(seed=seed, purpose=purpose) as vector:
            return rollout(vector, 65)

    same(run(1), run(1))
    assert not torch.equal(run(1)["observation"], run(2)["observation"])
    assert not torch.equal(run(1)["observation"], run(1, "evaluation")["observation"])
    first = run(1)["observation"][0]
    assert not torch.equal(first[0], first[1])  # different tasks draw different goals


def test_invariant_23_next_observation_at_truncation_is_the_true_last_one(rollout):
    with PointMassSuite(2).vector() as vector:
        td = rollout(vector, 61)
    ended = td["next", "done"][..., 0]
    assert ended[:, 0].nonzero()[:, 0].tolist() == [29, 59]
    assert td["next", "truncated"][ended].all() and not td["next", "terminated"].any()
    last, first = td["next", "observation"][29], td["observation"][30]
    assert td["is_init"][30].all() and not torch.equal(last, first)
    assert torch.equal(first[:, 2:4], torch.zeros(2, 2))  # a new episode starts at rest
    position, velocity = td["observation"][29, :, :2], last[:, 2:4]
    assert torch.allclose(position + 0.1 * velocity, last[:, :2], atol=1e-6)
    assert torch.equal(last[:, 4:], td["observation"][29, :, 4:])  # still the old goal
    inside = ~ended[:-1]
    assert torch.equal(td["next", "observation"][:-1][inside], td["observation"][1:][inside])
    assert td["episode"][[0, 29, 30, 60], 0].tolist() == [0, 0, 1, 2]


def test_without_autoreset_an_environment_rests(rollout):
    with PointMassSuite(2).vector(autoreset=False) as vector:
        td = rollout(vector, 33)
        late = td["next"][30:]
        assert late["done"].all() and (late["reward"] == 0).all()
        assert not late["success"].any() and not late["valid"].any()
        assert torch.equal(late["observation"], td["next", "observation"][29].expand(3, 2, 6))
        assert torch.equal(vector.current()["observation"], late["observation"][0])
        assert vector.reset()["episode"].tolist() == [1, 1]
        assert not rollout(vector, 1, start=vector.current())["next", "done"].any()


def test_terminate_on_success():
    with PointMassSuite(1, horizon=500).vector(terminate_on_success=True) as vector:
        td = vector.reset()
        for _ in range(500):
            push = td["observation"][:, 4:] - td["observation"][:, :2] - td["observation"][:, 2:4]
            td["action"] = push
            td = vector.step(td)["next"] if not td.get("done", torch.zeros(1)).any() else td
            if td["done"].any():
                break
            td = vector.current()
        assert td["terminated"].all() and td["success"].all() and not td["truncated"].any()


def test_assign_takes_effect_with_the_next_episode(rollout):
    suite = PointMassSuite(3)
    tasks = [replace(task, goals=(3,)) for task in suite.tasks()]
    with suite.vector(tasks[:2]) as vector:
        vector.reset()
        vector.assign([tasks[2], tasks[2]])
        td = rollout(vector, 31, start=vector.current())
        assert td["task_id"][:30].unique().tolist() == [0, 1]
        assert td["task_id"][30].tolist() == [2, 2]
        with suite.vector([tasks[2]]) as other:
            assert torch.equal(td["observation"][30, :1], other.reset()["observation"])
        with pytest.raises(ValueError, match="tasks must be 2"):
            vector.assign(tasks)
        with pytest.raises(ValueError, match="turn-2"):
            vector.assign([replace(tasks[2], name="turn-22")] * 2)
        with pytest.raises(ValueError, match="goals"):
            vector.assign([replace(tasks[2], goals=(50,))] * 2)


def test_state_is_plain_and_exact(rollout, same, monkeypatch):
    suite = PointMassSuite(3)
    with suite.vector(seed=5) as vector:
        rollout(vector, 47)
        vector.assign(suite.tasks("test"))
        state = vector.state_dict()
        now = vector.current()
        expected = rollout(vector, 75, start=vector.current())
        assert plain(state)
        vector.load_state_dict(state)
        same(rollout(vector, 75, start=vector.current()), expected)
    with suite.vector(seed=99) as fresh:
        fresh.load_state_dict(state)
        same(fresh.current(), now)
        assert fresh.tasks == suite.tasks("test")
        same(rollout(fresh, 75, start=fresh.current()), expected)
        with pytest.raises(ValueError, match="format"):
            fresh.load_state_dict({**state, "format": 7})
        with pytest.raises(ValueError, match="2 environments"):
            fresh.load_state_dict({**state, "environments": state["environments"][:2]})
    for other, said in ((replace(suite.spec, horizon=7), "horizon is 30, not 7"),):
        monkeypatch.setattr(PointMassSuite, "spec", other)
        with suite.vector() as fresh, pytest.raises(ValueError, match=said):
            fresh.load_state_dict(state)
    with (
        suite.vector(autoreset=False) as fresh,
        pytest.raises(ValueError, match="autoreset is True, not False"),
    ):
        fresh.load_state_dict({**state, "rules": {**state["rules"], "horizon": 7}})


def test_numbers_of_numpy_are_saved_as_pythons_own(tmp_path):
    suite = PointMassSuite(1)
    tasks = [replace(task, goals=tuple(np.arange(3))) for task in suite.tasks()]
    with suite.vector(tasks, seed=5) as vector:
        vector.reset()
        state = vector.state_dict()
    assert plain(state) and type(tensors(np.float32(0.5))) is float


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8])
def test_observations_of_any_real_dtype(dtype, monkeypatch):
    step = PointMass.step

    def large(point, action):
        _, *rest = step(point, action)
        return np.full(6, 200, dtype), *rest  # whose squares no float16 holds

    monkeypatch.setattr(PointMass, "step", large)
    with PointMassSuite(1).vector() as vector:
        td = vector.step(vector.reset().set("action", torch.zeros(1, 2)))
        assert td["next", "valid"].all() and (td["next", "observation"] == 200).all()


@pytest.mark.parametrize("dtype", ["<U3", object, np.complex128])
@pytest.mark.parametrize("verb", ["reset", "step"])
def test_observations_that_are_no_real_numbers(dtype, verb, monkeypatch):
    method = getattr(PointMass, verb)

    def odd(point, *arguments, **options):
        observation, *rest = method(point, *arguments, **options)
        return observation.astype(dtype), *rest

    monkeypatch.setattr(PointMass, verb, odd)
    with (
        pytest.raises(TaskError, match="task turn-0: an observation must be real numbers, got"),
        PointMassSuite(1).vector() as vector,
    ):
        vector.step(vector.reset().set("action", torch.zeros(1, 2)))


def test_a_first_observation_beyond_single_precision(monkeypatch):
    reset = PointMass.reset
    monkeypatch.setattr(PointMass, "reset", lambda *a, **o: (np.full(6, 1e300), reset(*a, **o)[1]))
    with PointMassSuite(1).vector() as vector, pytest.raises(RuntimeError, match="is not finite"):
        vector.reset()


def test_tasks_turn_the_action():
    with PointMassSuite(10).vector() as vector:
        td = vector.reset()
        td["action"] = torch.tensor([[1.0, 0.5]]).expand(10, 2).clone()
        velocity = vector.step(td)["next", "observation"][:, 2:4] / 0.2
    assert torch.equal(velocity[0], -velocity[1])
    assert torch.allclose(velocity[2], torch.tensor([-0.5, 1.0]))
    assert torch.allclose(velocity.norm(dim=1), torch.full((10,), 1.25**0.5))
    assert len({tuple(row) for row in velocity.round(decimals=4).tolist()}) == 10


def test_distance_and_goals():
    suite = PointMassSuite(2)
    observation = torch.tensor([[0.0, 0.0, 9.0, 9.0, 0.3, 0.4]])
    assert torch.allclose(suite.distance(observation), torch.tensor([0.5]))
    train, test = suite.tasks()[0], suite.tasks("test")[0]
    with suite.vector([replace(train, goals=(g,)) for g in train.goals]) as vector:
        seen = vector.reset()["observation"]
    with suite.vector([replace(test, goals=(g,)) for g in test.goals]) as vector:
        unseen = vector.reset()["observation"]
    rows = {tuple(row) for row in torch.cat([seen, unseen]).tolist()}
    assert len(rows) == 100 and torch.cat([seen, unseen]).abs().max() <= 1
    assert seen[:, 4:].mean().abs() < 0.25 and seen[:, 4:].std() > 0.4


def test_bad_actions_and_order():
    with PointMassSuite(2).vector() as vector:
        td = TensorDict({"action": torch.zeros(2, 2)}, batch_size=[2])
        with pytest.raises(RuntimeError, match="reset"):
            vector.step(td)
        vector.reset()
        td["action"] = torch.tensor([[0.0, 0.0], [float("nan"), 0.0]])
        with pytest.raises(ValueError, match=r"action .*\[1\]"):
            vector.step(td)
        with pytest.raises(ValueError, match="shape"):
            vector.step(TensorDict({"action": torch.zeros(2, 3)}, batch_size=[2]))
        with pytest.raises(ValueError, match="real"):
            vector.step(td.set("action", torch.zeros(2, 2, dtype=torch.complex64)))
        for kind in (torch.bfloat16, torch.float16, torch.float64, torch.int64):
            vector.step(td.set("action", torch.ones(2, 2, dtype=kind)))
            assert (vector._arrays["action"] == 1).all()
    with pytest.raises(RuntimeError, match="closed"):
        vector.reset()


def test_all_environments_simulate_before_one_of_them_tells_and_the_resting_do_neither():
    with PointMassSuite(3).vector(autoreset=False) as vector:
        vector.reset()
        calls = []
        for i, environment in enumerate(vector._chunk._environments):

            def simulate(action, i=i, environment=environment):
                calls.append(("simulate", i, action.tolist()))
                type(environment).simulate(environment, action)

            def outcome(i=i, environment=environment):
                calls.append(("outcome", i))
                return type(environment).outcome(environment)

            environment.simulate, environment.outcome = simulate, outcome
        vector._chunk._done[1] = True
        vector.step(TensorDict({"action": torch.tensor([[0.5, 1], [0, 0], [0, -1]])}, [3]))
        acted = [("simulate", 0, [0.5, 1.0]), ("simulate", 2, [0.0, -1.0])]
        assert calls == [*acted, ("outcome", 0), ("outcome", 2)]


def test_an_unstable_simulator_ends_the_episode(monkeypatch):
    with PointMassSuite(2).vector() as vector:
        td = vector.reset()
        simulator = vector._chunk._environments[1]
        simulator._state[2] = np.inf
        td["action"] = torch.zeros(2, 2)
        vector.step(td)
        assert td["next", "valid"][:, 0].tolist() == [True, False]
        assert td["next", "truncated"][:, 0].tolist() == [False, True]
        assert torch.equal(td["next", "observation"][1], td["observation"][1])
        assert vector.faults == {"worker_restarts": 0, "unstable_episodes": 1}
        assert vector.current()["is_init"][:, 0].tolist() == [False, True]
        monkeypatch.setattr(Breakdowns, "most", 1)
        simulator._state[2] = np.nan
        with pytest.raises(RuntimeError, match="turn-1"):
            vector.step(vector.current().set("action", torch.zeros(2, 2)))


def test_gymnasium_face():
    env = PointMassSuite(2).gymnasium(seed=3)
    assert isinstance(env, gymnasium.vector.VectorEnv) and env.num_envs == 2
    observation, _ = env.reset()
    assert env.observation_space.contains(observation)
    for step in range(30):
        before = observation
        action = np.zeros((2, 2), dtype=np.float32)
        observation, reward, terminated, truncated, infos = env.step(action)
        assert reward.shape == (2,) and not terminated.any()
        assert truncated.all() == (step == 29) and ("final_obs" in infos) == (step == 29)
    assert np.array_equal(infos["final_obs"][0], before[0])  # no push: it rests
    assert not np.array_equal(observation[0], before[0])
    env.step(np.zeros((2, 2), dtype=np.float32)[::-1])
    with pytest.raises(ValueError, match="seed"):
        env.reset(seed=1)
    env.close()


def test_gymnasium_tells_what_tensordict_tells_and_keeps_it():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (65, 2, 2)).astype(np.float32)
    env = PointMassSuite(2).gymnasium(seed=3)
    env.reset()
    told = [env.step(action) for action in actions]  # looked at when all steps are over
    env.close()
    with PointMassSuite(2).vector(seed=3) as vector:
        vector.reset()
        for action, (observation, reward, terminated, truncated, infos) in zip(
            actions, told, strict=True
        ):
            td = vector.step(vector.current().set("action", torch.from_numpy(action)))["next"]
            following = vector.current()
            assert np.array_equal(observation, following["observation"])
            assert np.array_equal(reward, td["reward"][:, 0].double())
            for name, flag in (("terminated", terminated), ("truncated", truncated)):
                assert np.array_equal(flag, td[name][:, 0])
            for name in ("success", "valid"):
                assert np.array_equal(infos[name], td[name][:, 0])
            assert np.array_equal(infos["task_id"], following["task_id"])
            assert np.array_equal(infos["episode_number"], following["episode"])
            if td["done"].any():
                last = np.stack(list(infos["final_obs"]))
                assert np.array_equal(last, td["observation"])


def test_gymnasiums_statistics_of_episodes():
    env = RecordEpisodeStatistics(PointMassSuite(2, horizon=5).gymnasium(seed=3))
    env.reset()
    total = np.zeros(2)
    for _ in range(5):
        _, reward, _, _, infos = env.step(np.ones((2, 2), np.float32))
        total += reward
    assert np.allclose(infos["episode"]["r"], total) and infos["episode"]["l"].tolist() == [5, 5]
    env.close()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"num_tasks": 0}, "num_tasks"),
        ({"num_tasks": "2"}, "num_tasks"),
        ({"horizon": 0}, "horizon"),
        ({"num_goals": 0}, "num_goals"),
        ({"num_goals": 2**31}, "num_goals.*100000"),
        ({"num_tasks": 10**9}, "num_tasks.*100000"),
        ({"goal_seed": -1}, "goal_seed"),
        ({"workers": -1}, "workers"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": 1e7}, "timeout.*at most"),
    ],
)
def test_bad_arguments_name_themselves(arguments, word):
    with pytest.raises(ValueError, match=word):
        PointMassSuite(**arguments)


def test_spec_names_the_training_tasks():
    assert PointMassSuite(3).spec.task_names == ("turn-0", "turn-1", "turn-2")
    assert Spec(6, 2, 3, 30).task_names == ()
    for names in (("a", "b"), ("a", "b", "b")):
        with pytest.raises(ValueError, match="task_names must be 3"):
            Spec(6, 2, 3, 30, names)


def test_bad_vector_arguments():
    suite = PointMassSuite()
    with pytest.raises(ValueError, match="purpose"):
        suite.vector(purpose="test")
    with pytest.raises(ValueError, match="seed"):
        suite.vector(seed="0")
    with pytest.raises(ValueError, match="tasks"):
        suite.vector([])
    for number in (1, -1, 99):
        with pytest.raises(ValueError, match=f"turn-0 has task_id 0 in .*, got {number};"):
            suite.vector([replace(suite.tasks()[0], task_id=number)])
    with pytest.raises(ValueError, match="split"):
        suite.tasks("validation")
