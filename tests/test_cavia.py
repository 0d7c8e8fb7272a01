"""CAVIA and MAML with their own networks, and the gin parts that put them together."""

import functools
import importlib
from typing import NamedTuple

import gin
import pytest
import torch
from tensordict import TensorDict

from algorithms import episodes
from algorithms.cavia import CAVIA
from algorithms.trust_region import TrustRegion
from networks.context_policy import ContextPolicy
from networks.neuromodulated import GATES, NeuromodulatedPolicy
from runners import config

TASKS, EPISODES, TIME = 3, 3, 5
GATED = ("none", *GATES)
ADAPTED = pytest.mark.parametrize("adapted", ["context", "weights"])
KINDS = pytest.mark.parametrize("distribution", ["gaussian", "categorical"])
SMOOTH = pytest.mark.parametrize("gate", ["none", "soft"])


class Sizes(NamedTuple):
    observation_dim: int = 2
    action_dim: int = 2
    num_tasks: int = TASKS
    discrete: bool = False


def build(adapted, gate, distribution="gaussian", activation="tanh", **options):
    torch.manual_seed(0)
    network = {
        "num_context": 3 if adapted == "context" else 0,
        "hidden": (8, 8),
        "activation": activation,
        "distribution": distribution,
    }
    kind = ContextPolicy
    if gate != "none":
        kind, network = NeuromodulatedPolicy, network | {"num_modulators": 3, "gate": gate}
    policy = functools.partial(kind, **network)
    sizes = Sizes(discrete=distribution == "categorical")
    return CAVIA(sizes, policy=policy, adapted=adapted, **options).double()


def experience(distribution, seed):
    torch.manual_seed(seed)
    shape = (TASKS, EPISODES, TIME)
    action = torch.randn(*shape, 2).double()
    if distribution == "categorical":
        action = torch.randint(2, shape)
    fields = {
        "observation": torch.randn(*shape, 2).double(),
        "action": action,
        "next": TensorDict({"reward": torch.randn(*shape, 1).double()}, shape),
        "mask": torch.arange(TIME) < torch.randint(1, TIME + 1, (TASKS, EPISODES, 1)),
    }
    return TensorDict(fields, shape)


def made_up(distribution="gaussian", seed=0):
    before, after = (experience(distribution, seed + part) for part in range(2))
    return TensorDict({"before": before, "after": after}, [TASKS])


def shaken(learner):
    """Away from the initial weights: there, where all modulators of a layer rest, those of the
    next one are exactly at the kink of their relu."""
    torch.manual_seed(7)
    theta = learner.weights.vector()
    learner.weights.write(theta + 0.3 * torch.randn_like(theta))
    return learner


def surrogate(learner, batch):
    baseline = episodes.fit(batch["before"], 0.95)
    seen = [episodes.prepare(batch[name], baseline, 0.95, 1.0) for name in ("before", "after")]
    return learner.surrogate(learner.weights.vector(), *seen)


@ADAPTED
@KINDS
@pytest.mark.parametrize("gate", GATES)
def test_invariant_5_five_meta_steps_leave_hard_modulators_alone(adapted, distribution, gate):
    region = functools.partial(TrustRegion, cg_iterations=3)
    learner = build(adapted, gate, distribution, "relu", fast_lr=0.1, trust_region=region)
    start = {name: p.detach().clone() for name, p in learner.policy.named_parameters()}
    accepted = [learner.update(made_up(distribution, 2 * step))["accepted"] for step in range(5)]
    assert sum(accepted) >= 2  # a gate that turns makes the loss jump: some steps are refused
    for name, parameter in learner.policy.named_parameters():
        modulates = "modulators" in name or "gates" in name
        assert torch.equal(parameter, start[name]) == (gate == "hard" and modulates), name


@ADAPTED
@KINDS
@SMOOTH
def test_invariant_11_meta_gradient_against_finite_differences(adapted, distribution, gate):
    learner, batch = shaken(build(adapted, gate, distribution)), made_up(distribution)
    problem, theta = surrogate(learner, batch), learner.weights.vector()
    moves = 1e-5 * torch.eye(len(theta)).double()
    losses = torch.func.vmap(lambda t: problem.evaluate(t)[0])
    ahead, behind = losses(torch.cat((theta + moves, theta - moves))).chunk(2)
    slope = (ahead - behind) / 2e-5
    assert (problem.gradient - slope).norm() < 1e-5 * slope.norm()
    learner.first_order = True
    assert (surrogate(learner, batch).gradient - slope).norm() > 1e-3 * slope.norm()


