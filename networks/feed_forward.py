"""Linear layers with ReLUs between them, which encoders and decoders are made of.

MTRL, whose initialisation is the default: Sodhani and Zhang, "MTRL - Multi Task RL Algorithms",
2021.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from networks.affine import affine, head
from networks.arguments import check_sizes
from networks.mlp import init_layers_


def init_xavier_(weight: Tensor, bias: Tensor) -> None:
    """Draw weight [*stack, out, in] from U(-b, b), b^2 = 6 / (in + out), and set bias to zero.

    The matrices of a stack are drawn alike; their number does not enter b.
    """
    bound = math.sqrt(6.0 / (weight.shape[-2] + weight.shape[-1]))
    nn.init.uniform_(weight, -bound, bound)
    nn.init.zeros_(bias)


class FeedForward(nn.Module):
    """y = W_L relu(... relu(W_0 x + c_0) ...) + c_L; W Xavier uniform and c zero unless said."""

    def __init__(self, widths: Sequence[int], *, init: str = "xavier") -> None:
        """Build len(widths) - 1 linear layers.

        Args:
            widths: width of the input, of each hidden layer and of the output.
            init: as in `networks.mlp.init_layers_`.

        Raises:
            ValueError: if there are fewer than two widths, one is below 1 or `init` is unknown.
        """
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths must name an input and an output, got {tuple(widths)}")
        check_sizes(**{f"widths[{place}]": width for place, width in enumerate(widths)})
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers = nn.ModuleList(nn.Linear(wide, tall) for wide, tall in pairs)
        if init == "xavier":
            for layer in self.linears():
                init_xavier_(layer.weight, layer.bias)
        else:
            init_layers_(self.linears(), init)

    def linears(self) -> list[nn.Linear]:
        """Return the linear layers, input side first."""
        return [cast(nn.Linear, layer) for layer in self.layers]

    def forward(self, x: Tensor) -> Tensor:
        """Map x [*, widths[0]] to [*, widths[-1]]."""
        *hidden, last = self.linears()
        for layer in hidden:
            x = affine(x, layer.weight, layer.bias, relu=True)
        return head(x, last.weight, last.bias)


def frozen(module: nn.Module) -> nn.Module:
    """Turn the module's parameters into buffers, in place: kept in its state, trained by nobody."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, torch.empty_like(parameter).copy_(parameter).detach())
    return module
