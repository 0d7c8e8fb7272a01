"""Mean and standard deviation of rows that come and go."""

import torch

from buffers.running_statistics import RunningStatistics


def statistics(width: int = 3) -> RunningStatistics:
    return RunningStatistics(width, torch.device("cpu"))


def same(got: RunningStatistics, rows: torch.Tensor) -> None:
    assert got.count == len(rows)
    torch.testing.assert_close(got.mean, rows.double().mean(0), atol=1e-10, rtol=1e-10)
    expected = rows.double().var(0, correction=0)
    torch.testing.assert_close(got.std.square(), expected, atol=1e-8, rtol=1e-10)


def test_invariant_10_equals_a_direct_computation() -> None:
    """After every bunch, of any size, with rows that leave in the order they came."""
    draw = torch.Generator().manual_seed(0)
    got, there = statistics(), torch.zeros(0, 3)
    for _ in range(200):
        number = int(torch.randint(0, 8, (), generator=draw))
        rows = torch.randn(number, 3, generator=draw) * torch.tensor([1.0, 100.0, 1e-3]) + 50.0
        got.add(rows)
        there = torch.cat((there, rows))
        leave = min(int(torch.randint(0, 8, (), generator=draw)), len(there) - 1)
        if leave > 0:
            got.remove(there[:leave])
            there = there[leave:]
        if len(there):
            same(got, there)


def test_invariant_10_constant_columns_have_no_deviation() -> None:
    got = statistics(1)
    rows = torch.full((1000, 1), 1234.5678)
    for part in rows.split(7):
        got.add(part)
    got.remove(rows[:500])
    assert got.std.item() < 1e-9 and got.mean.float().item() == rows[0].item()


def test_without_rows_it_changes_nothing() -> None:
    got, rows = statistics(), torch.randn(5, 3)
    for _ in range(2):
        assert got.count == 0 and (got.mean == 0).all() and (got.std == 1).all()
        got.add(rows)
        got.add(rows[:0])
        same(got, rows)
        got.remove(rows[:0])
        got.remove(rows)


def test_state_round_trip() -> None:
    one, two = statistics(), statistics()
    one.add(torch.randn(9, 3))
    state = one.state_dict()
    two.load_state_dict(state)
    rows = torch.randn(4, 3)
    for got in (one, two):
        got.add(rows)
    assert torch.equal(one.mean, two.mean) and torch.equal(one.std, two.std)
    assert state["count"] == 9, "a state is a copy"
