"""Active dendrites: linear detectors of a context that scale the drive of a unit.

Iyer, Grewal, Velu, Souza, Forest and Ahmad, "Avoiding Catastrophe: Active Dendrites Enable
Multi-Task Learning in Dynamic Environments", 2022 (arXiv 2201.00042).
"""

import math
from collections.abc import Callable

import gin
import torch
from torch import Tensor, nn

from networks.affine import affine
from networks.arguments import check_choice, check_sizes
from networks.sparse import draw_mask, masked


def strongest(d: Tensor) -> Tensor:
    """Of each row of d [*, segments] return the entry of largest magnitude, the first of equals."""
    winner = d.detach().abs().max(-1, keepdim=True).indices  # argmax is several times slower
    return d.gather(-1, winner).squeeze(-1)


SELECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "signed_abs_max": strongest,
    "unsigned_abs_max": lambda d: d.abs().amax(-1),
    "max": lambda d: d.amax(-1),
    "biasing": lambda d: d.max(-1).values,
    "one_segment": lambda d: d.squeeze(-1),
}
"""How each gating picks one activation, [*, segments] -> [*]."""

GATINGS = tuple(SELECTIONS)
INITS = ("modified", "kaiming", "small")


@gin.configurable
class Dendrites(nn.Module):
    """The segments of one layer's units, and the gate that they put on the units' drive.

    For unit u, segment s and context c, with segment weights V and a fixed binary mask M:

        d[u, s] = sum_k (V * M)[u, s, k] c[k] (+ bias[u, s])

        signed_abs_max      z = y sigmoid(d[u, argmax_s |d[u, s]|]), the published choice
        unsigned_abs_max    z = y sigmoid(max_s |d[u, s]|)
        max                 z = y sigmoid(max_s d[u, s])
        biasing             z = y + max_s d[u, s]
        one_segment         z = y sigmoid(d[u, 0]), for a single segment

    Only the selected segment has a gradient; in `unsigned_abs_max` and `max` equals share it.

    1. The reference gives every layer of one segment the class of `one_segment`, whatever was
       asked for. Here `signed_abs_max` and `max` of one segment are the same function, and the
       other two, which are not, are refused.
    2. A draw for `modified` assumes that `context_percent_on` of the context is not zero. As in
       the reference that is 1 for a one-hot, too, where 1 / num_tasks would be its true density.
    """

    mask: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        num_units: int,
        context_features: int,
        *,
        num_segments: int = 10,
        gating: str = "signed_abs_max",
        sparsity: float = 0.0,
        bias: bool = False,
        init: str = "modified",
        context_percent_on: float = 1.0,
        frozen: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the mask and the segments, both [num_units, num_segments, context_features].

        Args:
            num_units: number of units U.
            context_features: width K of the context.
            num_segments: number of segments S of each unit.
            gating: one of the formulas above.
            sparsity: share of the context that a segment does not see.
            bias: whether each segment has a bias, from U(-1 / sqrt(K), 1 / sqrt(K)).
            init: segments from U(-h, h); `modified` takes
                h = 1 / sqrt(context_percent_on (1 - sparsity) K), `kaiming` h = 1 / sqrt(K) and
                `small` h = 0.5 / sqrt(U + K).
            context_percent_on: see 2.
            frozen: whether the segments stay as drawn; they are buffers then, not parameters.
            generator: where the mask comes from; the global generator if None.

        Raises:
            ValueError: if an argument is out of range or unknown, or `num_segments` and `gating`
                do not go together.
        """
        super().__init__()
        check_sizes(
            num_units=num_units, context_features=context_features, num_segments=num_segments
        )
        check_choice("gating", gating, GATINGS)
        if gating == "one_segment" and num_segments != 1:
            raise ValueError(
                f"num_segments must be 1 with gating 'one_segment', got {num_segments}"
            )
        if num_segments == 1 and gating in ("unsigned_abs_max", "biasing"):
            raise ValueError(f"gating must be 'one_segment' with one segment, got {gating!r}")
        check_choice("init", init, INITS)
        if not 0.0 < context_percent_on <= 1.0:
            raise ValueError(f"context_percent_on must lie in (0, 1], got {context_percent_on}")
        self.gating, self.num_segments = gating, num_segments
        self.context_features = context_features
        shape = (num_units, num_segments, context_features)
        mask, self.is_sparse = draw_mask(*shape, sparsity=sparsity, generator=generator)
        self.register_buffer("mask", mask)
        fans = {
            "modified": context_percent_on * (1.0 - sparsity) * context_features,
            "kaiming": context_features,
            "small": 4.0 * (num_units + context_features),
        }
        bound, bias_bound = 1.0 / math.sqrt(fans[init]), 1.0 / math.sqrt(context_features)
        values = {"weight": torch.empty(shape).uniform_(-bound, bound) * mask}
        if bias:
            values["bias"] = torch.empty(shape[:-1]).uniform_(-bias_bound, bias_bound)
        else:
            self.bias = None
        for name, value in values.items():
            if frozen:
                self.register_buffer(name, value)
            else:
                self.register_parameter(name, nn.Parameter(value))

    def segments(self, context: Tensor | None = None) -> Tensor:
        """Return the segments' activations d.

        Args:
            context: [*stack, *, K], the stack being that of the weights; None stands for the K
                one-hot contexts, whose activations are read off without a product.

        Returns:
            [*stack, *, U, S], or [*stack, K, U, S] without a context.
        """
        weight = masked(self.weight, self.mask) if self.is_sparse else self.weight
        stack = weight.dim() - 3
        if context is None:
            d = weight.movedim(-1, stack)
            return d if self.bias is None else d + self.bias.unsqueeze(stack)
        # Units last: the selection then runs over whole rows of units at once.
        rows = weight.transpose(stack, stack + 1).flatten(stack, stack + 1)
        if self.bias is None:
            bias = rows.new_zeros(rows.shape[-2])
        else:
            bias = self.bias.transpose(stack, stack + 1).flatten(stack)
        d = affine(context, rows, bias)
        return d.view(*d.shape[:-1], self.num_segments, -1).transpose(-1, -2)

    def gates(self, context: Tensor | None = None) -> Tensor:
        """Return what `forward` puts on the drive; arguments as in `segments`.

        Returns:
            [*stack, *, U], or [*stack, K, U] without a context: factors in (0, 1), or summands
            where the gating is `biasing`.
        """
        selected = SELECTIONS[self.gating](self.segments(context))
        return selected if self.gating == "biasing" else selected.sigmoid()

    def winners(self, d: Tensor) -> Tensor:
        """Return the number of the segment that the gating selects: d [*, U, S] -> [*, U]."""
        by_magnitude = self.gating in ("signed_abs_max", "unsigned_abs_max")
        return (d.abs() if by_magnitude else d).max(-1).indices

    def forward(self, y: Tensor, gates: Tensor) -> Tensor:
        """Apply gates to the drive y [*stack, *, U]; their shapes may broadcast."""
        return y + gates if self.gating == "biasing" else y * gates
