"""The linear feature baseline."""

import pytest
import torch

from algorithms import baseline
from algorithms.baseline import baseline_values, features, fit_baseline


def made_up(tasks=3, episodes=6, time=30, dim=2):
    torch.manual_seed(0)
    lengths = torch.randint(time // 2, time + 1, (tasks, episodes))
    mask = torch.arange(time) < lengths[..., None]
    observation = torch.randn(tasks, episodes, time, dim, dtype=torch.float64)
    return observation * mask[..., None], mask


def test_features_by_hand():
    observation = torch.tensor([[[2.0, 3.0], [5.0, 7.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    expected = [
        [2.0, 3.0, 4.0, 9.0, 0.01, 0.0001, 0.000001, 1.0],
        [5.0, 7.0, 25.0, 49.0, 0.02, 0.0004, 0.000008, 1.0],
        [0.0] * 8,
    ]
    seen = features(observation, mask)
    assert seen.dtype == torch.float64
    torch.testing.assert_close(seen[0], torch.tensor(expected, dtype=torch.float64))


def test_invariant_6_returns_linear_in_the_features_are_predicted():
    observation, mask = made_up()
    weights = torch.randn(3, 8, dtype=torch.float64)
    returns = (features(observation, mask) @ weights[:, None, :, None]).squeeze(-1)
    fitted = fit_baseline(observation, returns, mask, ridge=1e-12)
    torch.testing.assert_close(
        baseline_values(observation, mask, fitted), returns, rtol=0, atol=1e-6
    )


def test_invariant_6_padding_does_not_count():
    observation, mask = made_up()
    returns = torch.randn(mask.shape, dtype=torch.float64) * mask
    fitted = fit_baseline(observation, returns, mask)
    wide = torch.cat((observation, torch.full((3, 6, 4, 2), 9.0)), 2)
    wide_mask = torch.cat((mask, torch.zeros(3, 6, 4, dtype=torch.bool)), 2)
    wide_returns = torch.cat((returns, torch.zeros(3, 6, 4)), 2)
    torch.testing.assert_close(fit_baseline(wide, wide_returns, wide_mask), fitted)
    assert (baseline_values(wide, wide_mask, fitted)[~wide_mask] == 0).all()


def test_invariant_6_one_step_gives_the_ridge_of_one_row():
    s, r, ridge = 0.7, 3.0, 0.25
    x = torch.tensor([s, s**2, 0.01, 0.01**2, 0.01**3, 1.0], dtype=torch.float64)
    observation = torch.full((1, 1, 1, 1), s, dtype=torch.float64)
    returns = torch.full((1, 1, 1), r, dtype=torch.float64)
    fitted = fit_baseline(observation, returns, torch.ones(1, 1, 1, dtype=torch.bool), ridge)
    torch.testing.assert_close(fitted[0], x * r / (x @ x + ridge), rtol=1e-12, atol=1e-12)


def test_tasks_are_fitted_apart():
    observation, mask = made_up()
    returns = torch.randn(mask.shape, dtype=torch.float64) * mask
    together = fit_baseline(observation, returns, mask)
    for task in range(3):
        x = features(observation[task], mask[task]).flatten(0, 1)
        gram = x.T @ x + 1e-5 * torch.eye(8, dtype=torch.float64)
        alone = torch.linalg.solve(gram, x.T @ returns[task].flatten())
        torch.testing.assert_close(together[task], alone, rtol=1e-8, atol=1e-8)


def test_one_hot_observations_need_the_ridge_and_have_it():
    torch.manual_seed(0)
    observation = torch.nn.functional.one_hot(torch.randint(5, (2, 8, 6)), 5).float()
    mask = torch.ones(2, 8, 6, dtype=torch.bool)
    fitted = fit_baseline(observation, torch.randn(2, 8, 6), mask)
    assert fitted.isfinite().all()
    assert baseline_values(observation, mask, fitted).dtype == torch.float32


def singular(scale, tasks=2):
    """Rank deficient moments whose rounding exceeds a small ridge, in all tasks but the first."""
    observation, mask = made_up(tasks=tasks)
    observation[1:, ..., 1] = observation[1:, ..., 0] = scale * observation[1:, ..., 0]
    return observation, mask


def test_a_singular_task_gets_a_larger_ridge_and_the_others_keep_theirs(monkeypatch):
    # Whether rounding leaves one matrix positive definite is chance, of this many it is not.
    observation, mask = singular(3e3, tasks=40)
    returns = torch.randn(mask.shape, dtype=torch.float64) * mask
    fitted = fit_baseline(observation, returns, mask)
    assert fitted.isfinite().all()
    torch.testing.assert_close(fitted[:1], fit_baseline(observation[:1], returns[:1], mask[:1]))
    monkeypatch.setattr(baseline, "ATTEMPTS", 1)
    with pytest.raises(RuntimeError, match=r"tasks \[[1-9].*1 attempt.*ridge of 1e-05"):
        fit_baseline(observation, returns, mask)


def test_what_cannot_be_fitted_is_one_clear_error():
    observation, mask = singular(1e12, tasks=40)
    with pytest.raises(RuntimeError, match=r"tasks \[[1-9].* not be fitted in 5 attempts.* 40"):
        fit_baseline(observation, mask.double(), mask)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_values_stay_in_their_task(bad):
    observation, mask = made_up()
    returns = torch.randn(mask.shape, dtype=torch.float64) * mask
    expected = fit_baseline(observation, returns, mask)
    observation[1, 2, 3] = bad
    seen = fit_baseline(observation, returns, mask)
    assert not seen[1].isfinite().any()
    torch.testing.assert_close(seen[[0, 2]], expected[[0, 2]])
