"""TIGR's objective against its formula, window by window in double precision."""

import copy
import itertools

import pytest
import torch
from torch.nn.functional import softplus

from algorithms.tigr import TIGR

TERMS = ("kl", "sparsity", "separation", "label")


@pytest.fixture
def build(dims, inference_parts):
    def learner(**options):
        torch.manual_seed(0)
        return TIGR(dims, **{**inference_parts, **options}).double()

    return learner


def by_a_loop(learner, windows, noise, *, mask_padding, weights):
    """The loss of each window, straight from the formulas; noise [rows, K, L]."""
    layer, decoder = learner.encoder.layer, learner.decoder.layer
    losses = []
    for row, window in enumerate(windows):
        steps = []
        for t in range(4):
            step = window[t]
            after = step["next"]
            parts = (step["observation"], step["action"], after["reward"], after["observation"])
            steps.append((layer.weight @ torch.cat(parts) + layer.bias).view(4, 5))
        merge = learner.encoder.merge
        mean = sum(merge[t] * steps[t][:, :2] for t in range(4))
        variance = sum(softplus(steps[t][:, 2:4]) for t in range(4)) / 4
        logits = sum(merge[t] * steps[t][:, 4] for t in range(4))
        gamma = logits.exp() / logits.exp().sum()
        z = sum(gamma[k] * (mean[k] + variance[k].sqrt() * noise[row, k]) for k in range(4))

        state, reward, count = 0.0, 0.0, 0
        for t in range(1, 5):
            if mask_padding and not window["mask"][t]:
                continue
            step = window[t]
            out = (
                decoder.weight @ torch.cat((step["observation"], step["action"], z)) + decoder.bias
            )
            state += ((out[:2] - step["next", "observation"][:2]) ** 2).mean()
            reward += (out[2] - step["next", "reward"][0]) ** 2
            count += 1
        kl = sum(
            0.5 * (mean[k, d] ** 2 + variance[k, d] - 1 - variance[k, d].log())
            for k, d in itertools.product(range(4), range(2))
        )
        apart = sum(
            0.5
            * variance[k, d].sqrt()
            / (sum((mean[k, d] - mean[j, d]) ** 2 for j in range(4)) + 1e-8)
            for k, d in itertools.product(range(4), range(2))
        )
        label = -gamma[window["family"][-1]].log()
        terms = {"kl": kl, "sparsity": z.abs().sum(), "separation": apart, "label": label}
        loss = (state + reward) / (3 * count)
        losses.append(loss + sum(weights[name] * terms[name] for name in TERMS))
    return torch.stack(losses)


@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradients_by_a_loop(build, windows, mask_padding, reduction):
    weights = {"kl": 0.3, "sparsity": 0.2, "separation": 0.05, "label": 0.7}
    options = {f"{name}_weight": weight for name, weight in weights.items()}
    learner = build(mask_padding=mask_padding, reduction=reduction, **options)
    with torch.no_grad():
        learner.weights.fill_(1 / 3)  # the third of double precision
    slow = copy.deepcopy(learner)
    torch.manual_seed(4)
    mixture = learner.encoder(windows[:, :-1])
    loss, metrics = learner.objective(windows, mixture, windows["family"][:, -1])
    loss.backward()
    torch.manual_seed(4)
    noise = torch.randn(6, 4, 2, dtype=torch.float64)
    losses = by_a_loop(slow, windows, noise, mask_padding=mask_padding, weights=weights)
    expected = losses.mean() if reduction == "mean" else losses.sum()
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=1e-10)
    expected.backward()
    for part in ("encoder", "decoder"):
        pairs = zip(
            getattr(learner, part).parameters(), getattr(slow, part).parameters(), strict=True
        )
        for one, two in pairs:
            torch.testing.assert_close(one.grad, two.grad, atol=1e-10, rtol=1e-10)
    assert set(metrics) == {f"loss/{name}" for name in (*TERMS, "state", "reward")}


@pytest.mark.parametrize("name", TERMS)
def test_terms_of_the_encoder_do_not_move_the_decoder(build, windows, name):
    """With errors weighed by zero only the encoder has a gradient, and from every single term."""
    others = {f"{term}_weight": float(term == name) for term in TERMS}
    learner = build(**others)
    learner.weights.zero_()
    loss, _ = learner.objective(windows, learner.encoder(windows[:, :-1]), windows["family"][:, -1])
    loss.backward()
    assert all((p.grad == 0).all() for p in learner.decoder.parameters())
    assert all((p.grad != 0).any() for p in learner.encoder.parameters())


def test_invariant_6_a_window_of_zeros_has_a_finite_loss(build, windows):
    """Components that coincide included: the separation is bounded."""
    learner = build(separation_weight=1.0)
    torch.nn.init.zeros_(learner.encoder.layer.weight)
    torch.nn.init.zeros_(learner.encoder.layer.bias)
    empty = torch.zeros_like(windows)
    empty["mask"][:, -1] = True
    metrics = learner.infer(empty)
    assert metrics["loss/separation"] == 1e3 and metrics["health/nonfinite"] == 0
    assert build(separation_bound=None, separation_weight=1.0).separation_bound is None


def test_unknown_and_untold_families_cost_nothing(build, windows):
    learner = build(label_weight=1.0)
    windows["family"][:] = -1
    assert learner.infer(windows)["loss/label"] == 0
    del windows["family"]
    assert "loss/label" not in learner.infer(windows)


@pytest.mark.parametrize("weighting", ["inverse", "proportional", "fixed"])
def test_weights_follow_the_errors_of_last_transitions(build, windows, weighting):
    learner = build(weighting=weighting)
    assert learner.weights.tolist() == pytest.approx([1 / 3, 1 / 3])
    torch.manual_seed(8)
    metrics = learner.validate(windows)
    torch.manual_seed(8)
    z = learner.encoder.latent(learner.encoder(windows[:, :-1]), sample=True)
    last = windows[:, -1]
    x = torch.cat((last["observation"], last["action"], z), -1)
    out = learner.decoder.layer(x)
    state = (out[:, :2] - last["next", "observation"][:, :2]).square().mean()
    reward = (out[:, 2:] - last["next", "reward"]).square().mean()
    torch.testing.assert_close(metrics["validation/state"], state.detach())
    torch.testing.assert_close(metrics["validation/reward"], reward.detach())
    share = (state / (state + reward + 1e-8)).item()
    expected = {"inverse": 1 - share, "proportional": share, "fixed": 1 / 3}[weighting]
    assert learner.weights[0].item() == pytest.approx(expected)
    assert metrics["weight/state"] == learner.weights[0]


def test_validation_loss_by_its_parts(build, windows):
    learner = build(kl_weight=0.3, label_weight=0.7)
    torch.manual_seed(8)
    metrics = learner.validate(windows)
    mixture = learner.encoder(windows[:, :-1])
    label = windows["family"][:, -1]
    chosen = mixture.weights().gather(-1, label.unsqueeze(-1)).log().mean()
    errors = (metrics["validation/state"] + metrics["validation/reward"]) / 3
    kl = learner.encoder.divergence(mixture).sum(-1).mean()
    torch.testing.assert_close(
        metrics["validation/loss"],
        (errors + 0.3 * kl - 0.7 * chosen).detach(),
        atol=1e-6,
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [(f"{term}_weight", -1.0) for term in TERMS] + [("weighting", "best"), ("reduction", "max")],
)
def test_errors_name_the_argument(build, name, value):
    with pytest.raises(ValueError, match=f"TIGR.{name}"):
        build(**{name: value})
