"""What reads a window of transitions: into one vector of features, or one for each step.

The networks of TIGR and CEMRL, see `networks.mixture`. A backbone is built as `backbone(width,
length, features)` and called with rows [batch, length, width], padded on the left with zeros, and
with a mask [batch, length] bool, False on padding, or None: then padding is read like any other
transition, as in the published code. It returns [batch, length, features] if it says `per_step =
True`, and [batch, features] otherwise.
"""

import math

import gin
import torch
from torch import Tensor, nn

from networks.arguments import check_sizes
from networks.feed_forward import FeedForward


@gin.configurable
class GRUBackbone(nn.Module):
    """relu(h_T) of a gated recurrent unit that starts at h_0 = 0 and reads the oldest step first.

    With a mask it starts at the first transition, and is zero if there is none.
    """

    per_step = False

    def __init__(self, width: int, length: int, features: int) -> None:
        """Build the unit, initialised as `nn.GRU` does.

        Args:
            width: width of a transition.
            length: steps of a window; the unit is the same for any.
            features: width of h.

        Raises:
            ValueError: if a size is below 1.
        """
        super().__init__()
        check_sizes(width=width, length=length, features=features)
        self.gru = nn.GRU(width, features, batch_first=True)

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Return [batch, features]."""
        if mask is None:
            last: Tensor = self.gru(rows)[1]
            return torch.relu(last.squeeze(0))
        # Real steps first: the unit never sees padding before them.
        order = (~mask).long().argsort(dim=1, stable=True).unsqueeze(-1)
        outputs: Tensor = self.gru(rows.gather(1, order.expand_as(rows)))[0]
        number = mask.sum(1).view(-1, 1, 1)
        index = (number - 1).clamp(min=0).expand(-1, 1, outputs.shape[-1])
        last = outputs.gather(1, index) * (number > 0)
        return torch.relu(last.squeeze(1))


@gin.configurable
class PerceptronBackbone(nn.Module):
    """Three linear layers with ReLUs between them, of each step or of the whole window at once.

    TIGR's convolution, whose kernel and stride are one transition, followed by one of kernel 1 and
    a linear layer, is this network of each step with `init = "torch"`.
    """

    def __init__(
        self,
        width: int,
        length: int,
        features: int,
        *,
        per_step: bool = True,
        init: str = "soft_module",
    ) -> None:
        """Build and initialise the layers.

        Args:
            width: width of a transition.
            length: steps of a window.
            features: width of the hidden layers and of the output.
            per_step: one network for every step; else one for the window as a single vector.
            init: as in `networks.mlp.init_layers_`.

        Raises:
            ValueError: if a size is below 1 or `init` is unknown.
        """
        super().__init__()
        check_sizes(width=width, length=length, features=features)
        self.per_step = per_step
        inputs = width if per_step else length * width
        self.layers = FeedForward((inputs, features, features, features), init=init)

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Return [batch, length, features] or [batch, features]; padding is read as zeros."""
        features: Tensor = self.layers(rows if self.per_step else rows.flatten(-2))
        return features


@gin.configurable
class TransformerBackbone(nn.Module):
    """Self-attention of one head over the window, in both directions, then a linear layer.

    x_t + p_t, p_t[2i] = sin(t w_i), p_t[2i + 1] = cos(t w_i), w_i = 10000^(-2i / width)

    As deep as the width of a transition; a masked step is attended to by none.
    """

    per_step = True
    positions: Tensor

    def __init__(
        self,
        width: int,
        length: int,
        features: int,
        *,
        num_layers: int = 2,
        feed_forward: int = 2048,
        dropout: float = 0.5,
    ) -> None:
        """Build the layers, initialised as PyTorch's are, all alike.

        Args:
            width: width of a transition, and of the model.
            length: steps of a window.
            features: width of the output.
            num_layers: attention layers.
            feed_forward: width of the hidden layer in each of them.
            dropout: share of numbers dropped, also of the inputs.

        Raises:
            ValueError: if a size is below 1, or `dropout` is not in [0, 1).
        """
        super().__init__()
        check_sizes(width=width, length=length, features=features)
        check_sizes(num_layers=num_layers, feed_forward=feed_forward)
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        layer = nn.TransformerEncoderLayer(width, 1, feed_forward, dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.last = nn.Linear(width, features)
        self.dropout = nn.Dropout(dropout)
        even = torch.arange(0, width, 2)
        angle = torch.arange(length).unsqueeze(1) * torch.exp(even * (-math.log(10000.0) / width))
        both = torch.stack((angle.sin(), angle.cos()), -1).flatten(1)
        self.register_buffer("positions", both[:, :width].clone(), persistent=False)

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Return [batch, length, features]."""
        x = self.dropout(rows + self.positions)
        # A window without a step attends to its padding: there must be something.
        hidden = None if mask is None else ~mask & mask.any(1, keepdim=True)
        x = self.layers(x, src_key_padding_mask=hidden)
        features: Tensor = self.last(x)
        return features
