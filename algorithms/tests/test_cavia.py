"""CAVIA and MAML against their formulas, task by task and episode by episode, in autograd alone."""

import copy
import functools
from typing import NamedTuple

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call, vmap

from algorithms import cavia, episodes
from algorithms.cavia import CAVIA
from algorithms.trust_region import TrustRegion

TASKS, EPISODES, TIME = 2, 3, 5
ADAPTED = ("context", "weights")
KINDS = ("gaussian", "categorical")
BOTH = pytest.mark.parametrize("adapted", ADAPTED)
ALL = [(adapted, kind) for adapted in ADAPTED for kind in KINDS]
EACH = pytest.mark.parametrize(("adapted", "kind"), ALL)


class Normal(NamedTuple):
    mean: Tensor
    log_std: Tensor

    def log_prob(self, action):
        standard = (action - self.mean) / self.log_std.exp()
        return (-0.5 * (standard**2 + 1.8378770664093453) - self.log_std).sum(-1)

    def kl(self, old):
        variance, old_variance = (2 * self.log_std).exp(), (2 * old.log_std).exp()
        ratio = (variance + (self.mean - old.mean) ** 2) / (2 * old_variance)
        return ratio - 0.5 + old.log_std - self.log_std

    def sample(self):
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    def mode(self):
        return self.mean


class Choice(NamedTuple):
    logits: Tensor

    def log_prob(self, action):
        return self.logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def kl(self, old):
        p, q = self.logits.log_softmax(-1), old.logits.log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1, keepdim=True)

    def sample(self):
        return (self.logits - torch.empty_like(self.logits).exponential_().log()).argmax(-1)

    def mode(self):
        return self.logits.argmax(-1)


class Sizes(NamedTuple):
    observation_dim: int
    action_dim: int
    num_tasks: int
    discrete: bool


class Gated(nn.Module):
    """Eight tanh units with soft gates; smooth, so that differences can be trusted."""

    def __init__(self, observation_dim, action_dim, *, num_context, kind):
        super().__init__()
        self.num_context, self.kind, self.discrete = num_context, kind, kind == "categorical"
        self.hidden = nn.Linear(observation_dim + num_context, 8)
        self.gate = nn.Linear(observation_dim + num_context, 8)
        self.last = nn.Linear(8, action_dim)
        if kind == "gaussian":
            self.log_std = nn.Parameter(torch.full((action_dim,), -0.2))

    def forward(self, observation, context):
        x = torch.cat((observation, context.expand(*observation.shape[:-1], -1)), -1)
        output = self.last(torch.tanh(self.hidden(x) * torch.tanh(self.gate(x))))
        if self.kind == "categorical":
            return Choice(output)
        return Normal(output, self.log_std.expand_as(output))

    def metrics(self):
        return {"policy/outputs": self.last.weight.detach().mean()}


def build(dims, adapted="context", kind="gaussian", seed=0, **options) -> CAVIA:
    torch.manual_seed(seed)
    num_context = 3 if adapted == "context" else 0
    policy = functools.partial(Gated, num_context=num_context, kind=kind)
    sizes = Sizes(dims.observation_dim, dims.action_dim, dims.num_tasks, kind == "categorical")
    return CAVIA(sizes, policy=policy, adapted=adapted, **({"fast_lr": 0.7} | options)).double()


def experience(dims, kind, seed, time=TIME, tasks=TASKS) -> TensorDict:
    """Made-up episodes, none of the same length."""
    generator = torch.Generator().manual_seed(seed)
    draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, time + 1, (tasks, EPISODES), generator=generator)
    lengths[0, 0], lengths[0, 1] = time, 1
    shape = (tasks, EPISODES, time)
    if kind == "categorical":
        action = torch.randint(dims.action_dim, shape, generator=generator)
    else:
        action = draw(*shape, dims.action_dim)
    fields = {
        "observation": draw(*shape, dims.observation_dim),
        "action": action,
        "next": TensorDict({"reward": draw(*shape, 1)}, shape),
        "mask": torch.arange(time) < lengths[..., None],
    }
    return TensorDict(fields, shape)


def made_up(dims, kind="gaussian", tasks=TASKS) -> TensorDict:
    before = experience(dims, kind, 1, tasks=tasks)
    after = experience(dims, kind, 2, TIME + 1, tasks=tasks)
    return TensorDict({"before": before, "after": after}, [tasks])


