"""The state encoder of CARE: a mixture of encoders, mixed by what is known of the task.

Sodhani, Zhang and Pineau, "Multi-Task Reinforcement Learning with Context-based Representations",
2021; as launched by MTRL (Sodhani and Zhang 2021) unless options say otherwise.
"""

from collections.abc import Sequence

import gin
import torch
from torch import Tensor, nn

from networks.affine import affine, head
from networks.arguments import check_choice, check_sizes
from networks.feed_forward import FeedForward, frozen, init_xavier_
from networks.state_encoders import StateEncoder, TaskEncoders

ATTENTIONS = ("context_mlp", "dot_product")
SELECTIONS = ("soft", "gate", "ensemble")
ACTOR_ATTENTIONS = ("shared", "frozen_random")
GATE_EXPERTS = 2


class Experts(nn.Module):
    """z_j = V_j relu(U_j s + a_j) + b_j for j = 1..k; a layer of all experts is one product."""

    def __init__(self, in_features: int, width: int, num_experts: int) -> None:
        """Build both layers of all experts.

        Args:
            in_features: width of the input.
            width: width of the hidden layer and of z.
            num_experts: number k of experts.
        """
        super().__init__()
        self.weight_0 = nn.Parameter(torch.empty(num_experts, width, in_features))
        self.bias_0 = nn.Parameter(torch.empty(num_experts, width))
        self.weight_1 = nn.Parameter(torch.empty(num_experts, width, width))
        self.bias_1 = nn.Parameter(torch.empty(num_experts, width))
        init_xavier_(self.weight_0, self.bias_0)
        init_xavier_(self.weight_1, self.bias_1)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [*, in_features] to [k, *, width]."""
        x = x.expand(self.weight_0.shape[0], *x.shape)
        hidden = affine(x, self.weight_0, self.bias_0, relu=True)
        return head(hidden, self.weight_1, self.bias_1)


@gin.configurable
class CareEncoder(StateEncoder):
    """x = cat(f, c) with f = sum_j alpha_j z_j(s), z_j the k experts and c the task's code.

    Attention `context_mlp`, as launched:    alpha = softmax(A(c)), A of three linear layers;
    attention `dot_product`, of the paper:   alpha_j = softmax_j <z_j, sg(c)>,
                                             f = M(sum_j alpha_j z_j), M of two linear layers.

    Selection `soft` takes alpha as it is; `gate` keeps the two largest and scales them to sum
    to 1; `ensemble` has no attention, alpha_j = 1 / k.

    Deviations:
        1. From MTRL: actor and critics share the attention as they share the experts. There the
           actor's own attention kept its random start for ever; `frozen_random` repeats that.
        2. From the paper: the defaults are MTRL's `context_mlp`, which reads the task and not the
           state, and whose gradient reaches c; and k = 4. `detach_context` cuts that gradient.
        3. The size of M is ours: both layers as wide as f.
    """

    def __init__(
        self,
        observation_dim: int,
        task_names: Sequence[str],
        *,
        task_encoder: TaskEncoders = gin.REQUIRED,
        num_experts: int = 4,
        width: int = 50,
        attention: str = "context_mlp",
        detach_context: bool | None = None,
        selection: str = "soft",
        actor_attention: str = "shared",
    ) -> None:
        """Build the task encoder, the experts and the attention.

        Args:
            observation_dim: width of the observation.
            task_names: names of the tasks; task id i is the i-th of them.
            task_encoder: factory of the task encoder, called with the names.
            num_experts: number k of experts.
            width: width of the experts' layers, of the attention's and of f.
            attention: `context_mlp` or `dot_product`.
            detach_context: let no gradient of the attention reach the code (that of its place in
                x does in any case); None does as the source of each form: `dot_product` and
                `gate` detach, the launched `context_mlp` does not.
            selection: `soft`, `gate` or `ensemble`.
            actor_attention: `shared`, or `frozen_random`: the policy mixes the experts with an
                attention that stays as it was drawn.

        Raises:
            ValueError: if a width or number is below 1, an option is unknown, `gate` has fewer
                than two experts, the code of `dot_product` is not `width` wide, or an option asks
                for an attention that another excludes.
        """
        super().__init__(observation_dim, task_names, task_encoder, width)
        check_sizes(num_experts=num_experts)
        for name, option, options in (
            ("attention", attention, ATTENTIONS),
            ("selection", selection, SELECTIONS),
            ("actor_attention", actor_attention, ACTOR_ATTENTIONS),
        ):
            check_choice(name, option, options)
        if selection == "gate" and num_experts < GATE_EXPERTS:
            raise ValueError(f"num_experts must be at least 2 for a gate, got {num_experts}")
        asked = (attention, actor_attention, detach_context)
        if selection == "ensemble" and asked != (ATTENTIONS[0], "shared", None):
            raise ValueError(
                "selection 'ensemble' has no attention, so leave attention, actor_attention and "
                f"detach_context at their defaults, got {asked}"
            )
        if attention == "dot_product":
            if actor_attention != "shared":
                raise ValueError(
                    "attention 'dot_product' has no weights of its own: actor_attention must be "
                    f"'shared', got {actor_attention!r}"
                )
            if self.code_dim != width:
                raise ValueError(
                    f"attention 'dot_product' needs a code as wide as the experts, got code_dim "
                    f"{self.code_dim} and width {width}"
                )
        self.num_experts, self.selection = num_experts, selection
        if detach_context is None:  # deviation 2
            detach_context = attention == "dot_product" or selection == "gate"
        self.detach_context = detach_context
        self.experts = Experts(observation_dim, width, num_experts)
        self.attention: FeedForward | None = None
        self.actor_attention: nn.Module | None = None
        self.mixed: FeedForward | None = None
        widths = (self.code_dim, width, width, num_experts)
        if attention == "dot_product":
            self.mixed = FeedForward((width, width, width))  # deviation 3
        elif selection != "ensemble":
            self.attention = FeedForward(widths)
        if actor_attention == "frozen_random":  # deviation 1
            self.actor_attention = frozen(FeedForward(widths))

    def forward(self, observation: Tensor, code: Tensor) -> Tensor:
        """Map observation [*, o] and code [*, code_dim] to [*, out_features]."""
        return self._encode(observation, code, self.attention)

    def for_actor(self, observation: Tensor, code: Tensor) -> Tensor:
        """Map observation [*, o] to what the policy sees, [*, out_features]."""
        attention = self.attention if self.actor_attention is None else self.actor_attention
        return self._encode(observation, code, attention)

    def weights(self, observation: Tensor, code: Tensor) -> Tensor:
        """Return alpha [*, k] of observation [*, o] and code [*, code_dim], for a look at it."""
        alpha = self._alpha(self.experts(observation), code, self.attention)
        return alpha.movedim(0, -1).expand(*observation.shape[:-1], -1)

    def _encode(self, observation: Tensor, code: Tensor, attention: nn.Module | None) -> Tensor:
        z = self.experts(observation)
        features = (self._alpha(z, code, attention).unsqueeze(-1) * z).sum(0)
        if self.mixed is not None:
            features = self.mixed(features)
        return self.join(features, code)

    def _alpha(self, z: Tensor, code: Tensor, attention: nn.Module | None) -> Tensor:
        """Mixing weights [k, *] of z [k, *, width]; with a code that broadcasts, so do they."""
        if self.selection == "ensemble":
            return z.new_full((self.num_experts, *[1] * (z.dim() - 2)), 1.0 / self.num_experts)
        context = code.detach() if self.detach_context else code
        if attention is None:
            scores = (z * context).sum(-1)
        else:
            scores = attention(context).movedim(-1, 0)
        if self.selection == "soft":
            return scores.softmax(0)
        # The softmax of the two largest scores is alpha, cut to them and scaled to sum to 1.
        best, places = scores.topk(GATE_EXPERTS, 0)
        return torch.zeros_like(scores).scatter(0, places, best.softmax(0))
