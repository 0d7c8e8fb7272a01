"""What an environment is, and what is wrong with one that breaks the rules.

This module imports neither torch nor gin, as `envs.episodes`.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from envs.arrays import Rules, told
from envs.errors import TaskError

REAL = "fiub"
"""Kinds of numpy's dtypes that are real numbers."""
VERBS = ("reset", "simulate", "outcome", "snapshot", "restore", "close")


class Environment(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """One simulator: a gymnasium environment with goals by number and an exact snapshot.

    `reset(options={"goal": i, "rng": generator})` begins an episode with goal i. What is random in
    it is drawn from the generator (`self.np_random` where there is none), and nothing depends on
    the episodes before, so that an idle simulator can serve another environment. `step` returns the
    usual five values, with "success" and "unstable" (the simulator broke down; optional) in the
    info, and what `envs.arrays.told` lists.

    Attributes:
        rate: steps in a second of what is simulated, for videos.
        needs_gl: whether `picture` asks for OpenGL, and MUJOCO_GL must name a back end.
    """

    rate = 10.0
    needs_gl = False

    def simulate(self, action: Any) -> None:
        """The first part of a step, what the simulator does of it; `outcome` is the rest.

        A `Chunk` asks all its environments for the first part and then for the rest: physics and
        Python push each other out of the processor's caches.
        """
        self._action = action

    def outcome(self) -> tuple[NDArray[np.float64], Any, bool, bool, dict[str, Any]]:
        """What `step` returns, after `simulate`."""
        return self.step(self._action)

    def snapshot(self) -> dict[str, Any]:
        """Everything the future depends on, as dicts, lists, scalars and numpy arrays."""
        raise NotImplementedError

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `snapshot` was taken."""
        raise NotImplementedError

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """What one would see now, `[height, width, 3]`; nothing of the simulation changes.

        Raises:
            NotImplementedError: there is nothing to see.
            RuntimeError, ImportError, AttributeError: OpenGL does not work here.
        """
        raise NotImplementedError


def check_environment(name: str, environment: Any, rules: Rules) -> None:
    """What can be told before the first step: verbs and actions.

    Args:
        name: the task's.
        environment: just built.
        rules: of its vector.

    Raises:
        TaskError: naming the task and the rule.
    """
    for verb in VERBS:
        method = getattr(environment, verb, None)
        missing = getattr(method, "__func__", method) in (
            None,
            Environment.snapshot,
            Environment.restore,
        )
        if missing:
            raise TaskError(
                f"task {name}: its environment has no {verb}; derive it from "
                "envs.environment.Environment, and define what that leaves open"
            )
    space = getattr(environment, "action_space", None)
    if space is None:  # nothing is promised, and the dry run asks for it
        return
    if rules.discrete:
        wanted = f"Discrete({rules.action_dim})"
        fits = isinstance(space, Discrete) and (space.n, space.start) == (rules.action_dim, 0)
    else:
        wanted = f"Box(-1.0, 1.0, ({rules.action_dim},))"
        fits = (
            isinstance(space, Box)
            and space.shape == (rules.action_dim,)
            and bool((space.low == -1.0).all() and (space.high == 1.0).all())
        )
    if not fits:
        raise TaskError(
            f"task {name}: action_space is {space}, the spec asks for {wanted}; scale actions in "
            "the environment, or correct Spec.action_dim and Spec.discrete"
        )


def reset_fault(name: str, outcome: Any, rules: Rules) -> str | None:
    """What is wrong with what a reset of this task gave; None if nothing is."""
    if not (isinstance(outcome, tuple) and len(outcome) == 2):
        return f"task {name}: reset must return an observation and a dict, got {outcome!r:.80}"
    return _observation_fault(name, outcome[0], rules)


def fault(name: str, outcome: Any, rules: Rules) -> str | None:
    """What is wrong with what a step of this task gave; None if nothing is."""
    try:
        observation, reward, _, _, info = outcome
    except (TypeError, ValueError):
        return f"task {name}: a step must return gymnasium's five values, got {outcome!r:.80}"
    if said := _observation_fault(name, observation, rules):
        return said
    if not _is_number(reward):
        return f"task {name}: a reward must be one number, got {reward!r:.80}"
    if not isinstance(info, Mapping):
        return f"task {name}: the info of a step must be a dict, got {info!r:.80}"
    for key in ("success", *told(rules)):
        if key not in info:
            return f'task {name}: the info of a step has no "{key}"; every step must tell it'
    for key, (shape, _) in told(rules).items():
        if np.size(info[key]) != (size := int(np.prod(shape))):
            return f'task {name}: info["{key}"] must have the size {size}, got {info[key]!r:.80}'
    success = info["success"]
    if not _is_number(success) or float(success) != float(success):
        return f'task {name}: info["success"] must be True or False, got {success!r:.80}'
    return None


def _observation_fault(name: str, observation: Any, rules: Rules) -> str | None:
    """What is wrong with an observation; None if it is real numbers of the shape the spec says."""
    shape = getattr(observation, "shape", None)
    if shape != (rules.observation_dim,):
        got = f"a {type(observation).__name__}, no array" if shape is None else f"of shape {shape}"
        return f"task {name}: observation {got}, the spec says ({rules.observation_dim},)"
    if np.asarray(observation).dtype.kind not in REAL:
        return f"task {name}: an observation must be real numbers, got {observation.dtype}"
    return None


def _is_number(value: Any) -> bool:
    array = np.asarray(value)
    return array.ndim == 0 and array.dtype.kind in REAL
