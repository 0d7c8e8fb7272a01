"""CAVIA and MAML: policies that one gradient step adapts to a task, meta-trained by TRPO.

CAVIA: Zintgraf et al., "Fast Context Adaptation via Meta-Learning", ICML 2019. MAML: Finn, Abbeel
and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017.
"""

from collections.abc import Callable
from typing import Any, Protocol

import gin
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

from algorithms import episodes
from algorithms.advantages import weighted_mean
from algorithms.arguments import check_choice, check_not_negative
from algorithms.base import MetaAlgorithm, Metrics, Sizes
from algorithms.episodes import Episodes
from algorithms.flat_parameters import FlatParameters
from algorithms.surrogate import Distribution, Surrogate
from algorithms.trust_region import TrustRegion

NARROW = 8
"""Up to this width of a context its derivative is written out: it costs a backward pass for each
number, and saves two thirds of each product with the curvature."""


class Policy(Protocol):
    """A module that maps observations and a context, which broadcast, to distributions."""

    num_context: int
    """Width of the context."""
    discrete: bool
    """Whether an action is one number out of some, and not a vector."""

    def __call__(self, observation: Tensor, context: Tensor) -> Distribution:
        """`[*, observation_dim]` and `[*, num_context]` to distributions `[*]`."""

    def metrics(self) -> Metrics:
        """What is worth writing down of the weights."""