def problem_of(learner, batch):
    """J and KL around the learner's theta, and the prepared episodes."""
    weights = episodes.fit(batch["before"], learner.discount)
    before, after = (
        episodes.prepare(batch[name], weights, learner.discount, learner.gae_lambda)
        for name in ("before", "after")
    )
    return learner.surrogate(learner.weights.vector(), before, after), before, after


class Loop:
    """The same without `torch.func`: Python loops, episodes cut to their lengths, autograd."""

    def __init__(self, learner, before, after):
        self.learner, self.before, self.after = learner, before, after
        self.tasks = len(before.mask)
        self.theta = self.leaf(learner.weights.vector())
        with torch.no_grad():
            self.theta_policy = [
                [p._replace(**{f: getattr(p, f).clone() for f in p._fields}) for p in row]
                for row in self.policies(self.theta)
            ]
        self.old = self.theta_policy

    @staticmethod
    def leaf(vector):
        return vector.detach().clone().requires_grad_()

    def policy(self, theta, x, observation):
        weights = x if self.learner.adapts_weights else theta
        context = x[:0] if self.learner.adapts_weights else x
        named = self.learner.weights.unflatten(weights)
        return functional_call(self.learner.policy, named, (observation, context))

    def cut(self, data, task):
        for b in range(EPISODES):
            length = int(data.mask[task, b].sum())
            yield [t[task, b, :length] for t in (data.observation, data.action, data.advantage)]

    def adapted(self, theta, task):
        with torch.enable_grad():
            learner = self.learner
            x = theta if learner.adapts_weights else torch.zeros(3).to(theta).requires_grad_()
            loss = 0.0
            for observation, action, advantage in self.cut(self.before, task):
                log_prob = self.policy(theta, x, observation).log_prob(action)
                loss = loss - (log_prob * advantage).mean() / EPISODES
            (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
            return x - learner.fast_lr * gradient

    def policies(self, theta):
        rows = []
        for task in range(self.tasks):
            x = self.adapted(theta, task)
            rows.append([self.policy(theta, x, o) for o, _, _ in self.cut(self.after, task)])
        return rows

    def loss_and_kl(self, theta):
        loss = kl = 0.0
        for task, row in enumerate(self.policies(theta)):
            for b, (_, action, advantage) in enumerate(self.cut(self.after, task)):
                new, old, share = row[b], self.old[task][b], 1.0 / (EPISODES * self.tasks)
                ratio = (new.log_prob(action) - old.log_prob(action)).exp()
                loss = loss - share * (ratio * advantage).mean()
                kl = kl + share * new.kl(old).mean()
        return loss, kl

    def gradient(self):
        return torch.autograd.grad(self.loss_and_kl(self.theta)[0], self.theta)[0]

    def curvature(self, vector):
        slope = torch.autograd.grad(self.loss_and_kl(self.theta)[1], self.theta, create_graph=True)
        return torch.autograd.grad(slope[0] @ vector, self.theta)[0]

    def step(self, iterations, max_kl=0.01, damping=1e-5):
        def product(v):
            return self.curvature(v) + damping * v

        g = self.gradient()
        x, r, p = torch.zeros_like(g), g.clone(), g.clone()
        rr = r @ r
        for _ in range(iterations):
            hp = product(p)
            v = rr / (p @ hp)
            x, r = x + v * p, r - v * hp
            rr, old = r @ r, rr
            if rr < 1e-10:
                break
            p = r + rr / old * p
        full = x / (0.5 * (x @ product(x)) / max_kl).sqrt()
        start = self.loss_and_kl(self.theta)[0].detach()
        for tries in range(15):
            candidate = (self.theta - 0.8**tries * full).detach()
            loss, kl = self.loss_and_kl(self.leaf(candidate))
            if loss < start and kl < max_kl:
                return candidate
        return self.theta.detach()


def differences(function, at, step=1e-5):
    """Central differences of a scalar function."""
    moves = step * torch.eye(len(at), dtype=at.dtype)
    ahead, behind = vmap(function)(torch.cat((at + moves, at - moves))).detach().chunk(2)
    return (ahead - behind) / (2 * step)


def relative(seen, expected):
    return float((seen - expected).norm() / expected.norm())


@BOTH
def test_invariant_1_tasks_start_without_context(dims, adapted):
    learner, batch = build(dims, adapted), made_up(dims)
    for _ in range(2):
        prior = learner.prior(TASKS)
        latent, adaptations = prior["latent"], prior["adaptations"]
        start = torch.zeros(3) if adapted == "context" else learner.weights.vector()
        assert torch.equal(latent, start.expand(TASKS, -1).double())
        assert adaptations.dtype == torch.int64 and (adaptations == 0).all()
        learner.adapt(batch["before"], prior)
        assert torch.equal(prior["latent"], latent) and (prior["adaptations"] == 0).all()
        learner.update(batch)


@EACH
def test_invariant_2_adapting_leaves_the_shared_weights_alone(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind)
    theta, prior = learner.weights.vector(), learner.prior(TASKS)
    once = learner.adapt(batch["before"], prior)
    assert torch.equal(learner.weights.vector(), theta)
    for task in range(TASKS):
        if adapted == "context":
            assert (once["latent"][task] != 0).all()
        else:
            named = learner.weights.unflatten(once["latent"][task])
            for name, parameter in learner.policy.named_parameters():
                assert (named[name] != parameter).any(), name
    assert (once["adaptations"] == 1).all()


@EACH
def test_invariant_10_inner_gradient_against_finite_differences(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind)
    _, before, _ = problem_of(learner, batch)
    prior = learner.prior(TASKS)
    prior["latent"] = prior["latent"] + 0.1
    ahead = learner.adapt(batch["before"], prior)["latent"]
    theta = learner.weights.vector()
    for task in range(TASKS):
        own = type(before)(*(field[task] for field in before))
        slope = differences(
            lambda x, own=own: learner._inner_loss(theta, x, own), prior[task]["latent"]
        )
        assert relative((prior["latent"] - ahead)[task] / 0.7, slope) < 1e-6


@EACH
def test_invariant_11_meta_gradient_against_finite_differences(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind)
    problem, before, after = problem_of(learner, batch)
    slope = differences(lambda theta: problem.evaluate(theta)[0], learner.weights.vector())
    assert relative(problem.gradient, slope) < 1e-5
    learner.first_order = True
    first = learner.surrogate(learner.weights.vector(), before, after)
    torch.testing.assert_close(first.loss, problem.loss)
    assert relative(first.gradient, slope) > 1e-3


@BOTH
def test_first_order_takes_the_gradient_for_a_constant(dims, adapted):
    learner, batch = build(dims, adapted, first_order=True), made_up(dims)
    problem, before, after = problem_of(learner, batch)
    theta = learner.weights.vector()
    loop = Loop(learner, before, after)
    moved = torch.stack([loop.adapted(loop.theta, i) for i in range(TASKS)]).detach() - (
        theta if adapted == "weights" else 0.0
    )

    def loss(shared):
        x = moved + shared if adapted == "weights" else moved
        policies = vmap(learner._policy, (None, 0, 0))(shared, x, after.observation)
        return problem._loss(policies)

    assert relative(problem.gradient, differences(loss, theta)) < 1e-7


@EACH
def test_invariant_12_at_the_old_theta(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind)
    problem, _, after = problem_of(learner, batch)
    theta = learner.weights.vector()
    ratio = (problem.old.log_prob(after.action) - problem._old_log_prob).exp()
    assert (ratio == 1.0).all()
    assert problem.evaluate(theta)[1].abs() < 1e-15
    slope = torch.func.grad(lambda t: problem.evaluate(t)[1])(theta)
    assert slope.abs().max() < 1e-7


@EACH
def test_invariant_13_curvature(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind)
    problem, _, _ = problem_of(learner, batch)
    theta = learner.weights.vector()
    vectors = torch.randn(4, len(theta), dtype=torch.float64)
    images = torch.stack([problem.curvature(v) for v in vectors])
    products = images @ vectors.T
    torch.testing.assert_close(products, products.T, rtol=1e-9, atol=1e-12)
    assert (products.diagonal() > 0).all()
    slope = torch.func.grad(lambda t: problem.evaluate(t)[1])
    for v, image in zip(vectors, images, strict=True):
        double = torch.func.grad(lambda t, v=v: slope(t) @ v)(theta)
        assert relative(image, double) < 1e-8
        ahead, behind = (slope(theta + sign * 1e-5 * v) for sign in (1, -1))
        assert relative(image, (ahead - behind) / 2e-5) < 1e-6


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_invariant_16_vectorised_equals_looped(dims, adapted, kind, dtype):
    learner, batch = build(dims, adapted, kind).to(dtype), made_up(dims, kind)
    batch = batch.apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
    problem, before, after = problem_of(learner, batch)
    loop = Loop(learner, before, after)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    close = functools.partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    adaptations = learner.adapt(batch["before"], learner.prior(TASKS))["latent"]
    close(adaptations, torch.stack([loop.adapted(loop.theta, i) for i in range(TASKS)]).detach())
    away = loop.leaf(loop.theta + 0.05)
    for theta in (loop.theta, away):
        close(
            torch.stack(problem.evaluate(theta.detach())),
            torch.stack(loop.loss_and_kl(theta)).detach(),
        )
    close(problem.gradient, loop.gradient())
    vector = torch.randn(len(loop.theta)).to(dtype)
    close(problem.curvature(vector), loop.curvature(vector))
    # Every conjugate gradient step magnifies rounding, here about a hundredfold: few of them.
    iterations = 5 if dtype == torch.float64 else 1
    learner.trust_region = TrustRegion(cg_iterations=iterations)
    expected = loop.step(iterations)
    assert learner.update(batch)["accepted"] == 1
    close(learner.weights.vector(), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first_order", [False, True])
def test_a_derivative_of_the_context_written_out_or_not(dims, kind, first_order, monkeypatch):
    learner, batch = build(dims, kind=kind, first_order=first_order), made_up(dims, kind)
    problems = []
    for widest in (0, 3):
        monkeypatch.setattr(cavia, "NARROW", widest)
        problems.append(problem_of(learner, batch)[0])
    close = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)
    close(problems[0].loss, problems[1].loss)
    close(problems[0].gradient, problems[1].gradient)
    vector = torch.randn_like(problems[0].gradient)
    close(problems[0].curvature(vector), problems[1].curvature(vector))
    away = learner.weights.vector() + 0.1 * vector
    close(problems[0].evaluate(away), problems[1].evaluate(away))


@EACH
def test_invariant_17_the_order_of_tasks_does_not_matter(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind, tasks=4)
    problem, _, _ = problem_of(learner, batch)
    other, _, _ = problem_of(learner, batch[torch.tensor([2, 0, 3, 1])])
    torch.testing.assert_close(other.loss, problem.loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other.gradient, problem.gradient, rtol=1e-10, atol=1e-12)


@EACH
def test_invariant_18_without_inner_step_it_is_plain_trpo(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind, fast_lr=0.0), made_up(dims, kind)
    problem, _, after = problem_of(learner, batch)
    prior = learner.prior(TASKS)
    assert torch.equal(learner.adapt(batch["before"], prior)["latent"], prior["latent"])

    def loss(theta):
        named = learner.weights.unflatten(theta)
        context = theta.new_zeros(learner.policy.num_context)
        return problem._loss(functional_call(learner.policy, named, (after.observation, context)))

    theta = learner.weights.vector()
    torch.testing.assert_close(problem.loss, loss(theta), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(problem.gradient, torch.func.grad(loss)(theta))


@EACH
def test_invariant_15_accepted_steps(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind)
    for _ in range(3):
        problem, _, _ = problem_of(learner, batch)
        metrics = learner.update(batch)
        assert metrics["accepted"] == 1 and metrics["health/nonfinite"] == 0
        loss, kl = problem.evaluate(learner.weights.vector())
        assert kl < 0.01 and loss < problem.loss
        torch.testing.assert_close(metrics["kl"], kl)
        torch.testing.assert_close(metrics["loss/before"], problem.loss)
        torch.testing.assert_close(metrics["loss/after"], loss)
        torch.testing.assert_close(metrics["surrogate_gain"], problem.loss - loss)
        torch.testing.assert_close(metrics["grad_norm/policy"], problem.gradient.norm())


@BOTH
def test_invariant_15_rejected_steps_change_no_bit(dims, adapted):
    region = functools.partial(TrustRegion, max_kl=1e6, max_backtracks=1)
    learner, batch = build(dims, adapted, trust_region=region), made_up(dims)
    before = copy.deepcopy(learner.state_dict())
    metrics = learner.update(batch)
    assert metrics["accepted"] == 0 and metrics["backtracks"] == 1
    assert metrics["kl"] == 0 and metrics["surrogate_gain"] == 0
    torch.testing.assert_close(learner.state_dict(), before, rtol=0, atol=0)


@BOTH
@pytest.mark.parametrize("part", ["before", "after"])
@pytest.mark.parametrize("key", ["observation", "action", ("next", "reward")])
def test_non_finite_experience_changes_no_bit_and_is_counted(dims, adapted, part, key):
    learner, batch = build(dims, adapted), made_up(dims)
    batch[part][key][0, 0, 1] = torch.nan
    before = copy.deepcopy(learner.state_dict())
    metrics = learner.update(batch)
    assert metrics["health/nonfinite"] == 1 and metrics["accepted"] == 0
    torch.testing.assert_close(learner.state_dict(), before, rtol=0, atol=0)
    if part == "before":  # the task keeps its latent, the other one adapts
        prior = learner.prior(TASKS)
        seen = learner.adapt(batch["before"], prior)["latent"]
        assert torch.equal(seen[0], prior["latent"][0])
        assert (seen[1] != prior["latent"][1]).any()


@EACH
@pytest.mark.parametrize("part", ["before", "after"])
def test_a_task_whose_episodes_all_broke_off_leaves_the_step_to_the_others(
    dims, adapted, kind, part
):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind)
    batch[part]["mask"][1] = False
    prior = learner.prior(TASKS)
    latent = learner.adapt(batch["before"], prior)["latent"]
    assert not torch.equal(latent[0], prior["latent"][0])
    assert torch.equal(latent[1], prior["latent"][1]) == (part == "before")
    metrics = learner.update(batch)
    assert float(metrics["accepted"]) == 1.0 and float(metrics["health/nonfinite"]) == 0.0


def test_without_any_reward_nothing_moves(dims):
    learner, batch = build(dims), made_up(dims)
    for part in ("before", "after"):
        batch[part]["next", "reward"].zero_()
    theta = learner.weights.vector()
    metrics = learner.update(batch)
    assert metrics["accepted"] == 0 and metrics["health/nonfinite"] == 0
    assert torch.equal(learner.weights.vector(), theta)
    assert (learner.adapt(batch["before"], learner.prior(TASKS))["latent"] == 0).all()


@BOTH
def test_invariant_20_same_seed_same_numbers(dims, adapted):
    runs = []
    for _ in range(2):
        learner, batch = build(dims, adapted), made_up(dims)
        metrics = [learner.update(batch) for _ in range(2)]
        latent = learner.adapt(batch["before"], learner.prior(TASKS))["latent"]
        td = TensorDict({"observation": torch.ones(TASKS, 4, 3).double()}, [TASKS])
        td["latent"] = latent[:, None]
        runs.append([*metrics, {"latent": latent, "action": learner.act(td, True)["action"]}])
    torch.testing.assert_close(*runs, rtol=0, atol=0)


@BOTH
def test_invariant_22_a_loaded_learner_goes_on_alike_and_holds_no_context(dims, adapted):
    learner, batch = build(dims, adapted), made_up(dims)
    learner.adapt(batch["before"], learner.prior(TASKS))
    learner.update(batch)
    state = copy.deepcopy(learner.state_dict())
    assert set(state) == {f"policy.{name}" for name, _ in learner.policy.named_parameters()}
    other = build(dims, adapted, seed=9)
    other.load_state_dict(state)
    for each in (learner, other, copy.deepcopy(other)):
        each.load_state_dict(state)
        each.update(batch)
        assert torch.equal(each.weights.vector(), learner.weights.vector())


@EACH
def test_acting_task_by_task(dims, adapted, kind):
    learner, batch = build(dims, adapted, kind), made_up(dims, kind)
    latent = learner.adapt(batch["before"], learner.prior(TASKS))["latent"]
    observation = torch.randn(TASKS, 4, 3).double()
    wide = latent[:, None].expand(-1, 4, -1)
    td = TensorDict({"observation": observation, "latent": wide}, [TASKS, 4])
    narrow = TensorDict({"observation": observation, "latent": latent[:, None]}, [TASKS])
    seen = learner.act(td, False)["action"]
    assert torch.equal(learner.act(narrow, False)["action"], seen)
    theta = learner.weights.vector()
    for task in range(TASKS):
        for episode in range(4):
            one = learner._policy(theta, latent[task], observation[task, episode])
            torch.testing.assert_close(seen[task, episode], one.mode().detach())
    drawn = learner.act(td, True)["action"]
    if kind == "categorical":
        assert drawn.dtype == torch.int64 and drawn.shape == (TASKS, 4)
    else:
        assert drawn.shape == (TASKS, 4, 2) and (drawn != seen).all()
        wide = TensorDict({"observation": observation[:, :1].expand(-1, 5000, -1)}, [TASKS])
        wide["latent"] = learner.prior(TASKS)["latent"][:, None]
        drawn, mode = (learner.act(wide, explore)["action"] for explore in (True, False))
        torch.testing.assert_close(drawn.mean(1), mode[:, 0], rtol=0, atol=0.06)
        deviation = torch.full((TASKS, 2), -0.2).exp().double()
        torch.testing.assert_close(drawn.std(1), deviation, rtol=0.06, atol=0)
    assert not drawn.requires_grad


@EACH
@pytest.mark.parametrize("explore", [True, False])
def test_acting_reads_no_number(dims, adapted, kind, explore):
    """On a device without numbers, where whatever would wait for one is an error."""
    learner = build(dims, adapted, kind).to("meta")
    td = TensorDict({"observation": torch.zeros(TASKS, 4, 3, device="meta").double()}, [TASKS])
    td["latent"] = learner.prior(TASKS)["latent"][:, None]
    action = learner.act(td, explore)["action"]
    assert action.is_meta and action.shape[:2] == (TASKS, 4)


@pytest.mark.parametrize(
    ("halve_lr", "training", "lengths"),
    [
        (None, False, (1.0, 1.0, 1.0)),
        ("after_first", False, (1.0, 0.5, 0.5)),
        ("after_first", True, (1.0, 0.5, 0.5)),
        ("first", False, (0.5, 1.0, 1.0)),
        ("first", True, (1.0, 1.0, 1.0)),
    ],
)
def test_lengths_of_successive_steps(dims, halve_lr, training, lengths):
    learner, batch = build(dims, halve_lr=halve_lr).train(training), made_up(dims)
    plain = build(dims)
    latents = learner.prior(TASKS)
    for count, length in enumerate(lengths):
        full = plain.adapt(batch["before"], latents)["latent"] - latents["latent"]
        ahead = learner.adapt(batch["before"], latents)
        torch.testing.assert_close(ahead["latent"] - latents["latent"], length * full)
        assert (ahead["adaptations"] == count + 1).all()
        latents = ahead


def test_the_outer_baseline_is_fitted_where_asked(dims):
    batch = made_up(dims)
    for name in ("before", "after"):
        learner = build(dims, outer_baseline=name)
        weights = episodes.fit(batch[name], 0.95)
        after = episodes.prepare(batch["after"], weights, 0.95, 1.0)
        _, before, _ = problem_of(learner, batch)
        expected = learner.surrogate(learner.weights.vector(), before, after).loss
        torch.testing.assert_close(learner.update(batch)["loss/before"], expected)


def test_the_joint_divergence_takes_smaller_steps(dims):
    moved = []
    for reduce in ("mean", "sum"):
        learner = build(dims, kl_reduce=reduce)
        theta = learner.weights.vector()
        learner.update(made_up(dims))
        moved.append((learner.weights.vector() - theta).norm())
    assert moved[1] < 0.9 * moved[0]


def test_metrics(dims):
    learner, batch = build(dims), made_up(dims)
    _, before, after = problem_of(learner, batch)
    loop = Loop(learner, before, after)
    metrics = learner.update(batch)
    inner = 0.0
    for task in range(TASKS):
        for observation, action, advantage in loop.cut(before, task):
            policy = loop.policy(loop.theta, torch.zeros(3).double(), observation)
            inner -= (policy.log_prob(action) * advantage).mean().detach() / (TASKS * EPISODES)
    torch.testing.assert_close(metrics["loss/inner"], inner)
    assert metrics["policy/outputs"] == learner.policy.last.weight.mean()
    for name, value in metrics.items():
        assert value.ndim == 0 and not value.requires_grad, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapted": "head"}, r"CAVIA\.adapted.*'head'"),
        ({"halve_lr": "always"}, r"CAVIA\.halve_lr.*'always'"),
        ({"outer_baseline": "valid"}, r"CAVIA\.outer_baseline.*'valid'"),
        ({"kl_reduce": "max"}, r"CAVIA\.kl_reduce.*'max'"),
        ({"discount": 1.5}, r"CAVIA\.discount.*1\.5"),
        ({"gae_lambda": -0.5}, r"CAVIA\.gae_lambda.*-0\.5"),
        ({"fast_lr": -1.0}, r"CAVIA\.fast_lr.*-1\.0"),
        ({"adapted": "weights"}, r"'weights' needs a policy with num_context = 0, got 3"),
        ({"num_context": 0}, r"'context' needs a policy with num_context of at least 1, got 0"),
    ],
)
def test_errors_name_the_argument(dims, options, message):
    policy = functools.partial(Gated, num_context=options.pop("num_context", 3), kind="gaussian")
    with pytest.raises(ValueError, match=message):
        CAVIA(dims, policy=policy, **options)


