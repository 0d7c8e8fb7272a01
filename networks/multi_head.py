"""The multi-head perceptron of MTMH-SAC: a shared body and one output head per task.

Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement Learning",
2020; layer order of the heads as in the code of Soft Modularization (Yang et al. 2020).
"""

from collections.abc import Sequence

import gin
import torch
from torch import Tensor

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
        if out_features < 1:
            raise ValueError(f"out_features must be at least 1, got {out_features}")
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
        last = self.linears()[-1]
        if features.dim() == 3:
            if features.shape[0] != self.num_tasks:
                raise ValueError(
                    f"a grouped input needs {self.num_tasks} groups, got {features.shape[0]}"
                )
            weight = last.weight.view(self.out_features, self.num_tasks, -1)
            bias = last.bias.view(self.out_features, self.num_tasks)
            return torch.baddbmm(bias.t().unsqueeze(1), features, weight.permute(1, 2, 0))
        heads = last(features).reshape(*x.shape[:-1], self.out_features, self.num_tasks)
        index = task[..., None, None].expand(*heads.shape[:-1], 1)
        y: Tensor = heads.gather(-1, index).squeeze(-1)
        return y