@gin.configurable
class CAVIA(MetaAlgorithm):
    r"""Meta-learns weights theta from which one policy gradient step makes a policy for task `i`.

    What the step adapts is x_i: a context that is an input of the policy (CAVIA), or all weights
    (MAML). With wm the mean over time, then over episodes, and A the normalised advantages:

        L_i(x)     = -wm( log pi_x(a|s) A )                        on the episodes before the step
        x_i(theta) = x_0 - fast_lr * grad_x L_i(x_0)               x_0 = 0 (CAVIA), theta (MAML)
        J(theta)   = mean_i -wm( pi_i(a|s) / pi_i^old(a|s) A )     on the episodes after it
        theta'     = TRPO step on J within mean_i wm( KL(pi_i || pi_i^old) ) < max_kl

    pi_i is the policy of theta and x_i(theta): J and KL look through the step, and their
    derivatives are of second order. Everything is computed for all tasks at once.

    1. `first_order` drops the derivative of the gradient in x_i. In the published code the option
       does not reach the update.
    2. The time limit ends an episode as a terminal state does, as in the published code.
    3. Logged losses and divergences are those of the accepted theta, not of the last one tried.
    4. `halve_lr` "after_first" is what its authors describe; "first" is what their code does.

    Args:
        sizes: Sizes of observation and action (a suite's `spec`).
        policy: Factory of the `Policy`, a module, called with the two sizes.
        adapted: "context" (CAVIA), or "weights" (MAML), which wants a policy without context.
        fast_lr: Length of the inner step.
        discount: Discount factor per step.
        gae_lambda: Lambda of the advantages.
        first_order: Take the gradient in x_i for a constant.
        halve_lr: Halve fast_lr "after_first", from the second adaptation on; at the "first" one,
            in evaluation mode only; or never (None).
        outer_baseline: Which episodes the baseline of J is fitted on, "before" or "after".
        kl_reduce: Whether an action's divergence is the "mean" or the "sum" over its dimensions.
        trust_region: Factory of the outer step.

    Raises:
        ValueError: Naming the argument: a value out of range, or networks that do not fit.
    """

    policy: Any

    def __init__(
        self,
        sizes: Sizes,
        *,
        policy: Callable[[int, int], Policy] = gin.REQUIRED,
        adapted: str = "context",
        fast_lr: float = 0.5,
        discount: float = 0.95,
        gae_lambda: float = 1.0,
        first_order: bool = False,
        halve_lr: str | None = None,
        outer_baseline: str = "before",
        kl_reduce: str = "mean",
        trust_region: Callable[[], TrustRegion] = TrustRegion,
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("adapted", adapted, ("context", "weights")),
            ("halve_lr", halve_lr, (None, "after_first", "first")),
            ("outer_baseline", outer_baseline, ("before", "after")),
            ("kl_reduce", kl_reduce, ("mean", "sum")),
        ):
            check_choice("CAVIA", name, value, choices)
        for name, number in (("discount", discount), ("gae_lambda", gae_lambda)):
            if not 0.0 <= number <= 1.0:
                raise ValueError(f"CAVIA.{name} must lie in [0, 1], got {number}")
        check_not_negative("CAVIA", fast_lr=fast_lr)
        self.policy = policy(sizes.observation_dim, sizes.action_dim)
        self.adapts_weights, num_context = adapted == "weights", self.policy.num_context
        if self.adapts_weights != (num_context == 0):
            wanted = "num_context = 0" if self.adapts_weights else "num_context of at least 1"
            raise ValueError(
                f"CAVIA.adapted = {adapted!r} needs a policy with {wanted}, got {num_context}"
            )
        discrete = getattr(sizes, "discrete", False)
        if self.policy.discrete != discrete:
            kind, name = ("discrete", "categorical") if discrete else ("continuous", "gaussian")
            raise ValueError(
                f"CAVIA.policy does not choose among {kind} actions, and the tasks have those; "
                f"bind ContextPolicy.distribution = '{name}'"
            )
        self.fast_lr, self.halve_lr, self.first_order = fast_lr, halve_lr, first_order
        self.discount, self.gae_lambda = discount, gae_lambda
        self.outer_baseline, self.kl_reduce = outer_baseline, kl_reduce
        self.trust_region = trust_region()
        self.weights = FlatParameters(self.policy)

    @torch.no_grad()
    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """Add `"action"`, a sample or the mode, to td `[tasks]`.

        Reads `"observation"` `[tasks, episodes, observation_dim]` and `"latent"`, the same for all
        episodes of a task: `[tasks, 1 or episodes, latent_dim]`.
        """
        observation, latent = td["observation"], td["latent"]
        if self.adapts_weights:
            policy = vmap(self._policy)(latent[:, 0], latent[:, 0], observation)
        else:
            policy = self.policy(observation, latent)
        return td.set("action", policy.sample() if explore else policy.mode())

    @torch.no_grad()
    def prior(self, num_tasks: int) -> TensorDict:
        """Return the latents of new tasks: no context, or the shared weights."""
        latent = self._start(self.weights.vector()).repeat(num_tasks, 1)
        adaptations = torch.zeros(num_tasks, dtype=torch.int64, device=latent.device)
        return TensorDict({"latent": latent, "adaptations": adaptations}, [num_tasks])

    @torch.no_grad()
    def adapt(self, experience: TensorDict, prior: TensorDict) -> TensorDict:
        """Return the latents one gradient step further than `prior` `[tasks]`.

        A task whose step is not finite keeps its latent.

        Args:
            experience: `[tasks, episodes, time]`, see `algorithms.episodes`.
            prior: The latents that collected it.
        """
        latent, adaptations = prior["latent"], prior["adaptations"]
        baseline = episodes.fit(experience, self.discount)
        seen = episodes.prepare(experience, baseline, self.discount, self.gae_lambda)
        lr = self.fast_lr / (1.0 + self._halved(adaptations).to(latent.dtype))
        theta = _of_each(self.weights.vector(), seen)
        ahead = vmap(self._step)(theta, latent, seen, lr)
        latent = ahead.where(ahead.isfinite().all(-1, keepdim=True), latent)
        return TensorDict({"latent": latent, "adaptations": adaptations + 1}, prior.batch_size)

    @torch.no_grad()
    def update(self, batch: TensorDict) -> Metrics:
        """Take one TRPO step on theta.

        Args:
            batch: `[tasks]` with two experiences, each of any length: `"before"`, that of `prior`,
                and `"after"`, that of the latents which were adapted to the former, once.
        """
        baseline = episodes.fit(batch["before"], self.discount)
        before = episodes.prepare(batch["before"], baseline, self.discount, self.gae_lambda)
        if self.outer_baseline == "after":
            baseline = episodes.fit(batch["after"], self.discount)
        after = episodes.prepare(batch["after"], baseline, self.discount, self.gae_lambda)

        theta = self.weights.vector()
        problem = self.surrogate(theta, before, after)
        step = self.trust_region.step(
            theta, problem.loss, problem.gradient, problem.curvature, problem.evaluate
        )
        self.weights.write(step.theta)
        inner = vmap(self._loss_at_start)(_of_each(theta, before), before)
        return {
            "loss/inner": inner.mean(),
            "loss/before": problem.loss,
            "loss/after": step.loss,
            "surrogate_gain": problem.loss - step.loss,
            "kl": step.kl,
            "accepted": step.accepted,
            "backtracks": step.backtracks,
            "grad_norm/policy": problem.gradient.norm(),
            "health/nonfinite": step.nonfinite,
            **self.policy.metrics(),
        }

    def surrogate(self, theta: Tensor, before: Episodes, after: Episodes) -> Surrogate:
        """Return J and KL around theta, for the episodes `[tasks]` before and after the step."""

        def policies(theta: Tensor) -> Any:
            return vmap(self._adapted)(_of_each(theta, before), before, after.observation)

        tangent = None
        if 0 < self.policy.num_context <= NARROW:
            tangent = self._tangent(theta, before, after.observation)
        seen = after.action, after.advantage, after.mask
        return Surrogate(policies, theta, *seen, self.kl_reduce, tangent)

    def _tangent(self, theta: Tensor, before: Episodes, observation: Tensor) -> Any:
        """Return policies by theta which have value and first derivative of the pi_i at this theta.

        Their contexts are x_i + (dx_i/dtheta) (new theta - theta). With that derivative written
        out, `[tasks, num_context, P]`, no later product passes through the episodes before the
        step again; these are more than half of the way.
        """

        def step(theta: Tensor, before: Episodes) -> tuple[Tensor, Tensor]:
            x = self._step(theta, self._start(theta), before, self.fast_lr)
            return x, x

        # One number of the context at a time: all at once are no faster and take more memory.
        slope, x = vmap(jacrev(step, has_aux=True, chunk_size=1))(_of_each(theta, before), before)

        def policies(new: Tensor) -> Any:
            context = x + slope @ (new - theta)
            return vmap(self._policy)(_of_each(new, before), context, observation)

        return policies

    # Of one task: theta and x are vectors, the episodes have no dimension of tasks.

    def _start(self, theta: Tensor) -> Tensor:
        """x_0."""
        return theta if self.adapts_weights else theta.new_zeros(self.policy.num_context)

    def _policy(self, theta: Tensor, x: Tensor, observation: Tensor) -> Any:
        """pi of theta and x."""
        if self.adapts_weights:
            theta, x = x, x[:0]
        return functional_call(self.policy, self.weights.unflatten(theta), (observation, x))

    def _inner_loss(self, theta: Tensor, x: Tensor, seen: Episodes) -> Tensor:
        """L_i(x)."""
        log_prob = self._policy(theta, x, seen.observation).log_prob(seen.action)
        return -weighted_mean(log_prob * seen.advantage, seen.mask)

    def _loss_at_start(self, theta: Tensor, seen: Episodes) -> Tensor:
        """L_i(x_0)."""
        return self._inner_loss(theta, self._start(theta), seen)

    def _step(self, theta: Tensor, x: Tensor, seen: Episodes, lr: Tensor | float) -> Tensor:
        """One step from x down L_i."""
        gradient: Tensor = grad(self._inner_loss, argnums=1)(theta, x, seen)
        return x - lr * (gradient.detach() if self.first_order else gradient)

    def _adapted(self, theta: Tensor, before: Episodes, observation: Tensor) -> Any:
        """pi_i."""
        x = self._step(theta, self._start(theta), before, self.fast_lr)
        return self._policy(theta, x, observation)

    def _halved(self, adaptations: Tensor) -> Tensor:
        """Whether the next step of latents adapted that often is of half the length."""
        if self.halve_lr == "after_first":
            return adaptations > 0
        return (adaptations == 0) & (self.halve_lr == "first" and not self.training)


def _of_each(theta: Tensor, seen: Episodes) -> Tensor:
    """One vector as that of each task, `[tasks, P]`, without a copy.

    Products then are one for each task, whose numbers fit into a processor's cache; a single tall
    one of all tasks is slower there.
    """
    return theta.expand(len(seen.mask), -1)
