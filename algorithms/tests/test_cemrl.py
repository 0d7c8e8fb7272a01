"""CEMRL's bound against its formula, window by window in double precision, and early stopping."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from algorithms.cemrl import CEMRL


@pytest.fixture
def build(dims, inference_parts):
    def learner(**options):
        torch.manual_seed(0)
        return CEMRL(dims, **{**inference_parts, **options}).double()

    return learner


def kl(mean, variance):
    return 0.5 * (mean**2 + variance - 1 - variance.log()).sum()


def by_a_loop(learner, windows, noise, per_step):
    """Minus the bound of each window, and the mean divergence; noise [rows, K, L]."""
    merged, (steps, own) = (f(windows[:, :-1]) for f in (learner.encoder, learner.encoder.steps))
    own = own if per_step else merged
    w_s, w_r, losses, divergences = *learner.weights, [], []
    for row, window in enumerate(windows):
        last, nll = window[-1], []
        for k in range(4):
            z = own.mean[row, k] + own.variance[row, k].sqrt() * noise[row, k]
            out = learner.decoder.layer(torch.cat((last["observation"], last["action"], z)))
            state = ((out[:2] - last["next", "observation"][:2]) ** 2).mean()
            nll.append(w_s * state + w_r * (out[2] - last["next", "reward"][0]) ** 2)
        bound = torch.zeros((), dtype=torch.float64)
        seen = window["mask"] if learner.encoder.mask_padding else torch.ones(5)
        parts = [(steps, (row, t)) for t in range(4) if seen[t]] if per_step else [(merged, (row,))]
        for mixture, at in parts:
            q, expected = mixture.weights()[at], 0.0
            for k in range(4):
                divergence = kl(mixture.mean[at][k], mixture.variance[at][k])
                bound = bound + q[k] * (-nll[k] - 0.3 * divergence) - 0.7 * q[k] * (q[k] * 4).log()
                expected += (q[k] * divergence).item()
            divergences.append(expected)
        losses.append(-bound)
    return torch.stack(losses), sum(divergences) / len(divergences)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("per_step", "picks"), [(False, False), (True, False), (True, True)])
def test_invariant_7_loss_and_gradients_by_a_loop(
    build, windows, inference_parts, per_step, picks, masks
):
    """Where steps pick their class, each class's loss still is that of a z of its own.

    Where the encoder masks padding, it is in no sum over steps.
    """
    encoder = partial(inference_parts["encoder"], picks=picks)
    learner = build(kl_weight=0.3, class_weight=0.7, per_step=per_step, encoder=encoder)
    learner.encoder.mask_padding = masks
    assert not windows["mask"][:, :-1].all()
    slow = copy.deepcopy(learner)
    torch.manual_seed(4)
    loss, metrics = learner.objective(windows, learner.encoder(windows[:, :-1]), None)
    loss.backward()
    torch.manual_seed(4)
    noise = torch.randn(6, 4, 2, dtype=torch.float64)
    losses, divergence = by_a_loop(slow, windows, noise, per_step)
    assert metrics["loss/kl"].item() == pytest.approx(divergence, rel=1e-9)
    expected = losses.mean()
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=1e-10)
    expected.backward()
    for part in ("encoder", "decoder"):
        pairs = zip(
            getattr(learner, part).parameters(), getattr(slow, part).parameters(), strict=True
        )
        for one, two in pairs:
            torch.testing.assert_close(one.grad, two.grad, atol=1e-10, rtol=1e-10)


def test_labels_are_not_looked_at(build, windows):
    learner = build()
    losses = []
    for label in (windows["family"][:, -1], None):
        torch.manual_seed(4)
        losses.append(learner.objective(windows, learner.encoder(windows[:, :-1]), label)[0])
    assert torch.equal(*losses)


def errors_by_a_loop(learner, windows):
    """Mean errors of the last transitions, with z of the likeliest class's mean."""
    errors = []
    for window in windows:
        mixture, last = learner.encoder(window[None, :-1]), window[-1]
        z = learner.encoder.latent(mixture, sample=False)[0]
        out = learner.decoder.layer(torch.cat((last["observation"], last["action"], z)))
        state = ((out[:2] - last["next", "observation"][:2]) ** 2).mean()
        errors.append([state.item(), (out[2] - last["next", "reward"][0]).item() ** 2])
    return torch.tensor(errors).mean(0).tolist()


