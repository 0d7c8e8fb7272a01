"""The step of TRPO: conjugate gradients, the length that uses up the bound, a line search.

Schulman et al., "Trust Region Policy Optimization", 2015.
"""

from collections.abc import Callable
from typing import NamedTuple

import gin
import torch
from torch import Tensor

from algorithms.arguments import check_not_negative, check_positive

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix [P, P], as the function that multiplies a vector by it."""


class Step(NamedTuple):
    """What a step came to; all but theta are 0-d.

    `loss` and `kl` are those of the returned theta, `accepted` and `nonfinite` 0 or 1.
    """

    theta: Tensor
    loss: Tensor
    kl: Tensor
    accepted: Tensor
    backtracks: Tensor
    nonfinite: Tensor


def conjugate_gradients(
    product: Product, b: Tensor, iterations: int = 10, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """Return x with product(x) about b, [P], from x = 0, and product(x).

    It stops changing x, without waiting for the device, once the squared residual is below
    `tolerance` or a direction has no positive curvature. Non-finite numbers go into x. product(x)
    is b less the residual, up to rounding, and takes no product of its own.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    rr = b.dot(b)
    going = torch.ones_like(rr, dtype=torch.bool)
    for _ in range(iterations):
        image = product(direction)
        curvature = direction.dot(image)
        going = going & ~(curvature <= 0.0)
        length = torch.where(going, rr / curvature, 0.0)
        x = x + length * direction
        residual = residual - length * image
        rr, before = residual.dot(residual), rr
        going = going & ~(rr < tolerance)
        direction = torch.where(going, residual + rr / before * direction, direction)
    return x, b - residual


@gin.configurable
class TrustRegion:
    """theta' = theta - ratio^j sqrt(2 max_kl / (s.Hs)) s, with s = H^(-1) g by conjugate gradients.

    H is the curvature of the divergence plus `damping`. j = 0, 1, ... is the first for which the
    loss is below that of theta and the divergence below max_kl. Without one, and where g is zero,
    s.Hs is not positive or anything is not finite, theta stays as it is.
    """

    def __init__(
        self,
        *,
        max_kl: float = 0.01,
        cg_iterations: int = 10,
        damping: float = 1e-5,
        max_backtracks: int = 15,
        backtrack_ratio: float = 0.8,
    ) -> None:
        """Keep the settings.

        Args:
            max_kl: bound of the divergence.
            cg_iterations: conjugate gradient steps.
            damping: multiple of the identity that is added to the curvature.
            max_backtracks: lengths that are tried.
            backtrack_ratio: from each length to the next.

        Raises:
            ValueError: if a number is out of range.
        """
        check_positive("TrustRegion", max_kl=max_kl)
        check_not_negative("TrustRegion", damping=damping)
        for name, count in (("cg_iterations", cg_iterations), ("max_backtracks", max_backtracks)):
            if count < 1:
                raise ValueError(f"TrustRegion.{name} must be at least 1, got {count}")
        if not 0.0 < backtrack_ratio < 1.0:
            raise ValueError(
                f"TrustRegion.backtrack_ratio must lie in (0, 1), got {backtrack_ratio}"
            )
        self.max_kl, self.damping = max_kl, damping
        self.cg_iterations = cg_iterations
        self.max_backtracks, self.backtrack_ratio = max_backtracks, backtrack_ratio

    def full_step(self, gradient: Tensor, curvature: Product) -> tuple[Tensor, Tensor]:
        """Return the longest step that the quadratic model allows, [P], and s.Hs."""

        def damped(vector: Tensor) -> Tensor:
            return curvature(vector) + self.damping * vector

        s, image = conjugate_gradients(damped, gradient, self.cg_iterations)
        bend = s.dot(image)
        return s / (0.5 * bend / self.max_kl).sqrt(), bend

    def step(
        self,
        theta: Tensor,
        loss: Tensor,
        gradient: Tensor,
        curvature: Product,
        evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> Step:
        """Return the step from theta.

        Args:
            theta: where to start, [P].
            loss: at theta, 0-d.
            gradient: of the loss at theta, [P].
            curvature: the Hessian of the divergence at theta.
            evaluate: gives loss and divergence at another theta, both 0-d.
        """
        size = gradient.dot(gradient)
        finite = loss.isfinite() & size.isfinite()
        none = torch.zeros_like(loss)
        stay = Step(theta, loss, none, none, none, (~finite).to(loss.dtype))
        if not bool(finite & (size > 0.0)):
            return stay
        full, bend = self.full_step(gradient, curvature)
        finite = bend.isfinite() & full.isfinite().all()
        if not bool(finite & (bend > 0.0)):
            # Only a positive s.Hs must give finite numbers.
            return stay._replace(nonfinite=(~(bend <= 0.0) & ~finite).to(loss.dtype))
        for tries in range(self.max_backtracks):
            candidate = theta - self.backtrack_ratio**tries * full
            new_loss, kl = evaluate(candidate)
            if bool((new_loss < loss) & (kl < self.max_kl)):
                return Step(candidate, new_loss, kl, none + 1.0, none + tries, none)
        return stay._replace(backtracks=none + self.max_backtracks)
