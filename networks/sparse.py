"""Linear layers with a fixed random set of inputs for each unit.

Ahmad and Scheinkman, "How Can We Be So Dense? The Benefits of Using Highly Sparse
Representations", 2019 (arXiv 1903.11257).
"""

import math

import torch
from torch import Tensor, nn

from networks.affine import affine
from networks.arguments import check_choice, check_sizes

INITS = ("modified", "kaiming")


def mask_generator(seed: int | None) -> torch.Generator:
    """Return a generator of its own for masks; one draw of the global generator seeds it if None.

    So the weights drawn after the masks do not depend on how many masks there are.
    """
    if seed is None:
        seed = int(torch.randint(2**62, (), device="cpu"))
    return torch.Generator().manual_seed(seed)


def allowed_inputs(size: int, sparsity: float) -> int:
    """Return round((1 - sparsity) size), halves to the even number.

    Raises:
        ValueError: if `sparsity` lies outside [0, 1) or leaves no input.
    """
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
    allowed = round((1.0 - sparsity) * size)
    if allowed < 1:
        raise ValueError(f"sparsity must leave at least one of {size} inputs, got {sparsity}")
    return allowed


def draw_mask(
    *shape: int, sparsity: float, generator: torch.Generator | None = None
) -> tuple[Tensor, bool]:
    """Draw a bool mask with `allowed_inputs` ones along the last dimension, each row on its own.

    Args:
        shape: of the mask.
        sparsity: share of zeros.
        generator: where the draws come from; the global one if None. Nothing is drawn for a mask
            of ones.

    Returns:
        The mask, and whether it has zeros.
    """
    allowed = allowed_inputs(shape[-1], sparsity)
    if allowed == shape[-1]:
        return torch.ones(shape, dtype=torch.bool), False
    order = torch.rand(shape, generator=generator, device="cpu")
    chosen = order.topk(allowed, -1, sorted=False).indices
    return torch.zeros(shape, dtype=torch.bool).scatter_(-1, chosen, True), True


def masked(weight: Tensor, mask: Tensor) -> Tensor:
    """Return the weight for a product in which its forbidden entries get no gradient.

    Their values are zero already, so nothing is to be done where no gradient is taken.
    """
    if torch.is_grad_enabled() and weight.requires_grad:
        return weight * mask
    return weight


class SparseLinear(nn.Module):
    """y = (W * M) x + c with a fixed binary M that allows round((1 - sparsity) D) of D inputs.

    Deviation from the reference, which lets the optimiser move forbidden weights and sets them to
    zero after each step: here they start at zero and get no gradient, so that they stay there
    under Adam, SGD and Polyak averages. The allowed weights are the same either way.
    """

    mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        sparsity: float = 0.0,
        init: str = "modified",
        input_density: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the mask, bool [out_features, in_features] and part of the state, and the weights.

        Args:
            in_features: width D of the input.
            out_features: number of units.
            sparsity: share of the inputs that a unit does not see.
            init: weights from U(-h, h); `modified` takes
                h = 1 / sqrt(input_density (1 - sparsity) D), `kaiming` h = 1 / sqrt(D). Biases
                come from U(-1 / sqrt(D), 1 / sqrt(D)) in both.
            input_density: share of the input that is not zero, read by `modified` alone.
            generator: where the mask comes from; the global generator if None.

        Raises:
            ValueError: if a size is below 1, or another argument is out of range.
        """
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        check_choice("init", init, INITS)
        if not 0.0 < input_density <= 1.0:
            raise ValueError(f"input_density must lie in (0, 1], got {input_density}")
        self.in_features, self.out_features = in_features, out_features
        mask, self.is_sparse = draw_mask(
            out_features, in_features, sparsity=sparsity, generator=generator
        )
        self.register_buffer("mask", mask)
        fan = in_features * (input_density * (1.0 - sparsity) if init == "modified" else 1.0)
        bound, bias_bound = 1.0 / math.sqrt(fan), 1.0 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bias_bound, bias_bound))
        with torch.no_grad():
            self.weight.mul_(mask)

    def masked_weight(self) -> Tensor:
        """Return W * M, [*stack, out_features, in_features]."""
        return masked(self.weight, self.mask) if self.is_sparse else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map x [*stack, *, in_features] to [*stack, *, out_features]."""
        return affine(x, self.masked_weight(), self.bias)
