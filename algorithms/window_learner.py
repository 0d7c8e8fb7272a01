"""What TIGR and CEMRL share: a latent inferred from the last transitions, and a policy given it.

TIGR: Bing et al., "Meta-Reinforcement Learning in Broad and Non-Parametric Environments", 2021.
CEMRL: Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from algorithms.arguments import check_choice, check_positive
from algorithms.base import Metrics, OffPolicyMetaAlgorithm, Sizes
from algorithms.latent_sac import LatentSAC
from algorithms.mixture_losses import Mixture
from algorithms.optimizers import ClippedOptimizer, OptimizerGroups


class Encoder(Protocol):
    """A module from windows of normalised transitions `[*, length]` to mixtures `[*]`."""

    length: int
    """Transitions T of a window."""
    latent_dim: int
    """Width of z."""
    num_components: int
    """K."""

    def __call__(self, context: TensorDictBase) -> Any:
        """The mixtures."""

    def steps(self, context: TensorDictBase) -> tuple[Any, Any]:
        """Those of each step before they are merged, `[*, length]`; each component's merge, `[*]`.

        ValueError without a merge.
        """

    def latent(self, mixture: Any, sample: bool) -> Tensor:
        """z `[*, latent_dim]` of the components' samples, or of their means."""

    def divergence(self, mixture: Any) -> Tensor:
        """KL of each component to its prior, `[*, K]`."""


