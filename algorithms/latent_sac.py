"""Soft actor-critic of an observation and a task's latent, the policy's half of TIGR and CEMRL.

Haarnoja et al., "Soft Actor-Critic", 2018; for the latents see `algorithms.window_learner`.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.func import functional_call

from algorithms.arguments import check_discount, check_positive, check_smoothing
from algorithms.base import Metrics, check_networks
from algorithms.optimizers import ClippedOptimizer, OptimizerGroups
from algorithms.targets import soft_update


@gin.configurable
class LatentSAC(nn.Module):
    r"""Twin critics with targets, and a policy; all see the observation and a given z.

    For each row, with alpha a number or learnt (`log_alpha`), H = -target_entropy_factor * A:

        L_alpha = -mean log_alpha * (log pi + H)
        y       = r + discount * (1 - terminated) * (min_k Q'_k(o', a', z') - alpha log pi')
        L_Qk    = mean (Q_k(o, a, z) - y)^2
        L_pi    = mean (alpha log pi(a~|o, z) - min_k Q_k(o, a~, z))

    A learnt temperature steps first and the losses use its new value; every loss is taken before a
    network moves. z and z' are numbers: no loss has a gradient in them. A time limit is
    bootstrapped through, a termination is not.

    Deviation: the targets start as copies of the critics; in TIGR's code they are drawn anew.

    Args:
        observation_dim: Width of the observation.
        action_dim: Width of the action, A.
        latent_dim: Width of z.
        actor: Factory of the policy (`PolicyNetwork`), called with the three sizes.
        critic: Factory of the stacked critics (`CriticNetwork`), called with the three sizes.
        optimizer: A `torch.optim` class that knows `fused`.
        lr: Learning rate of policy, critics and temperature.
        discount: Discount factor per step.
        smoothing: Share of the online critics that enters their targets at each step.
        alpha: The temperature, or where it starts.
        learn_alpha: Whether it is learnt.
        target_entropy_factor: See H.
        max_norm: Bound of each network's gradient norm; None for no bound.

    Raises:
        ValueError: naming the argument.
    """

    actor: Any
    critic: Any
    target: Any

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        latent_dim: int,
        *,
        actor: Callable[..., nn.Module] = gin.REQUIRED,
        critic: Callable[..., nn.Module] = gin.REQUIRED,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        lr: float = 3e-4,
        discount: float = 0.99,
        smoothing: float = 0.005,
        alpha: float = 0.2,
        learn_alpha: bool = False,
        target_entropy_factor: float = 1.0,
        max_norm: float | None = None,
    ) -> None:
        super().__init__()
        check_discount("LatentSAC", discount)
        check_smoothing("LatentSAC", smoothing=smoothing)
        norm = 1.0 if max_norm is None else max_norm
        check_positive("LatentSAC", lr=lr, alpha=alpha, max_norm=norm)
        if not math.isfinite(target_entropy_factor):
            raise ValueError(
                f"LatentSAC.target_entropy_factor must be finite, got {target_entropy_factor}"
            )
        sizes = observation_dim, action_dim, latent_dim
        self.actor, self.critic = actor(*sizes), critic(*sizes)
        fix = "include gin/networks/latent_mlp.gin"
        check_networks("LatentSAC", "latent", fix, actor=self.actor, critic=self.critic)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(alpha).log(), requires_grad=learn_alpha)
        self.discount, self.smoothing, self.learns_alpha = discount, smoothing, learn_alpha
        self.target_entropy = -float(action_dim) * target_entropy_factor
        members = int(self.critic.num_critics)
        self.groups = OptimizerGroups(
            actor=ClippedOptimizer(self.actor.parameters(), optimizer, lr, max_norm=max_norm),
            critic=ClippedOptimizer(
                self.critic.parameters(), optimizer, lr, max_norm=max_norm, members=members
            ),
        )
        if learn_alpha:
            self.groups["alpha"] = ClippedOptimizer([self.log_alpha], optimizer, lr, max_norm=None)

    @torch.no_grad()
    def act(self, observation: Tensor, latent: Tensor, explore: bool) -> Tensor:
        """Return actions `[*, action_dim]`: samples, or tanh(mu); the two broadcast."""
        action: Tensor = self.actor(view(observation, latent), explore)["action"]
        return action

    def step(self, batch: TensorDictBase, latent: Tensor, following: Tensor) -> Metrics:
        """Take one step of temperature, policy, critics and targets.

        Args:
            batch: `[rows]`, "observation", "action", ("next", "observation" | "reward" |
                "terminated").
            latent: z, `[rows, latent_dim]`.
            following: z', likewise.
        """
        policy = self.actor(view(batch["observation"], latent))
        log_prob, steps = policy["action_log_prob"].detach(), []
        alpha_loss = -(self.log_alpha * (log_prob + self.target_entropy)).mean()
        if self.learns_alpha:
            steps.append(self.groups.move(alpha_loss, "alpha"))
        alpha = self.log_alpha.detach().exp()
        q, critic_loss = self._critic_loss(batch, latent, following, alpha)
        actor_loss = self._actor_loss(policy, latent, alpha)
        steps.append(self.groups.move(actor_loss + critic_loss, "actor", "critic"))
        soft_update(self.target, self.critic, self.smoothing)
        return {
            "loss/alpha": alpha_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "loss/critic": critic_loss.detach() / q.shape[-1],
            "q/mean": q.detach().mean(),
            "entropy": -log_prob.mean(),
            "alpha": alpha,
            "health/nonfinite": torch.stack([step.refused for step in steps]).amax(),
            **steps[-1].norms,
        }

    def _critic_loss(
        self, batch: TensorDictBase, latent: Tensor, following: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Q(o, a, z) `[rows, critics]`, and the sum of the L_Qk."""
        after = batch["next"]
        reward, terminated = (after[key].squeeze(-1) for key in ("reward", "terminated"))
        with torch.no_grad():
            then = self.actor(view(after["observation"], following))
            value = self.target(then)["state_action_value"].amin(-1)
            soft = value - alpha * then["action_log_prob"]
            y = reward + (~terminated) * (self.discount * soft)
        seen = view(batch["observation"], latent).set("action", batch["action"])
        q: Tensor = self.critic(seen)["state_action_value"]
        return q, (q - y.unsqueeze(-1)).square().mean(0).sum()

    def _actor_loss(self, policy: TensorDict, latent: Tensor, alpha: Tensor) -> Tensor:
        """L_pi; the critics stand still."""
        fixed = {name: p.detach() for name, p in self.critic.named_parameters()}
        seen = view(policy["observation"], latent).set("action", policy["action"])
        q = functional_call(self.critic, fixed, (seen,))["state_action_value"].amin(-1)
        loss: Tensor = (alpha * policy["action_log_prob"] - q).mean()
        return loss

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizers, by group."""
        return self.groups.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back the optimizers."""
        self.groups.load_state_dict(state)


def view(observation: Tensor, latent: Tensor) -> TensorDict:
    """What the networks see of steps `[*]`; a latent `[*, latent_dim]` broadcasts."""
    shape = observation.shape[:-1]
    latent = latent.expand(*shape, latent.shape[-1])
    return TensorDict({"observation": observation, "latent": latent}, shape)
