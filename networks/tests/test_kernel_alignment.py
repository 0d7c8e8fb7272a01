"""Linear CKA against its definitions, its invariances, and the matching of tasks by time."""

import pytest
import torch

from networks.kernel_alignment import gram_cka, linear_cka, task_alignment, time_courses


def made_up(rows=12, p=5, q=7):
    torch.manual_seed(0)
    x = torch.randn(rows, p).double()
    return x, x @ torch.randn(p, q).double() + torch.randn(rows, q).double() + 3.0


@pytest.mark.parametrize("rows", [4, 12, 60])
def test_equals_the_definitions_by_features_and_by_gram_matrices(rows):
    x, y = made_up(rows)
    a, b = x - x.mean(0), y - y.mean(0)
    features = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    h = torch.eye(rows).double() - 1.0 / rows

    def hsic(k, m):
        return torch.trace(k @ h @ m @ h) / (rows - 1) ** 2

    k, m = x @ x.T, y @ y.T
    gram = hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()
    torch.testing.assert_close(linear_cka(x, y), features, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(linear_cka(x, y), gram, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gram_cka(k, m), gram, rtol=1e-12, atol=1e-12)
    assert 0.0 < gram < 1.0


def test_invariances():
    x, y = made_up()
    expected = linear_cka(x, y)
    turned, _ = torch.linalg.qr(torch.randn(7, 7).double())
    order = torch.randperm(12)
    for other in (y @ turned, -3.0 * y, y + torch.randn(7).double(), y.flip(-1)):
        torch.testing.assert_close(linear_cka(x, other), expected)
        torch.testing.assert_close(linear_cka(other, x), expected)
        torch.testing.assert_close(linear_cka(y, other), torch.ones(()).double())
    torch.testing.assert_close(linear_cka(x[order], y[order]), expected)
    assert (linear_cka(x, y[order]) - expected).abs() > 1e-2
    stretched = y @ torch.diag(torch.logspace(-2, 2, 7).double())
    assert (linear_cka(x, stretched) - expected).abs() > 1e-2  # no invariance, on purpose


def test_nothing_in_common_and_nothing_at_all():
    x = torch.tensor([[1.0], [-1.0], [0.0], [0.0]]).double()
    y = torch.tensor([[0.0], [0.0], [1.0], [-1.0]]).double()
    assert linear_cka(x, y) == 0.0
    assert linear_cka(x, torch.ones(4, 2).double()).isnan()


def episodes():
    torch.manual_seed(0)
    values, lengths = torch.randn(3, 4, 9, 5), torch.randint(3, 9, (3, 4))
    lengths[2] = torch.tensor([0, 5, 5, 2])  # one that the simulator broke off
    return values, torch.arange(9) < lengths[:, :, None], lengths


def test_rows_are_means_over_the_episodes_that_last_as_long():
    values, mask, lengths = episodes()
    courses, there = time_courses(values, mask)
    for task in range(3):
        for step in range(9):
            rows = [values[task, e, step] for e in range(4) if step < lengths[task, e]]
            assert bool(there[task, step]) == bool(rows)
            if rows:
                mean = torch.stack(rows).double().mean(0)
                torch.testing.assert_close(courses[task, step], mean)
    behind = values.masked_fill(~mask[..., None], torch.nan)
    assert torch.equal(time_courses(behind, mask)[0], courses)


def test_halves_of_tasks_are_compared_over_the_steps_both_have():
    values, mask, lengths = episodes()
    alike = task_alignment(values, mask)
    even, odd = (time_courses(values[:, half::2], mask[:, half::2])[0] for half in range(2))
    longest = [lengths[:, half::2].amax(1).tolist() for half in range(2)]
    for i in range(3):
        for j in range(3):
            one, other = min(longest[0][i], longest[1][j]), min(longest[0][j], longest[1][i])
            expected = linear_cka(even[i, :one], odd[j, :one])
            expected = (expected + linear_cka(even[j, :other], odd[i, :other])) / 2
            torch.testing.assert_close(alike[i, j], expected)


def repeated(signal, noise):
    """Three tasks: two of the same time course, one of another; noisy episodes."""
    torch.manual_seed(0)
    courses = torch.randn(3, 1, 20, 5) * signal
    courses[1] = courses[0]
    return courses + noise * torch.randn(3, 10, 20, 5), torch.ones(3, 10, 20, dtype=torch.bool)


def test_tasks_of_one_time_course_are_as_alike_as_the_halves_of_one():
    alike = task_alignment(*repeated(signal=1.0, noise=0.0))
    torch.testing.assert_close(alike[:2, :2], torch.ones(2, 2).double())
    assert alike[2, 2] > 1.0 - 1e-9 and alike[2, :2].max() < 0.5
    noisy = task_alignment(*repeated(signal=1.0, noise=0.5))
    assert (noisy[:2, :2] - noisy[0, 0]).abs().max() < 0.05 < 1.0 - noisy[0, 0]
    still = task_alignment(*repeated(signal=0.0, noise=0.5))
    assert still.diagonal().max() < 0.5  # nothing moves with time: equal, and yet nothing to see
    assert abs(still.diagonal().mean() - still[0, 1:].mean()) < 0.1


def test_the_floor_is_that_of_shuffled_time():
    sample = repeated(signal=1.0, noise=0.0)
    floor = task_alignment(*sample, shuffle=torch.Generator().manual_seed(0))
    assert torch.equal(floor, floor.T) and floor.max() < 0.5
    again = task_alignment(*sample, shuffle=torch.Generator().manual_seed(0))
    assert torch.equal(floor, again)


def test_tasks_without_common_steps_are_not_compared():
    values, mask, _ = episodes()
    mask[0] = False
    alike = task_alignment(values, mask)
    assert alike[0].isnan().all() and not alike[1:, 1:].isnan().any()
    with pytest.raises(ValueError, match="two episodes, got 1"):
        task_alignment(values[:, :1], mask[:, :1])