def test_weights_of_the_errors_of_training(build, windows):
    learner = build()
    assert learner.weights.tolist() == pytest.approx([1 / 3, 2 / 3])  # D = 2
    learner.infer(windows)
    held, seen = windows[:2], windows[2:]
    report = learner.validate(held, seen)
    wanted = errors_by_a_loop(learner, held)
    found = [report["validation/state"].item(), report["validation/reward"].item()]
    assert found == pytest.approx(wanted, abs=1e-6)
    state, reward = errors_by_a_loop(learner, seen)
    expected = [state / (state + 2 * reward), 2 * reward / (state + 2 * reward)]
    assert learner.weights.tolist() == pytest.approx(expected, abs=1e-6)
    fixed = build(reweigh=False)
    assert learner.compares and not fixed.compares
    fixed.validate(windows, windows)
    assert fixed.weights.tolist() == pytest.approx([1 / 3, 2 / 3])


def test_validation_draws_nothing(build, windows):
    learner = build()
    torch.manual_seed(5)
    learner.validate(windows, windows)
    drawn = torch.rand(())
    torch.manual_seed(5)
    assert drawn == torch.rand(())


def parameters_of(learner):
    return [p.clone() for p in (*learner.encoder.parameters(), *learner.decoder.parameters())]


def test_the_best_encoder_and_decoder_come_back(build, windows):
    learner = build()
    learner.begin_phase(None)
    states, losses = [], []
    for step in range(6):
        if step in (1, 2):
            learner.infer(windows)  # learns
        elif step > 2:
            for p in learner.decoder.parameters():  # gets worse
                nn.init.constant_(p, 10.0 * step)
        report = learner.validate(windows)
        states.append(parameters_of(learner))
        losses.append(report["validation/loss"].item())
        best = losses.index(min(losses))
        assert report["validation/stale"] == step - best == learner.stale
        assert report["validation/loss"] == report["validation/state"] + report["validation/reward"]
    assert 0 <= best <= 2
    learner.end_phase(None)
    for one, two in zip(parameters_of(learner), states[best], strict=True):
        assert torch.equal(one, two)


def test_a_phase_can_be_cut_by_a_checkpoint(build, windows):
    one, two = build(), build()
    one.begin_phase(None)
    one.validate(windows)
    one.infer(windows)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, two):
        nn.init.zeros_(learner.decoder.layer.bias)
        learner.end_phase(None)
    assert all(map(torch.equal, parameters_of(one), parameters_of(two)))
    assert not torch.equal(two.decoder.layer.bias, torch.zeros(3).double())


def test_each_phase_looks_anew_and_one_without_validation_keeps_the_newest(build, windows):
    learner = build()
    learner.begin_phase(None)
    learner.validate(windows)
    learner.end_phase(None)
    learner.begin_phase(None)
    assert learner.stale == 0 and learner.least == torch.inf
    learner.infer(windows)
    newest = parameters_of(learner)
    learner.end_phase(None)
    assert all(map(torch.equal, parameters_of(learner), newest))


def test_a_validation_that_is_not_finite_is_never_the_best(build, windows):
    learner = build()
    learner.begin_phase(None)
    start = parameters_of(learner)
    learner.validate(windows)
    nn.init.constant_(learner.decoder.layer.bias, torch.nan)
    assert learner.validate(windows)["validation/stale"] == 1
    learner.end_phase(None)
    assert all(map(torch.equal, parameters_of(learner), start))


@pytest.mark.parametrize("name", ["kl_weight", "class_weight"])
def test_errors_name_the_argument(build, name):
    with pytest.raises(ValueError, match=f"CEMRL.{name}"):
        build(**{name: -1.0})


def test_steps_need_an_encoder_that_keeps_them_apart(build, inference_parts):
    class Whole(inference_parts["encoder"]):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.backbone = nn.Identity()
            self.backbone.per_step = False

    with pytest.raises(ValueError, match=r"CEMRL.per_step .* Identity"):
        build(encoder=Whole, per_step=True)


def test_a_decoder_with_the_mean_of_errors_is_refused(build, inference_parts):
    def decoder(*sizes):
        made = inference_parts["decoder"](*sizes)
        made.state_error = "mean"
        return made

    with pytest.raises(ValueError, match=r"TransitionDecoder.state_error = 'sum'"):
        build(decoder=decoder)
