"""PEARL: soft actor-critic on a latent that is inferred from a set of transitions of the task.

Rakelly, Zhou, Quillen, Finn and Levine, "Efficient Off-Policy Meta-Reinforcement Learning via
Probabilistic Context Variables", ICML 2019.
"""

import copy
from collections.abc import Callable
from typing import Any, Protocol

import gin
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from algorithms.arguments import (
    check_choice,
    check_discount,
    check_not_negative,
    check_positive,
    check_smoothing,
)
from algorithms.base import Metrics, OffPolicyMetaAlgorithm, Sizes, check_networks
from algorithms.optimizers import ClippedOptimizer, OptimizerGroups
from algorithms.targets import soft_update


class Gaussian(Protocol):
    """Distributions of latents, fields `[tasks, latent_dim]`."""

    @property
    def mean(self) -> Tensor:
        """Where they lie."""

    @property
    def variance(self) -> Tensor:
        """Of each number; all numbers are independent."""


class Encoder(Protocol):
    """A module from contexts `[tasks, transitions]` to posteriors."""

    latent_dim: int
    """Width of the latent."""

    def __call__(self, context: TensorDict) -> Gaussian:
        """The posterior; where the context has a "mask", of what it does not leave out."""

    def prior(self, num_tasks: int) -> Gaussian:
        """What is known without any transition."""

    def sample(self, posterior: Any) -> Tensor:
        """Latents `[tasks, latent_dim]`, with the pathwise gradient."""

    def divergence(self, posterior: Any) -> Tensor:
        """KL from the prior, `[tasks]`."""


