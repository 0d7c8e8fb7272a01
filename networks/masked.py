"""The masked multilayer perceptron of MUST: one binary sub-network per task.

MUST is known only from a public repository, without a paper. Task t computes with the weights
W_l * m_l[t]; biases are never masked. Masked weights keep their stored values, and come back
when the mask changes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import gin
import torch
from torch import Tensor, nn

from networks.affine import affine, head
from networks.arguments import check_choice
from networks.mlp import MLP
from networks.version_cache import VersionCache, is_vmapped

GRANULARITIES = ("weight", "neuron")


@runtime_checkable
class Maskable(Protocol):
    """A trunk that keeps binary masks, one list entry per masked layer."""

    @property
    def mask_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one task's mask in each masked layer."""
        ...

    def mask_buffers(self) -> list[Tensor]:
        """Return the live bool buffers [num_tasks, *shape]."""
        ...


def maskable(trunk: nn.Module) -> Maskable:
    """Return the trunk if it keeps masks.

    Raises:
        TypeError: if it does not.
    """
    if not isinstance(trunk, Maskable):
        raise TypeError(f"this trunk has no masks: {type(trunk).__name__}; use MaskedMLP")
    return trunk


def write_masks_(buffers: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Copy the masks into the buffers, in place.

    Raises:
        ValueError: if their number or a shape differs.
    """
    wanted = [tuple(buffer.shape) for buffer in buffers]
    got = [tuple(mask.shape) for mask in masks]
    if wanted != got:
        raise ValueError(f"masks must have the shapes {wanted}, got {got}")
    with torch.no_grad():
        for buffer, mask in zip(buffers, masks, strict=True):
            buffer.copy_(mask)


@gin.configurable
class MaskedMLP(MLP):
    """An MLP whose weights (or hidden units) are switched on and off for each task.

    Weight masks: y[t] = x[t] (W_l * m_l[t])^T + c_l, one batched product per layer.
    Neuron masks: h_l[t] = relu(...) * m_l[t] on hidden units.
    With equal torch seed the initial weights are those of `MLP`; all masks start as ones.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        *,
        hidden: Sequence[int] = (400, 400, 400),
        init: str = "soft_module",
        granularity: str = "weight",
        mask_output_layer: bool = True,
    ) -> None:
        """Build the layers and the mask buffers `mask_0`, `mask_1`, ...

        Args:
            in_features: width of the input without the task one-hot.
            out_features: width of the output.
            num_tasks: number of tasks.
            hidden: widths of the hidden layers.
            init: as in `MLP`.
            granularity: `weight`, masks [out, in]; `neuron`, masks [units] of the hidden layers.
            mask_output_layer: whether the output weights are masked too (`weight` only; neuron
                masks never touch the output layer).

        Raises:
            ValueError: as `MLP`, or if `granularity` is unknown.
        """
        super().__init__(in_features, out_features, num_tasks, hidden=hidden, init=init)
        check_choice("granularity", granularity, GRANULARITIES)
        self.granularity = granularity
        weights = [layer.weight for layer in self.linears()]
        shapes: list[tuple[int, ...]]
        if granularity == "neuron":
            shapes = [(weight.shape[0],) for weight in weights[:-1]]
        else:
            shapes = [tuple(weight.shape) for weight in weights]
            if not mask_output_layer:
                shapes.pop()
        self._mask_shapes = tuple(shapes)
        for index, shape in enumerate(shapes):
            self.register_buffer(f"mask_{index}", torch.ones(num_tasks, *shape, dtype=torch.bool))
        self._float_masks: VersionCache[list[Tensor]] = VersionCache(trained=False)
        self._masked_weights: VersionCache[list[Tensor]] = VersionCache()

    @property
    def mask_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of one task's mask in each masked layer."""
        return self._mask_shapes

    def mask_buffers(self) -> list[Tensor]:
        """Return the live bool buffers [num_tasks, *shape]."""
        return [self.get_buffer(f"mask_{index}") for index in range(len(self._mask_shapes))]

    def committed(self) -> list[Tensor]:
        """Return copies of the masks in use, bool [num_tasks, *shape]."""
        return [buffer.clone() for buffer in self.mask_buffers()]

    def commit(self, masks: Sequence[Tensor]) -> None:
        """Put new masks into use; ValueError if a shape differs."""
        write_masks_(self.mask_buffers(), masks)

    def forward(self, x: Tensor, task: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Map x to [*, out_features] under the masks of each row's task.

        Args:
            x: [num_tasks, rows, in_features], group t of task t; or [*, in_features] with at most
                one leading dimension, each row of the task it names.
            task: [num_tasks, rows] or [*], int64.
            masks: [num_tasks, *shape] per masked layer, 0 or 1, bool or floating, with or without
                gradient; None takes the committed ones.

        Raises:
            ValueError: if x has more dimensions, or a grouped x has not num_tasks groups, or the
                number of masks is not that of the masked layers.
        """
        return self._layers(x, task, masks)[-1]

    def hidden_activations(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Return the activations of every hidden layer under the committed masks."""
        return self._layers(x, task, None)[:-1]

    def _layers(self, x: Tensor, task: Tensor, masks: Sequence[Tensor] | None) -> list[Tensor]:
        """The output of every layer, as `forward` describes it."""
        if masks is not None and len(masks) != len(self._mask_shapes):
            raise ValueError(f"masks must be {len(self._mask_shapes)} tensors, got {len(masks)}")
        stack = self.stack_dims
        dims, groups = x.dim() - stack, x.shape[stack]
        if dims > 3 or (dims == 3 and groups != self.num_tasks):
            got = tuple(x.shape[stack:])
            raise ValueError(f"x must be [{self.num_tasks}, rows, in] or [rows, in], got {got}")
        x = self.join(x, task)
        if dims == 3:
            return self._grouped(x, masks, None)
        lead = x.shape[:-1]
        x = x.reshape(*lead[:stack], -1, 1, x.shape[-1])
        task = task[(0,) * stack].reshape(-1)  # the same rows for every network of a stack
        outputs = self._grouped(x, masks, None if self._in_task_order(task) else task)
        return [y.reshape(*lead, y.shape[-1]) for y in outputs]

    def _in_task_order(self, task: Tensor) -> bool:
        """Spare the gather when row t is task t; asked only where the answer costs no wait."""
        if task.shape[0] != self.num_tasks or torch.is_grad_enabled() or is_vmapped(task):
            return False
        return task.device.type == "cpu" and torch.equal(task, torch.arange(self.num_tasks))

    def _grouped(
        self, x: Tensor, masks: Sequence[Tensor] | None, task: Tensor | None
    ) -> list[Tensor]:
        """Map x [*stack, groups, rows, in]; group g uses mask g, or task[g] where task is given."""
        stack = self.stack_dims

        def own(tensor: Tensor) -> Tensor:
            return tensor if task is None else tensor.index_select(stack, task)

        layers = self.linears()
        neuron = self.granularity == "neuron"
        weights: list[Tensor] = []
        if masks is None and not neuron and not torch.is_grad_enabled():
            weights = self._cached_weights(layers)
        elif masks is None:
            masks = self._default_masks()
        count = len(self._mask_shapes)
        outputs = []
        for index, layer in enumerate(layers):
            weight: Tensor = layer.weight
            bias: Tensor = layer.bias
            if not neuron and index < count:
                bias = bias.unsqueeze(-2)
                if weights:
                    weight = own(weights[index])
                else:
                    assert masks is not None
                    weight = weight.unsqueeze(-3) * own(masks[index])
            last = index + 1 == len(layers)
            x = head(x, weight, bias) if last else affine(x, weight, bias, relu=True)
            if neuron and index < count:
                assert masks is not None
                x = x * own(masks[index]).unsqueeze(-2)
            outputs.append(x)
        return outputs

    def _default_masks(self) -> list[Tensor]:
        """The committed masks as floats, which multiply faster than bool."""
        buffers = self.mask_buffers()
        dtype = self.linears()[0].weight.dtype
        return self._float_masks.get(buffers, lambda: [buffer.to(dtype) for buffer in buffers])

    def _cached_weights(self, layers: list[nn.Linear]) -> list[Tensor]:
        buffers = self.mask_buffers()
        weights = [layer.weight for layer in layers[: len(buffers)]]
        return self._masked_weights.get(
            [*weights, *buffers],
            lambda: [
                weight.unsqueeze(-3) * mask for weight, mask in zip(weights, buffers, strict=True)
            ],
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._float_masks.clear()
        self._masked_weights.clear()
        applied: Any = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return applied  # type: ignore[no-any-return]
