"""The active dendrites network: sparse layers, k-winners, and gates set by the task.

Iyer, Grewal, Velu, Souza, Forest and Ahmad, "Avoiding Catastrophe: Active Dendrites Enable
Multi-Task Learning in Dynamic Environments", 2022 (arXiv 2201.00042).
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import gin
from torch import Tensor, nn

from networks.affine import head
from networks.arguments import check_choice, check_hidden, check_sizes
from networks.dendrites import Dendrites
from networks.k_winners import KWinners
from networks.one_hot import append_one_hot
from networks.sparse import SparseLinear, mask_generator
from networks.task_context import TaskContext

INPUT_SOURCES = ("input", "input_and_one_hot")


class SegmentSample(NamedTuple):
    """Segments' activations d [rows, units, segments], the winner of each unit, its gate."""

    d: Tensor
    winner: Tensor
    gate: Tensor


@gin.configurable
class DendriticMLP(nn.Module):
    """A perceptron of sparse layers, some of whose units are gated by dendrites that see the task.

        h_0 = x;    y = (W_l * M_l) h_l + b_l;    z = y gate_l(c) in the modulated layers, else y
        h_(l+1) = k_winners(z) or relu(z);    output = (W_L * M_L) h_L + b_L

    The task enters through the context c alone, unless `input_source` says otherwise. With the
    one-hot as context a gate depends on the task alone, so a table [num_tasks, units] of all gates
    is made once per pass and indexed; values and gradients are those of the gates of each row,
    which any other context gets.

    For hooks: `activations[l]` gives what layer l gives; `dendrites["l"]` (a modulated layer's
    number as a string) has `segments` and `gates`, and gives the gated drive.

    A trunk whose weights and buffers were given a leading dimension is that many networks, and
    takes and returns that leading dimension.

    Deviations from the reference: those of `SparseLinear`, `KWinners` and `Dendrites`; and the
    heads (mean and log sigma) are rows of one layer, which is the same, since each unit draws its
    inputs by itself.
    """

    stackable = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        *,
        hidden: Sequence[int] = (2800, 2800),
        layers_modulated: Sequence[int] = (1,),
        percent_on: float | None = 0.25,
        weight_sparsity: float = 0.1,
        weight_init: str = "modified",
        input_source: str = "input",
        context: Callable[..., TaskContext] = TaskContext,
        dendrites: Callable[..., Dendrites] = Dendrites,
        winners: Callable[..., KWinners] = KWinners,
        mask_seed: int | None = None,
    ) -> None:
        """Build the layers.

        Args:
            in_features: width of the input without the task one-hot.
            out_features: width of the output.
            num_tasks: number of tasks, the width of the one-hot.
            hidden: widths of the hidden layers.
            layers_modulated: numbers of the hidden layers that have dendrites; may be empty.
            percent_on: share of the units of each hidden layer that k-winners keep; None takes a
                ReLU instead.
            weight_sparsity: share of zeros in the weights of each unit, in all layers.
            weight_init: as in `SparseLinear`; the input density of all layers but the first is
                `percent_on`, or 1 after a ReLU.
            input_source: `input` for x alone, `input_and_one_hot` for [x, onehot(task)].
            context: factory of the context.
            dendrites: factory of a modulated layer's dendrites.
            winners: factory of the k-winners layers, called with `percent_on=`.
            mask_seed: of all masks; networks with the same seed have the same masks, twin critics
                among them. If None, one draw of the global generator is the seed.

        Raises:
            ValueError: if a size is below 1, a name is unknown, `hidden` is empty, or
                `layers_modulated` names a layer twice or one that does not exist.
        """
        super().__init__()
        hidden, layers_modulated = tuple(hidden), tuple(layers_modulated)
        check_sizes(in_features=in_features, out_features=out_features, num_tasks=num_tasks)
        check_hidden(hidden)
        if sorted(set(layers_modulated) & set(range(len(hidden)))) != sorted(layers_modulated):
            raise ValueError(
                f"layers_modulated must be different numbers below {len(hidden)}, "
                f"got {layers_modulated}"
            )
        check_choice("input_source", input_source, INPUT_SOURCES)
        self.in_features, self.out_features, self.num_tasks = in_features, out_features, num_tasks
        self.input_source = input_source
        masks = mask_generator(mask_seed)
        competition: Callable[[int], KWinners] | None = None
        if percent_on is not None:
            competition = functools.partial(winners, percent_on=percent_on)
        self.context = (
            context(in_features, num_tasks, winners=competition) if layers_modulated else None
        )
        self.layers, self.activations = nn.ModuleList(), nn.ModuleList()
        self.dendrites = nn.ModuleDict()
        density, width = 1.0, in_features + num_tasks * (input_source == "input_and_one_hot")
        for index, units in enumerate((*hidden, out_features)):
            layer = SparseLinear(
                width,
                units,
                sparsity=weight_sparsity,
                init=weight_init,
                input_density=density,
                generator=masks,
            )
            self.layers.append(layer)
            if index == len(hidden):
                break
            if index in layers_modulated:
                assert self.context is not None
                segments = dendrites(units, self.context.features, generator=masks)
                self.dendrites[str(index)] = segments
            self.activations.append(competition(units) if competition else nn.ReLU())
            density, width = percent_on or 1.0, units
        for module in self.modules():
            if isinstance(module, KWinners) and min(module.k, module.k_inference) < 1:
                raise ValueError(
                    f"percent_on must leave a winner in each layer, got {percent_on} of "
                    f"{module.num_units} units"
                )

    @property
    def stack_dims(self) -> int:
        """1 for a stack of networks, 0 for a single one."""
        return self.linears()[0].weight.dim() - 2

    def linears(self) -> list[SparseLinear]:
        """Return the sparse layers, input side first."""
        return [cast(SparseLinear, layer) for layer in self.layers]

    def forward(self, x: Tensor, task: Tensor, context: Tensor | None = None) -> Tensor:
        """Map x [*, in_features] and task ids [*] int64 to [*, out_features].

        Args:
            x: a three-dimensional x is grouped: [num_tasks, rows, in_features], group t of task t.
            task: the task of each row.
            context: [*, raw_features] in place of what `TaskContext.source` says, before its
                preprocessing. Its leading dimensions may broadcast.

        Raises:
            ValueError: if a grouped x does not have num_tasks groups, or a context is missing.
        """
        last = self.linears()[-1]
        hidden = self.hidden_activations(x, task, context)[-1]
        return head(hidden, last.masked_weight(), last.bias)

    def hidden_activations(
        self, x: Tensor, task: Tensor, context: Tensor | None = None
    ) -> list[Tensor]:
        """Return what each hidden layer gives, [*, hidden[l]]; arguments as in `forward`."""
        stack = self.stack_dims
        if x.dim() - stack == 3 and x.shape[stack] != self.num_tasks:
            got = x.shape[stack]
            raise ValueError(f"a grouped input needs {self.num_tasks} groups, got {got}")
        gates = self.gates(x, task, context)
        if self.input_source == "input_and_one_hot":
            x = append_one_hot(x, task, self.num_tasks)
        layers, hidden = self.linears()[:-1], []
        for index, (layer, activation) in enumerate(zip(layers, self.activations, strict=True)):
            x = layer(x)
            key = str(index)
            if key in gates:
                x = self.dendrites[key](x, gates[key])
            if isinstance(activation, KWinners):
                x = activation(x, learning=layer.weight.requires_grad)
            else:
                x = activation(x)
            hidden.append(x)
        return hidden

    def segment_use(self, x: Tensor, task: Tensor) -> dict[str, SegmentSample]:
        """Return what the segments of each modulated layer do for x [rows, in] of tasks [rows].

        For analysis; by the layer's number as a string.
        """
        if self.context is None:
            return {}
        raw, samples = self.context.raw(x, task), {}
        context = self.context.of_tasks() if raw is None else self.context(raw)
        for key in self.dendrites:
            layer = self._layer(key)
            d = layer.segments(context)
            sample = SegmentSample(d, layer.winners(d), layer.gates(context))
            samples[key] = SegmentSample(*(v[task] for v in sample)) if raw is None else sample
        return samples

    def gates(self, x: Tensor, task: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
        """Return the gates of each modulated layer; arguments as in `forward`.

        Returns:
            By the layer's number as a string, [*, units] or something that broadcasts to it.
        """
        if self.context is None:
            return {}
        raw = self.context.raw(x, task) if context is None else context
        if raw is not None:
            context = self.context(raw)
            return {key: self._layer(key).gates(context) for key in self.dendrites}
        context = self.context.of_tasks()
        tables = {key: self._layer(key).gates(context) for key in self.dendrites}
        stack = self.stack_dims
        if x.dim() - stack == 3:
            return {key: table.unsqueeze(-2) for key, table in tables.items()}
        rows = task[(0,) * stack]  # the same for every network of a stack
        chosen = {key: t.index_select(stack, rows.reshape(-1)) for key, t in tables.items()}
        return {key: gate.view(*x.shape[:-1], gate.shape[-1]) for key, gate in chosen.items()}

    def _layer(self, key: str) -> Dendrites:
        return cast(Dendrites, self.dendrites[key])

    def end_iteration(self) -> None:
        """Let the boost strength of every k-winners layer decay; to be called between updates.

        Raises:
            FloatingPointError: if a boosted layer's duty cycle is not finite.
        """
        for module in self.modules():
            if isinstance(module, KWinners):
                module.end_iteration()