@ADAPTED
@KINDS
@pytest.mark.parametrize("gate", GATED)
def test_invariant_13_curvature_is_the_double_derivative(adapted, distribution, gate):
    learner = build(adapted, gate, distribution, "relu")
    problem, theta = surrogate(learner, made_up(distribution)), learner.weights.vector()
    u, v = torch.randn(2, len(theta)).double()
    images = [problem.curvature(vector) for vector in (u, v)]
    torch.testing.assert_close(v @ images[0], u @ images[1], rtol=1e-9, atol=1e-12)
    assert u @ images[0] >= 0 and v @ images[1] >= 0
    slope = torch.func.grad(lambda t: problem.evaluate(t)[1])
    double = torch.func.grad(lambda t: slope(t) @ v)(theta)
    assert (images[1] - double).norm() < 1e-8 * double.norm()


@ADAPTED
@KINDS
@SMOOTH
def test_invariant_16_all_tasks_at_once_equal_one_by_one(adapted, distribution, gate):
    learner, batch = build(adapted, gate, distribution, "relu"), made_up(distribution)
    problem, vector = surrogate(learner, batch), learner.weights.vector()
    alone = [surrogate(learner, batch[i : i + 1]) for i in range(TASKS)]

    def mean(values):
        return torch.stack(list(values)).mean(0)

    close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
    close(problem.gradient, mean(one.gradient for one in alone))
    close(problem.curvature(vector), mean(one.curvature(vector) for one in alone))
    for whole, parts in zip(
        problem.evaluate(vector + 0.05),
        zip(*(one.evaluate(vector + 0.05) for one in alone), strict=True),
        strict=True,
    ):
        close(whole, mean(parts))
    latent = learner.adapt(batch["before"], learner.prior(TASKS))["latent"]
    each = [learner.adapt(batch["before"][i : i + 1], learner.prior(1)) for i in range(TASKS)]
    close(latent, torch.cat([one["latent"] for one in each]))


@ADAPTED
@pytest.mark.parametrize("gate", GATED)
def test_invariant_22_a_checkpoint_acts_and_adapts_alike(adapted, gate):
    learner, batch = build(adapted, gate), made_up()
    learner.update(batch)
    other = build(adapted, gate)
    other.load_state_dict(learner.state_dict())
    actions = []
    for each in (learner, other):
        latents = each.prior(TASKS)
        for _ in range(2):
            latents = each.adapt(batch["before"], latents)
        td = TensorDict({"latent": latents["latent"][:, None]}, [TASKS])
        td["observation"] = torch.ones(TASKS, 4, 2).double()
        torch.manual_seed(5)
        actions.append(each.act(td, True)["action"])
    assert torch.equal(*actions)
    count = sum(p.numel() for p in learner.policy.parameters())
    assert sum(value.numel() for value in learner.state_dict().values()) == count


def assembled(tmp_path, *parts):
    importlib.import_module("runners.training")  # as the entry point does
    file = tmp_path / "parts.gin"
    file.write_text("".join(f"include 'gin/{part}.gin'\n" for part in parts))
    config.parse([file])
    return gin.query_parameter("train.algorithm").scoped_configurable_fn(Sizes(17, 3))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("network", ["context_policy", "neuromodulated"])
@pytest.mark.parametrize("learner", ["cavia", "maml"])
def test_parts_stand_in_any_order(network, learner, order, tmp_path):
    made = assembled(tmp_path, *(f"networks/{network}", f"algorithms/{learner}")[::order])
    assert isinstance(made, CAVIA)
    assert type(made.policy).__name__ == (
        "ContextPolicy" if network == "context_policy" else "NeuromodulatedPolicy"
    )
    assert made.policy.num_context == (5 if learner == "cavia" else 0)
    assert made.prior(2)["latent"].shape == (2, 5 if learner == "cavia" else _size(made))
    assert (made.fast_lr, made.halve_lr) == (
        (0.5, None) if learner == "cavia" else (0.01, "after_first")
    )
    assert (made.trust_region.max_kl, made.trust_region.damping) == (0.01, 1e-5)
    unread = [line for line in config.unused_bindings() if "train.algorithm" not in line]
    assert not unread


def _size(made):
    return sum(p.numel() for p in made.policy.parameters())
