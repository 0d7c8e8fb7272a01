"""Tests of the sparse layers; the numbers are those of the active dendrites' list of invariants."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from networks.sparse import SparseLinear, allowed_inputs, draw_mask, mask_generator

ADAM, MOMENTUM = (torch.optim.Adam, {}), (torch.optim.SGD, {"momentum": 0.9})


def train(layer, steps, optimizer=ADAM, scale=1.0, after=lambda: None):
    torch.manual_seed(1)
    kind, options = optimizer
    optimizer = kind(layer.parameters(), lr=0.05, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1.0)
    for _ in range(steps):
        x = torch.randn(8, layer.in_features, dtype=layer.weight.dtype)
        optimizer.zero_grad()
        scaler.scale(layer(x).sub(1.0).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        after()


class Rezeroed(nn.Linear):
    """The reference: a dense product, and weights set to zero by hand after each step."""

    @torch.no_grad()
    def rezero(self, mask):
        self.weight.mul_(mask)


@pytest.mark.parametrize(
    ("size", "sparsity", "expected"),
    [(39, 0.1, 35), (43, 0.1, 39), (2800, 0.1, 2520), (5, 0.5, 2), (7, 0.5, 4), (6, 0.0, 6)],
)
def test_invariant_15_allowed_inputs_of_each_unit(size, sparsity, expected):
    assert allowed_inputs(size, sparsity) == expected  # 2.5 and 3.5 go to the even number
    layer = SparseLinear(size, 50, sparsity=sparsity)
    assert (layer.mask.sum(-1) == expected).all()
    assert (layer.weight[~layer.mask] == 0).all()
    mask, has_zeros = draw_mask(9, 4, size, sparsity=sparsity)
    assert (mask.sum(-1) == expected).all()
    assert has_zeros == (expected < size)


def test_units_draw_their_inputs_independently_and_evenly():
    mask, _ = draw_mask(4000, 10, sparsity=0.7)
    frequency = mask.float().mean(0)
    assert (frequency - 0.3).abs().max() < 5 * math.sqrt(0.3 * 0.7 / 4000)
    pairs = mask[:2000].float() @ mask[2000:].float().t()
    assert abs(pairs.mean() - 10 * 0.3**2) < 0.01
    assert pairs.amin() == 0 and pairs.amax() == 3


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("optimizer", [ADAM, MOMENTUM], ids=["adam", "momentum"])
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_invariant_16_forbidden_weights_stay_zero(steps, optimizer, scale):
    layer = SparseLinear(12, 9, sparsity=0.5)
    mask, before = layer.mask.clone(), layer.weight.detach().clone()
    train(layer, steps, optimizer, scale)
    assert torch.equal(layer.mask, mask)
    assert (layer.weight[~mask] == 0).all()
    assert (layer.weight.grad[~mask] == 0).all()
    assert (layer.weight[mask] != before[mask]).any()


@pytest.mark.parametrize("optimizer", [ADAM, MOMENTUM], ids=["adam", "momentum"])
def test_invariant_16_equals_setting_weights_to_zero_after_each_step(optimizer):
    layer = SparseLinear(12, 9, sparsity=0.5).double()
    reference = Rezeroed(12, 9, dtype=torch.float64)
    reference.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    train(layer, 50, optimizer)
    train(reference, 50, optimizer, after=lambda: reference.rezero(layer.mask))
    assert (reference.weight.grad[~layer.mask] != 0).any()
    torch.testing.assert_close(layer.weight, reference.weight, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(layer.bias, reference.bias, atol=1e-12, rtol=1e-10)


def test_invariant_17_polyak_averages_keep_the_zeros():
    online = SparseLinear(12, 9, sparsity=0.5)
    target = copy.deepcopy(online).requires_grad_(False)
    before = target.weight.clone()

    def follow():
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 0.1)

    train(online, 30, after=follow)
    assert (target.weight[~target.mask] == 0).all()
    assert torch.equal(target.mask, online.mask)
    assert not torch.equal(target.weight, before)


def test_invariant_18_masks_travel_and_follow_their_seed():
    layer = SparseLinear(12, 9, sparsity=0.5)
    other = SparseLinear(12, 9, sparsity=0.5)
    assert not torch.equal(layer.mask, other.mask)
    assert layer.state_dict()["mask"].dtype is torch.bool
    other.load_state_dict(layer.state_dict())
    for twin in (other, copy.deepcopy(layer), copy.deepcopy(layer).double(), layer.to("cpu")):
        assert torch.equal(twin.mask, layer.mask)
    masks = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed if len(masks) == 1 else 0)  # the global generator has no part in it
        masks.append(SparseLinear(12, 9, sparsity=0.5, generator=mask_generator(seed)).mask)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_without_a_seed_masks_follow_the_global_one_and_weights_do_not_follow_masks():
    masks, weights = [], []
    for seed, sparsity in ((0, 0.5), (0, 0.5), (1, 0.5), (0, 0.25)):
        torch.manual_seed(seed)
        generator = mask_generator(None)
        layer = SparseLinear(12, 9, sparsity=sparsity, init="kaiming", generator=generator)
        masks.append(layer.mask)
        weights.append(layer.weight.detach())
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
    both = masks[0] & masks[3]
    assert both.any() and torch.equal(weights[0][both], weights[3][both])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_invariant_18_device_move():
    layer = SparseLinear(12, 9, sparsity=0.5)
    moved = copy.deepcopy(layer).to("cuda")
    x = torch.randn(4, 12)
    torch.testing.assert_close(moved(x.cuda()).cpu(), layer(x))
    assert torch.equal(moved.mask.cpu(), layer.mask)


@pytest.mark.parametrize("density", [1.0, 0.25])
@pytest.mark.parametrize("init", ["modified", "kaiming"])
def test_invariant_19_initial_values(init, density):
    layer = SparseLinear(400, 300, sparsity=0.2, init=init, input_density=density)
    fan = 400 * 0.8 * density if init == "modified" else 400
    bound, values = 1 / math.sqrt(fan), layer.weight[layer.mask]
    assert 0.99 * bound < values.abs().max() <= bound
    assert abs(values.std() / (bound / math.sqrt(3)) - 1) < 0.05
    assert layer.bias.abs().max() <= 1 / 20
    assert layer.bias.abs().max() > 0.9 / 20


def test_matches_a_loop_over_units_and_rows():
    layer = SparseLinear(6, 5, sparsity=0.5).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    weight, bias = (p.detach().clone().requires_grad_() for p in (layer.weight, layer.bias))
    z = x.detach().clone().requires_grad_()
    rows = [
        torch.stack(
            [
                sum(weight[u, i] * z[b, i] for i in range(6) if layer.mask[u, i]) + bias[u]
                for u in range(5)
            ]
        )
        for b in range(4)
    ]
    y = torch.stack(rows)
    torch.testing.assert_close(layer(x), y, atol=1e-10, rtol=0)
    y.square().sum().backward()
    layer(x).square().sum().backward()
    for got, wanted in ((layer.weight, weight), (layer.bias, bias), (x, z)):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-10, rtol=0)


def test_same_values_with_and_without_gradients():
    layer = SparseLinear(12, 9, sparsity=0.5)
    train(layer, 5)
    x = torch.randn(4, 12)
    with torch.no_grad():
        assert torch.equal(layer(x), linear(x, layer.weight, layer.bias))
        quiet = layer(x)
    assert torch.equal(layer(x), quiet)
    constant = {name: p.detach() for name, p in layer.named_parameters()}
    assert torch.equal(torch.func.functional_call(layer, constant, (x,)), quiet)


def test_errors():
    for name, value in (("sparsity", 1.0), ("sparsity", -0.1), ("sparsity", 0.99)):
        with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
            SparseLinear(4, 3, sparsity=value)
    with pytest.raises(ValueError, match="init must be one of .* got 'xavier'"):
        SparseLinear(4, 3, init="xavier")
    with pytest.raises(ValueError, match="input_density .* got 0"):
        SparseLinear(4, 3, input_density=0.0)
    with pytest.raises(ValueError, match="out_features"):
        SparseLinear(4, 0)
