"""The recorder of layers: what it keeps, of which weights, and that it changes nothing."""

import types

import pytest
import torch
from tensordict import TensorDict
from torch import nn
from torch.func import functional_call

from networks.context_policy import ContextPolicy
from networks.layer_recorder import LayerRecorder
from networks.neuromodulated import NeuromodulatedPolicy

TASKS, EPISODES = 3, 4
KINDS = pytest.mark.parametrize("kind", [ContextPolicy, NeuromodulatedPolicy])


class Weights:
    """The weights of a policy as one vector."""

    def __init__(self, policy):
        self.named = dict(policy.named_parameters())

    def unflatten(self, vector):
        sizes = [p.numel() for p in self.named.values()]
        parts = zip(self.named.items(), vector.split(sizes), strict=True)
        return {name: part.view(p.shape) for (name, p), part in parts}


def learner(kind=ContextPolicy, adapts_weights=False, **options):
    torch.manual_seed(0)
    options |= {"num_context": 0 if adapts_weights else 2, "hidden": (8, 6)}
    policy = kind(3, 2, **options)
    return types.SimpleNamespace(
        policy=policy, adapts_weights=adapts_weights, weights=Weights(policy)
    )


def latents(learner):
    if not learner.adapts_weights:
        return torch.randn(TASKS, 2)
    size = sum(p.numel() for p in learner.policy.parameters())
    return torch.randn(TASKS, size)


def experience(time, seed=0):
    torch.manual_seed(seed)
    shape = (TASKS, EPISODES, time)
    after = {
        "reward": torch.randn(*shape, 1),
        "success": torch.rand(*shape, 1) < 0.5,
    }
    fields = {
        "observation": torch.randn(*shape, 3),
        "next": TensorDict(after, shape),
        "mask": torch.arange(time) < torch.randint(1, time + 1, (TASKS, EPISODES, 1)),
    }
    return TensorDict(fields, shape)


@KINDS
@pytest.mark.parametrize("adapts_weights", [False, True], ids=["context", "weights"])
@pytest.mark.parametrize("distribution", ["gaussian", "categorical"])
def test_each_number_is_that_of_its_task_step_episode_and_time(kind, adapts_weights, distribution):
    owner, recorder = learner(kind, adapts_weights, distribution=distribution), LayerRecorder()
    steps = [(experience(5 + step, step), latents(owner)) for step in range(3)]
    for number, (seen, latent) in enumerate(steps):
        recorder.see(owner, "test", number, seen, latent)
    summary = recorder.summary()
    mask = summary["test/mask"]
    assert mask.shape == (TASKS, 3, EPISODES, 7)
    gated = {"drive", "modulators", "gates"} if kind is NeuromodulatedPolicy else set()
    names = {f"layer_{layer}/{name}" for layer in (1, 2) for name in {"output", *gated}}
    names |= {"head/logits"} if distribution == "categorical" else {"head/mean", "head/std"}
    others = {"observation", "reward", "success", "mask"}
    others |= set() if adapts_weights else {"context"}
    assert set(summary) == {f"test/{name}" for name in names | others}
    for number, (seen, latent) in enumerate(steps):
        for task in range(TASKS):
            named, context = owner.weights.named, latent[task]
            if adapts_weights:
                named, context = owner.weights.unflatten(latent[task]), latent[task, :0]
            twin = learner(kind, adapts_weights, distribution=distribution).policy
            twin.load_state_dict(named)
            for episode in range(EPISODES):
                length = int(seen["mask"][task, episode].sum())
                assert int(mask[task, number, episode].sum()) == length
                told = twin.representations(seen["observation"][task, episode], context)
                place = (task, number, episode)
                for name in names:
                    value = summary[f"test/{name}"][place]
                    torch.testing.assert_close(value[:length], told[name][:length].detach())
                    assert not value[length:].any()
                for name in ("reward", "success"):
                    value = summary[f"test/{name}"][place]
                    true = seen["next", name][task, episode, :, 0]
                    assert torch.equal(value[:length], true[:length]) and not value[length:].any()
    if not adapts_weights:
        assert torch.equal(summary["test/context"], torch.stack([x for _, x in steps], 1))


