"""One layer of parallel modules, as Soft Modularization stacks them, and the mixing between two."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from networks.affine import affine, head
from networks.arguments import check_sizes


class ModuleBank(nn.Module):
    """num_modules linear layers of equal size, computed together.

    y_j = M_j x_j + c_j  for module j

    Outputs of modules stand side by side in a row, [*, num_modules, out_features]. Weights with
    a leading dimension are a stack of banks, as in `networks.mlp.MLP`.
    """

    def __init__(
        self,
        num_modules: int,
        in_features: int,
        out_features: int,
        *,
        initialise: Callable[[nn.Linear], None],
    ) -> None:
        """Build `weight` [num_modules, out_features, in_features] and `bias`.

        Args:
            num_modules: number of modules.
            in_features: width of a module's input.
            out_features: width of a module's output.
            initialise: fills one module's layer; called for one module after the other.

        Raises:
            ValueError: if a size is below 1.
        """
        super().__init__()
        check_sizes(num_modules=num_modules, in_features=in_features, out_features=out_features)
        layers = [nn.Linear(in_features, out_features) for _ in range(num_modules)]
        for layer in layers:
            initialise(layer)
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def shared(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Let every module read the same x: [*, in] -> [*, num_modules, out]; one wide product.

        The biases are a column of the weights, which a one in x meets: the product is far wider
        than x, and to add to it, or to sum its gradient over rows, takes a pass over all of it.
        """
        weight = torch.cat((self.weight, self.bias.unsqueeze(-1)), -1).flatten(-3, -2)
        y = affine(pad(x, (0, 1), value=1.0), weight, None, relu=relu)
        return y.view(*y.shape[:-1], *self.bias.shape[-2:])

    def forward(self, x: Tensor, *, relu: bool = False) -> Tensor:
        """Let each module read its own part of x: [*, num_modules, in] -> [*, num_modules, out]."""
        stack = self.weight.dim() - 3
        y = affine(x.movedim(-2, stack), self.weight, self.bias, relu=relu)
        return y.movedim(stack, -2)

    def mean_of_mixed(self, route: Tensor, x: Tensor) -> Tensor:
        """Return mean_j M_j (sum_i route_ji x_i) + c_j, a network's last layer.

        Maps come first and mixing second, which gives the same, because both are linear and routes
        sum to 1: one wide product, and few numbers left to mix. In single precision, under
        autocast as well.

        Args:
            route: [*, num_modules, num_modules], target modules first.
            x: [*, num_modules, in_features].

        Returns:
            [*, out_features].
        """
        size = self.bias.shape[-2:]
        y = head(x, self.weight.flatten(-3, -2), self.bias.flatten(-2)).unflatten(-1, size)
        mean: Tensor = (y * route.mT.unsqueeze(-1)).sum((-3, -2)) / size[0]
        return mean


def mixed(route: Tensor, modules: Tensor) -> Tensor:
    """Mix the outputs of modules: y_j = sum_i route_ji modules_i.

    Args:
        route: [*, targets, num_modules].
        modules: [*, num_modules, width].

    Returns:
        [*, targets, width].
    """
    return torch.matmul(route, modules)
