"""Tests of the on-policy meta loop."""

import copy

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from envs.navigation import NavigationSuite
from envs.point_mass import PointMassSuite
from runners.health import DivergenceError
from runners.meta_on_policy import MAX_REFUSED, MetaOnPolicyLoop

SMALL = {"tasks_per_iteration": 3, "episodes_per_task": 2}


class Seeker(nn.Module):
    """Steps towards its latent, with noise; adapts to the place of the best reward seen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.batches = []

    def prior(self, num_tasks):
        return TensorDict({"latent": torch.zeros(num_tasks, 2)}, [num_tasks])

    def act(self, td, explore):
        assert explore
        noise = 0.05 * torch.randn_like(td["observation"][..., :2])
        td["action"] = td["latent"] - td["observation"][..., :2] + noise
        return td

    def adapt(self, experience, prior):
        reward = experience["next", "reward"].squeeze(-1)
        best = reward.masked_fill(~experience["mask"], -torch.inf).flatten(1).argmax(1)
        places = (experience["observation"][..., :2] + experience["action"]).flatten(1, 2)
        return TensorDict({"latent": places[torch.arange(len(best)), best]}, prior.batch_size)

    def update(self, batch):
        self.batches.append(batch)
        with torch.no_grad():
            self.weight += batch["after"]["next", "reward"].sum()
        return {"kl": self.weight.detach().clone(), "health/nonfinite": torch.zeros(())}


def run(loop, number):
    return [next(loop) for _ in range(number)]


def test_updates_refused_in_a_row_stop_the_run():
    learner = Seeker()
    update, refused = learner.update, [1] * (MAX_REFUSED - 1) + [0] + [1] * 50

    def refuse(batch):
        return update(batch) | {"health/nonfinite": torch.tensor(float(refused.pop(0)))}

    learner.update = refuse
    loop = MetaOnPolicyLoop(NavigationSuite(horizon=5), learner, **SMALL)
    with pytest.raises(DivergenceError, match=f"not finite in {MAX_REFUSED} updates in a row"):
        run(loop, 60)
    assert loop.updates == 2 * MAX_REFUSED
    loop.close()


def test_an_iteration_and_its_metrics():
    learner = Seeker()
    loop = MetaOnPolicyLoop(NavigationSuite(horizon=5), learner, **SMALL)
    assert (loop.step, loop.updates, loop.unit, loop.pending) == (0, 0, "iterations", False)
    (step, metrics), *_ = run(loop, 1)
    (batch,) = learner.batches
    assert step == loop.step == loop.updates == 1 and batch.shape == (3,)
    before, after = batch["before"], batch["after"]
    assert before.shape[:2] == after.shape[:2] == (3, 2)
    steps = int(before["mask"].sum() + after["mask"].sum())
    assert metrics["env_steps"] == steps and metrics["updates"] == 1
    for name, part in (("before", before), ("after", after)):
        expected = (part["next", "reward"].squeeze(-1) * part["mask"]).sum(-1).mean()
        torch.testing.assert_close(metrics[f"train/return_{name}"], expected)
    assert metrics["kl"] == learner.weight
    shares = [metrics[f"perf/{phase}_fraction"] for phase in ("collect", "adapt", "update")]
    assert abs(sum(shares) - 1.0) < 1e-9
    assert metrics["health/worker_restarts"] == 0
    loop.close()


def test_latents_of_the_second_episodes_are_those_adapted_to_the_first():
    adapted = torch.tensor([[30.0, 31.0], [32.0, 33.0], [34.0, 35.0]])
    given, seen = [], []

    class Spy(Seeker):
        def act(self, td, explore):
            seen.append(td["latent"].expand_as(td["observation"]).clone())
            return super().act(td, explore)

        def adapt(self, experience, prior):
            assert len(seen) == 8 and torch.equal(prior["latent"], torch.zeros(3, 2))
            given.append(experience.clone())
            return TensorDict({"latent": adapted}, prior.batch_size)

    learner = Spy()
    run(MetaOnPolicyLoop(NavigationSuite(horizon=8), learner, **SMALL), 1)
    (experience,) = given
    assert (experience == learner.batches[0]["before"]).all() and len(seen) == 16
    for step, latent in enumerate(seen):
        expected = adapted if step >= 8 else torch.zeros(3, 2)
        assert torch.equal(latent, expected[:, None].expand(3, 2, 2)), step


def test_tasks_of_an_iteration_are_of_the_training_split_and_run_twice():
    loop = MetaOnPolicyLoop(NavigationSuite(horizon=3), Seeker(), **SMALL)
    collect, runs = loop.rollouts.collect, []

    def spy(learner, tasks, latent):
        runs.append(tuple(tasks))
        return collect(learner, tasks, latent)

    loop.rollouts.collect = spy
    run(loop, 3)
    assert len(runs) == 6 and runs[::2] == runs[1::2]
    assert [task.split for tasks in runs for task in tasks] == ["train"] * 18


def test_tasks_are_drawn_anew_and_the_seed_decides():
    firsts = []
    for seed in (0, 0, 1):
        learner = Seeker()
        torch.manual_seed(0)
        run(MetaOnPolicyLoop(NavigationSuite(horizon=3), learner, seed=seed, **SMALL), 2)
        rewards = [batch["before"]["next", "reward"][:, 0, 0] for batch in learner.batches]
        assert not torch.equal(*rewards)
        firsts.append(rewards[0])
    assert torch.equal(firsts[0], firsts[1]) and not torch.equal(firsts[0], firsts[2])


def test_metrics_are_means_over_the_interval():
    learner = Seeker()
    loop = MetaOnPolicyLoop(NavigationSuite(horizon=3), learner, log_interval=3, **SMALL)
    (_, one), (_, two), (_, metrics), (_, four) = run(loop, 4)
    assert one == two == four == {} and metrics
    returns = [b["before"]["next", "reward"].sum((2, 3)).mean() for b in learner.batches[:3]]
    torch.testing.assert_close(metrics["train/return_before"], torch.stack(returns).mean())


@pytest.mark.parametrize("suite", [NavigationSuite(horizon=4), PointMassSuite(horizon=4)])
@pytest.mark.parametrize("at_once", [None, 1])
def test_resumed_equals_uninterrupted(suite, at_once):
    options = {"log_interval": 2, "episodes_at_once": at_once, **SMALL}
    torch.manual_seed(3)
    learner = Seeker()
    loop = MetaOnPolicyLoop(suite, learner, seed=5, **options)
    run(loop, 3)
    saved = copy.deepcopy((loop.state_dict(), learner.state_dict(), torch.get_rng_state()))
    expected = run(loop, 3)
    other = Seeker()
    again = MetaOnPolicyLoop(suite, other, seed=5, **options)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    assert again.step == 3
    for (step, metrics), (wanted, values) in zip(run(again, 3), expected, strict=True):
        assert step == wanted and metrics.keys() == values.keys()
        for name in metrics:
            assert name.startswith("perf/") or torch.equal(metrics[name], values[name]), name
    assert torch.equal(other.weight, learner.weight)
    loop.close(), again.close()


def test_rehearsal_leaves_no_reading():
    loop = MetaOnPolicyLoop(NavigationSuite(horizon=3), Seeker(), **SMALL)
    collect, rest = loop.rehearse(3, 3)
    assert collect > 0 and rest > 0
    assert loop.whole(10, 2.0, 1.0) == 30.0


@pytest.mark.parametrize(
    "options", [{"log_interval": 0}, {"tasks_per_iteration": 0}, {"episodes_at_once": 3}]
)
def test_errors(options):
    with pytest.raises(ValueError, match=next(iter(options)).split("_per")[0]):
        MetaOnPolicyLoop(NavigationSuite(), Seeker(), **{**SMALL, **options})


@pytest.mark.parametrize("name", SMALL)
def test_more_episodes_than_fit_into_memory_are_refused_at_once(name):
    with pytest.raises(ValueError, match=r"GiB of memory.*META_BATCH.*EPISODES"):
        MetaOnPolicyLoop(NavigationSuite(), Seeker(), **{**SMALL, name: 10**9})


def test_a_number_of_tasks_the_suite_cannot_draw_is_refused_at_once():
    class Picky(NavigationSuite):
        def sample(self, num_tasks, split, generator):
            raise ValueError(f"num_tasks must be a multiple of 45, got {num_tasks}")

    with pytest.raises(ValueError, match="multiple of 45, got 3"):
        MetaOnPolicyLoop(Picky(), Seeker(), **SMALL)
