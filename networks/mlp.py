"""The shared multilayer perceptron of MT-SAC, and its weight initialisers.

MT-SAC: Yu et al., "Meta-World: A Benchmark and Evaluation for Multi-Task and Meta Reinforcement
Learning", 2019. Initialisers: Yang et al., "Multi-Task Reinforcement Learning with Soft
Modularization", 2020.
"""

import math
from collections.abc import Sequence
from typing import cast

import gin
from torch import Tensor, nn

from networks.affine import affine, head
from networks.arguments import check_choice, check_hidden, check_sizes
from networks.one_hot import append_one_hot

INITS = ("soft_module", "fan_in", "xavier", "torch")


def init_hidden_(layer: nn.Linear, init: str = "soft_module") -> None:
    """Draw a hidden layer's weight from U(-b, b) and set its bias to 0.1.

    Args:
        layer: the layer to fill.
        init: `soft_module` takes b = 1 / sqrt(out_features), as the published Soft Modularization
            code does; `fan_in` takes b = 1 / sqrt(in_features).
    """
    fan = layer.out_features if init == "soft_module" else layer.in_features
    bound = 1.0 / math.sqrt(fan)
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.constant_(layer.bias, 0.1)


def init_last_(layer: nn.Linear, bound: float = 0.003) -> None:
    """Draw an output layer's weight and bias from U(-bound, bound)."""
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.uniform_(layer.bias, -bound, bound)


def init_layers_(layers: Sequence[nn.Linear], init: str = "soft_module") -> None:
    """Fill the layers of a perceptron, the output layer last.

    Args:
        layers: input side first.
        init: `soft_module` or `fan_in`, see `init_hidden_`, with a small output layer; `xavier`,
            Glorot's uniform weights and zero biases everywhere, as in MTRL and garage; `torch`
            leaves every layer as `nn.Linear` makes it.

    Raises:
        ValueError: if `init` is unknown.
    """
    check_choice("init", init, INITS)
    for index, layer in enumerate(layers):
        if init == "xavier":
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif init != "torch" and index + 1 == len(layers):
            init_last_(layer)
        elif init != "torch":
            init_hidden_(layer, init)


@gin.configurable
class MLP(nn.Module):
    """A multilayer perceptron that all tasks share, with the task one-hot as its last inputs.

    y = W_L relu(... relu(W_0 [x, onehot(task)] + c_0) ...) + c_L

    Without the one-hot it cannot tell tasks apart, as in the MT-SAC of MTRL.

    A trunk whose weights and buffers were given a leading dimension is that many networks, and
    takes and returns that leading dimension (`Critic` makes such stacks; `stackable` says so).
    """

    stackable = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_tasks: int,
        *,
        hidden: Sequence[int] = (400, 400, 400),
        init: str = "soft_module",
        one_hot: bool = True,
    ) -> None:
        """Build and initialise the layers.

        Args:
            in_features: width of the input without the task one-hot.
            out_features: width of the output.
            num_tasks: number of tasks, the width of the one-hot.
            hidden: widths of the hidden layers, each followed by a ReLU.
            init: `soft_module`, `fan_in`, `xavier` or `torch`, see `init_layers_`.
            one_hot: whether the task one-hot is appended to the input.

        Raises:
            ValueError: if a width is below 1, `hidden` is empty or `init` is unknown.
        """
        super().__init__()
        hidden = tuple(hidden)
        check_sizes(in_features=in_features, out_features=out_features, num_tasks=num_tasks)
        check_hidden(hidden)
        self.in_features = in_features
        self.out_features = out_features
        self.num_tasks = num_tasks
        self.one_hot = one_hot
        sizes = (in_features + (num_tasks if one_hot else 0), *hidden, out_features)
        layers = [nn.Linear(wide, tall) for wide, tall in zip(sizes[:-1], sizes[1:], strict=True)]
        init_layers_(layers, init)
        self.layers = nn.ModuleList(layers)

    @property
    def stack_dims(self) -> int:
        """1 for a stack of networks, 0 for a single one."""
        return self.linears()[0].weight.dim() - 2

    def linears(self) -> list[nn.Linear]:
        """Return the linear layers, input side first."""
        return [cast(nn.Linear, layer) for layer in self.layers]

    def join(self, x: Tensor, task: Tensor) -> Tensor:
        """Append the task one-hot: x [*, in_features], task [*] -> [*, in_features + num_tasks]."""
        return append_one_hot(x, task, self.num_tasks) if self.one_hot else x

    def hidden_activations(self, x: Tensor, task: Tensor) -> list[Tensor]:
        """Return the activations of every hidden layer, [*, hidden[l]]."""
        seen = [self.join(x, task)]
        for layer in self.linears()[:-1]:
            seen.append(affine(seen[-1], layer.weight, layer.bias, relu=True))
        return seen[1:]

    def features(self, x: Tensor, task: Tensor) -> Tensor:
        """Return the last hidden activations, [*, hidden[-1]]."""
        return self.hidden_activations(x, task)[-1]

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Map x [*, in_features] and task ids [*] int64 to [*, out_features]."""
        last = self.linears()[-1]
        return head(self.features(x, task), last.weight, last.bias)
