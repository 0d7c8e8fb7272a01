"""The affine map that every trunk is made of, for one network or a stack of them."""

import math

import torch
from torch import Tensor, nn


def head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`affine` of a last layer: in single precision, under autocast as well."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return affine(x, weight, bias)
    with torch.autocast(kind, enabled=False):
        return affine(x.to(weight.dtype), weight, bias)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """Return x W^T + c, or its positive part: one product, batched where the weights are.

    Args:
        x: [*stack, *, in].
        weight: [*stack, out, in]; the stack is empty for a single network.
        bias: [*stack, out], or fewer leading dimensions; None for no c.
        relu: set negative values to zero; done in place, on the product before it gets its shape,
            since autograd copies whole tensors for a change through a view.

    Returns:
        [*stack, *, out].
    """
    stack = weight.shape[:-2]
    shape = (*x.shape[:-1], weight.shape[-2])
    if not stack:
        rows, columns = x.reshape(-1, x.shape[-1]), weight.t()
        y = rows @ columns if bias is None else torch.addmm(bias, rows, columns)
    else:
        number = math.prod(stack)
        # The rows are counted here, since -1 is not known where there are no networks.
        rows = x.reshape(number, math.prod(x.shape[len(stack) : -1]), x.shape[-1])
        columns = weight.reshape(number, *weight.shape[-2:]).transpose(1, 2)
        if bias is None:
            y = torch.bmm(rows, columns)
        else:
            y = torch.baddbmm(bias.expand(*stack, -1).reshape(number, 1, shape[-1]), rows, columns)
    return (y.relu_() if relu else y).view(shape)


class SharedLinear(nn.Linear):
    """A linear layer that may be told the last of its inputs apart from the others.

    Where all rows share them, one small product serves all: they enter as a bias does.
    """

    def forward(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """Map inputs to [*, out_features].

        Args:
            x: [*, in_features], or without those that are shared.
            shared: the last inputs: of all rows, [number], or of each, x then being a matrix.
        """
        if shared is None:
            return affine(x, self.weight, self.bias)
        weight, last = self.weight.split([x.shape[-1], shared.shape[-1]], -1)
        return affine(x, weight, affine(shared, last, self.bias))