@pytest.mark.parametrize(("kind", "other"), [KINDS, KINDS[::-1]])
def test_policy_and_tasks_have_actions_of_one_kind(dims, kind, other):
    policy = functools.partial(Gated, num_context=3, kind=kind)
    sizes = Sizes(3, 2, 1, other == "categorical")
    with pytest.raises(
        ValueError, match=rf"CAVIA\.policy.*ContextPolicy\.distribution = '{other}'"
    ):
        CAVIA(sizes, policy=policy)


def guess(learner, goals, latent, episodes_per_task=20):
    """Episodes of one step without anything to see: the reward tells how near the goal was."""
    shape = (len(goals), episodes_per_task)
    td = TensorDict({"observation": torch.ones(*shape, 1), "latent": latent[:, None]}, [len(goals)])
    action = learner.act(td, True)["action"]
    if action.is_floating_point():
        reward = -(action - goals[:, None, None]).abs()
    else:
        reward = (action == goals[:, None]).float().unsqueeze(-1)
    fields = {
        "observation": td["observation"].unsqueeze(2),
        "action": action.unsqueeze(2),
        "next": TensorDict({"reward": reward.unsqueeze(2)}, (*shape, 1)),
        "mask": torch.ones(*shape, 1, dtype=torch.bool),
    }
    return TensorDict(fields, (*shape, 1))


