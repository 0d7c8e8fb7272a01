"""Conjugate gradients and the step of TRPO on problems whose answer is known."""

import pytest
import torch

from algorithms.trust_region import TrustRegion, conjugate_gradients


def positive_definite(size=10):
    torch.manual_seed(0)
    root = torch.randn(size, size, dtype=torch.float64)
    return root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64)


class Quadratic:
    """J(x) = g.x + x.Ax / 2 and KL(x) = x.Hx / 2, from x = 0."""

    def __init__(self, size=10, bend=0.0):
        self.h = positive_definite(size)
        self.g = torch.randn(size, dtype=torch.float64)
        self.a = bend * torch.eye(size, dtype=torch.float64)
        self.seen = []

    def evaluate(self, x):
        self.seen.append(x)
        return self.g @ x + 0.5 * x @ self.a @ x, 0.5 * x @ self.h @ x

    def step(self, region, **changes):
        zero = torch.zeros_like(self.g)
        arguments = {
            "theta": zero,
            "loss": zero.sum(),
            "gradient": self.g,
            "curvature": lambda v: self.h @ v,
            "evaluate": self.evaluate,
        }
        return region.step(**(arguments | changes))


def test_invariant_14_conjugate_gradients_solve_a_system_of_ten_in_ten_steps():
    matrix = positive_definite()
    b = torch.randn(10, dtype=torch.float64)
    x, product = conjugate_gradients(lambda v: matrix @ v, b)
    torch.testing.assert_close(product, matrix @ x)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-6, atol=1e-6)


def plain(product, b, iterations, tolerance):
    """The loop that stops."""
    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    rr = r @ r
    for _ in range(iterations):
        hp = product(p)
        v = rr / (p @ hp)
        x, r = x + v * p, r - v * hp
        rr, old = r @ r, rr
        if rr < tolerance:
            break
        p = r + rr / old * p
    return x


@pytest.mark.parametrize("iterations", [1, 4, 10, 30])
@pytest.mark.parametrize("tolerance", [1e-10, 1e-1, 1e9])
def test_conjugate_gradients_equal_the_loop_that_stops(iterations, tolerance):
    matrix = positive_definite()
    b = torch.randn(10, dtype=torch.float64)
    arguments = (lambda v: matrix @ v, b, iterations, tolerance)
    x, product = conjugate_gradients(*arguments)
    assert torch.equal(x, plain(*arguments))
    torch.testing.assert_close(product, matrix @ x)


@pytest.mark.parametrize(
    ("scale", "solution"),
    [(1e-5, (0.5, 0.5)), (2e-5, (1.0, 1 / 3)), (1.0, (1.0, 1 / 3))],
)
def test_conjugate_gradients_stop_below_a_squared_residual_of_1e_10(scale, solution):
    """It is scale^2 / 2 after the first product, 5e-11 and 2e-10, and 0 after the second."""
    b = torch.full((2,), scale, dtype=torch.float64)
    diagonal, expected = torch.tensor([1.0, 3.0]).double(), torch.tensor(solution).double()
    x, product = conjugate_gradients(lambda v: diagonal * v, b)
    torch.testing.assert_close(x / scale, expected)
    torch.testing.assert_close(product / scale, diagonal * expected)
    full, _ = TrustRegion(damping=0.0).full_step(b, lambda v: diagonal * v)
    torch.testing.assert_close(full / full[0], expected / expected[0])


def test_conjugate_gradients_take_ten_products():
    taken = []
    conjugate_gradients(lambda v: taken.append(v) or 2.0 * v, torch.ones(3))
    assert len(taken) == 10


def test_invariant_15_an_accepted_step_keeps_the_bound_and_lowers_the_loss():
    problem, region = Quadratic(), TrustRegion(max_kl=0.02)
    step = problem.step(region)
    assert step.accepted == 1 and step.kl < 0.02 and step.loss < 0
    loss, kl = problem.evaluate(step.theta)
    assert torch.equal(loss, step.loss) and torch.equal(kl, step.kl)
    assert torch.equal(step.theta, problem.seen[int(step.backtracks)])


def test_the_full_step_uses_up_the_bound():
    problem, region = Quadratic(), TrustRegion(max_kl=0.02, damping=0.0)
    full, bend = region.full_step(problem.g, lambda v: problem.h @ v)
    torch.testing.assert_close(0.5 * full @ problem.h @ full, torch.tensor(0.02).double())
    s = torch.linalg.solve(problem.h, problem.g)
    torch.testing.assert_close(bend, s @ problem.h @ s, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(full, s / (0.5 * bend / 0.02).sqrt(), rtol=1e-6, atol=1e-6)


def test_damping_enters_the_curvature():
    problem = Quadratic()
    heavy, _ = TrustRegion(damping=2.0).full_step(problem.g, lambda v: problem.h @ v)
    light = TrustRegion(damping=0.0)
    damped = problem.h + 2.0 * torch.eye(10, dtype=torch.float64)
    torch.testing.assert_close(heavy, light.full_step(problem.g, lambda v: damped @ v)[0])


def test_the_line_search_takes_the_first_length_that_fits():
    problem, region = Quadratic(bend=40.0), TrustRegion(max_kl=0.05)
    step = problem.step(region)
    full, _ = region.full_step(problem.g, lambda v: problem.h @ v)
    assert 0 < step.backtracks < 15
    for tries, theta in enumerate(list(problem.seen)):
        torch.testing.assert_close(theta, -(0.8**tries) * full)
        loss, kl = problem.evaluate(theta)
        fits = bool(loss < 0) and bool(kl < 0.05)
        assert fits == (tries == step.backtracks)


def test_invariant_15_a_rejected_step_changes_nothing():
    problem = Quadratic()
    theta = torch.randn(10, dtype=torch.float64)
    worse, equal, at_the_bound, undefined = (1.0, 0.0), (0.0, 0.0), (-1.0, 0.01), (torch.nan, 0.0)
    for pair in (worse, equal, at_the_bound, undefined):
        values = torch.tensor(pair, dtype=torch.float64).unbind()
        step = problem.step(TrustRegion(), theta=theta, evaluate=lambda x, values=values: values)
        assert step.theta is theta
        assert step.accepted == 0 and step.backtracks == 15
        assert step.loss == 0 and step.kl == 0 and step.nonfinite == 0


BAD = torch.full((10,), torch.nan, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "nonfinite"),
    [
        ({"gradient": torch.zeros(10, dtype=torch.float64)}, 0),
        ({"curvature": lambda v: -v}, 0),
        ({"curvature": lambda v: 0.0 * v}, 0),
        ({"gradient": BAD}, 1),
        ({"loss": BAD[0]}, 1),
        ({"curvature": lambda v: BAD}, 1),
        ({"curvature": lambda v: v * torch.inf}, 1),
    ],
)
def test_guards(changes, nonfinite):
    problem = Quadratic()
    theta = torch.randn(10, dtype=torch.float64)
    region = TrustRegion(damping=0.0)
    step = problem.step(region, theta=theta, **changes)
    assert step.theta is theta and not problem.seen
    assert step.accepted == 0 and step.nonfinite == nonfinite


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_kl": 0.0}, r"TrustRegion\.max_kl.*0\.0"),
        ({"damping": -1.0}, r"TrustRegion\.damping.*-1\.0"),
        ({"cg_iterations": 0}, r"TrustRegion\.cg_iterations.*0"),
        ({"max_backtracks": 0}, r"TrustRegion\.max_backtracks.*0"),
        ({"backtrack_ratio": 1.0}, r"TrustRegion\.backtrack_ratio.*1\.0"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        TrustRegion(**options)
