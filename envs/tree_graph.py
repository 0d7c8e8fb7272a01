"""The configurable tree graph: what its states, moves and rewards are.

Soltoggio et al., "The configurable tree graph (CT-graph)", 2023 (arXiv 2302.10887).
"""

from dataclasses import dataclass

import gin
import numpy as np
import torch
from torch import Tensor

from envs.arguments import check_number, check_whole

HOME, CRASH, WAIT, DECISION, END = range(5)
NEEDLE, LINEAR = "needle_in_haystack", "linear"


@gin.configurable
@dataclass(frozen=True, kw_only=True)
class TreeGraph:
    """Depth, width and rewards of a tree.

    With G the goal's path, P the path taken (a branch number for each decision), d the depth:

        needle_in_haystack:  R = high [P = G]
        linear:              R = high sum_j (d - j) (1 - |G_j - P_j|) / sum_j (d - j),  j = 0 .. d-1

    and, with `reward_std` > 0, R <- R (1 + reward_std N(0, 1)). Deviations from the reference:
    1. Arguments out of range are errors; there they become 1, 2 and 0.
    2. `clip_linear` can keep the linear reward, negative for more than two branches, at 0 or more.

    Attributes:
        depth: decisions on the way to a leaf.
        branching: branches at each.
        delay: probability that waiting in a wait state leads nowhere.
        high_reward: of the goal's leaf.
        crash_reward: of a wrong kind of action.
        reward: "needle_in_haystack" or "linear".
        reward_std: of the factor on the reward; 0 for none.
        clip_linear: see above.

    Raises:
        ValueError: naming the argument.
    """

    depth: int = 2
    branching: int = 2
    delay: float = 0.0
    high_reward: float = 1.0
    crash_reward: float = -0.01
    reward: str = NEEDLE
    reward_std: float = 0.0
    clip_linear: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_whole("depth", self.depth, 1)
        check_whole("branching", self.branching, 2)
        if self.leaves > 2**53:
            raise ValueError(f"depth: {self.branching}^{self.depth} paths are too many to number")
        for argument, low in (("delay", 0), ("high_reward", 0), ("reward_std", 0)):
            check_number(argument, getattr(self, argument), low)
        check_number("crash_reward", self.crash_reward)
        if self.delay >= 1.0:
            raise ValueError(f"delay must be below 1, got {self.delay!r}")
        if self.high_reward == 0.0:
            raise ValueError("high_reward must be positive, got 0")
        if self.reward not in (NEEDLE, LINEAR):
            raise ValueError(f"reward must be {NEEDLE!r} or {LINEAR!r}, got {self.reward!r}")

    @property
    def leaves(self) -> int:
        """Ends of paths, and so goals."""
        return int(self.branching**self.depth)

    @property
    def decisions(self) -> int:
        """Decision states."""
        return (self.leaves - 1) // (self.branching - 1)

    @property
    def waits(self) -> int:
        """Wait states: one before each decision and each leaf."""
        return (self.leaves * self.branching - 1) // (self.branching - 1)

    @property
    def shortest(self) -> int:
        """Steps from home to the end of a leaf without delays."""
        return 2 * self.depth + 3

    def path(self, leaf: int) -> tuple[int, ...]:
        """The branches that lead to a leaf, the first of which is its most significant digit."""
        places = reversed(range(self.depth))
        return tuple(leaf // self.branching**place % self.branching for place in places)

    def share(self, leaf: Tensor, goal: Tensor, rng: np.random.Generator) -> Tensor:
        """R / high of leaves `[n]` under goals `[n]`: `[n]` float32."""
        if self.reward == NEEDLE:
            share = (leaf == goal).float()
        else:
            place = self.branching ** torch.arange(self.depth - 1, -1, -1)
            digits = torch.stack([leaf, goal])[..., None] // place % self.branching
            weight = torch.arange(self.depth, 0, -1)
            agreement = (weight * (1 - (digits[0] - digits[1]).abs())).sum(-1)
            share = agreement.float() / (self.depth * (self.depth + 1) // 2)
            if self.clip_linear:
                share = share.clamp(min=0.0)
        if self.reward_std > 0.0:
            noise = torch.from_numpy(rng.standard_normal(len(leaf))).float()
            share = share * (1.0 + self.reward_std * noise)
        return share
