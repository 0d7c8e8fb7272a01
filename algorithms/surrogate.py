"""The surrogate loss of TRPO and its divergence, as functions of one parameter vector."""

from collections.abc import Callable
from typing import Any, Protocol, Self

from torch import Tensor
from torch.func import grad, vjp

from algorithms.advantages import weighted_mean


class Distribution(Protocol):
    """Distributions of actions: a tuple of tensors with closed forms, see `torch.func`."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return log p(action), `[*]`."""

    def kl(self, old: Self) -> Tensor:
        """Return KL(self || old) of each dimension of the action, `[*, dimensions]`."""

    def sample(self) -> Tensor:
        """Draw actions."""

    def mode(self) -> Tensor:
        """Return the likeliest actions."""


class Surrogate:
    """J and KL of the policies that theta stands for, around the theta that acted.

    J(theta)  = mean_i -wm_i( pi_i(a|s) / pi_i^old(a|s) * advantage )
    KL(theta) = mean_i  wm_i( KL(pi_i || pi_i^old) )

    over tasks i, wm as in `weighted_mean`. At theta_old KL and its gradient are zero; so the
    Hessian of KL is D^T F D exactly, D being the derivative of the policies by theta and F the
    Hessian of KL by the policies: no third derivative of the network is needed.

    Args:
        policies: gives all tasks' distributions at the steps `[tasks, episodes, time]` for theta.
        theta: the parameters that acted, `[P]`.
        action: `[tasks, episodes, time, *]`.
        advantage: `[tasks, episodes, time]`, a constant.
        mask: `[tasks, episodes, time]` bool.
        kl_reduce: "mean" or "sum" of the divergence over the dimensions of an action.
        tangent: has value and first derivative of `policies` at theta, where that is cheaper.
    """

    def __init__(
        self,
        policies: Callable[[Tensor], Any],
        theta: Tensor,
        action: Tensor,
        advantage: Tensor,
        mask: Tensor,
        kl_reduce: str = "mean",
        tangent: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.policies = policies
        self.action, self.advantage, self.mask = action, advantage, mask
        self.kl_reduce = kl_reduce
        self.old, self._pull = _linearized(tangent or policies, theta)
        # D^T is linear: its own transpose, taken anywhere, is D. Passing back through the graph of
        # D^T takes a third of the time of forward differentiation, and less memory.
        _, self._push = _linearized(self._pull, self.old)
        self._old_log_prob = self.old.log_prob(action)
        _, self._bend = _linearized(grad(self._kl), self.old)  # F is symmetric
        self.loss = self._loss(self.old)
        (self.gradient,) = self._pull(grad(self._loss)(self.old))

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return J and KL at theta, both 0-d."""
        policies = self.policies(theta)
        return self._loss(policies), self._kl(policies)

    def curvature(self, vector: Tensor) -> Tensor:
        """Return the Hessian of KL at theta_old times a vector, `[P]`: D, then F, then D^T."""
        (pushed,) = self._push((vector,))
        (bent,) = self._bend(pushed)
        product: Tensor = self._pull(bent)[0]
        return product

    def _loss(self, policies: Distribution) -> Tensor:
        ratio = (policies.log_prob(self.action) - self._old_log_prob).exp()
        return -weighted_mean(ratio * self.advantage, self.mask).mean()

    def _kl(self, policies: Distribution) -> Tensor:
        each = policies.kl(self.old)
        joint = each.mean(-1) if self.kl_reduce == "mean" else each.sum(-1)
        return weighted_mean(joint, self.mask).mean()


def _linearized(
    function: Callable[[Any], Any], point: Any
) -> tuple[Any, Callable[[Any], tuple[Any]]]:
    """Return the function's value at a point, and the transpose of its derivative there."""
    value, pull, *_ = vjp(function, point)
    return value, pull
