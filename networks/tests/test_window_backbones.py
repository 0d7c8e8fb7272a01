"""The backbones that read a window."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad

from networks.window_backbones import GRUBackbone, PerceptronBackbone, TransformerBackbone

W, T, H, B = 5, 6, 7, 4
MAKE = {
    "gru": GRUBackbone,
    "flat": lambda *sizes: PerceptronBackbone(*sizes, per_step=False),
    "step": PerceptronBackbone,
    "convolution": lambda *sizes: PerceptronBackbone(*sizes, init="torch"),
    "transformer": lambda *sizes: TransformerBackbone(*sizes, feed_forward=16),
}
NAMES = pytest.mark.parametrize("name", MAKE)


def build(name, seed=0):
    torch.manual_seed(seed)
    backbone = MAKE[name](W, T, H).double().eval()
    for p in backbone.parameters():
        nn.init.normal_(p, std=0.5)
    return backbone


def window():
    torch.manual_seed(1)
    number = torch.tensor([0, 1, 4, T])
    mask = torch.arange(T) >= T - number.unsqueeze(1)
    return torch.randn(B, T, W).double().masked_fill(~mask.unsqueeze(-1), 0.0), mask


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_cheetah_8():
    assert count(GRUBackbone(47, 64, 235)) == 200_220
    assert count(PerceptronBackbone(47, 64, 235)) == 122_200
    assert count(PerceptronBackbone(47, 64, 235, per_step=False)) == 818_035
    assert count(TransformerBackbone(47, 64, 235)) == 418_918


@NAMES
def test_shapes_and_who_keeps_the_steps(name):
    backbone, (rows, mask) = build(name), window()
    shape = (B, T, H) if backbone.per_step else (B, H)
    assert backbone(rows, None).shape == backbone(rows, mask).shape == shape
    assert backbone.per_step == (name not in ("gru", "flat"))


@NAMES
def test_invariant_6_windows_of_zeros_are_finite(name):
    backbone = build(name)
    for mask in (None, torch.zeros(B, T).bool()):
        backbone.zero_grad()
        features = backbone(torch.zeros(B, T, W).double(), mask)
        features.square().sum().backward()
        assert features.isfinite().all()
        assert all(p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("masked", [False, True])
def test_the_recurrence_by_a_loop(masked):
    fast, slow, (rows, mask) = build("gru"), build("gru"), window()
    seen = fast(rows, mask if masked else None)
    weight = torch.randn(B, H).double()
    (seen * weight).sum().backward()
    gru = slow.gru
    for row in range(B):
        h = torch.zeros(H).double()
        for step in range(T):
            if masked and not mask[row, step]:
                continue
            i = (gru.weight_ih_l0 @ rows[row, step] + gru.bias_ih_l0).chunk(3)
            j = (gru.weight_hh_l0 @ h + gru.bias_hh_l0).chunk(3)
            reset, update = torch.sigmoid(i[0] + j[0]), torch.sigmoid(i[1] + j[1])
            h = (1 - update) * torch.tanh(i[2] + reset * j[2]) + update * h
        torch.testing.assert_close(seen[row], h.clamp(min=0), atol=1e-10, rtol=0)
        if h.requires_grad:
            (h.clamp(min=0) * weight[row]).sum().backward()
    for one, two in zip(fast.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-10, rtol=1e-10)


def test_the_recurrence_reads_the_oldest_step_first():
    backbone = build("gru")
    for p in backbone.parameters():
        nn.init.zeros_(p)
    with torch.no_grad():  # h' = (h + tanh(x)) / 2: what is old fades
        backbone.gru.weight_ih_l0[2 * H :, 0] = 1.0
    impulse = torch.zeros(2, T, W).double()
    impulse[0, 0, 0] = impulse[1, -1, 0] = 1.0
    seen = backbone(impulse, None)
    expected = torch.tensor([math.tanh(1) / 2**T, math.tanh(1) / 2]).double()
    torch.testing.assert_close(seen[:, 0], expected)


@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_with_a_mask_padding_is_not_read(name):
    backbone, (rows, mask) = build(name), window()
    dirty = rows.masked_fill(~mask.unsqueeze(-1), 100.0)
    clean, seen = backbone(rows, mask), backbone(dirty, mask)
    real = mask.any(1) if name == "gru" else mask
    torch.testing.assert_close(seen[real], clean[real], atol=1e-10, rtol=0)
    assert not torch.allclose(backbone(dirty, None), backbone(rows, None))
    if name == "gru":
        assert (clean[0] == 0).all()
        for row in range(1, B):
            alone = backbone(rows[row : row + 1, mask[row]], None)
            torch.testing.assert_close(clean[row : row + 1], alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["flat", "step"])
def test_perceptrons_by_a_loop(name):
    backbone, (rows, _) = build(name), window()
    seen = backbone(rows, None)
    for row in range(B):
        inputs = [rows[row].flatten()] if name == "flat" else list(rows[row])
        made = []
        for x in inputs:
            first, second, last = backbone.layers.linears()
            for layer in (first, second):
                x = (layer.weight @ x + layer.bias).clamp(min=0)
            made.append(last.weight @ x + last.bias)
        expected = made[0] if name == "flat" else torch.stack(made)
        torch.testing.assert_close(seen[row], expected, atol=1e-10, rtol=0)


def test_initial_values_of_perceptrons():
    torch.manual_seed(0)
    first, second, last = PerceptronBackbone(60, T, 50).layers.linears()
    for layer in (first, second):
        bound = 1 / math.sqrt(50)  # of the output's width
        assert 0.9 * bound < layer.weight.abs().max() <= bound and (layer.bias == 0.1).all()
    assert 0.002 < last.weight.abs().max() <= 0.003 and 0.002 < last.bias.abs().max() <= 0.003
    for layer in PerceptronBackbone(60, T, 50, init="torch").layers.linears():
        bound = 1 / math.sqrt(layer.in_features)
        assert 0.9 * bound < layer.weight.abs().max() <= bound


def test_the_convolution_is_the_perceptron_of_each_step():
    backbone, (rows, _) = build("convolution"), window()
    net = nn.Sequential(nn.Conv1d(1, H, W, W), nn.ReLU(), nn.Conv1d(H, H, 1), nn.ReLU()).double()
    last = nn.Linear(H, H).double()
    parts = zip((net[0], net[2], last), backbone.layers.linears(), strict=True)
    with torch.no_grad():
        for part, layer in parts:
            assert part.weight.numel() == layer.weight.numel()
            part.weight.copy_(layer.weight.view_as(part.weight))
            part.bias.copy_(layer.bias)
    expected = last(net(rows.reshape(B, 1, T * W)).transpose(1, 2))
    torch.testing.assert_close(backbone(rows, None), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_hand(masked):
    backbone, (rows, mask) = build("transformer"), window()
    seen = backbone(rows, mask if masked else None)
    position = torch.zeros(T, W).double()
    for t in range(T):
        for i in range(W):
            angle = t * 10000 ** (-(i - i % 2) / W)
            position[t, i] = math.cos(angle) if i % 2 else math.sin(angle)
    torch.testing.assert_close(backbone.positions, position, atol=1e-6, rtol=0)
    x = rows + backbone.positions
    for layer in backbone.layers.layers:
        attention = layer.self_attn
        q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
        score = q @ k.transpose(1, 2) / math.sqrt(W)
        if masked:
            read = mask | ~mask.any(1, keepdim=True)
            score = score.masked_fill(~read.unsqueeze(1), -torch.inf)
        out = layer.self_attn.out_proj
        x = layer.norm1(x + score.softmax(-1) @ v @ out.weight.T + out.bias)
        h = (x @ layer.linear1.weight.T + layer.linear1.bias).relu()
        x = layer.norm2(x + h @ layer.linear2.weight.T + layer.linear2.bias)
    expected = x @ backbone.last.weight.T + backbone.last.bias
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=1e-6)


def test_only_the_transformer_in_training_mode_is_random():
    for name in MAKE:
        backbone, (rows, _) = build(name), window()
        assert torch.equal(backbone(rows, None), backbone(rows, None))
        backbone.train()
        same = torch.equal(backbone(rows, None), backbone(rows, None))
        assert same == (name != "transformer")


@NAMES
def test_functional_copied_and_saved(name):
    backbone, (rows, mask) = build(name), window()
    expected = backbone(rows, mask)
    twin = build(name, seed=2)
    assert not torch.allclose(twin(rows, mask), expected)
    twin.load_state_dict(backbone.state_dict())
    weights = {key: p.detach() for key, p in backbone.named_parameters()}
    other = build(name, seed=3)
    for made in (
        twin(rows, mask),
        copy.deepcopy(backbone)(rows, mask),
        functional_call(other, weights, (rows, mask)),
    ):
        torch.testing.assert_close(made, expected, atol=1e-10, rtol=0)

    def loss(weights):
        return functional_call(other, weights, (rows, mask)).square().sum()

    backbone(rows, mask).square().sum().backward()
    gradient = grad(loss)(weights)
    for key, p in backbone.named_parameters():
        torch.testing.assert_close(gradient[key], p.grad, atol=1e-10, rtol=1e-10)


def test_the_transformer_compiles():
    backbone, (rows, mask) = build("transformer"), window()
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows, mask), backbone(rows, mask))


def test_errors_name_the_argument():
    for make in (GRUBackbone, PerceptronBackbone, TransformerBackbone):
        with pytest.raises(ValueError, match="length.*0"):
            make(W, 0, H)
    with pytest.raises(ValueError, match="dropout.*1.0"):
        TransformerBackbone(W, T, H, dropout=1.0)
    with pytest.raises(ValueError, match="init.*'zeros'"):
        PerceptronBackbone(W, T, H, init="zeros")
