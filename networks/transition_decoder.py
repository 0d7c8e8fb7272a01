"""The decoder of TIGR and CEMRL: what a transition leads to, given the task's latent.

See `networks.gru_mixture` for the papers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import gin
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from networks.arguments import check_sizes
from networks.feed_forward import FeedForward


class Prediction(NamedTuple):
    """Predicted next observation [*, D], its reconstructed numbers alone, and reward [*, 1]."""

    observation: Tensor
    reward: Tensor


@gin.configurable
class TransitionDecoder(nn.Module):
    """o' = F(o, a, z) and r = G(o, a, z), two perceptrons, all of it normalised.

    With h = complexity * (width of [o, a, z]), rounded down, TIGR has F of h, h hidden units and G
    of h, h, h / 2; CEMRL takes complexity 10, h, h for both, and `state_error = "sum"`.

    o' is predicted itself, not its difference to o. An earlier form of TIGR's code, whose G reads
    [o', z], is left out.
    """

    kept: Tensor

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        latent_dim: int,
        *,
        complexity: float = 5.0,
        state_hidden: Sequence[float] = (1.0, 1.0),
        reward_hidden: Sequence[float] = (1.0, 1.0, 0.5),
        reconstructed: int | Sequence[int] | None = None,
        state_error: str = "mean",
        init: str = "soft_module",
    ) -> None:
        """Build and initialise the perceptrons.

        Args:
            observation_dim: width of the observation.
            action_dim: width of the action.
            latent_dim: width of z.
            complexity: h for each number of the input.
            state_hidden: widths of F's hidden layers, in shares of h, rounded down.
            reward_hidden: likewise of G's.
            reconstructed: which numbers of o' are predicted: the first so many, or those at these
                places; all if None.
            state_error: `mean` or `sum` over them, see `errors`.
            init: as in `networks.mlp.init_layers_`; TIGR and CEMRL have "soft_module".

        Raises:
            ValueError: if a size is below 1, `reconstructed` names nothing or what is not there, or
                `state_error` or `init` is unknown.
        """
        super().__init__()
        check_sizes(observation_dim=observation_dim, action_dim=action_dim, latent_dim=latent_dim)
        if state_error not in ("mean", "sum"):
            raise ValueError(f"state_error must be 'mean' or 'sum', got {state_error!r}")
        if reconstructed is None:
            reconstructed = observation_dim
        places = range(reconstructed) if isinstance(reconstructed, int) else tuple(reconstructed)
        once = len(places) <= observation_dim and len(set(places)) == len(places)
        if not places or min(places) < 0 or max(places) >= observation_dim or not once:
            raise ValueError(
                f"reconstructed must name some of {observation_dim} numbers, each once, got "
                f"{reconstructed}"
            )
        shares = {"state_hidden": state_hidden, "reward_hidden": reward_hidden}
        shares["complexity"] = (complexity,)
        for name, values in shares.items():
            if not all(0.0 < value < math.inf for value in values):
                raise ValueError(f"{name} must be positive and finite, got {values}")
        self.state_error = state_error
        inputs = observation_dim + action_dim + latent_dim
        h = int(complexity * inputs)

        def perceptron(hidden: Sequence[float], outputs: int) -> FeedForward:
            return FeedForward((inputs, *(int(share * h) for share in hidden), outputs), init=init)

        self.state = perceptron(state_hidden, len(places))
        self.reward = perceptron(reward_hidden, 1)
        self.register_buffer("kept", torch.tensor(tuple(places)), persistent=False)

    def forward(self, observation: Tensor, action: Tensor, latent: Tensor) -> Prediction:
        """Return the predictions, [*].

        Args:
            observation: [*, observation_dim], normalised.
            action: [*, action_dim], normalised.
            latent: [*, latent_dim]; leading dimensions of the three broadcast.
        """
        parts = (observation, action, latent)
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        x = torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)
        return Prediction(self.state(x), self.reward(x))

    def errors(self, context: TensorDictBase, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared errors of each transition: of o', mean or sum over its numbers, and of r.

        Args:
            context: normalised transitions [*], see `TransitionNormalizer`. Padding is not left
                out: a mean over real steps is the caller's.
            latent: [*, latent_dim]; leading dimensions broadcast.

        Returns:
            Two tensors [*].
        """
        predicted = self(context["observation"], context["action"], latent)
        following = context["next"]
        target = following["observation"].index_select(-1, self.kept)
        square = (predicted.observation - target).square()
        state = square.mean(-1) if self.state_error == "mean" else square.sum(-1)
        return state, (predicted.reward - following["reward"]).square().squeeze(-1)
