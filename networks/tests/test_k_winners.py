"""Tests of k-winners; the numbers are those of the active dendrites' list of invariants."""

import copy
import math

import pytest
import torch

from networks.k_winners import KWinners, k_winners, winners


def by_hand(x, k):
    """Row by row: order by value, equal values by index, and keep the first k."""
    y = torch.zeros_like(x)
    for b, row in enumerate(x.tolist()):
        for index in sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]:
            y[b, index] = x[b, index]
    return y


@pytest.mark.parametrize(
    ("size", "percent_on", "k"), [(2800, 0.25, 700), (13, 0.3, 4), (10, 0.25, 2), (14, 0.25, 4)]
)
def test_invariant_10_exactly_k(size, percent_on, k):
    layer = KWinners(size, percent_on=percent_on)
    assert layer.k == layer.k_inference == k
    x = torch.randn(30, size)
    for mode in (True, False):
        assert (torch.count_nonzero(layer.train(mode)(x), -1) == k).all()


def test_invariant_10_inference_factor():
    layer = KWinners(30, percent_on=0.25, k_inference_factor=1.45)
    assert (layer.k, layer.k_inference) == (8, 11)
    x = torch.randn(5, 30)
    assert (torch.count_nonzero(layer(x), -1) == 8).all()
    assert (torch.count_nonzero(layer.eval()(x), -1) == 11).all()


def test_invariant_11_kept_values_and_gradient():
    x = torch.randn(20, 40, requires_grad=True)
    y = k_winners(x, 10)
    kept = y != 0
    assert torch.equal(y[kept], x[kept])
    y.sum().backward()
    assert torch.equal(x.grad, kept.float())


def test_invariant_11_negative_winners_stay():
    x = -torch.rand(3, 8)
    y = k_winners(x, 2)
    assert (torch.count_nonzero(y, -1) == 2).all() and y.amax() <= 0
    torch.testing.assert_close(y.sum(-1), x.topk(2).values.sum(-1))


@pytest.mark.parametrize("k", [1, 3, 9])
def test_matches_a_loop_over_rows_with_many_ties(k):
    x = torch.randint(-2, 3, (200, 10)).double()
    torch.testing.assert_close(k_winners(x, k), by_hand(x, k), atol=0, rtol=0)
    assert (winners(x, k).sum(-1) == k).all()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("places", [0, 1, 6])
def test_both_ways_to_the_threshold_agree(monkeypatch, places, strict):
    x = (torch.randn(2, 40, 30) * 10**places).round() / 10**places  # with many equals, few, none
    x[0, 0, 3], x[0, 1, 4] = torch.inf, -torch.inf
    by_order = winners(x, 8, strict)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(winners(x, 8, strict), by_order)


def test_ties_stay_without_strictness():
    x = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    assert winners(x, 2, strict=False).tolist() == [[False, True, True, True, False]] + [
        [True, True, False, False, False]
    ]
    assert winners(x, 2).tolist()[0] == [False, True, True, False, False]
    assert (KWinners(5, percent_on=0.4, strict=False)(x) != 0).sum() == 5
    assert (KWinners(5, percent_on=0.4)(x) != 0).sum() == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_exactly_k(dtype):
    x = torch.randn(50, 400).to(dtype)
    assert x[0].unique().numel() < 400
    y = k_winners(x, 100)
    assert y.dtype is dtype and (winners(x, 100).sum(-1) == 100).all()
    torch.testing.assert_close(y.double(), by_hand(x.double(), 100), atol=0, rtol=0)


def test_invariant_12_without_strength_the_duty_cycle_has_no_say():
    x = torch.randn(10, 12)
    layer = KWinners(12)
    expected = layer.eval()(x)
    layer.duty_cycle.copy_(torch.rand(12))
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("training", [True, False])
def test_invariant_12_boosting_favours_rare_units(training):
    layer = KWinners(4, percent_on=0.5, boost_strength=1.0).train(training)
    layer.duty_cycle.copy_(torch.tensor([1.0, 0.0, 1.0, 0.0]))
    x = torch.tensor([[2.0, 2.0, 2.0, 2.0]])
    assert layer(x).tolist() == [[0.0, 2.0, 0.0, 2.0]]  # not boosted themselves
    layer.duty_cycle.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    x = torch.tensor([[1.0, 2.0, 0.8, 0.1]])  # 2 exp(-1) < 0.8
    torch.testing.assert_close(layer(x), torch.tensor([[1.0, 0.0, 0.8, 0.0]]))


def test_invariant_12_scores_are_those_of_the_formula():
    layer = KWinners(30, percent_on=0.3, boost_strength=1.7).eval()
    layer.duty_cycle.copy_(torch.rand(30))
    x = torch.randn(20, 30)
    kept = winners(x * torch.exp(1.7 * (0.3 - layer.duty_cycle)), 9)  # the documented rule
    assert torch.equal(layer(x), x * kept)


def test_boost_strength_decays():
    layer = KWinners(8, boost_strength=2.0, boost_decay=0.5)
    layer.end_iteration()
    layer.end_iteration()
    assert layer.boost_strength.item() == 0.5
    plain = KWinners(8, boost_decay=0.5)
    plain.duty_cycle.fill_(torch.nan)
    plain.end_iteration()
    layer.duty_cycle[3] = torch.nan
    with pytest.raises(FloatingPointError, match="duty cycle"):
        layer.end_iteration()


def by_formula(batches, period):
    """Each unit's frequency by the recursion of the layer, in plain numbers."""
    seen, duty = 0, [0.0] * batches[0].shape[-1]
    for y in batches:
        rows = y.shape[0]
        seen += rows
        rate = min(1.0, rows / min(period, seen))
        mean = (y > 0).double().mean(0).tolist()
        duty = [(1 - rate) * old + rate * new for old, new in zip(duty, mean, strict=True)]
    return duty