@KINDS
def test_the_distribution_is_that_of_the_policy(kind):
    owner, seen = learner(kind, adapts_weights=True), experience(5)
    latent = latents(owner)
    recorder = LayerRecorder()
    recorder.see(owner, "test", 0, seen, latent)
    mean, mask = recorder.summary()["test/head/mean"][:, 0], seen["mask"]
    for task in range(TASKS):
        weights = owner.weights.unflatten(latent[task])
        made = functional_call(owner.policy, weights, (seen["observation"][task], latent[task, :0]))
        torch.testing.assert_close(mean[task][mask[task]], made.mean[mask[task]].detach())


def test_nothing_else_is_changed():
    owner, seen = learner(NeuromodulatedPolicy, gate="soft"), experience(5)
    latent, copy = latents(owner), seen.clone()
    before = {name: value.clone() for name, value in owner.policy.state_dict().items()}
    state = torch.get_rng_state()
    LayerRecorder().see(owner, "train", 0, seen, latent)
    assert torch.equal(torch.get_rng_state(), state)
    assert (seen == copy).all()
    for name, value in owner.policy.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in owner.policy.parameters())


def test_only_the_first_episodes():
    owner, seen = learner(), experience(5)
    latent, few, all_of_them = latents(owner), LayerRecorder(episodes=2), LayerRecorder(episodes=9)
    for recorder in (few, all_of_them):
        recorder.see(owner, "test", 0, seen, latent)
    for name, value in few.summary().items():
        whole = all_of_them.summary()[name]
        torch.testing.assert_close(value, whole if "context" in name else whole[:, :, :2])


@KINDS
@pytest.mark.parametrize("adapts_weights", [False, True], ids=["context", "weights"])
def test_groups_of_tasks_are_as_all_at_once(kind, adapts_weights):
    """Step by step each, and of as many numbers as `width` says."""
    owner, groups, together = learner(kind, adapts_weights), LayerRecorder(), LayerRecorder()
    steps = [(experience(5 + step, step), latents(owner)) for step in range(2)]
    for rows in (slice(0, 2), slice(2, TASKS)):
        for number, (seen, latent) in enumerate(steps):
            groups.see(owner, "test", number, seen[rows], latent[rows])
    for number, (seen, latent) in enumerate(steps):
        together.see(owner, "test", number, seen, latent)
    summary, expected = groups.summary(), together.summary()
    assert set(summary) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(summary[name], value)
    one = [value[0, 0, 0, 0].numel() for name, value in summary.items() if "context" not in name]
    assert groups.width(owner, steps[0][0]["observation"], steps[0][1]) == sum(one)


def test_splits_and_begin():
    owner, recorder = learner(), LayerRecorder()
    recorder.see(owner, "train", 0, experience(5), latents(owner))
    recorder.see(owner, "test", 0, experience(4), latents(owner))
    summary = recorder.summary()
    assert summary["train/reward"].shape == (TASKS, 1, EPISODES, 5)
    assert summary["test/reward"].shape == (TASKS, 1, EPISODES, 4)
    recorder.begin()
    assert recorder.summary() == {}


def test_errors():
    with pytest.raises(ValueError, match=r"LayerRecorder\.episodes.*0"):
        LayerRecorder(episodes=0)
    with pytest.raises(TypeError, match="SimpleNamespace does not tell.*LayerRecorder"):
        LayerRecorder().check(types.SimpleNamespace())
    with pytest.raises(TypeError, match="Linear does not tell"):
        owner = types.SimpleNamespace(policy=nn.Linear(3, 2))
        LayerRecorder().see(owner, "test", 0, experience(5), torch.zeros(TASKS, 2))
    LayerRecorder().check(learner())
