"""Tests of segments and gates; the numbers are those of active dendrites' list of invariants."""

import math

import pytest
import torch

from networks.dendrites import GATINGS, Dendrites, strongest

U, S, K, B = 5, 4, 6, 7


def build(gating="signed_abs_max", **options):
    segments = 1 if gating == "one_segment" else S
    options = {"num_segments": segments, "gating": gating, **options}
    return Dendrites(U, K, **options).double()


def inputs(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def gated(layer, y, context):
    return layer(y, layer.gates(context))


def by_hand(layer, y, context):
    """A loop over rows and units, with plain products of vectors."""
    rows = []
    for drive, c in zip(y, context, strict=True):
        row = []
        for u in range(U):
            d = []
            for s in range(layer.num_segments):
                allowed = layer.mask[u, s].double()
                d.append((layer.weight[u, s] * allowed * c).sum())
                if layer.bias is not None:
                    d[-1] = d[-1] + layer.bias[u, s]
            values = [float(value.detach()) for value in d]
            magnitudes = [abs(value) for value in values]
            if layer.gating == "signed_abs_max":
                gate = torch.sigmoid(d[magnitudes.index(max(magnitudes))])
            elif layer.gating == "unsigned_abs_max":
                gate = torch.sigmoid(d[magnitudes.index(max(magnitudes))].abs())
            elif layer.gating == "max":
                gate = torch.sigmoid(d[values.index(max(values))])
            elif layer.gating == "one_segment":
                gate = torch.sigmoid(d[0])
            else:
                gate = d[values.index(max(values))]
            row.append(drive[u] + gate if layer.gating == "biasing" else drive[u] * gate)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("options", [{}, {"bias": True, "sparsity": 0.5}], ids=["dense", "sparse"])
@pytest.mark.parametrize("gating", GATINGS)
def test_invariant_01_matches_a_loop_over_rows_and_units(gating, options):
    layer = build(gating, **options)
    y, context = inputs(B, U), inputs(B, K)
    assert layer.segments(context).shape == (B, U, layer.num_segments)
    leaves = [y, context, *layer.parameters()]
    results = []
    for function in (gated, by_hand):
        z = function(layer, y, context)
        assert z.shape == (B, U)
        results.append((z, *torch.autograd.grad(z.square().sum(), leaves)))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-10, rtol=0)


def test_invariant_02_signed_selection():
    d = torch.tensor([[0.43, -1.64, 1.49], [1.79, -0.48, -0.38], [-1.0, 1.0, 0.0]])
    assert strongest(d).tolist() == d[[0, 1, 2], [1, 0, 0]].tolist()
    layer = Dendrites(1, 1, num_segments=3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.43, -1.64, 1.49]).view(1, 3, 1))
    assert layer.gates(torch.ones(1, 1)).item() == pytest.approx(1 / (1 + math.exp(1.64)))


def test_invariant_03_how_the_gates_compare():
    layers = {gating: build(gating) for gating in GATINGS if gating != "one_segment"}
    for layer in layers.values():
        layer.load_state_dict(layers["max"].state_dict())
    context = inputs(50, K)
    gates = {gating: layer.gates(context) for gating, layer in layers.items()}
    assert gates["unsigned_abs_max"].amin() >= 0.5
    assert gates["signed_abs_max"].amin() < 0.5
    assert not torch.equal(gates["max"], gates["unsigned_abs_max"])
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.abs_()
    positive = context.detach().abs()
    gates = {gating: layer.gates(positive) for gating, layer in layers.items()}
    assert torch.equal(gates["max"], gates["unsigned_abs_max"])
    assert torch.equal(gates["max"], gates["signed_abs_max"])


@pytest.mark.parametrize("gating", GATINGS)
def test_invariant_04_zero_context(gating):
    layer, y = build(gating), inputs(B, U)
    z = gated(layer, y, torch.zeros(B, K, dtype=torch.float64))
    assert torch.equal(z, y if gating == "biasing" else y / 2)


def test_invariant_05_one_segment():
    layers = [build(gating, num_segments=1) for gating in ("one_segment", "signed_abs_max", "max")]
    y, context = inputs(B, U), inputs(B, K)
    results = []
    for layer in layers:
        layer.load_state_dict(layers[0].state_dict())
        z = gated(layer, y, context)
        results.append((z, *torch.autograd.grad(z.square().sum(), [y, context, layer.weight])))
    for result in results[1:]:
        for got, expected in zip(result, results[0], strict=True):
            torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    d = layers[0].segments(context).squeeze(-1)
    assert (d < 0).any()  # the unsigned gate would differ there, so it is refused
    assert (results[0][0] != y * d.abs().sigmoid()).any()