class Decoder(Protocol):
    """A module that predicts the rest of normalised transitions from o, a and z."""

    kept: Tensor
    """Places of the D numbers of o' that are predicted."""

    def errors(self, context: TensorDictBase, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors of o' and r, `[*]` each, of transitions and latents that broadcast."""


@gin.configurable
class WindowLearner(OffPolicyMetaAlgorithm):
    """A latent for each step, z_t = z(q( . | transitions t - T ... t - 1)), and SAC on (o_t, z_t).

    Encoder and decoder learn by reconstruction alone (`infer`), with terms of the subclass; the
    policy and its critics (`update`) take z, in mean mode and of the encoder as it is, for numbers.
    Neither of the two moves what belongs to the other. Encoder and decoder see normalised
    transitions, policy and critics raw ones.

    `next_latent` says what z' of the target is: "same", z itself, as published; or "shifted", that
    of the window which ends with the transition.

    Args:
        sizes: Sizes of observation and action (a suite's `spec`), and the number of families.
        encoder: Factory of an `Encoder`, called with sizes of observation and action.
        decoder: Factory of a `Decoder`, called with these and the width of z.
        agent: Factory of the policy and its critics, called with the same three.
        normalizer: Factory of what normalises transitions, called with sizes of observation and
            action; None leaves them as they are.
        optimizer: A `torch.optim` class that knows `fused`.
        lr: Learning rate of encoder and decoder, which have an optimizer each.
        max_norm: Bound of either's gradient norm; None for no bound.
        next_latent: "same" or "shifted".

    Raises:
        ValueError: naming the argument.
    """

    encoder: Any
    decoder: Any
    normalizer: Any
    weights: Tensor

    samples = True
    """Whether validation decodes a drawn z, rather than that of the means."""

    @property
    def compares(self) -> bool:
        """Whether `validate` asks for windows for training too."""
        return False

    @property
    def labelled(self) -> bool:
        """Whether components are told the families' numbers."""
        return False

    def __init__(
        self,
        sizes: Sizes,
        *,
        encoder: Callable[[int, int], Encoder] = gin.REQUIRED,
        decoder: Callable[[int, int, int], Decoder] = gin.REQUIRED,
        agent: Callable[[int, int, int], LatentSAC] = LatentSAC,
        normalizer: Callable[[int, int], nn.Module] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
        lr: float = 3e-4,
        max_norm: float | None = None,
        next_latent: str = "same",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if getattr(sizes, "discrete", False):
            raise ValueError(f"{owner} has continuous actions, and the tasks have discrete ones")
        check_positive(owner, lr=lr, max_norm=1.0 if max_norm is None else max_norm)
        check_choice(owner, "next_latent", next_latent, ("same", "shifted"))
        dims = sizes.observation_dim, sizes.action_dim
        self.encoder = encoder(*dims)
        if not hasattr(self.encoder, "num_components"):
            raise ValueError(
                f"WindowLearner.encoder: {type(self.encoder).__name__} infers no mixture from "
                "windows; include gin/networks/gru_mixture.gin or gin/networks/step_mixture.gin"
            )
        self.window, self.latent_dim = self.encoder.length, self.encoder.latent_dim
        self.decoder = decoder(*dims, self.latent_dim)
        self.agent = agent(*dims, self.latent_dim)
        self.normalizer = normalizer(*dims) if normalizer else None
        self.shifted = next_latent == "shifted"
        self._dims = dims
        self.groups = OptimizerGroups(
            {
                name: ClippedOptimizer(part.parameters(), optimizer, lr, max_norm=max_norm)
                for name, part in (("encoder", self.encoder), ("decoder", self.decoder))
            }
        )
        self.register_buffer("weights", self.start_weights())
        self.train()

    def train(self, mode: bool = True) -> "WindowLearner":
        """As a module's, but the encoder drops units within `infer` alone."""
        super().train(mode)
        self.encoder.eval()
        return self

    # What a subclass says of its objective.

    @abstractmethod
    def start_weights(self) -> Tensor:
        """Return the weights `[2]` that the errors of o' and of r start with."""

    @abstractmethod
    def objective(
        self, windows: TensorDictBase, mixture: Mixture, label: Tensor | None
    ) -> tuple[Tensor, Metrics]:
        """Return the loss, 0-d, and what is worth writing down of its terms.

        Args:
            windows: `[rows, T + 1]`, normalised.
            mixture: what the encoder makes of the first T of each.
            label: the family of the last transition, `[rows]` int64, negative if unknown; None
                where nobody tells.
        """

    @abstractmethod
    def judge(
        self, mixture: Mixture, label: Tensor | None, state: Tensor, reward: Tensor
    ) -> Metrics:
        """React to a validation, whose windows had these mean errors of o' and of r, 0-d."""

    # Inference.

    def infer(self, batch: TensorDict) -> Metrics:
        """Take one step of encoder and decoder on windows `[rows, T + 1]` for training."""
        windows = self.normalised(batch)
        self.encoder.train()
        mixture = self.encoder(windows[:, :-1])
        loss, metrics = self.objective(windows, mixture, _label(batch))
        step = self.groups.move(loss, *self.groups)
        self.encoder.eval()
        metrics |= {**step.norms, "loss/inference": loss.detach()}
        return {**metrics, "health/nonfinite": step.refused}

    @torch.no_grad()
    def validate(self, batch: TensorDict, seen: TensorDict | None = None) -> Metrics:
        """See how well the last transitions of windows for validation are predicted.

        Args:
            batch: windows `[rows, T + 1]`.
            seen: others, for training, if the learner `compares`.
        """
        mixture, state, reward = self._predicted(batch)
        metrics = self.judge(mixture, _label(batch), state, reward)
        metrics |= {"validation/state": state, "validation/reward": reward}
        return {**metrics, "weight/state": self.weights[0].clone()}

    def _predicted(self, batch: TensorDict) -> tuple[Any, Tensor, Tensor]:
        """What is inferred from windows, and mean errors of the last transitions' o' and r."""
        windows = self.normalised(batch)
        mixture = self.encoder(windows[:, :-1])
        latent = self.encoder.latent(mixture, sample=self.samples)
        state, reward = self.decoder.errors(windows[:, -1], latent)
        return mixture, state.mean(), reward.mean()

    def load_statistics(self, statistics: TensorDict) -> None:
        """Normalise by these from now on: "mean" and "std", each with a transition's keys."""
        if self.normalizer is not None:
            self.normalizer.load(statistics.to(self.weights.device))

    def normalised(self, windows: TensorDict) -> TensorDict:
        """Transitions as encoder and decoder see them."""
        if self.normalizer is None:
            return windows
        seen: TensorDict = self.normalizer(windows)
        return seen

    # Policy.

    def update(self, batch: TensorDict) -> Metrics:
        """Take one step of policy and critics on the last of windows `[rows, T + 1]`."""
        with torch.no_grad():
            windows = self.normalised(batch)
            latent = self.encoder.latent(self.encoder(windows[:, :-1]), sample=False)
            following = latent
            if self.shifted:
                following = self.encoder.latent(self.encoder(windows[:, 1:]), sample=False)
        return self.agent.step(batch[:, -1], latent, following)

    @torch.no_grad()
    def act(self, td: TensorDict, explore: bool) -> TensorDict:
        """Add `"action"` to td `[tasks]`.

        Reads `"observation"` `[tasks, *, observation_dim]` and `"latent"`, which broadcasts against
        it: `[tasks, 1, latent_dim]` for several episodes of each task.
        """
        return td.set("action", self.agent.act(td["observation"], td["latent"], explore))

    @torch.no_grad()
    def prior(self, num_tasks: int) -> TensorDict:
        """Return what is inferred from windows without a transition, `[num_tasks]`."""
        parameter = self.weights
        observation_dim, action_dim = self._dims
        shape = (1, int(self.encoder.length))

        def zeros(width: int) -> Tensor:
            return parameter.new_zeros(*shape, width)

        after = {"reward": zeros(1), "observation": zeros(observation_dim)}
        empty = TensorDict(
            {
                "observation": zeros(observation_dim),
                "action": zeros(action_dim),
                "next": TensorDict(after, shape),
                "mask": torch.zeros(shape, dtype=torch.bool, device=parameter.device),
            },
            shape,
        )
        return self._inferred(empty, torch.full((1,), -1)).expand(num_tasks).contiguous()

    @torch.no_grad()
    def adapt(self, experience: TensorDict, prior: TensorDict) -> TensorDict:
        """Return what is inferred from windows alone; `prior` counts the adaptations.

        Args:
            experience: `[*, T]`, the oldest transition first, "mask" False on padding.
            prior: the latents before.

        Returns:
            `[*]`: `"latent"` `[*, latent_dim]`, `"component"` `[*]` int64, the likeliest;
            `"weights"` `[*, K]`, and `"adaptations"`.
        """
        return self._inferred(experience, prior["adaptations"])

    def _inferred(self, experience: TensorDict, adaptations: Tensor) -> TensorDict:
        mixture = self.encoder(self.normalised(experience))
        return TensorDict(
            {
                "latent": self.encoder.latent(mixture, sample=False),
                "component": mixture.component(),
                "weights": mixture.weights(),
                "adaptations": adaptations.to(mixture.logits.device) + 1,
            },
            experience.batch_size[:-1],
        )

    def policy_state(self) -> dict[str, Any]:
        """The policy's parameters, the encoder's, and the normaliser's statistics."""
        parts = ("agent.actor.", "encoder.", "normalizer.")
        return {k: v for k, v in super().policy_state().items() if k.startswith(parts)}

    def get_extra_state(self) -> dict[str, Any]:
        """The optimizers of encoder and decoder; the policy's travel with `agent`."""
        return self.groups.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take back the optimizers."""
        self.groups.load_state_dict(state)


def _label(batch: TensorDictBase) -> Tensor | None:
    """The family of the last transitions."""
    label: Tensor | None = batch.get("family", None)
    return None if label is None else label[:, -1]
