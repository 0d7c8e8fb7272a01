"""SAC whose networks step one after the other, as multi-task SAC does in garage and MTRL."""

import functools
from collections.abc import Callable
from typing import Any

import gin
import torch
from tensordict import TensorDict
from torch import Tensor

from algorithms.arguments import check_choice
from algorithms.base import Metrics, Sizes
from algorithms.precision import bf16_products
from algorithms.sac import SAC

TEMPERATURE_LOSSES = ("log_alpha", "alpha")


@gin.configurable
class SequentialSAC(SAC):
    r"""SAC in the order critics, policy, temperatures, targets.

    The losses are those of `SAC`. Here the temperatures of both come from before the update, and
    the policy meets critics that have stepped already:

        critics       L_Q      with alpha = exp(log_alpha)
        policy        L_pi     with the same alpha and the new critics
        temperatures  L_alpha  with the log-probabilities of the policy's loss
        targets       Q' <- (1 - smoothing) Q' + smoothing Q

    Sources: garage's MTSAC, which published Active Dendrites (Iyer et al. 2022), and MTRL (Sodhani
    and Zhang 2021), which published CARE and PTSL. Neither clips gradients: bind
    `SAC.max_norm = None` for them. Both add 1e-6 inside the logarithm of the tanh correction; here
    log pi is exact.

    Args:
        sizes: Sizes of observation and action, and the number of tasks.
        temperature_loss: `"log_alpha"`, -mean log alpha_t (log pi + H), as in `SAC` and garage;
            `"alpha"`, -mean alpha_t (log pi + H), as in MTRL.
        **sac: Arguments of `SAC`.

    Raises:
        ValueError: Naming the argument: a value out of range, or networks that do not fit.
    """

    def __init__(self, sizes: Sizes, *, temperature_loss: str = "log_alpha", **sac: Any) -> None:
        check_choice("SequentialSAC", "temperature_loss", temperature_loss, TEMPERATURE_LOSSES)
        super().__init__(sizes, **sac)
        self.on_alpha = temperature_loss == "alpha"

    def update(self, batch: TensorDict) -> Metrics:
        """One step of critics, policy, temperatures and targets."""
        critic_pass, actor_pass = self._passes
        alpha = self._log_alphas().detach().exp()
        with bf16_products(self.precision == "bf16_matmul"):
            critic_loss, q = critic_pass(batch, alpha)
            self.groups.backward(critic_loss, *self._critic_groups, *self._late_groups)
            first = self.groups.step(*self._critic_groups)
            actor_loss, log_prob = actor_pass(batch, alpha)
            second = self.groups.move(actor_loss, "actor")
            alpha_loss = self._alpha_loss(log_prob, batch["task_id"])
            self.groups.backward(alpha_loss, "alpha")
            third = self.groups.step("alpha", *self._late_groups)
        self._follow()
        norms = first.norms | second.norms | third.norms
        del norms["grad_norm/alpha"]
        refused = torch.stack([step.refused for step in (first, second, third)])
        return {
            "loss/alpha": alpha_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": critic_loss.detach() / q.shape[-1],
            "q/mean": q.detach().mean(),
            "entropy": -log_prob.detach().mean(),
            "alpha": self._log_alphas().detach().exp(),
            "health/nonfinite": refused.amax(),
            **norms,
        }

    @property
    def _critic_groups(self) -> tuple[str, ...]:
        """The groups of parameters that step on the critics' loss at once."""
        return ("critic",)

    @property
    def _late_groups(self) -> tuple[str, ...]:
        """The groups that step on it after the temperatures."""
        return ()

    @functools.cached_property
    def _passes(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """`_critic_pass` and `_actor_pass`, compiled if asked for."""
        return self._compile(self._critic_pass), self._compile(self._actor_pass)

    def _critic_pass(self, batch: TensorDict, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the L_Qk, and `Q(s, a)` `[*, critics]`."""
        now, then = (self._normalised(td["observation"]) for td in (batch, batch["next"]))
        return self._critic_loss(now, then, then, batch, alpha, {}, {})

    def _actor_pass(self, batch: TensorDict, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """L_pi, and the log-probabilities of its actions `[*]`."""
        now = self._normalised(batch["observation"])
        return self._policy_loss(now, now, batch["task_id"], alpha)

    def _policy_loss(
        self, now_actor: Tensor, now_critic: Tensor, task: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """L_pi where policy and critics see different things of a state."""
        policy = self._sample(now_actor, task, {})
        loss = self._actor_loss(policy, now_critic, task, alpha, {})
        return loss, policy["action_log_prob"]

    def _alpha_loss(self, log_prob: Tensor, task: Tensor) -> Tensor:
        if not self.on_alpha:
            return super()._alpha_loss(log_prob, task)
        return -(self._log_alphas().exp()[task] * (log_prob.detach() + self.target_entropy)).mean()

    def __getstate__(self) -> dict[str, Any]:
        """Without `_passes`: compiled ones in a copy would go on training the original."""
        return {name: value for name, value in super().__getstate__().items() if name != "_passes"}