def test_invariant_06_idle_segments_and_order_change_nothing():
    small, large = build(num_segments=S), build(num_segments=S + 3)
    y, context = inputs(B, U), inputs(B, K)
    with torch.no_grad():
        large.weight.zero_()
        large.weight[:, :S] = small.weight
    z = gated(small, y, context)
    last_bit = {"rtol": 0, "atol": 1e-14}  # products of another width may be summed in another way
    torch.testing.assert_close(gated(large, y, context), z, **last_bit)
    z.sum().backward()
    gated(large, y, context).sum().backward()
    torch.testing.assert_close(large.weight.grad[:, :S], small.weight.grad)
    assert (large.weight.grad[:, S:] == 0).all()
    with torch.no_grad():
        small.weight.copy_(small.weight[:, torch.randperm(S)])
    torch.testing.assert_close(gated(small, y, context), z, **last_bit)


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("options", [{}, {"bias": True, "sparsity": 0.5}], ids=["dense", "sparse"])
def test_invariant_07_the_table_of_one_hot_contexts(gating, options):
    layer, eye = build(gating, **options), torch.eye(K, dtype=torch.float64)
    parameters = list(layer.parameters())
    weight = torch.randn(K, U, dtype=torch.float64)
    results = []
    for context in (None, eye):
        gates = layer.gates(context)
        results.append((gates, *torch.autograd.grad((gates * weight).sum(), parameters)))
    for table, product in zip(*results, strict=True):
        torch.testing.assert_close(table, product, atol=1e-12, rtol=0)
    assert layer.segments().shape == (K, U, layer.num_segments)
    torch.testing.assert_close(layer.segments(), layer.segments(eye), atol=1e-12, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_invariant_09_frozen_segments(bias):
    layer = build(frozen=True, bias=bias)
    assert list(layer.parameters()) == []
    assert set(layer.state_dict()) == {"mask", "weight"} | ({"bias"} if bias else set())
    y, context = inputs(B, U), inputs(B, K)
    gated(layer, y, context).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(y.grad, layer.gates(context))


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5])
def test_invariant_15_allowed_entries_of_each_segment(sparsity):
    layer = Dendrites(U, 10, num_segments=S, sparsity=sparsity)
    allowed = round((1 - sparsity) * 10)
    assert layer.mask.shape == (U, S, 10) and (layer.mask.sum(-1) == allowed).all()
    assert (layer.weight[~layer.mask] == 0).all()
    if sparsity:
        assert not torch.equal(layer.mask[:, 0], layer.mask[:, 1])


def test_invariant_16_forbidden_entries_stay_zero():
    layer = build(sparsity=0.5)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        gated(layer, inputs(B, U), inputs(B, K)).square().sum().backward()
        optimizer.step()
    assert (layer.weight[~layer.mask] == 0).all()
    assert (layer.weight[layer.mask] != before[layer.mask]).any()


@pytest.mark.parametrize(
    ("init", "bound"),
    [("modified", (0.5 * 0.8 * 40) ** -0.5), ("kaiming", 40**-0.5), ("small", 0.5 * 640**-0.5)],
)
def test_invariant_19_initial_values(init, bound):
    layer = Dendrites(600, 40, sparsity=0.2, init=init, context_percent_on=0.5, bias=True)
    values = layer.weight[layer.mask]
    assert 0.99 * bound < values.abs().max() <= bound
    assert abs(values.std() / (bound / math.sqrt(3)) - 1) < 0.05
    assert 0.9 / math.sqrt(40) < layer.bias.abs().max() <= 1 / math.sqrt(40)


def test_invariant_19_published_gates_at_the_start():
    gates = Dendrites(2800, 10).gates()
    assert 0.42159 <= gates.amin() < 0.4230 and 0.5770 < gates.amax() <= 0.57841
    winner = strongest(Dendrites(2800, 10).segments()).abs().mean()
    assert winner.item() == pytest.approx(0.2875, abs=0.001)


@pytest.mark.parametrize("gating", ["signed_abs_max", "biasing"])
def test_invariant_20_only_the_winning_segment_learns(gating):
    layer, y, context = build(gating), inputs(1, U), inputs(1, K)
    d = layer.segments(context)[0]
    gated(layer, y, context).sum().backward()
    winner = (d.abs() if gating == "signed_abs_max" else d).argmax(-1)
    for u in range(U):
        for s in range(S):
            assert (layer.weight.grad[u, s] != 0).any() == (s == winner[u])


@pytest.mark.parametrize("gating", GATINGS)
def test_invariant_22_finite_differences(gating):
    layer = build(gating, bias=True)
    y, context = inputs(3, U), inputs(3, K)

    def function(y, context, weight, bias):
        values = {"layer.weight": weight, "layer.bias": bias}
        return layer(y, torch.func.functional_call(Gates(layer), values, (context,)))

    assert torch.autograd.gradcheck(function, (y, context, layer.weight, layer.bias))


class Gates(torch.nn.Module):
    """The gates as a forward pass, for `functional_call`."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, context):
        return self.layer.gates(context)


def test_a_stack_is_two_layers_side_by_side():
    singles = [build(bias=True, sparsity=0.5) for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(singles)
    stack = Gates(singles[0])
    values = {f"layer.{name}": value for name, value in {**parameters, **buffers}.items()}
    for context in (inputs(2, 3, B, K), None):
        gates = torch.func.functional_call(stack, values, (context,))
        for index, single in enumerate(singles):
            own = single.gates(None if context is None else context[index])
            torch.testing.assert_close(gates[index], own, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"gating": "sum"}, "gating .* got 'sum'"),
        ({"gating": "one_segment"}, "num_segments must be 1 .* got 10"),
        ({"num_segments": 1, "gating": "unsigned_abs_max"}, "gating .* got 'unsigned_abs_max'"),
        ({"num_segments": 1, "gating": "biasing"}, "gating .* got 'biasing'"),
        ({"num_segments": 0}, "num_segments must be at least 1, got 0"),
        ({"sparsity": 1.0}, "sparsity .* got 1.0"),
        ({"init": "zero"}, "init .* got 'zero'"),
        ({"context_percent_on": 0.0}, "context_percent_on .* got 0.0"),
    ],
)
def test_errors(options, match):
    with pytest.raises(ValueError, match=match):
        Dendrites(U, K, **options)
