"""What the dendrites of a network are told about the task."""

from collections.abc import Callable

import gin
import torch
from torch import Tensor, nn

from networks.arguments import check_choice, check_sizes
from networks.k_winners import KWinners
from networks.one_hot import append_one_hot
from networks.sparse import SparseLinear

SOURCES = ("one_hot", "input_and_one_hot", "prototype")
PREPROCESSES = ("none", "relu", "k_winners")


@gin.configurable
class TaskContext(nn.Module):
    """The context c of the dendrites, from the input x and the task t of a row.

        one_hot             c = onehot(t), the published choice
        input_and_one_hot   c = [x, onehot(t)]; for a critic x holds the action, too
        prototype           c is handed to the network, as wide as x: the mean input of a task

    `preprocess` makes it relu(A c + b), or the k winners of A c + b, with a dense A; `none` leaves
    it as it is.

    The contexts of `one_hot` are as many as there are tasks, so they are computed once per task
    instead of once per row. A k-winners layer among them then counts tasks in its duty cycle.
    """

    def __init__(
        self,
        in_features: int,
        num_tasks: int,
        *,
        source: str = "one_hot",
        preprocess: str = "none",
        width: int = 64,
        winners: Callable[[int], KWinners] | None = None,
    ) -> None:
        """Build the preprocessing.

        Args:
            in_features: width of x.
            num_tasks: number of tasks.
            source: where the context comes from.
            preprocess: what becomes of it.
            width: of the preprocessed context.
            winners: factory of the k-winners layer; `DendriticMLP` gives that of its layers.

        Raises:
            ValueError: if a size is below 1, a name is unknown or `winners` is missing.
        """
        super().__init__()
        check_sizes(in_features=in_features, num_tasks=num_tasks, width=width)
        check_choice("source", source, SOURCES)
        check_choice("preprocess", preprocess, PREPROCESSES)
        if preprocess == "k_winners" and winners is None:
            raise ValueError("preprocess must not be 'k_winners' in a network without k-winners")
        self.num_tasks, self.source = num_tasks, source
        self.needs_context = source == "prototype"
        widths = (num_tasks, in_features + num_tasks, in_features)
        self.raw_features = widths[SOURCES.index(source)]
        self.features = self.raw_features if preprocess == "none" else width
        self.linear: SparseLinear | None = None
        self.activation: KWinners | None = None
        if preprocess != "none":
            self.linear = SparseLinear(self.raw_features, width, init="kaiming")
        if preprocess == "k_winners" and winners is not None:
            self.activation = winners(width)

    def raw(self, x: Tensor, task: Tensor) -> Tensor | None:
        """Return the context before its preprocessing, [*, raw_features].

        None for `one_hot`, whose contexts are `of_tasks`.

        Raises:
            ValueError: for `prototype`, which only the caller can know.
        """
        if self.needs_context:
            raise ValueError("context must be given where TaskContext.source is 'prototype'")
        if self.source == "one_hot":
            return None
        return append_one_hot(x, task, self.num_tasks)

    def of_tasks(self) -> Tensor | None:
        """Return the contexts of `one_hot`, [*stack, num_tasks, features]; None if raw."""
        if self.linear is None:
            return None
        stack = self.linear.bias.shape[:-1]
        identity = torch.eye(
            self.num_tasks, dtype=self.linear.weight.dtype, device=self.linear.weight.device
        )
        return self.forward(identity.expand(*stack, -1, -1))

    def forward(self, raw: Tensor) -> Tensor:
        """Preprocess contexts: [*stack, *, raw_features] -> [*stack, *, features]."""
        if self.linear is None:
            return raw
        y: Tensor = self.linear(raw)
        if self.activation is None:
            return y.relu()
        winners: Tensor = self.activation(y, learning=self.linear.weight.requires_grad)
        return winners
