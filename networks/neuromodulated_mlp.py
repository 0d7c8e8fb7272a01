"""The policy's trunk of neuromodulated PEARL: a small branch beside each hidden layer gates it.

Ben-Iwhiwhu et al., "Context meta-reinforcement learning via neuromodulation", Neural Networks 152,
2022.
"""

import math
from collections.abc import Sequence

import gin
import torch
from torch import Tensor, nn

from networks.affine import head
from networks.arguments import check_hidden, check_sizes
from networks.mlp import init_hidden_, init_last_
from networks.neuromodulated import NeuromodulatedLinear


@gin.configurable
class NeuromodulatedMLP(nn.Module):
    """A perceptron of [x, z] whose hidden layers are neuromodulated; the last layer is not.

    x_0 = [x, z];  x_l = relu(z_l * s_l) with z_l, s_l as in `NeuromodulatedLinear`;  y = W x_L + b

    The trunk's third size is the width of the latent z, and its second argument z itself. Weights
    are drawn from U(-b, b), b = 1 / sqrt(output size), biases are 0.1, as in all hidden layers of
    the published code.
    """

    stackable = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        latent_dim: int,
        *,
        hidden: Sequence[int] = (300, 300, 300),
        num_modulators: int = 32,
        gate: str = "soft",
        last_bound: float = 0.001,
    ) -> None:
        """Build and initialise the layers.

        Args:
            in_features: width of the input without z.
            out_features: width of the output.
            latent_dim: width of z.
            hidden: widths of the hidden layers.
            num_modulators: units of the branch beside each hidden layer.
            gate: `soft`, `hard` or `hard_ste`, see `NeuromodulatedLinear`.
            last_bound: of the last layer's weights and biases.

        Raises:
            ValueError: if a size is below 1, `hidden` is empty, `gate` is unknown or `last_bound`
                is not positive.
        """
        super().__init__()
        hidden = tuple(hidden)
        check_sizes(in_features=in_features, out_features=out_features, latent_dim=latent_dim)
        check_hidden(hidden)
        if not 0.0 < last_bound < math.inf:
            raise ValueError(f"last_bound must be positive and finite, got {last_bound}")
        widths = (in_features + latent_dim, *hidden)
        self.layers = nn.ModuleList(
            NeuromodulatedLinear(wide, tall, num_modulators=num_modulators, gate=gate)
            for wide, tall in zip(widths[:-1], widths[1:], strict=True)
        )
        self.last = nn.Linear(hidden[-1], out_features)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                init_hidden_(module)
        init_last_(self.last, last_bound)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Map x [*, in_features] and latents [*, latent_dim], which broadcast, to [*, out]."""
        x = torch.cat((x, task.expand(*x.shape[:-1], task.shape[-1])), -1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return head(x, self.last.weight, self.last.bias)
