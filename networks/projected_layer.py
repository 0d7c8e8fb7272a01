"""One layer of PTSL: a shared affine map plus a low-rank correction that belongs to the task.

Somerville Roberts and Di, "Projected Task-Specific Layers for Multi-Task Reinforcement Learning",
2024.
"""

import torch
from torch import Tensor, nn

from networks.affine import affine, head


class ProjectedLayer(nn.Module):
    """A shared linear layer with a matrix and a bias for each task beside it.

        z   = D x                     D  [rank, in], no bias
        r   = W[task] z + b[task]     W  [num_tasks, q, p],  b [num_tasks, q]
        out = S x + s + U r           U  [out, rank], no bias;  S [out, in], s [out]

    Matrices lie as in `nn.Linear`, [out, in]. A projection that would cost more parameters than it
    saves is left out: without D p = in, without U q = out, otherwise p = q = rank. One that is
    shared belongs to the network, which hands it in; it is used in any case.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        *,
        rank: int,
        shared_down: bool = False,
        shared_up: bool = False,
        last: bool = False,
    ) -> None:
        """Choose the projections and make the parameters; `initialise` fills them.

        Args:
            in_features: width of the input.
            out_features: width of the output.
            num_tasks: number of tasks.
            rank: width of the projected space.
            shared_down: D is handed in, the layer owns none.
            shared_up: U is handed in, the layer owns none.
            last: without ReLU, and computed in single precision under autocast.
        """
        super().__init__()
        self.in_features, self.out_features, self.num_tasks = in_features, out_features, num_tasks
        self.shared_down, self.shared_up, self.last = shared_down, shared_up, last
        n, d = num_tasks, rank
        own_down = not shared_down and (
            in_features * d + n * (d + 1) * d <= n * (in_features + 1) * d
        )
        p = d if shared_down or own_down else in_features
        own_up = not shared_up and (
            out_features * d + n * (p + 1) * d <= n * (p + 1) * out_features
        )
        q = d if shared_up or own_up else out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.task_weight = nn.Parameter(torch.empty(num_tasks, q, p))
        self.task_bias = nn.Parameter(torch.empty(num_tasks, q))
        self.down = nn.Parameter(torch.empty(rank, in_features)) if own_down else None
        self.up = nn.Parameter(torch.empty(out_features, rank)) if own_up else None

    @torch.no_grad()
    def initialise(self, init: str) -> None:
        """Fill the layer's own parameters: S Xavier uniform, s = b = 0, and by `init`:

        - `lora`: D Xavier uniform and the last factor of the correction zero, so that it starts as
          nothing: U = 0 and W ~ N(0, 1/p), or W = 0 where there is no U.
        - `reference`: D = U = 0 and W ~ N(0, 1).
        """
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.task_bias)
        for projection in (self.down, self.up):
            if projection is not None:
                nn.init.zeros_(projection)
        if init == "reference":
            nn.init.normal_(self.task_weight)
            return
        if self.down is not None:
            nn.init.xavier_uniform_(self.down)
        if self.shared_up or self.up is not None:
            nn.init.normal_(self.task_weight, std=self.task_weight.shape[-1] ** -0.5)
        else:
            nn.init.zeros_(self.task_weight)

    def correct(self, z: Tensor, task: Tensor | None) -> Tensor:
        """Return r = W[task] z + b[task], [*stack, rows, q].

        Args:
            z: [*stack, rows, p].
            task: [*stack, rows] int64; None if z holds equal groups, one of each task in turn.
        """
        stack = self.weight.dim() - 2
        product = head if self.last else affine
        if task is None:
            groups = z.unflatten(stack, (self.num_tasks, -1))
            return product(groups, self.task_weight, self.task_bias).flatten(stack, stack + 1)
        # All tasks' matrices as one product, then a choice: cheaper than a matrix for each row,
        # whose gradient would have to be added up row by row.
        weight, bias = self.task_weight.flatten(stack, stack + 1), self.task_bias.flatten(stack)
        every: Tensor = product(z, weight, bias).unflatten(-1, (self.num_tasks, -1))
        index = task[..., None, None].expand(*task.shape, 1, every.shape[-1])
        return every.gather(-2, index).squeeze(-2)

    def combine(self, x: Tensor, r: Tensor, up: Tensor | None) -> Tensor:
        """Return S x + s + U r, its positive part unless this is the last layer.

        Args:
            x: [*stack, rows, in].
            r: [*stack, rows, q].
            up: U [*stack, out, rank], or None.
        """
        weight, bias = self.weight, self.bias
        if self.last:
            if up is None:
                return head(x, weight, bias) + r
            # Outputs wider than the rank: one product, for `head` to keep the sum's precision.
            return head(torch.cat((x, r), -1), torch.cat((weight, up), -1), bias)
        y = affine(x, weight, bias)
        if up is None:
            return (y + r).relu_()
        add_product = torch.addmm if y.dim() == 2 else torch.baddbmm
        product: Tensor = add_product(y, r, up.mT)
        return product.relu_()
