"""The multi-head perceptron of MTMH-SAC: a shared body and one output head per task.

Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning",
2019; layer order of the heads as in the code of Soft Modularization (Yang et al. 2020).
"""

from collections.abc import Sequence

import gin
from torch import Tensor

from networks.affine import head
from networks.arguments import check_sizes
from networks.mlp import MLP


@gin.configurable
class MultiHeadMLP(MLP):
    """An MLP whose last layer holds num_tasks heads; a row reads the head of its task.

    Output o of head h is unit o * num_tasks + h. The task one-hot stays in the input, so the task
    enters twice.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        *,
        hidden: Sequence[int] = (400, 400, 400),
        init: str = "soft_module",
    ) -> None:
        """Build the body and the heads; arguments and errors as in `MLP`."""
        check_sizes(out_features=out_features)
        super().__init__(
            in_features, out_features * max(num_tasks, 1), num_tasks, hidden=hidden, init=init
        )
        self.out_features = out_features

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Map x [*, in_features] and task ids [*] int64 to [*, out_features].

        A three-dimensional x is grouped: [num_tasks, rows, in_features] with row t of task t.

        Raises:
            ValueError: if a grouped x does not have num_tasks groups.
        """
        features = self.features(x, task)
        last, stack = self.linears()[-1], self.stack_dims
        if features.dim() - stack == 3:
            groups = features.shape[stack]
            if groups != self.num_tasks:
                raise ValueError(f"a grouped input needs {self.num_tasks} groups, got {groups}")
            heads = (self.out_features, self.num_tasks)
            weight = last.weight.unflatten(stack, heads).transpose(stack, stack + 1)
            bias = last.bias.unflatten(stack, heads).transpose(stack, stack + 1)
            return head(features, weight, bias)
        y = head(features, last.weight, last.bias)
        y = y.view(*y.shape[:-1], self.out_features, self.num_tasks)
        index = task[..., None, None].expand(*y.shape[:-1], 1)
        return y.gather(-1, index).squeeze(-1)
