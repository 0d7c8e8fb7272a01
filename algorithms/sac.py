"""Soft actor-critic on many tasks with a temperature each (Haarnoja et al. 2018; MT-SAC)."""

import copy
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gin
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import functional_call

from algorithms.arguments import (
    check_choice,
    check_discount,
    check_not_negative,
    check_positive,
    check_smoothing,
)
from algorithms.base import Algorithm, Metrics, Sizes, check_networks
from algorithms.normalization import ObservationNormalizer
from algorithms.optimizers import ClippedOptimizer, OptimizerGroups
from algorithms.precision import (
    PRECISIONS,
    bf16_products,
    bfloat16_is_native,
    products_are_bfloat16,
)
from algorithms.targets import soft_update

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
                  + scale_penalty * mean((log sigma)^2) + loc_penalty * mean(mu^2)
        w_t     = T * softmax_t(-log alpha)                (Soft Modularization, Yang et al. 2020)

    The temperature steps first and the losses use its new value; every loss is taken before any
    network moves. A time limit is bootstrapped through, a termination is not. Each network's
    gradient is clipped by itself; a non-finite gradient is refused and counted.

    Args:
        sizes: Sizes of observation and action, and the number of tasks (a suite's `spec`).
        actor: Factory of the policy (`PolicyNetwork`), called with the three sizes.
        critic: Factory of the stacked critics (`CriticNetwork`), called with the three sizes.
        optimizer: A `torch.optim` class that knows `fused`.
        discount: Discount factor per step.
        smoothing: Share of the online critics that enters their targets at each step.
        actor_lr: Learning rate of the policy.
        critic_lr: Learning rate of the critics.
        alpha_lr: Learning rate of the temperatures.
        initial_log_alpha: Where every `log alpha_t` starts.
        alpha_per_task: A temperature for each task; False: all tasks have that of task 0.
        target_entropy: `H` in nats; minus the number of action dimensions if None.
        max_norm: Bound of each network's gradient norm; None for no bound.
        weight_tasks: Weigh the losses of a task by its temperature.
        scale_penalty: Weight of the mean of `(log sigma)^2` in the policy's loss.
        loc_penalty: Weight of the mean of `mu^2` in the policy's loss.
        normalizer: Factory of an observation normaliser, called with `observation_dim` and
            `num_tasks`; None leaves observations as they are.
        precision: "fp32"; "bf16_matmul" takes the products of an update in bfloat16, where the
            processor does that; "autocast" keeps the activations of hidden layers in bfloat16 as
            well. Parameters, what last layers give, targets and losses are of single precision
            always, and so is acting.
        compiled: Compile the forward and backward passes of an update.

    Raises:
        ValueError: Naming the argument: a value out of range, or networks that do not fit.
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
        alpha_per_task: bool = True,
        target_entropy: float | None = None,
        max_norm: float | None = 1.0,
        weight_tasks: bool = False,
        scale_penalty: float = 0.0,
        loc_penalty: float = 0.0,
        normalizer: Callable[[int, int], ObservationNormalizer] | None = None,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        check_discount("SAC", discount)
        check_smoothing("SAC", smoothing=smoothing)
        if max_norm is not None and not max_norm > 0.0:
            raise ValueError(f"SAC.max_norm must be positive, got {max_norm}")
        check_positive("SAC", actor_lr=actor_lr, critic_lr=critic_lr, alpha_lr=alpha_lr)
        check_not_negative("SAC", scale_penalty=scale_penalty, loc_penalty=loc_penalty)
        entropies = {"initial_log_alpha": initial_log_alpha, "target_entropy": target_entropy}
        for name, number in entropies.items():
            if number is not None and not math.isfinite(number):
                raise ValueError(f"SAC.{name} must be finite, got {number}")
        if abs(initial_log_alpha) > 88.0:  # exp overflows in single precision
            raise ValueError(
                f"SAC.initial_log_alpha must lie in [-88, 88], got {initial_log_alpha}"
            )
        if weight_tasks and not alpha_per_task:
            raise ValueError(
                "SAC.weight_tasks = True weighs nothing with SAC.alpha_per_task = False, where all "
                "tasks have one temperature; bind one of them the other way"
            )
        check_choice("SAC", "precision", precision, PRECISIONS)
        self.precision, self.compiled = precision, compiled
        # What the networks see: an encoder's features (`EncoderSAC`), else the observation.
        width = getattr(sizes, "feature_dim", sizes.observation_dim)
        dims = (width, sizes.action_dim, sizes.num_tasks)
        self.num_tasks = sizes.num_tasks
        self.actor, self.critic = actor(*dims), critic(*dims)
        if not self.masked and any(hasattr(m, "mask_buffers") for m in self.actor.modules()):
            warnings.warn(
                f"{type(self).__name__} prunes nothing: the masks of its networks stay whole; "
                "learn with MaskedSAC, or bind a trunk without masks",
                stacklevel=2,
            )
        fix = "networks that read a latent go with learners that infer one, PEARL for example"
        check_networks("SAC", "task_id", fix, actor=self.actor, critic=self.critic)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.alpha_per_task = alpha_per_task
        self.log_alpha = nn.Parameter(torch.full((sizes.num_tasks,), float(initial_log_alpha)))
        self.normalizer = normalizer(sizes.observation_dim, dims[2]) if normalizer else None
        self.discount, self.smoothing = discount, smoothing
        self.target_entropy = -float(dims[1]) if target_entropy is None else target_entropy
        self.weight_tasks = weight_tasks
        self.scale_penalty, self.loc_penalty = scale_penalty, loc_penalty
        self._optimizer = optimizer
        self._max_norm = max_norm
        self.groups = OptimizerGroups()
        self.groups["alpha"] = ClippedOptimizer(
            [self.log_alpha], optimizer, alpha_lr, max_norm=None
        )
        self._add_group("actor", self.actor.parameters(), actor_lr)
        members = int(self.critic.num_critics)
        self._add_group("critic", self.critic.parameters(), critic_lr, members=members)

    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """Add `"action"` `[n, action_dim]`: a sample, or `tanh(mu)`."""
        with torch.no_grad():
            seen = self.seen_by_policy(td["observation"], td["task_id"])
            action = self.actor(network_view(seen, td["task_id"]), explore)["action"]
            return td.set("action", action)

    def seen_by_policy(self, observation: Tensor, task: Tensor) -> Tensor:
        """What the policy's trunk is given for observations `[*, observation_dim]`."""
        return self._normalised(observation)

    def observe(self, td: TensorDict) -> None:
        """Let the observation normaliser see a collected step."""
        if self.normalizer is not None:
            self.normalizer.observe(td["observation"], td["next", "valid"])

    def update(self, batch: TensorDict) -> Metrics:
        """One step of temperatures, policy, critics and targets, on `[tasks, rows]` or `[rows]`."""
        return self._step(batch)

    def end_phase(self, context: TensorDict | None) -> Metrics:
        """Tell the networks, some of which change by themselves: k-winners' boosting decays.

        What such networks keep besides parameters, the targets take over.
        """
        for network in (self.actor, self.critic):
            if hasattr(network, "end_iteration"):
                network.end_iteration()
        for target, online in zip(self.target.buffers(), self.critic.buffers(), strict=True):
            target.copy_(online)
        return {}

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
        task = batch["task_id"]
        now, then = (self._normalised(td["observation"]) for td in (batch, batch["next"]))
        sample, losses = self._functions
        with bf16_products(self.precision == "bf16_matmul"):
            policy = sample(now, task, actor_extra)
            alpha_loss = self._alpha_loss(policy["action_log_prob"], task)
            first = self.groups.move(alpha_loss, "alpha")
            alpha = self._log_alphas().detach().exp()
            actor_loss, critic_loss, q = losses(
                policy, now, then, batch, alpha, actor_extra, critic_extra
            )
            self.groups.backward(actor_loss + critic_loss, *actor_groups, *critic_groups)
        second = self.groups.step(*actor_groups, *critic_groups)
        self._follow()
        return {
            "loss/alpha": alpha_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": critic_loss.detach() / q.shape[-1],
            "q/mean": q.detach().mean(),
            "entropy": -policy["action_log_prob"].detach().mean(),
            "alpha": alpha,
            "health/nonfinite": torch.maximum(first.refused, second.refused),
            **second.norms,
        }

    @functools.cached_property
    def _functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """`_sample` and `_losses`, compiled if asked for."""
        return self._compile(self._sample), self._compile(self._losses)

    def _compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled if asked for; called once for each part of an update."""
        device = self.log_alpha.device
        lack = ""
        if self.precision == "autocast" and not bfloat16_is_native(device):
            lack = "has no bfloat16 arithmetic of its own: it gains nothing here"
        if self.precision == "bf16_matmul" and not products_are_bfloat16(device):
            lack = "takes these products in single precision all the same"
        if lack:
            told = f"SAC.precision is {self.precision!r}, but the {device.type} {lack}"
            warnings.warn(told, stacklevel=2)
        return torch.compile(function, dynamic=False) if self.compiled else function

    def __getstate__(self) -> dict[str, Any]:
        """Without `_functions`: compiled ones in a copy would go on training the original."""
        return {name: value for name, value in vars(self).items() if name != "_functions"}

    def _sample(self, observation: Tensor, task: Tensor, extra: Extra) -> TensorDict:
        """An action for each step, with what the losses need to know of it."""
        with self._autocast():
            policy: TensorDict = self.actor(network_view(observation, task), **extra)
        return policy

    def _losses(
        self,
        policy: TensorDict,
        now: Tensor,
        then: Tensor,
        batch: TensorDict,
        alpha: Tensor,
        actor_extra: Extra,
        critic_extra: Extra,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """L_pi, the sum of the L_Qk, and `Q(s, a)` `[*, critics]`.

        The policy's loss sees the critics' parameters without gradient, and the critics' loss no
        policy, so that one backward pass serves both.
        """
        critic_loss, q = self._critic_loss(now, then, then, batch, alpha, actor_extra, critic_extra)
        return self._actor_loss(policy, now, batch["task_id"], alpha, critic_extra), critic_loss, q

    def _critic_loss(
        self,
        now: Tensor,
        then: Tensor,
        then_target: Tensor,
        batch: TensorDict,
        alpha: Tensor,
        actor_extra: Extra,
        critic_extra: Extra,
    ) -> tuple[Tensor, Tensor]:
        """The sum of the L_Qk, and `Q(s, a)` `[*, critics]`; targets see `then_target`."""
        task, alpha = batch["task_id"], alpha[batch["task_id"]]
        reward, terminated = (batch["next", k].squeeze(-1) for k in ("reward", "terminated"))
        with self._autocast():
            with torch.no_grad():
                after = self.actor(network_view(then, task), **_detached(actor_extra))
                extra = _detached(critic_extra)
                value = _q(self.target, then_target, task, after["action"], extra).amin(-1)
                soft = value - alpha * after["action_log_prob"]
                y = reward + (~terminated) * (self.discount * soft)
            q = _q(self.critic, now, task, batch["action"], critic_extra)
        weight = self._weights()[task].unsqueeze(-1)
        losses = (weight * (q - y.unsqueeze(-1)).square()).flatten(0, -2)
        return losses.mean(0).sum(), q

    def _actor_loss(
        self, policy: TensorDict, now: Tensor, task: Tensor, alpha: Tensor, critic_extra: Extra
    ) -> Tensor:
        """L_pi of the sampled `policy`; the critics see `now` and stand still."""
        alpha, weight = alpha[task], self._weights()[task]
        fixed = {name: p.detach() for name, p in self.critic.named_parameters()}

        def fixed_critic(view: TensorDict, **extra: Any) -> TensorDict:
            td: TensorDict = functional_call(self.critic, fixed, (view,), extra)
            return td

        with self._autocast():
            q = _q(fixed_critic, now, task, policy["action"], _detached(critic_extra)).amin(-1)
        loss: Tensor = (weight * (alpha * policy["action_log_prob"] - q)).mean()
        if self.scale_penalty or self.loc_penalty:
            loss = loss + self.scale_penalty * policy["scale"].log().square().mean()
            loss = loss + self.loc_penalty * policy["loc"].square().mean()
        return loss

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.log_alpha.device.type, torch.bfloat16, enabled=self.precision == "autocast"
        )

    def _alpha_loss(self, log_prob: Tensor, task: Tensor) -> Tensor:
        return -(self._log_alphas()[task] * (log_prob.detach() + self.target_entropy)).mean()

    def _weights(self) -> Tensor:
        """Task weights `[tasks]`, mean one, without gradient."""
        if not self.weight_tasks:
            return torch.ones_like(self.log_alpha)
        return self.num_tasks * (-self._log_alphas().detach()).softmax(0)

    def _log_alphas(self) -> Tensor:
        """`log alpha_t` of every task, `[tasks]`."""
        every = self.log_alpha
        return every if self.alpha_per_task else every[:1].expand_as(every)

    def _follow(self) -> None:
        """Move the target critics towards the online ones."""
        soft_update(self.target, self.critic, self.smoothing)

    def _normalised(self, observation: Tensor) -> Tensor:
        """An observation as the networks see it."""
        if self.normalizer is None:
            return observation
        normalised: Tensor = self.normalizer(observation)
        return normalised

    def _add_group(
        self,
        name: str,
        parameters: Any,
        lr: float,
        *,
        members: int = 1,
    ) -> None:
        self.groups[name] = ClippedOptimizer(
            parameters, self._optimizer, lr, max_norm=self._max_norm, members=members
        )

    def policy_state(self) -> dict[str, Any]:
        """The policy's parameters and the normaliser's statistics."""
        parts = ("actor.", "normalizer.")
        return {k: v for k, v in super().policy_state().items() if k.startswith(parts)}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizers, by group."""
        return {"groups": self.groups.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back the optimizers."""
        self.groups.load_state_dict(state["groups"])


def network_view(observation: Tensor, task: Tensor) -> TensorDict:
    """What the networks see of a step."""
    return TensorDict({"observation": observation, "task_id": task}, task.shape)


def _q(
    critic: Callable[..., TensorDict], now: Tensor, task: Tensor, action: Tensor, extra: Extra
) -> Tensor:
    """State-action values `[*, critics]`."""
    view = network_view(now, task)
    view["action"] = action
    value: Tensor = critic(view, **extra)["state_action_value"]
    return value


def _detached(extra: Extra) -> Extra:
    return {key: [tensor.detach() for tensor in value] for key, value in extra.items()}
