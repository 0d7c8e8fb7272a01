"""The perceptron of an observation and the task's latent: policy, Q and V of PEARL and TIGR.

Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", ICML 2019.
"""

import math
from collections.abc import Sequence

import gin
import torch
from torch import Tensor

from networks.mlp import MLP, init_last_


@gin.configurable
class LatentMLP(MLP):
    """y = W_L relu(... relu(W_0 [x, z] + c_0) ...) + c_L, with a latent z for the task.

    The trunk's third size is the width of z, and its second argument z itself. The defaults are
    those of PEARL's values; its policy has `last_bound = 1e-3`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        latent_dim: int,
        *,
        hidden: Sequence[int] = (300, 300, 300),
        init: str = "soft_module",
        last_bound: float = 0.003,
    ) -> None:
        """Build and initialise the layers.

        Args:
            in_features: width of the input without z.
            out_features: width of the output.
            latent_dim: width of z.
            hidden: widths of the hidden layers, each followed by a ReLU.
            init: as in `MLP`.
            last_bound: of the last layer's weights and biases, with an `init` that bounds them.

        Raises:
            ValueError: as `MLP`, or if `last_bound` is not positive.
        """
        super().__init__(in_features, out_features, latent_dim, hidden=hidden, init=init)
        if not 0.0 < last_bound < math.inf:
            raise ValueError(f"last_bound must be positive and finite, got {last_bound}")
        if init in ("soft_module", "fan_in"):
            init_last_(self.linears()[-1], last_bound)

    def join(self, x: Tensor, task: Tensor) -> Tensor:
        """Append z: x [*, in_features], task [*, latent_dim], or fewer rows that broadcast."""
        return torch.cat((x, task.expand(*x.shape[:-1], task.shape[-1])), -1)