@EACH
def test_one_step_adapts_after_meta_training(adapted, kind):
    torch.manual_seed(0)
    sizes = Sizes(1, 3, 1, True) if kind == "categorical" else Sizes(1, 1, 1, False)
    # The divergence of the policy before the step is not bounded: where that policy is moved far,
    # it may stop exploring.
    num_context, fast_lr, max_kl, updates = (
        (2, 2.0, 0.1, 8) if adapted == "context" else (0, 0.3, 0.03, 12)
    )
    policy = functools.partial(Gated, num_context=num_context, kind=kind)
    region = functools.partial(TrustRegion, max_kl=max_kl, cg_iterations=3)
    learner = CAVIA(sizes, policy=policy, adapted=adapted, fast_lr=fast_lr, trust_region=region)

    def experiences(tasks):
        goals = torch.randint(3, (tasks,)) if kind == "categorical" else torch.randn(tasks).sign()
        before = guess(learner, goals, learner.prior(tasks)["latent"])
        latent = learner.adapt(before, learner.prior(tasks))["latent"]
        parts = {"before": before, "after": guess(learner, goals, latent)}
        return TensorDict(parts, [tasks])

    def returns():
        seen = experiences(200)
        return [float(_return(seen[name])) for name in ("before", "after")]

    start = returns()
    for _ in range(updates):
        learner.update(experiences(40))
    end = returns()
    assert end[1] > end[0] + 0.25
    assert end[1] > start[1] + 0.15


def _return(experience):
    """Mean over tasks and episodes of the sum of rewards."""
    return (experience["next", "reward"].squeeze(-1) * experience["mask"]).sum(-1).mean()
