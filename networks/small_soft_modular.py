"""The routed modules of MTRL: a small variant of Soft Modularization behind a state encoder.

Sodhani and Zhang, "MTRL: Multi Task RL Algorithms", 2021, a library; after Yang et al., "Multi-Task
Reinforcement Learning with Soft Modularization", 2020.
"""

from collections.abc import Iterable
from typing import cast

import gin
import torch
from torch import Tensor, nn

from networks.affine import affine
from networks.arguments import check_sizes
from networks.feed_forward import init_xavier_
from networks.module_bank import ModuleBank, mixed


@gin.configurable
class SmallSoftModularMLP(nn.Module):
    """Layers of parallel modules whose mixing reads the product of features and task code.

    For x = [f, c, action], with features f and code c of one width, L layers of n modules:

        f    = R [f, action]                            (where there is an action: in a critic)
        e    = E (f * c)
        p_1  = D_1 relu(e),  p_l = D_l relu(U_l p_(l-1) * e)
        w_l  = softmax(p_l)                             [n, n], over the last index
        m_1j = relu(M_1j f)
        m_lj = relu(M_lj sum_i w_(l-1)ji m_(l-1)i)      (no relu in layer L)
        y    = mean_j m_Lj

    Every map has a bias. The task enters by its code alone; task ids are not read.

    It differs from the original, `networks.soft_modular.SoftModularMLP`:
        1. It has no embeddings of its own: features and code come from an encoder.
        2. Routing reads the logits of the layer before, not the weights of all earlier ones.
        3. The relu stands on the output of each module, before mixing, as in the paper.
        4. The last modules are averaged, and are the output; there is no weighting and no head.
        5. Xavier weights, zero biases.
        6. The library fixes num_layers at 2.
    """

    stackable = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        *,
        features: int = 50,
        width: int = 326,
        num_modules: int = 4,
        num_layers: int = 2,
    ) -> None:
        """Build and initialise the layers.

        Args:
            in_features: width of the input, features, code and action together.
            out_features: width of the output.
            num_tasks: number of tasks.
            features: width of the features, and of the code.
            width: width of a module's output, except in the last layer, and of the routing.
            num_modules: modules of a layer.
            num_layers: layers of modules.

        Raises:
            ValueError: if a size is below 1, `num_layers` below 2, or `in_features` too small to
                hold features and code.
        """
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features, num_tasks=num_tasks)
        check_sizes(features=features, width=width, num_modules=num_modules)
        if num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {num_layers}")
        if in_features < 2 * features:
            raise ValueError(
                f"in_features must hold features and code, {2 * features}, got {in_features}; give "
                "it a state encoder, and both the same SOFT_FEATURES"
            )
        self.in_features = in_features
        self.out_features = out_features
        self.num_modules = num_modules
        action_dim = in_features - 2 * features
        self.parts = (features, features, action_dim)
        self.projection = _xavier(features + action_dim, features) if action_dim else None
        self.entry = _xavier(features, width)
        routes = num_modules**2
        self.routers = nn.ModuleList(_xavier(width, routes) for _ in range(num_layers - 1))
        self.conditions = nn.ModuleList(_xavier(routes, width) for _ in range(num_layers - 2))
        widths = [features, *[width] * (num_layers - 1), out_features]
        self.banks = nn.ModuleList(
            ModuleBank(num_modules, wide, tall, initialise=_fill)
            for wide, tall in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Map x [*, in_features], features, code and action, to [*, out_features].

        Task ids [*] are not read.
        """
        features, code = self._parts(x)
        first, *banks, last = cast(Iterable[ModuleBank], self.banks)
        *routes, last_route = self._weights(features, code)
        modules = first.shared(features, relu=True)  # difference 3
        for route, bank in zip(routes, banks, strict=True):
            modules = bank(mixed(route, modules), relu=True)
        return last.mean_of_mixed(last_route, modules)  # difference 4

    def routing(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Return the weights between layers.

        Args:
            x: [*, in_features].
            task: [*], not read.

        Returns:
            num_layers - 1 tensors [*, num_modules, num_modules], target modules first; they sum
            to 1 over their last dimension.
        """
        return self._weights(*self._parts(x))

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features, with the action in them where there is one, and code, [*, features] each."""
        features, code, action = x.split(self.parts, -1)
        if self.projection is not None:
            joined = torch.cat((features, action), -1)
            features = affine(joined, self.projection.weight, self.projection.bias)
        return features, code

    def _weights(self, features: Tensor, code: Tensor) -> list[Tensor]:
        first, *others = cast(Iterable[nn.Linear], self.routers)
        conditions = cast(Iterable[nn.Linear], self.conditions)
        entry = affine(features * code, self.entry.weight, self.entry.bias)
        logits = [affine(torch.relu(entry), first.weight, first.bias)]
        for condition, router in zip(conditions, others, strict=True):
            seen = affine(logits[-1], condition.weight, condition.bias)  # difference 2
            logits.append(affine(torch.relu(seen * entry), router.weight, router.bias))
        size = (self.num_modules, self.num_modules)
        return [logit.unflatten(-1, size).softmax(-1) for logit in logits]


def _fill(layer: nn.Linear) -> None:
    init_xavier_(layer.weight, layer.bias)


def _xavier(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    _fill(layer)
    return layer
