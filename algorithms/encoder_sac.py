"""SAC behind a state encoder that only the critics train, as in CARE, PTSL and MTRL.

Sodhani, Zhang and Pineau, "Multi-Task Reinforcement Learning with Context-based Representations",
2021; Somerville Roberts and Di, "Projected Task-Specific Layers for Multi-Task Reinforcement
Learning", 2024.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import gin
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from algorithms.arguments import check_positive, check_smoothing
from algorithms.base import Sizes
from algorithms.sequential_sac import SequentialSAC
from algorithms.targets import soft_update


class NamedSizes(Sizes, Protocol):
    """Sizes, and the names of the tasks, which an encoder may know by their descriptions."""

    @property
    def task_names(self) -> tuple[str, ...]:
        """In the order of the task ids."""


class EncodedSizes(NamedTuple):
    """Sizes of a suite behind an encoder."""

    observation_dim: int
    action_dim: int
    num_tasks: int
    feature_dim: int


@gin.configurable
class EncoderSAC(SequentialSAC):
    """`SequentialSAC` whose policy and critics see f = encoder(s, c) with the task's code c = C(t).

        critics' loss    moves critics, encoder and C; Q' sees f' of a target encoder, with the
                         same c
        policy's loss    moves the policy's trunk alone: f and c are constants to it
        target encoder   <- (1 - encoder_smoothing) target + encoder_smoothing encoder

    The policy's features are computed anew after the encoder's step, with the code from before it:
    C steps last, as in MTRL.

    Args:
        sizes: Sizes of observation and action, number and names of the tasks.
        encoder: Factory called with `observation_dim` and `task_names`. What it makes has
            `out_features`, `task_encoder` (a module or None), `code(task)`, `encoder(observation,
            code)` and `for_actor(observation, code)`, see `networks.state_encoders`; for trunks
            that read features and code apart also `code_dim`. Codes may have one row for a group
            of observations of one task.
        encoder_lr: Learning rate of the encoder and of C.
        encoder_smoothing: Share of the encoder that enters its target at each step.
        **sequential: Arguments of `SequentialSAC`.

    Raises:
        ValueError: Naming the argument: a value out of range, or networks that do not fit.
    """

    encoder: Any
    target_encoder: Any

    def __init__(
        self,
        sizes: NamedSizes,
        *,
        encoder: Callable[[int, tuple[str, ...]], nn.Module] = gin.REQUIRED,
        encoder_lr: float = 3e-4,
        encoder_smoothing: float = 0.05,
        **sequential: Any,
    ) -> None:
        check_positive("EncoderSAC", encoder_lr=encoder_lr)
        check_smoothing("EncoderSAC", encoder_smoothing=encoder_smoothing)
        made: Any = encoder(sizes.observation_dim, tuple(sizes.task_names))
        dims = (sizes.observation_dim, sizes.action_dim, sizes.num_tasks)
        super().__init__(EncodedSizes(*dims, made.out_features), **sequential)
        self._check_parts(made, sizes.action_dim)
        self.encoder = made
        self.target_encoder = copy.deepcopy(made).requires_grad_(False)
        self.encoder_smoothing = encoder_smoothing
        coder = made.task_encoder
        codes = [] if coder is None else [p for p in coder.parameters() if p.requires_grad]
        known = {id(p) for p in codes}
        rest = [p for p in made.parameters() if p.requires_grad and id(p) not in known]
        for name, parameters in (("encoder", rest), ("task_encoder", codes)):
            if parameters:  # the identity has nothing to train
                self._add_group(name, parameters, encoder_lr)

    def _check_parts(self, encoder: Any, action_dim: int) -> None:
        """Refuse trunks that take their input apart in another way than it is put together."""
        for name, network, action in (
            ("actor", self.actor, 0),
            ("critic", self.critic, action_dim),
        ):
            parts = getattr(getattr(network, "trunk", None), "parts", None)
            if isinstance(parts, tuple):
                code = encoder.code_dim
                given = (encoder.out_features - code, code, action)
                if parts != given:
                    raise ValueError(
                        f"EncoderSAC.encoder gives features, code and action of {given} numbers, "
                        f"but SAC.{name}'s trunk takes them for {parts}; bind SOFT_FEATURES alone, "
                        "the width of features and code for both"
                    )

    def seen_by_policy(self, observation: Tensor, task: Tensor) -> Tensor:
        """Features `[*, feature_dim]` of observations `[*, observation_dim]`."""
        features: Tensor = self.encoder.for_actor(self._normalised(observation), self._code(task))
        return features

    def _code(self, task: Tensor) -> Tensor:
        """Codes of the tasks `[tasks, rows]` or `[rows]`: one for a group, which broadcasts."""
        code: Tensor = self.encoder.code(task[:, :1] if task.dim() == 2 else task)
        return code

    @property
    def _critic_groups(self) -> tuple[str, ...]:
        return ("critic", "encoder") if "encoder" in self.groups else ("critic",)

    @property
    def _late_groups(self) -> tuple[str, ...]:
        return ("task_encoder",) if "task_encoder" in self.groups else ()

    def _critic_pass(self, batch: TensorDict, alpha: Tensor) -> tuple[Tensor, Tensor]:
        now, then = (self._normalised(td["observation"]) for td in (batch, batch["next"]))
        with self._autocast():
            code = self._code(batch["task_id"])
            features = self.encoder(now, code)
            with torch.no_grad():
                then_actor = self.encoder.for_actor(then, code)
                then_target = self.target_encoder(then, code)
        return self._critic_loss(features, then_actor, then_target, batch, alpha, {}, {})

    def _actor_pass(self, batch: TensorDict, alpha: Tensor) -> tuple[Tensor, Tensor]:
        task, now = batch["task_id"], self._normalised(batch["observation"])
        with torch.no_grad(), self._autocast():
            code = self._code(task)
            now_actor, now_critic = self.encoder.for_actor(now, code), self.encoder(now, code)
        return self._policy_loss(now_actor, now_critic, task, alpha)

    def _follow(self) -> None:
        """Move the target critics and the target encoder towards the online ones."""
        super()._follow()
        soft_update(self.target_encoder, self.encoder, self.encoder_smoothing)

    def policy_state(self) -> dict[str, Any]:
        """The policy's parameters, the encoder's, and the normaliser's statistics."""
        state = {k: v for k, v in self.state_dict().items() if k.startswith("encoder.")}
        return super().policy_state() | state
