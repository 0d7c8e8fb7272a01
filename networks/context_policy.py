"""The policy of CAVIA, whose first layer also sees a context; without one, the policy of MAML.

CAVIA: Zintgraf et al., "Fast Context Adaptation via Meta-Learning", ICML 2019. MAML: Finn, Abbeel
and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017.
"""

import math
from collections.abc import Callable, Sequence

import gin
import torch
from torch import Tensor, nn

from networks.affine import SharedLinear, head
from networks.arguments import check_choice, check_hidden, check_sizes
from networks.feed_forward import init_xavier_
from networks.policy_distributions import Categorical, DiagonalGaussian

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}
DISTRIBUTIONS = ("gaussian", "categorical")
LOG_STD_MIN = math.log(1e-6)


@gin.configurable
class ContextPolicy(nn.Module):
    """A perceptron of the observation s and the context phi, which enters the first layer only.

    x_0 = [s, phi];  x_l = f(W_l x_(l-1) + b_l);  u = W x_L + b

    gaussian:    a ~ N(u, diag(sigma)^2), log sigma a free vector, bounded below by ln 1e-6
    categorical: a ~ softmax(u)

    Weights are Xavier uniform, biases and log sigma start at zero. phi is an argument and no
    parameter. The network keeps to functional tensor code: it may be called with other weights by
    `torch.func.functional_call`, under vmap, grad and jvp.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        num_context: int = 5,
        hidden: Sequence[int] = (100, 100),
        activation: str = "relu",
        distribution: str = "gaussian",
        layer: Callable[[int, int], nn.Module] = SharedLinear,
    ) -> None:
        """Build and initialise the layers.

        Args:
            observation_dim: width of the observation.
            action_dim: width of the action, or the number of actions of `categorical`.
            num_context: width of phi; 0 leaves it out, as MAML does.
            hidden: widths of the hidden layers.
            activation: f, `relu` or `tanh`.
            distribution: `gaussian` or `categorical`.
            layer: makes a hidden layer, called with the widths of its input and its output; all
                linear layers in it are initialised as said. The first is given phi apart, see
                `SharedLinear`.

        Raises:
            ValueError: if a size is out of range, or `activation` or `distribution` is unknown.
        """
        super().__init__()
        hidden = tuple(hidden)
        check_sizes(observation_dim=observation_dim, action_dim=action_dim)
        if num_context < 0:
            raise ValueError(f"num_context must be at least 0, got {num_context}")
        check_hidden(hidden)
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("distribution", distribution, DISTRIBUTIONS)
        self.num_context = num_context
        self.distribution, self.discrete = distribution, distribution == "categorical"
        self.activation = ACTIVATIONS[activation]
        widths = (observation_dim + num_context, *hidden)
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers = nn.ModuleList(layer(wide, tall) for wide, tall in pairs)
        self.last = nn.Linear(hidden[-1], action_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_xavier_(module.weight, module.bias)
        if distribution == "gaussian":
            self.log_std = nn.Parameter(torch.zeros(action_dim))

    def forward(self, observation: Tensor, context: Tensor) -> DiagonalGaussian | Categorical:
        """Return the distribution of the action.

        Args:
            observation: [*, observation_dim].
            context: [*, num_context], or fewer rows that broadcast.
        """
        x, shared = self._first(observation, context)
        for layer in self.layers:
            x, shared = self.activation(layer(x, shared)), None
        return self._distribution(x, observation.shape[:-1])

    def representations(self, observation: Tensor, context: Tensor) -> dict[str, Tensor]:
        """Return what the layers compute for the arguments of `forward`, each `[*, width]`.

        `layer_<l>/output` is x_l, l from 1; `head/mean` and `head/std`, or `head/logits`, are the
        action's distribution. Layers that have inner parts tell these too.
        """
        lead, (x, shared) = observation.shape[:-1], self._first(observation, context)
        told: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers, 1):
            parts = self._parts(layer, x, shared)
            parts["output"] = x = self.activation(layer(x, shared))
            shared = None
            told |= {f"layer_{number}/{name}": part for name, part in parts.items()}
        told = {name: part.reshape(*lead, part.shape[-1]) for name, part in told.items()}
        made = self._distribution(x, lead)
        if isinstance(made, Categorical):
            return told | {"head/logits": made.logits}
        return told | {"head/mean": made.mean, "head/std": made.log_std.exp()}

    def _first(self, observation: Tensor, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """x_0 as a matrix without phi, and phi: once if it is a vector, else for each row.

        A matrix, since a product with weights of each task's own would copy them for every episode.
        """
        rows = observation.reshape(-1, observation.shape[-1])
        if not self.num_context:
            return rows, None
        if context.dim() > 1:
            context = context.expand(*observation.shape[:-1], -1).reshape(len(rows), -1)
        return rows, context

    def _parts(self, layer: nn.Module, x: Tensor, shared: Tensor | None) -> dict[str, Tensor]:
        """What a hidden layer computes on its way, by name."""
        return {}

    def _distribution(self, x: Tensor, lead: torch.Size) -> DiagonalGaussian | Categorical:
        output = head(x, self.last.weight, self.last.bias)
        output = output.reshape(*lead, output.shape[-1])
        if self.discrete:
            return Categorical(output)
        log_std = self.log_std.clamp(min=LOG_STD_MIN)
        return DiagonalGaussian(output, log_std.expand_as(output))

    def metrics(self) -> dict[str, Tensor]:
        """Return what is worth writing down of the weights: the mean log sigma, if there is one."""
        if self.discrete:
            return {}
        return {"policy/log_std": self.log_std.detach().clamp(min=LOG_STD_MIN).mean()}
