"""What TIGR and CEMRL share: who is moved by what, which latents there are, and the state."""

import copy
import math
from functools import partial

import pytest
import torch
from tensordict import TensorDict

from algorithms.cemrl import CEMRL
from algorithms.tigr import TIGR

BOTH = pytest.mark.parametrize("kind", [TIGR, CEMRL])


@pytest.fixture
def build(dims, inference_parts):
    def learner(kind, **options):
        torch.manual_seed(0)
        return kind(dims, **{**inference_parts, **options}).double()

    return learner


def saved(module):
    return {k: v.clone() for k, v in module.state_dict().items() if torch.is_tensor(v)}


def moved(module, before):
    after = module.state_dict()
    return {k for k, v in before.items() if not torch.equal(v, after[k])}


def of(before, *parts):
    return {name for name in before if name.startswith(parts)}


@BOTH
def test_invariant_12_policy_steps_leave_the_encoder_alone(build, windows, kind):
    learner = build(kind)
    before = saved(learner)
    learner.update(windows)
    assert all(
        p.grad is None for p in (*learner.encoder.parameters(), *learner.decoder.parameters())
    )
    assert moved(learner, before) == of(before, "agent.actor", "agent.critic", "agent.target")


@BOTH
def test_invariant_12_reconstruction_leaves_the_policy_alone(build, windows, kind):
    learner = build(kind)
    before = saved(learner)
    metrics = learner.infer(windows)
    assert all(p.grad is None for p in learner.agent.parameters())
    changed = moved(learner, before)
    assert changed == of(before, "encoder.", "decoder.")
    assert metrics["health/nonfinite"] == 0 and metrics["grad_norm/encoder"] > 0


@BOTH
def test_validation_moves_weights_of_losses_alone(build, windows, kind):
    learner = build(kind)
    learner.infer(windows)
    before = saved(learner)
    learner.validate(windows, windows)
    assert moved(learner, before) <= {"weights", "stale", "least"}
    assert "weights" in moved(learner, before)
    assert all(p.grad is None for p in learner.parameters())
    assert learner.weights.sum().item() == pytest.approx(1.0)


@BOTH
@pytest.mark.parametrize("next_latent", ["same", "shifted"])
def test_invariant_13_the_latent_of_the_next_state(build, windows, kind, next_latent, monkeypatch):
    learner = build(kind, next_latent=next_latent)
    given = []
    monkeypatch.setattr(
        type(learner.agent), "step", lambda self, *arguments: given.append(arguments) or {}
    )
    learner.update(windows)
    ((batch, z, following),) = given
    for row in range(len(windows)):
        prior = learner.prior(1)
        here = learner.adapt(windows[row : row + 1, :-1], prior)["latent"][0]
        ahead = learner.adapt(windows[row : row + 1, 1:], prior)["latent"][0]
        torch.testing.assert_close(z[row], here)
        torch.testing.assert_close(following[row], here if next_latent == "same" else ahead)
    assert torch.equal(batch["observation"], windows["observation"][:, -1])
    assert not z.requires_grad and not following.requires_grad


@BOTH
def test_policies_see_raw_numbers_and_encoders_normalised_ones(build, windows, kind):
    learner = build(kind)
    learner.load_statistics(TensorDict({"mean": torch.tensor(1.0), "std": torch.tensor(4.0)}, []))
    seen = []
    learner.agent.actor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    learner.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    learner.update(windows)
    context, now, _ = seen
    expected = ((windows["action"][:, :-1] - 1.0) / 4.0).masked_fill(
        ~windows["mask"][:, :-1, None], 0.0
    )
    assert torch.equal(context["action"], expected)
    assert torch.equal(now["observation"], windows["observation"][:, -1])