@pytest.mark.parametrize("rows", [3, 40, 130])
def test_invariant_13_duty_cycle(rows):
    layer = KWinners(12, duty_cycle_period=50).double()
    batches = [torch.randn(rows, 12, dtype=torch.float64) for _ in range(30)]
    outputs = [layer(x) for x in batches]
    expected = torch.tensor(by_formula(outputs, 50), dtype=torch.float64)
    torch.testing.assert_close(layer.duty_cycle, expected, atol=1e-10, rtol=0)
    assert layer.rows_seen == 30 * rows
    assert 0 <= layer.duty_cycle.amin() and layer.duty_cycle.amax() <= 1


@pytest.mark.parametrize("rows", [16, 5000])
def test_invariant_13_identical_batches_give_the_frequency(rows):
    layer = KWinners(8)
    x = torch.randn(rows, 8)
    for _ in range(400):
        layer(x)
    frequency = (layer(x) > 0).float().mean(0)
    torch.testing.assert_close(layer.duty_cycle, frequency, atol=1e-3, rtol=0)


def test_invariant_13_the_first_batches_are_an_average():
    layer, total = KWinners(8), torch.zeros(8)
    for rows in (10, 30, 60):
        total += (layer(torch.randn(rows, 8)) > 0).float().sum(0)
    torch.testing.assert_close(layer.duty_cycle, total / 100)


def test_statistics_are_taken_in_the_training_pass_alone():
    layer, x = KWinners(8), torch.randn(20, 8, requires_grad=True)
    for change in (
        lambda: layer.eval()(x),
        lambda: layer.train()(x, learning=False),
        lambda: torch.no_grad()(layer)(x),
        lambda: layer(x[:0]),
    ):
        change()
        assert layer.rows_seen == 0 and (layer.duty_cycle == 0).all()
    layer(x)
    assert layer.rows_seen == 20 and (layer.duty_cycle > 0).any()


def test_invariant_14_edges():
    x = torch.randn(4, 6, requires_grad=True)
    assert torch.equal(k_winners(x, 6), x) and torch.equal(k_winners(x, 0), torch.zeros(4, 6))
    k_winners(x, 0).sum().backward()
    assert (x.grad == 0).all()
    small = KWinners(4, percent_on=0.1)
    assert small.k == 0 and (small(torch.randn(3, 4)) == 0).all()
    constant = k_winners(torch.full((2, 6), 3.0), 2)
    assert constant.tolist() == [[3.0, 3.0, 0.0, 0.0, 0.0, 0.0]] * 2


def test_invariant_14_rows_are_independent():
    x = torch.randn(3, 5, 12)
    y = k_winners(x, 4)
    for t in range(3):
        for b in range(5):
            assert torch.equal(k_winners(x[t, b], 4), y[t, b])


def test_what_is_not_finite_stays_visible():
    x = torch.randn(3, 6)
    x[1, 2] = torch.nan
    y = k_winners(x, 2)
    assert y[1].isnan().any() and y[[0, 2]].isfinite().all()


def test_state_travels():
    layer = KWinners(8, boost_strength=1.0, boost_decay=0.9)
    layer(torch.randn(20, 8))
    layer.end_iteration()
    other = KWinners(8, boost_strength=1.0, boost_decay=0.9)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(7, 8)
    for twin in (other, copy.deepcopy(layer)):
        assert torch.equal(twin(x), copy.deepcopy(layer)(x))
    layer(x)
    for name, value in layer.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    assert set(layer.state_dict()) == {"duty_cycle", "boost_strength", "rows_seen"}


def test_a_stack_is_two_layers_side_by_side():
    singles = [KWinners(8, boost_strength=1.0) for _ in range(2)]
    stack = copy.deepcopy(singles[0])
    for name in ("duty_cycle", "boost_strength", "rows_seen"):
        setattr(stack, name, torch.stack([getattr(single, name) for single in singles]))
    for _ in range(3):
        x = torch.randn(2, 3, 5, 8)
        y = stack(x)
        for index, single in enumerate(singles):
            assert torch.equal(single(x[index]), y[index])
            torch.testing.assert_close(stack.duty_cycle[index], single.duty_cycle)
            assert stack.rows_seen[index] == single.rows_seen


def test_entropy():
    layer = KWinners(13, percent_on=0.3)
    assert layer.entropy() == 0
    layer.duty_cycle.fill_(4 / 13)
    expected = -(4 * math.log2(4 / 13) + 9 * math.log2(9 / 13))
    assert layer.max_entropy == pytest.approx(expected)
    assert layer.entropy().item() == pytest.approx(expected, rel=1e-5)
    assert KWinners(4, percent_on=0.1).max_entropy == 0


def test_compiles():
    layer = KWinners(8, boost_strength=1.0)
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    for _ in range(3):
        x = torch.randn(20, 8)
        assert torch.equal(compiled(x), layer(x))
    torch.testing.assert_close(compiled.duty_cycle, layer.duty_cycle)


@pytest.mark.parametrize(
    "options",
    [
        {"percent_on": 0.0},
        {"percent_on": 1.0},
        {"k_inference_factor": 4.0},
        {"k_inference_factor": 0.0},
        {"boost_strength": -1.0},
        {"boost_strength": float("inf")},
        {"boost_decay": 1.5},
        {"duty_cycle_period": 0},
    ],
)
def test_errors(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} .* got {value}"):
        KWinners(8, **options)
