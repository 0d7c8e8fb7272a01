"""The plain numpy arrays an engine reads actions from and writes transitions to.

They lie one after the other in one buffer, so that worker processes can share them. This module
imports neither torch nor gin, as `envs.episodes`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Fields = dict[str, tuple[tuple[int, ...], type[np.generic]]]
FLAG: tuple[tuple[int, ...], type[np.generic]] = ((1,), np.bool_)
LOW, HIGH = np.float32(-1.0), np.float32(1.0)


@dataclass(frozen=True)
class Rules:
    """What is common to all environments of a vector.

    Attributes:
        observation_dim: width of an observation.
        action_dim: width of an action, or the number of actions to choose from.
        horizon: steps after which an episode is cut (truncated; terminated too if it ended by
            itself in that step).
        autoreset: begin the next episode within the step that ends one; otherwise an environment
            that is done rests until the next reset.
        terminate_on_success: end an episode (terminated) at its first success.
        discrete: an action is one whole number below `action_dim`.
        specification_dim: numbers of the true task that a step tells; 0 where it tells none.
        sparse: steps also pay a sparse reward.
    """

    observation_dim: int
    action_dim: int
    horizon: int
    autoreset: bool = True
    terminate_on_success: bool = False
    discrete: bool = False
    specification_dim: int = 0
    sparse: bool = False


def told(rules: Rules) -> Fields:
    """What a step tells besides, by its name in the step's "next" part; see `Suite`.

    The array of an entry bears its name with "next_" before it.
    """
    entries: Fields = {}
    if rules.specification_dim:
        entries["task_id"] = ((), np.int64)
        entries["specification"] = ((rules.specification_dim,), np.float32)
        entries["task_changed"] = FLAG
    if rules.sparse:
        entries["sparse_reward"] = ((1,), np.float32)
    return entries


def silence(arrays: Arrays, rows: Any) -> None:
    """Nothing changed and nothing was paid in these rows."""
    for name in ("next_task_changed", "next_sparse_reward"):
        if name in arrays:
            arrays[name][rows] = 0


def fields(rules: Rules) -> Fields:
    """Name -> (shape of one environment's row, dtype) of the arrays a chunk works on."""
    action: tuple[tuple[int, ...], type[np.generic]] = ((rules.action_dim,), np.float32)
    if rules.discrete:
        action = ((), np.int64)
    return {
        "episode": ((), np.int64),
        "task_id": ((), np.int64),
        "unstable": ((), np.int64),
        "action": action,
        "observation": ((rules.observation_dim,), np.float32),
        "next_observation": ((rules.observation_dim,), np.float32),
        "reward": ((1,), np.float32),
        "is_init": FLAG,
        "terminated": FLAG,
        "truncated": FLAG,
        "success": FLAG,
        "valid": FLAG,
        **{f"next_{name}": field for name, field in told(rules).items()},
    }


def block_size(num_envs: int, rules: Rules) -> int:
    """Bytes `block` needs."""
    return sum(
        num_envs * int(np.prod(shape)) * np.dtype(dtype).itemsize
        for shape, dtype in fields(rules).values()
    )


def block(buffer: Any, num_envs: int, rules: Rules) -> Arrays:
    """The arrays of `fields`, each `[num_envs, ...]`, laid out one after the other in a buffer."""
    arrays: Arrays = {}
    offset = 0
    for name, (shape, dtype) in fields(rules).items():
        count = num_envs * int(np.prod(shape))
        flat = np.frombuffer(buffer, dtype=dtype, count=count, offset=offset)
        arrays[name] = flat.reshape(num_envs, *shape)
        offset += flat.nbytes
    return arrays


def new_arrays(num_envs: int, rules: Rules) -> Arrays:
    """The arrays of `fields` before the first episode."""
    arrays = block(bytearray(block_size(num_envs, rules)), num_envs, rules)
    arrays["episode"][:] = -1
    return arrays


def write_actions(
    rows: NDArray[Any], action: NDArray[Any], discrete: bool, num_actions: int
) -> None:
    """Check actions and write them to where they are read: clipped, or whole numbers as they are.

    Args:
        rows: what is written, `[n, num_actions]`, or `[n]` where actions are discrete.
        action: of the same shape.
        discrete: actions are whole numbers below `num_actions`.
        num_actions: width of an action, or the number of actions to choose from.

    Raises:
        ValueError: an action of the wrong shape or kind, not finite, or not one there is.
    """
    if action.shape != rows.shape:
        raise ValueError(f"action must have shape {rows.shape}, got {action.shape}")
    if not discrete:
        if action.dtype.kind not in "fiub":
            raise ValueError(f"action must be real numbers, got {action.dtype}")
        if not np.isfinite(action).all():
            wrong = np.flatnonzero(~np.isfinite(action).all(axis=1)).tolist()
            raise ValueError(
                f"action has non-finite numbers in rows {wrong}; look at the policy, and lower "
                "the learning rates if it was trained to this"
            )
        np.minimum(np.maximum(action, LOW), HIGH, out=rows)
        return
    if action.dtype.kind not in "iu":
        raise ValueError(f"action must be whole numbers, got {action.dtype}")
    outside = (action < 0) | (action >= num_actions)
    if outside.any():
        raise ValueError(
            f"action must be below {num_actions} and not negative, got "
            f"{action[outside].tolist()} in rows {np.flatnonzero(outside).tolist()}"
        )
    rows[:] = action
