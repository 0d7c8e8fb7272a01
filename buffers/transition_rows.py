"""Transitions as packed rows of float32: one indexed copy writes them, one indexed read draws."""

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor


class TransitionRows:
    """The layout of a row: observation, action, reward, next observation, terminated, more.

    The first `vector` numbers are [o, a, r, o'], what a context encoder sees of a transition.
    """

    def __init__(self, observation_dim: int, action_dim: int, more: int = 0) -> None:
        """Lay out rows with `more` numbers at the end."""
        self.split = (observation_dim, action_dim, 1, observation_dim, 1, more)
        self.vector = sum(self.split[:4])
        self.width = sum(self.split)

    def pack(self, td: TensorDictBase, *more: Tensor) -> Tensor:
        """Return the transitions of td [*] as rows [*, width]; `more` are numbers [*, 1]."""
        after = td["next"]
        parts = (td["observation"], td["action"], after["reward"], after["observation"])
        return torch.cat([x.float() for x in (*parts, after["terminated"], *more)], -1)

    def unpack(self, rows: Tensor) -> tuple[TensorDict, Tensor]:
        """Return the transitions [*] of rows [*, width], and what came with them, [*, more]."""
        parts = rows.split_with_sizes(self.split, -1)
        observation, action, reward, following, terminated, more = parts
        after = TensorDict(
            {"reward": reward, "observation": following, "terminated": terminated != 0},
            rows.shape[:-1],
        )
        td = {"observation": observation, "action": action, "next": after}
        return TensorDict(td, rows.shape[:-1]), more

    def columns(self, vector: Tensor) -> TensorDict:
        """Return a [o, a, r, o'] of something, [vector], by the keys of a transition."""
        observation, action, reward, following = vector.split_with_sizes(self.split[:4], -1)
        after = TensorDict({"reward": reward, "observation": following}, [])
        return TensorDict({"observation": observation, "action": action, "next": after}, [])
