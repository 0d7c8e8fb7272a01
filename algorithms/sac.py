"""Soft actor-critic on many tasks with a temperature each (Haarnoja et al. 2018; MT-SAC)."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import gin
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from algorithms.base import Algorithm, Metrics, Sizes
from algorithms.normalization import ObservationNormalizer
from algorithms.optimizers import ClippedOptimizer

Extra = dict[str, Any]
"""What a network takes besides the step: MUST's masks."""


@gin.configurable
class SAC(Algorithm):
    r"""SAC with one temperature `alpha_t = exp(log_alpha_t)` per task `t` and twin critics.

    For row `i` of task `t`, with task weights `w` (one, unless `weight_tasks`):

        L_alpha = -mean_i log alpha_t * (log pi_i + H)
        y_i     = r_i + discount * (1 - terminated_i) * (min_k Q'_k(s'_i, a'_i) - alpha_t log pi'_i)
        L_Qk    = mean_i w_t (Q_k(s_i, a_i) - y_i)^2
        L_pi    = mean_i w_t (alpha_t log pi_i - min_k Q_k(s_i, a~_i))
                  + scale_penalty * mean(log sigma^2) + loc_penalty * mean(mu^2)
        w_t     = T * softmax_t(-log alpha)                (Soft Modularization, Yang et al. 2020)

    The temperature steps first and the losses use its new value; every loss is taken before any
    network moves. A time limit is bootstrapped through, a termination is not. Each network's
    gradient is clipped by itself; a non-finite gradient is refused and counted.

    Args:
        sizes: Sizes of observation and action, and the number of tasks (a suite's `spec`).
        actor: Factory of the policy, called with the three sizes.
        critic: Factory of the stacked critics, called with the three sizes.
        optimizer: A `torch.optim` class that knows `fused`.
        discount: Discount factor per step.
        smoothing: Share of the online critics that enters their targets at each step.
        actor_lr: Learning rate of the policy.
        critic_lr: Learning rate of the critics.
        alpha_lr: Learning rate of the temperatures.
        initial_log_alpha: Where every `log alpha_t` starts.
        target_entropy: `H` in nats; minus the number of action dimensions if None.
        max_norm: Bound of each network's gradient norm.
        weight_tasks: Weigh the losses of a task by its temperature.
        scale_penalty: Weight of the mean of `log sigma^2` in the policy's loss.
        loc_penalty: Weight of the mean of `mu^2` in the policy's loss.
        normalizer: Factory of an observation normaliser, called with `observation_dim` and
            `num_tasks`; None leaves observations as they are.
    """

    actor: Any
    critic: Any
    target: Any

    def __init__(
        self,
        sizes: Sizes,
        *,
        actor: Callable[..., nn.Module] = gin.REQUIRED,
        critic: Callable[..., nn.Module] = gin.REQUIRED,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        discount: float = 0.99,
        smoothing: float = 0.005,
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-4,
        alpha_lr: float = 3e-4,
        initial_log_alpha: float = 0.0,
        target_entropy: float | None = None,
        max_norm: float = 1.0,
        weight_tasks: bool = False,
        scale_penalty: float = 0.0,
        loc_penalty: float = 0.0,
        normalizer: Callable[[int, int], ObservationNormalizer] | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= discount < 1.0:
            raise ValueError(f"SAC.discount must lie in [0, 1), got {discount}")
        if not 0.0 < smoothing <= 1.0:
            raise ValueError(f"SAC.smoothing must lie in (0, 1], got {smoothing}")
        for name, lr in (("actor", actor_lr), ("critic", critic_lr), ("alpha", alpha_lr)):
            if not lr > 0.0:
                raise ValueError(f"SAC.{name}_lr must be positive, got {lr}")
        dims = (sizes.observation_dim, sizes.action_dim, sizes.num_tasks)
        self.num_tasks = sizes.num_tasks
        self.actor, self.critic = actor(*dims), critic(*dims)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.full((sizes.num_tasks,), float(initial_log_alpha)))
        self.normalizer = normalizer(dims[0], dims[2]) if normalizer else None
        self.discount, self.smoothing = discount, smoothing
        self.target_entropy = -float(dims[1]) if target_entropy is None else target_entropy
        self.weight_tasks = weight_tasks
        self.scale_penalty, self.loc_penalty = scale_penalty, loc_penalty
        self._optimizer, self._max_norm = optimizer, max_norm
        self.groups: dict[str, ClippedOptimizer] = {}
        self._add_group("alpha", [self.log_alpha], alpha_lr, max_norm=float("inf"))
        self._add_group("actor", self.actor.parameters(), actor_lr)
        members = int(self.critic.num_critics)
        self._add_group("critic", self.critic.parameters(), critic_lr, members=members)

    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """Add `"action"` `[n, action_dim]`: a sample, or `tanh(mu)`."""
        with torch.no_grad():
            view = self._view(td["observation"], td["task_id"])
            return td.set("action", self.actor(view, explore)["action"])

    def observe(self, td: TensorDict) -> None:
        """Let the observation normaliser see a collected step."""
        if self.normalizer is not None:
            self.normalizer.observe(td["observation"], td["next", "valid"])

    def update(self, batch: TensorDict) -> Metrics:
        """One step of temperatures, policy, critics and targets."""
        return self._step(batch)

    def _step(
        self,
        batch: TensorDict,
        actor_extra: Extra | None = None,
        critic_extra: Extra | None = None,
        actor_groups: Sequence[str] = ("actor",),
        critic_groups: Sequence[str] = ("critic",),
    ) -> Metrics:
        """The update; `extra` goes to the networks, `groups` names what each loss may move."""
        actor_extra, critic_extra = actor_extra or {}, critic_extra or {}
        fixed_critic = _detached(critic_extra)
        task, terminated = batch["task_id"], batch["next", "terminated"].squeeze(-1)
        reward = batch["next", "reward"].squeeze(-1)
        now = self._view(batch["observation"], task)
        policy = self.actor(now, **actor_extra)
        log_prob = policy["action_log_prob"]

        alpha_loss = self._alpha_loss(log_prob, task)
        torch.autograd.backward(alpha_loss, inputs=[self.log_alpha])
        norms, refused = {}, []
        _, flag = self.groups["alpha"].step()
        refused.append(flag)
        alpha = self.log_alpha.detach().exp()
        weight = self._weights()[task]

        with torch.no_grad():
            then = self._view(batch["next", "observation"], task)
            then = self.actor(then, **_detached(actor_extra))
            value = self._q(self.target, then, then["action"], fixed_critic).amin(-1)
            soft = value - alpha[task] * then["action_log_prob"]
            y = reward + self.discount * (~terminated) * soft
        q = self._q(self.critic, now, batch["action"], critic_extra)
        critic_losses = (weight.unsqueeze(-1) * (q - y.unsqueeze(-1)).square()).flatten(0, -2)
        critic_loss = critic_losses.mean(0).sum()

        q_policy = self._q(self.critic, now, policy["action"], fixed_critic).amin(-1)
        actor_loss = (weight * (alpha[task] * log_prob - q_policy)).mean()
        if self.scale_penalty or self.loc_penalty:
            actor_loss = actor_loss + self.scale_penalty * 2.0 * policy["scale"].log().mean()
            actor_loss = actor_loss + self.loc_penalty * policy["loc"].square().mean()

        for loss, names in ((actor_loss, actor_groups), (critic_loss, critic_groups)):
            moved = [p for name in names for p in self.groups[name].parameters]
            torch.autograd.backward(loss, inputs=moved)
        for name in (*actor_groups, *critic_groups):
            norms[f"grad_norm/{name}"], flag = self.groups[name].step()
            refused.append(flag)
        self._follow()
        return {
            "loss/alpha": alpha_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": critic_loss.detach() / q.shape[-1],
            "q/mean": q.detach().mean(),
            "entropy": -log_prob.detach().mean(),
            "alpha": alpha,
            "health/nonfinite": torch.stack(refused).amax(),
            **norms,
        }

    def _alpha_loss(self, log_prob: Tensor, task: Tensor) -> Tensor:
        return -(self.log_alpha[task] * (log_prob.detach() + self.target_entropy)).mean()

    def _weights(self) -> Tensor:
        """Task weights `[tasks]`, mean one, without gradient."""
        if not self.weight_tasks:
            return torch.ones_like(self.log_alpha)
        return self.num_tasks * (-self.log_alpha.detach()).softmax(0)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the target critics towards the online ones."""
        online: list[Tensor] = list(self.critic.parameters())
        target: list[Tensor] = list(self.target.parameters())
        torch._foreach_lerp_(target, online, self.smoothing)

    def _view(self, observation: Tensor, task: Tensor) -> TensorDict:
        """What the networks see of a step."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        return TensorDict({"observation": observation, "task_id": task}, task.shape)

    @staticmethod
    def _q(critic: nn.Module, view: TensorDict, action: Tensor, extra: Extra) -> Tensor:
        """State-action values `[*, critics]`."""
        value: Tensor = critic(view.copy().set("action", action), **extra)["state_action_value"]
        return value

    def _add_group(
        self,
        name: str,
        parameters: Any,
        lr: float,
        *,
        max_norm: float | None = None,
        members: int = 1,
    ) -> None:
        norm = self._max_norm if max_norm is None else max_norm
        self.groups[name] = ClippedOptimizer(
            parameters, self._optimizer, lr, max_norm=norm, members=members
        )

    def policy_state(self) -> dict[str, Any]:
        """The policy's parameters and the normaliser's statistics."""
        parts = ("actor.", "normalizer.")
        return {k: v for k, v in super().policy_state().items() if k.startswith(parts)}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizers, by group."""
        return {"groups": {name: group.state_dict() for name, group in self.groups.items()}}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back the optimizers."""
        for name, group in self.groups.items():
            group.load_state_dict(state["groups"][name])


def _detached(extra: Extra) -> Extra:
    return {key: [tensor.detach() for tensor in value] for key, value in extra.items()}
