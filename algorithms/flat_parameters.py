"""All parameters of a module as one vector, and back."""

import torch
from torch import Tensor, nn


class FlatParameters:
    """The vector theta of a module's parameters, in the order of `named_parameters`."""

    def __init__(self, module: nn.Module) -> None:
        """Remember the module, and the names and shapes of its parameters."""
        self.module = module
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    def vector(self) -> Tensor:
        """Return a copy of the parameters, [P], without gradient."""
        return torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return views of a vector [P] by name, as `torch.func.functional_call` takes them."""
        parts = zip(self.shapes.items(), vector.split(self.sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Copy a vector [P] into the parameters."""
        for parameter, value in zip(
            self.module.parameters(), self.unflatten(vector).values(), strict=True
        ):
            parameter.copy_(value)
