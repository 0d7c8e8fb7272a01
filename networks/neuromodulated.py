"""The neuromodulated policy: a small branch beside each hidden layer gates its units.

Ben-Iwhiwhu et al., "Context meta-reinforcement learning via neuromodulation", Neural Networks 152,
2022.
"""

import functools
from typing import Any, cast

import gin
import torch
from torch import Tensor, nn

from networks.affine import SharedLinear, affine
from networks.arguments import check_choice, check_sizes
from networks.context_policy import ContextPolicy

GATES = ("soft", "hard", "hard_ste")


class NeuromodulatedLinear(nn.Module):
    """A linear layer whose units are gated before the activation.

    z = W_std x + b_std;  m = relu(W_in x + b_in);  g = W_out m + b_out;  y = z * s

    soft:     s = tanh(g)
    hard:     s = 1 where g >= 0, else -1: turns a unit's sign, and never switches it off
    hard_ste: s as of hard, but with the derivative of tanh(g)

    1. With the hard gate no gradient reaches W_in, b_in, W_out, b_out: they stay as they were
       drawn, as in the published experiments. `hard_ste` is our extension, and trains them.
    2. The published categorical policies take their own activation for m. It is relu in all
       experiments, and here always.

    Weights with a leading dimension make it that many layers, see `affine`.
    """

    def __init__(self, in_features: int, out_features: int, *, num_modulators: int, gate: str):
        """Build the three maps.

        Args:
            in_features: width of x.
            out_features: width of y.
            num_modulators: width of m.
            gate: `soft`, `hard` or `hard_ste`.

        Raises:
            ValueError: if a size is below 1 or `gate` is unknown.
        """
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        _check_branch(num_modulators, gate)
        self.gate = gate
        self.standard = SharedLinear(in_features, out_features)
        self.modulators = SharedLinear(in_features, num_modulators)
        self.gates = nn.Linear(num_modulators, out_features)

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """Map x and shared, as `SharedLinear` takes them, to [*, out_features]."""
        z: Tensor = self.standard(x, shared)
        return z * self.signal(x, shared)

    def signal(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the gates s, [*, out_features]."""
        return self._gate(self._modulators(x, shared))

    def parts(self, x: Tensor, shared: Tensor | None = None) -> dict[str, Tensor]:
        """Return `drive` z, `modulators` m and `gates` s for the arguments of `forward`."""
        z, m = self.standard(x, shared), self._modulators(x, shared)
        return {"drive": z, "modulators": m, "gates": self._gate(m)}

    def _modulators(self, x: Tensor, shared: Tensor | None) -> Tensor:
        return torch.relu(self.modulators(x, shared))

    def _gate(self, m: Tensor) -> Tensor:
        g = affine(m, self.gates.weight, self.gates.bias)
        if self.gate == "soft":
            return torch.tanh(g)
        sign = torch.where(g >= 0, 1.0, -1.0).to(g.dtype)
        if self.gate == "hard":
            return sign
        smooth = torch.tanh(g)
        return sign + (smooth - smooth.detach())  # the difference is exactly zero


def _check_branch(num_modulators: int, gate: str) -> None:
    check_sizes(num_modulators=num_modulators)
    check_choice("gate", gate, GATES)


@gin.configurable
class NeuromodulatedPolicy(ContextPolicy):
    """A `ContextPolicy` whose hidden layers are neuromodulated; the last layer is not.

    x_0 = [s, phi];  x_l = f(z_l * s_l) with z_l, s_l as in `NeuromodulatedLinear`;  u = W x_L + b

    The gates multiply before f. Those of the first layer see observation and context.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        num_modulators: int = 4,
        gate: str = "hard",
        **context_policy: Any,
    ) -> None:
        """Build and initialise the layers.

        Args:
            observation_dim: width of the observation.
            action_dim: width of the action, or the number of actions of `categorical`.
            num_modulators: units of the branch beside each hidden layer.
            gate: `soft`, `hard` or `hard_ste`.
            **context_policy: arguments of `ContextPolicy`.

        Raises:
            ValueError: as `ContextPolicy`, or if `num_modulators` is below 1 or `gate` is unknown.
        """
        _check_branch(num_modulators, gate)  # here, where the error names this class
        layer = functools.partial(NeuromodulatedLinear, num_modulators=num_modulators, gate=gate)
        super().__init__(observation_dim, action_dim, layer=layer, **context_policy)

    def _parts(self, layer: nn.Module, x: Tensor, shared: Tensor | None) -> dict[str, Tensor]:
        return cast(NeuromodulatedLinear, layer).parts(x, shared)