@gin.configurable
class PEARL(OffPolicyMetaAlgorithm):
    r"""Learns to act on a latent z of the task, and to infer it from what happened so far.

    For task `i` of a batch with context c_i, and rows (s, a, r, s') of its own:

        z_i   ~ q(z | c_i),  z = z_i without its gradient
        y     = reward_scale * r + discount * (1 - terminated) * V'(s', z)
        L_Q   = sum_k mean (Q_k(s, a, z_i) - y)^2                         moves Q_k and q
        L_KL  = kl_weight * sum_i KL(q(z | c_i) || N(0, I))               moves q
        L_V   = mean (V(s, z) - min_k Q_k(s, a~, z) + log pi(a~ | s, z))^2       moves V
        L_pi  = mean (log pi(a~ | s, z) - min_k Q_k(s, a~, z))            moves pi
                + loc_penalty * mean(mu^2) + log_std_penalty * mean(log(sigma)^2)

    with a~ drawn from pi(s, z). Critics and encoder step first, and the other two losses see the
    new critics; V' follows V at the end. `reward_scale` stands for the temperature, which is 1. A
    time limit is bootstrapped through, a termination is not.

    With `value=None` there is no V: as in later SAC, V'(s', z) = min_k Q'_k(s', a', z) - alpha log
    pi(a' | s', z), Q'_k follow Q_k, and alpha > 0 is learnt for an entropy of minus the number of
    action dimensions; it stands before each log pi. That is not PEARL's.

    1. KL is summed over tasks while L_Q is a mean, as in the published code: its weight grows with
       the number of tasks. `kl_reduction="mean_tasks"` takes the mean.
    2. z is drawn once in an update; the published code draws twice and uses the second.
    3. log pi has the exact derivative of tanh, not the logarithm of 1 - tanh^2 + 1e-6.
    4. V' begins as a copy of V. A non-finite gradient is refused and counted.

    Args:
        sizes: Sizes of observation and action (a suite's `spec`).
        encoder: Factory of the `Encoder`, called with the two sizes.
        actor: Factory of the policy (`PolicyNetwork`), called with the two sizes and the latent's.
        critic: Factory of the stacked critics (`CriticNetwork`), called with the same.
        value: Factory of V, called with sizes of input, output (1) and latent; None for no V.
        optimizer: A `torch.optim` class that knows `fused`.
        discount: Discount factor per step.
        smoothing: Share of V (or of the critics) that enters its target at each step.
        learning_rate: Of every network, and of alpha.
        reward_scale: Factor of rewards in y; contexts show them as they are.
        kl_weight: Weight of the divergence.
        kl_reduction: "sum" over the tasks of a batch, or "mean_tasks".
        loc_penalty: Weight of the mean of `mu^2` in the policy's loss.
        log_std_penalty: Weight of the mean of `log(sigma)^2` in it.

    Raises:
        ValueError: Naming the argument: a value out of range, or networks that do not fit.
    """

    actor: Any
    critic: Any
    encoder: Any
    value: Any
    target: Any
    log_alpha: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        encoder: Callable[[int, int], Encoder] = gin.REQUIRED,
        actor: Callable[..., nn.Module] = gin.REQUIRED,
        critic: Callable[..., nn.Module] = gin.REQUIRED,
        value: Callable[..., nn.Module] | None = gin.REQUIRED,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        discount: float = 0.99,
        smoothing: float = 0.005,
        learning_rate: float = 3e-4,
        reward_scale: float = 5.0,
        kl_weight: float = 0.1,
        kl_reduction: str = "sum",
        loc_penalty: float = 1e-3,
        log_std_penalty: float = 1e-3,
    ) -> None:
        super().__init__()
        check_discount("PEARL", discount)
        check_smoothing("PEARL", smoothing=smoothing)
        check_positive("PEARL", learning_rate=learning_rate, reward_scale=reward_scale)
        penalties = {"loc_penalty": loc_penalty, "log_std_penalty": log_std_penalty}
        check_not_negative("PEARL", kl_weight=kl_weight, **penalties)
        check_choice("PEARL", "kl_reduction", kl_reduction, ("sum", "mean_tasks"))
        self.encoder = encoder(sizes.observation_dim, sizes.action_dim)
        if hasattr(self.encoder, "num_components"):
            raise ValueError(
                f"PEARL.encoder: {type(self.encoder).__name__} infers a mixture from a window, and "
                "PEARL a Gaussian from a set; bind it to @SetEncoder"
            )
        self.latent_dim = int(self.encoder.latent_dim)
        dims = (sizes.observation_dim, sizes.action_dim, self.latent_dim)
        self.actor, self.critic = actor(*dims), critic(*dims)
        fix = "include gin/networks/latent_mlp.gin"
        check_networks("PEARL", "latent", fix, actor=self.actor, critic=self.critic)
        self.value = None if value is None else value(dims[0], 1, self.latent_dim)
        self.target = copy.deepcopy(self._followed).requires_grad_(False)
        if value is None:
            self.log_alpha = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("log_alpha", torch.zeros(()))
        self.discount, self.smoothing = discount, smoothing
        self.reward_scale, self.kl_weight = reward_scale, kl_weight
        self.kl_reduction, self.target_entropy = kl_reduction, -float(dims[1])
        self.loc_penalty, self.log_std_penalty = loc_penalty, log_std_penalty
        parameters = {
            "encoder": self.encoder.parameters(),
            "critic": self.critic.parameters(),
            "actor": self.actor.parameters(),
        }
        if self.value is None:
            parameters["alpha"] = iter([self.log_alpha])
        else:
            parameters["value"] = self.value.parameters()
        self.groups = OptimizerGroups(
            {
                name: ClippedOptimizer(group, optimizer, learning_rate, max_norm=None)
                for name, group in parameters.items()
            }
        )

    @property
    def _followed(self) -> Any:
        """What the target follows."""
        return self.critic if self.value is None else self.value

    @torch.no_grad()
    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """Add `"action"`, a sample or `tanh(mu)`, to td `[tasks]`.

        Reads `"observation"` `[tasks, *, observation_dim]` and `"latent"`, which broadcasts against
        it: `[tasks, 1, latent_dim]` for several episodes of each task.
        """
        view = td.select("observation", "latent")
        return td.set("action", self.actor(view, explore)["action"])

    @torch.no_grad()
    def prior(self, num_tasks: int) -> TensorDict:
        """Latents of tasks nothing is known of: `"latent"` is drawn anew at each call.

        Beside it and `"adaptations"` are `"mean"` and `"variance"` `[num_tasks, latent_dim]`.
        """
        prior = self.encoder.prior(num_tasks)
        counts = torch.zeros(num_tasks, dtype=torch.int64, device=prior.mean.device)
        return self._latents(prior, counts)

    @torch.no_grad()
    def adapt(self, experience: TensorDict, prior: TensorDict) -> TensorDict:
        """Latents drawn from the posterior; it does not depend on `prior`, but on all experience.

        Args:
            experience: all transitions so far, `[tasks, transitions]` or `[tasks, episodes, time]`,
                and perhaps `"mask"`, False where there is none.
            prior: of the tasks, for the number of their adaptations.
        """
        if experience.dim() > 2:
            experience = experience.flatten(1, -1)
        return self._latents(self.encoder(experience), prior["adaptations"] + 1)

    def _latents(self, posterior: Gaussian, adaptations: Tensor) -> TensorDict:
        drawn = self.encoder.sample(posterior)
        fields = {"latent": drawn, "mean": posterior.mean, "variance": posterior.variance}
        return TensorDict({**fields, "adaptations": adaptations}, adaptations.shape)

    def update(self, batch: TensorDict) -> Metrics:
        """Take one step of all networks.

        Args:
            batch: `[tasks]`: `"context"` `[tasks, transitions]`, what the latents are inferred
                from, and `"transitions"` `[tasks, rows]`, what is learnt from.
        """
        rows = batch["transitions"]
        posterior = self.encoder(batch["context"])
        sampled = self.encoder.sample(posterior).unsqueeze(1)
        divergence, z = self.encoder.divergence(posterior), sampled.detach()
        policy = self.actor(_view(rows["observation"], z))
        log_prob = policy["action_log_prob"]

        q = self._q(self.critic, rows["observation"], sampled, rows["action"])
        y = self._bellman_target(rows["next"], z)
        critic_loss = (q - y.unsqueeze(-1)).square().flatten(0, -2).mean(0).sum()
        reduced = divergence.sum() if self.kl_reduction == "sum" else divergence.mean()
        steps = [self.groups.move(critic_loss + self.kl_weight * reduced, "encoder", "critic")]

        gain = self._q(self.critic, rows["observation"], z, policy["action"]).amin(-1)
        alpha = self.log_alpha.detach().exp()
        if self.value is None:
            other = "alpha"
            other_loss = -(self.log_alpha * (log_prob.detach() + self.target_entropy)).mean()
        else:
            other = "value"
            error = self.value(rows["observation"], z).squeeze(-1) - (gain - log_prob).detach()
            other_loss = error.square().mean()
        actor_loss = (alpha * log_prob - gain).mean()
        actor_loss = actor_loss + self.loc_penalty * policy["loc"].square().mean()
        actor_loss = actor_loss + self.log_std_penalty * policy["scale"].log().square().mean()
        steps += [self.groups.move(other_loss, other), self.groups.move(actor_loss, "actor")]
        soft_update(self.target, self._followed, self.smoothing)
        norms = {name: norm for step in steps for name, norm in step.norms.items()}
        return {
            "loss/critic": critic_loss.detach() / q.shape[-1],
            f"loss/{other}": other_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "kl": divergence.detach().mean(),
            "latent/mean": posterior.mean.detach().abs().mean(),
            "latent/variance": posterior.variance.detach().mean(),
            "q/mean": q.detach().mean(),
            "entropy": -log_prob.detach().mean(),
            "alpha": alpha,
            "health/nonfinite": torch.stack([step.refused for step in steps]).amax(),
            **norms,
        }

    def _bellman_target(self, after: TensorDict, z: Tensor) -> Tensor:
        """y, `[tasks, rows]`, of what came after: the "next" part of the rows."""
        observation = after["observation"]
        with torch.no_grad():
            if self.value is not None:
                value = self.target(observation, z).squeeze(-1)
            else:
                policy = self.actor(_view(observation, z))
                entropy = -self.log_alpha.exp() * policy["action_log_prob"]
                value = self._q(self.target, observation, z, policy["action"]).amin(-1) + entropy
            reward, terminated = (after[key].squeeze(-1) for key in ("reward", "terminated"))
            y: Tensor = self.reward_scale * reward + (~terminated) * (self.discount * value)
        return y

    def _q(self, critic: Any, observation: Tensor, z: Tensor, action: Tensor) -> Tensor:
        """State-action values `[tasks, rows, critics]`."""
        view = _view(observation, z)
        view["action"] = action
        value: Tensor = critic(view)["state_action_value"]
        return value

    def policy_state(self) -> dict[str, Any]:
        """The policy and the encoder."""
        parts = ("actor.", "encoder.")
        return {k: v for k, v in super().policy_state().items() if k.startswith(parts)}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizers, by group."""
        return {"groups": self.groups.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back the optimizers."""
        self.groups.load_state_dict(state["groups"])


def _view(observation: Tensor, z: Tensor) -> TensorDict:
    """What the networks see of rows `[tasks, rows]`: z `[tasks, 1, latent_dim]` is its task's."""
    return TensorDict({"observation": observation, "latent": z}, observation.shape[:1])