@BOTH
def test_the_prior_is_what_an_empty_window_says(build, windows, kind):
    learner = build(kind)
    prior = learner.prior(3)
    assert prior.batch_size == (3,) and prior["adaptations"].tolist() == [0, 0, 0]
    context = windows[:3, :-1].clone()
    context["mask"][:] = False
    empty = learner.adapt(context, prior)
    for key in ("latent", "component", "weights"):
        torch.testing.assert_close(prior[key], empty[key])
    assert empty["adaptations"].tolist() == [1, 1, 1]
    assert prior["latent"].shape == (3, 2) and prior["weights"].shape == (3, 4)
    torch.testing.assert_close(prior["weights"].sum(-1), torch.ones(3).double())
    assert torch.equal(prior["component"], prior["weights"].argmax(-1))


@BOTH
def test_latents_are_inferred_without_dropout_and_without_a_draw(build, windows, kind):
    learner = build(kind).train()
    learner.infer(windows)
    state = torch.get_rng_state()
    first, second = (learner.adapt(windows[:, :-1], learner.prior(6)) for _ in range(2))
    assert (first == second).all() and torch.equal(torch.get_rng_state(), state)


@BOTH
def test_actions_of_rows_and_of_episodes(build, kind):
    learner = build(kind)
    latent = learner.prior(3)["latent"]
    seen = torch.randn(3, 5, 3).double()
    td = TensorDict({"observation": seen, "latent": latent.unsqueeze(1)}, [3])
    many = learner.act(td, explore=False)["action"]
    td = TensorDict({"observation": seen[:, 0], "latent": latent}, [3])
    one = learner.act(td, explore=False)["action"]
    assert many.shape == (3, 5, 2)
    torch.testing.assert_close(many[:, 0], one)


@BOTH
def test_the_state_is_complete(build, windows, kind):
    one = build(kind)

    def work(learner):
        learner.begin_phase(None)
        reports = [learner.infer(windows), learner.validate(windows), learner.infer(windows)]
        learner.end_phase(None)
        return [*reports, learner.update(windows)]

    work(one)
    two = build(kind)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    reports = []
    for learner in (one, two):
        torch.manual_seed(9)
        reports.append(work(learner))
    assert not moved(two, saved(one))
    for first, second in zip(*reports, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


@BOTH
def test_exported_policies_hold_what_acting_needs(build, kind):
    learner = build(kind)
    state = learner.policy_state()
    assert state.keys() == of(saved(learner), "agent.actor", "encoder", "normalizer")


@BOTH
def test_a_non_finite_batch_changes_nothing_and_is_counted(build, windows, kind):
    learner = build(kind)
    before = saved(learner)
    windows["next", "reward"][-1, -1] = torch.inf
    assert learner.infer(windows)["health/nonfinite"] == 1
    assert not moved(learner, before)
    assert not any(v.isnan().any() for v in saved(learner).values())


@BOTH
def test_metrics_are_detached_numbers(build, windows, kind):
    learner = build(kind)
    for report in (learner.infer(windows), learner.validate(windows), learner.update(windows)):
        for name, value in report.items():
            assert value.shape == () and not value.requires_grad, name


@BOTH
@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.0), ("lr", math.inf), ("max_norm", 0.0), ("next_latent", "both")]
)
def test_errors_name_the_argument(build, kind, name, value):
    with pytest.raises(ValueError, match=f"{kind.__name__}.{name}"):
        build(kind, **{name: value})


def test_transitions_can_stay_as_they_are(build, windows):
    learner = build(TIGR, normalizer=None)
    learner.load_statistics(TensorDict({}, []))
    assert learner.normalised(windows) is windows
    assert learner.infer(windows)["health/nonfinite"] == 0


def test_families_need_a_component_each(build, inference_parts, windows):
    few = partial(inference_parts["encoder"], num_components=3)
    with pytest.raises(
        ValueError, match="TIGR.label_weight = 0.1 needs a component for each of the 4"
    ):
        build(TIGR, encoder=few)
    windows["family"][-1, -1] = 3
    learner = build(TIGR, encoder=few, label_weight=0.0)
    assert "loss/label" not in learner.infer(windows) and not learner.labelled
    learner.validate(windows)
