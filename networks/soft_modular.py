"""The routed modules of Soft Modularization.

Yang, Xu, Wu, Wang, "Multi-Task Reinforcement Learning with Soft Modularization", NeurIPS 2020, as
its published code computes it.
"""

from collections.abc import Iterable
from typing import cast

import gin
import torch
from torch import Tensor, nn

from networks.affine import affine, head
from networks.arguments import check_sizes
from networks.mlp import init_hidden_, init_last_
from networks.module_bank import ModuleBank, mixed
from networks.one_hot import one_hot


@gin.configurable
class SoftModularMLP(nn.Module):
    """Layers of parallel modules, mixed from layer to layer by weights of state and task.

    With L layers of n modules, z the task one-hot and [.] for joining vectors:

        h    = W_2 relu(W_1 x)                                 state, not yet activated
        g    = G_2 relu(G_1 relu(h * W_z z))                   state and task
        w_1  = softmax(P_1 relu(g))                            [n, n], over the last index
        w_l  = softmax(P_l relu(g * U_l [w_1, ..., w_(l-1)]))  [n, n]; the last, v = w_L, is [n]
        m_1j = M_1j relu(h)
        m_lj = M_lj relu(sum_i w_(l-1)ji m_(l-1)i)
        y    = H relu(sum_j v_j m_Lj)

    Every map has a bias. The task enters by z alone, and x holds no one-hot. The published shallow
    form is 2 layers of 2 modules of width 256, the deep one 4 of 4 of width 128.

    The code, followed here, differs from the paper:
        1. Routing sees the weights of all earlier layers, not only those of the one before.
        2. The relu comes after mixing, not on the output of each module.
        3. The last modules are weighted by v; the paper adds them up.
        4. The two layers G between embedding and routing are not in the paper.
    """

    stackable = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        *,
        num_layers: int = 2,
        num_modules: int = 2,
        module_width: int = 256,
        embedding_width: int = 400,
        gating_width: int = 256,
    ) -> None:
        """Build and initialise the layers.

        Args:
            in_features: width of the input without the task one-hot.
            out_features: width of the output.
            num_tasks: number of tasks.
            num_layers: layers of modules.
            num_modules: modules of a layer.
            module_width: width of a module's output.
            embedding_width: width of the embeddings of state and task.
            gating_width: width of what the routing reads.

        Raises:
            ValueError: if a size is below 1 or `num_layers` below 2.
        """
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features, num_tasks=num_tasks)
        check_sizes(num_modules=num_modules, module_width=module_width)
        check_sizes(embedding_width=embedding_width, gating_width=gating_width)
        if num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {num_layers}")
        self.in_features = in_features
        self.out_features = out_features
        self.num_tasks = num_tasks
        self.num_modules = num_modules
        self.state_in = _hidden(in_features, embedding_width)
        self.state_out = _hidden(embedding_width, embedding_width)
        self.task = _hidden(num_tasks, embedding_width)
        self.gate_in = _hidden(embedding_width, gating_width)
        self.gate_out = _hidden(gating_width, gating_width)
        routes = num_modules**2
        self.conditions = nn.ModuleList(
            _hidden(earlier * routes, gating_width) for earlier in range(1, num_layers)
        )
        self.routers = nn.ModuleList(_last(gating_width, routes) for _ in range(num_layers - 1))
        self.routers.append(_last(gating_width, num_modules))
        widths = [embedding_width] + [module_width] * (num_layers - 1)
        self.banks = nn.ModuleList(
            ModuleBank(num_modules, width, module_width, initialise=init_hidden_)
            for width in widths
        )
        self.last = _last(module_width, out_features)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Map x [*, in_features] and task ids [*] int64 to [*, out_features]."""
        state = self._state(x)
        *routes, mixture = self._weights(state, task)
        first, *banks = cast(Iterable[ModuleBank], self.banks)
        modules = first.shared(torch.relu(state))
        for route, bank in zip(routes, banks, strict=True):
            modules = bank(torch.relu(mixed(route, modules)))  # difference 2
        y = torch.relu(mixed(mixture.unsqueeze(-2), modules).squeeze(-2))  # difference 3
        return head(y, self.last.weight, self.last.bias)

    def routing(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Return the weights between layers and, last, those of the output.

        Args:
            x: [*, in_features].
            task: [*], int64.

        Returns:
            num_layers - 1 tensors [*, num_modules, num_modules], target modules first, and one
            [*, num_modules]. All sum to 1 over their last dimension.
        """
        return self._weights(self._state(x), task)

    def _state(self, x: Tensor) -> Tensor:
        x = affine(x, self.state_in.weight, self.state_in.bias, relu=True)
        return affine(x, self.state_out.weight, self.state_out.bias)

    def _weights(self, state: Tensor, task: Tensor) -> list[Tensor]:
        """`routing` of the state's embedding [*, embedding_width]."""
        identity = one_hot(task, self.num_tasks, state.dtype)
        embedding = affine(identity, self.task.weight, self.task.bias)
        gate = torch.relu(state * embedding)
        gate = affine(gate, self.gate_in.weight, self.gate_in.bias, relu=True)
        gate = affine(gate, self.gate_out.weight, self.gate_out.bias)
        first, *others = cast(Iterable[nn.Linear], self.routers)
        conditions = cast(Iterable[nn.Linear], self.conditions)
        size = (self.num_modules, self.num_modules)
        weights: list[Tensor] = []
        logits = affine(torch.relu(gate), first.weight, first.bias)
        for condition, router in zip(conditions, others, strict=True):
            weights.append(logits.unflatten(-1, size).softmax(-1))
            earlier = torch.cat([weight.flatten(-2) for weight in weights], -1)  # difference 1
            seen = affine(earlier, condition.weight, condition.bias)
            logits = affine(torch.relu(gate * seen), router.weight, router.bias)
        weights.append(logits.softmax(-1))
        return weights


def _hidden(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    init_hidden_(layer)
    return layer


def _last(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    init_last_(layer)
    return layer
