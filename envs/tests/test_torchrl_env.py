import pytest
import torch
from tensordict import TensorDict

from envs.arrays import told
from envs.ct_graph import CTGraphSuite
from envs.navigation import NavigationSuite
from envs.point_mass import PointMassSuite
from envs.robots import RobotSuite

pytest.importorskip("torchrl", reason="torchrl is not installed (the extra `torchrl`)")
from torchrl.collectors import Collector  # noqa: E402
from torchrl.envs import Compose, RewardSum, StepCounter, TransformedEnv  # noqa: E402
from torchrl.envs.utils import check_env_specs  # noqa: E402

from envs.torchrl_env import TorchRLEnv  # noqa: E402

SUITES = {
    "point mass": (PointMassSuite(3), 70),
    "point mass in workers": (PointMassSuite(3, workers=2), 70),
    "navigation": (NavigationSuite(), 220),
    "graph": (CTGraphSuite(), 40),
    "robot": (RobotSuite("ant-reversal"), 10),
}


@pytest.fixture(params=SUITES)
def case(request):
    return SUITES[request.param]


def actions(suite, rows, steps):
    generator = torch.Generator().manual_seed(5)
    if suite.spec.discrete:
        return torch.randint(suite.spec.action_dim, (steps, rows), generator=generator)
    shape = (steps, rows, suite.spec.action_dim)
    return torch.rand(shape, generator=generator) * 2.0 - 1.0


def test_specs_are_kept(case):
    env = TorchRLEnv(case[0], seed=3)
    check_env_specs(env, seed=None)
    env.close()


def test_steps_are_those_of_the_vector(case):
    suite, steps = case
    env = TorchRLEnv(suite, seed=3)
    chosen = iter(actions(suite, env.batch_size[0], steps))

    def policy(td):
        return td.set("action", next(chosen).clone())

    seen = env.rollout(steps, policy, break_when_any_done=False)
    env.close()
    assert seen["next", "done"].sum() > env.batch_size[0] or suite.name == "ant-reversal"
    with suite.vector(seed=3) as vector:
        td = vector.reset()
        for i, action in enumerate(actions(suite, vector.num_envs, steps)):
            for name, value in td.items():
                assert torch.equal(seen[name][:, i], value), name
            after = vector.step(td.set("action", action))["next"]
            for name, value in after.items():
                assert torch.equal(seen["next", name][:, i], value), name
            assert torch.equal(seen["next", "episode"][:, i], td["episode"])
            assert not seen["next", "is_init"][:, i].any()
            if "task_id" not in told(vector.rules):
                assert torch.equal(seen["next", "task_id"][:, i], td["task_id"])
            td = vector.current()


def test_collectors_and_transforms():
    suite = PointMassSuite(2)
    env = TransformedEnv(TorchRLEnv(suite), Compose(StepCounter(), RewardSum()))
    collector = Collector(env, None, frames_per_batch=140, total_frames=280)
    first, second = (batch.clone() for batch in collector)
    collector.shutdown()
    seen = torch.cat([first, second], 1)
    assert seen.shape == (2, 140)
    total = torch.zeros(2, 1)
    for step in seen.unbind(1):
        total = total * ~step["is_init"] + step["next", "reward"]
        assert torch.equal(total, step["next", "episode_reward"])
    ended = seen["next", "done"]
    assert ended.sum() == 8 and (seen["next", "step_count"][ended] == suite.spec.horizon).all()


def test_seeds():
    env = TorchRLEnv(PointMassSuite(2), seed=1)

    def begun(seed):
        env.set_seed(seed)
        return env.reset()["observation"]

    one, two = begun(1), begun(2)
    assert torch.equal(one, begun(1)) and not torch.equal(one, two)
    assert env.set_seed(4, static_seed=True) == 4
    with pytest.raises(ValueError, match="seed must be a whole number"):
        env.set_seed(-1)
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


def test_no_episode_is_broken_off_alone():
    env = TransformedEnv(TorchRLEnv(PointMassSuite(2)), StepCounter(5))
    with pytest.raises(RuntimeError, match=r"rows \[0, 1\].*horizon of 30.*without max_steps"):
        env.rollout(20, break_when_any_done=False)
    assert env.rollout(5)["step_count"].max() == 4  # all at once they can be
    env.close()


def test_actions_are_checked():
    env = TorchRLEnv(PointMassSuite(2))
    td = env.reset()
    with pytest.raises(ValueError, match="non-finite numbers in rows"):
        env.step(td.set("action", torch.full((2, 2), torch.nan)))
    env.close()


def test_goals_and_tasks_are_the_suite_s():
    suite = PointMassSuite(3)
    tasks = [suite.tasks()[i] for i in (2, 0)]
    env = TorchRLEnv(suite, tasks, seed=2, purpose="evaluation", terminate_on_success=True)
    with suite.vector(tasks, seed=2, purpose="evaluation") as vector:
        assert torch.equal(env.reset()["observation"], vector.reset()["observation"])
    assert env.tasks.rules.terminate_on_success
    assert env.tasks.tasks == tuple(tasks)
    env.close()
    with pytest.raises(TypeError, match="autoreset"):
        TorchRLEnv(suite, tasks, autoreset=False)


def test_a_reset_of_some_rows_that_have_ended():
    env = TorchRLEnv(NavigationSuite(), [NavigationSuite().tasks()[0]] * 2)
    td = env.rollout(100, break_when_any_done=False)[:, -1]
    again = env.reset(TensorDict({"_reset": torch.tensor([[True], [False]])}, [2]))
    assert td["next", "done"].all() and again["is_init"][0]
    env.close()
