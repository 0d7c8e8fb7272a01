"""PTSL: a shared perceptron in which every layer gets a low-rank correction of the task's own.

Somerville Roberts and Di, "Projected Task-Specific Layers for Multi-Task Reinforcement Learning",
2024. Projected task layers come from Stickland and Murray, "BERT and PALs", 2019.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import gin
import torch
from torch import Tensor, nn

from networks.arguments import check_choice, check_hidden, check_sizes
from networks.projected_layer import ProjectedLayer

PROJECTIONS = ("shared", "independent")
RESIDUALS = ("none", "sum", "linear", "project")
INITS = ("lora", "reference")


class Correction(NamedTuple):
    """What a layer leaves to the residual of the next: z = D x, and r, the task matrix's result."""

    z: Tensor
    r: Tensor


@gin.configurable
class ProjectedMLP(nn.Module):
    """A perceptron of `ProjectedLayer`s; the input holds no task one-hot, tasks choose W and b.

        h_l = relu(S_l h_(l-1) + s_l + U_l r_l),   r_l = W_l[task] u_l + b_l[task],
        z_l = D_l h_(l-1),   u_1 = z_1,   and for l > 1, by the residual:

        none     u_l = z_l
        sum      u_l = z_l + z_(l-1) + r_(l-1)
        linear   u_l = a_1 z_l + a_2 z_(l-1) + a_3 r_(l-1)
        project  u_l = R [z_l, z_(l-1), r_(l-1)]

    The last layer has no ReLU, and no U unless it is wide. With a shared projection one U serves
    all hidden layers and one D all layers but the first, which has its own.

    Differences from the published code:

    1. It starts with D = U = R = 0 (`init = "reference"`), where with independent projections or
       the residual `project` every correction but the last layer's keeps a gradient of zero. With
       `lora` the corrections start as nothing, and all of them learn.
    2. With `lora` R starts as [I, 0, 0]: as if there were no residual.

    A network whose parameters were given a leading dimension is that many networks, as `MLP`.
    """

    stackable = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        *,
        hidden: Sequence[int] = (326, 326, 326),
        rank: int = 50,
        projection: str = "shared",
        residual: str = "none",
        init: str = "lora",
    ) -> None:
        """Build and initialise the layers.

        Args:
            in_features: width of the input.
            out_features: width of the output.
            num_tasks: number of tasks.
            hidden: widths of the hidden layers; equal ones if the projection is shared.
            rank: width of the projected space, d in the paper.
            projection: `shared` or `independent`.
            residual: `none`, `sum`, `linear` or `project`.
            init: `lora` or `reference`, see `ProjectedLayer.initialise`.

        Raises:
            ValueError: if a size is below 1, an option is unknown, the widths are not equal though
                they share a projection, or a residual meets a layer that is not projected.
        """
        super().__init__()
        hidden = tuple(hidden)
        check_sizes(in_features=in_features, out_features=out_features, num_tasks=num_tasks)
        check_sizes(rank=rank)
        check_hidden(hidden)
        options = (("projection", projection, PROJECTIONS), ("residual", residual, RESIDUALS))
        for name, value, known in (*options, ("init", init, INITS)):
            check_choice(name, value, known)
        shared = projection == "shared"
        if shared and len(set(hidden)) > 1:
            raise ValueError(
                f"hidden must be equal widths where the projection is shared, got {hidden}; "
                "make them equal or set projection to 'independent'"
            )
        self.in_features, self.out_features, self.num_tasks = in_features, out_features, num_tasks
        self.rank, self.projection, self.residual = rank, projection, residual
        sizes = (in_features, *hidden, out_features)
        count = len(hidden) + 1
        layers = [
            ProjectedLayer(
                sizes[index],
                sizes[index + 1],
                num_tasks,
                rank=rank,
                shared_down=shared and index > 0,
                shared_up=shared and index < count - 1,
                last=index == count - 1,
            )
            for index in range(count)
        ]
        if residual != "none":
            self._check_projected(layers)
        self.layers = nn.ModuleList(layers)
        self.down = nn.Parameter(torch.zeros(rank, hidden[0])) if shared else None
        self.up = nn.Parameter(torch.zeros(hidden[0], rank)) if shared else None
        mixing = {"linear": torch.full((3,), 1.0 / 3.0), "project": torch.zeros(rank, 3 * rank)}
        self.mixing = nn.Parameter(mixing[residual]) if residual in mixing else None
        self._initialise(init)

    def _check_projected(self, layers: Sequence[ProjectedLayer]) -> None:
        """Raise a ValueError that names the first layer with a z or an r not `rank` wide."""
        for number, layer in enumerate(layers, 1):
            r_width, z_width = layer.task_weight.shape[1:]
            if z_width != self.rank or (r_width != self.rank and not layer.last):
                rank = "lower rank or " * (self.num_tasks > 1)
                raise ValueError(
                    f"residual {self.residual!r} needs every layer projected, but layer {number}, "
                    f"{layer.in_features} to {layer.out_features} wide, saves nothing by it with "
                    f"num_tasks = {self.num_tasks} and rank = {self.rank}; {rank}set residual to "
                    "'none'"
                )

    @torch.no_grad()
    def _initialise(self, init: str) -> None:
        """Fill all parameters; U, D and R are zero until here."""
        for layer in self.projected_layers():
            layer.initialise(init)
        if init == "lora":
            if self.down is not None:
                nn.init.xavier_uniform_(self.down)
            if self.mixing is not None and self.residual == "project":
                self.mixing[:, : self.rank].fill_diagonal_(1.0)

    @property
    def stack_dims(self) -> int:
        """1 for a stack of networks, 0 for a single one."""
        return self.projected_layers()[0].weight.dim() - 2

    def projected_layers(self) -> list[ProjectedLayer]:
        """Return the layers, input side first."""
        return [cast(ProjectedLayer, layer) for layer in self.layers]

    def downs(self) -> list[nn.Parameter | None]:
        """Return each layer's D; shared ones are the same object."""
        return [self.down if layer.shared_down else layer.down for layer in self.projected_layers()]

    def ups(self) -> list[nn.Parameter | None]:
        """Return each layer's U; shared ones are the same object."""
        return [self.up if layer.shared_up else layer.up for layer in self.projected_layers()]

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Map x to [*, out_features].

        Args:
            x: [num_tasks, rows, in_features], group t of task t; or [*, in_features] with at most
                one leading dimension, each row of the task it names.
            task: [num_tasks, rows] or [*], int64.

        Raises:
            ValueError: if x has more dimensions, or a grouped x has not num_tasks groups.
        """
        stack = self.stack_dims
        dims, groups = x.dim() - stack, x.shape[stack]
        if dims > 3 or (dims == 3 and groups != self.num_tasks):
            got = tuple(x.shape[stack:])
            raise ValueError(f"x must be [{self.num_tasks}, rows, in] or [rows, in], got {got}")
        lead = x.shape[:-1]
        h = x.reshape(*lead[:stack], -1, x.shape[-1])
        rows = None if dims == 3 else task.reshape(h.shape[:-1])
        before: Correction | None = None
        for layer, down, up in zip(self.projected_layers(), self.downs(), self.ups(), strict=True):
            z = h if down is None else torch.matmul(h, down.mT)
            r = layer.correct(z if before is None else self._join(z, before), rows)
            h = layer.combine(h, r, up)
            before = Correction(z, r)
        return h.view(*lead, self.out_features)

    def _join(self, z: Tensor, before: Correction) -> Tensor:
        """Return the input of the task matrices: z and, by the residual, what went before."""
        if self.residual == "none":
            return z
        if self.residual == "sum":
            return z + before.z + before.r
        assert self.mixing is not None
        if self.residual == "project":
            return torch.matmul(torch.cat((z, *before), -1), self.mixing.mT)
        first, second, third = self.mixing[..., None, None].unbind(-3)
        return first * z + second * before.z + third * before.r
