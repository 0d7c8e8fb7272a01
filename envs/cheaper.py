"""What Meta-World's task code calls most, cheaper and the same to the last bit.

Each function does the same operations in the same order, because every shortcut shows in the
last bit: x ** 2 is not x * x, a dot product is not a * a + b * b + c * c, and a Python float makes
float32 of a float32 where a numpy float makes float64.
"""

import envs.opengl  # noqa: F401

# isort: split
import copy
import functools
import math
import pickle
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from metaworld.utils import reward_utils
from numpy._core.umath import clip as ufunc_clip  # type: ignore[attr-defined]
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

try:
    from scipy.spatial.transform import _rotation_cy as compiled_rotation
except ImportError:  # private, and not in every version
    compiled_rotation = None

DOUBLE = np.dtype(np.float64)
LONG_TAIL = float(np.sqrt(1 / 0.1 - 1))  # what the sigmoids scale distances by
GAUSSIAN = float(np.sqrt(-2 * np.log(0.1)))


def norm(x: Any, *args: Any, **options: Any) -> Any:
    """`np.linalg.norm`, by its own path for a vector without the way there."""
    if type(x) is np.ndarray:
        if x.strides == (8,) and x.dtype == DOUBLE and not args:
            if not options or options == {"ord": 2}:
                return np.float64(math.sqrt(x.dot(x)))
    elif type(x) is np.float64 and not args and not options:
        return np.float64(math.sqrt(x * x))
    return np.linalg.norm(x, *args, **options)


def clip(x: Any, low: Any, high: Any, **options: Any) -> Any:
    """`np.clip`, straight to its ufunc."""
    if options or not isinstance(x, np.ndarray | np.floating):
        return np.clip(x, low, high, **options)
    return ufunc_clip(x, low, high)


def hstack(parts: Any) -> Any:
    """`np.hstack` of vectors or of numbers."""
    if type(parts) is tuple:
        kinds = {type(part) for part in parts}
        if kinds == {np.float64}:
            return np.array(parts)
        if kinds == {np.ndarray} and all(part.ndim == 1 for part in parts):
            return np.concatenate(parts)
    return np.hstack(parts)


def tolerance(
    x: Any,
    bounds: tuple[Any, Any] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """`reward_utils.tolerance` in Python floats; what is out of the ordinary goes to upstream's."""
    lower, upper = bounds
    if isinstance(x, float) and isinstance(margin, float) and value_at_margin == 0.1:
        if lower <= x <= upper and margin >= 0:
            return 1.0
        if lower <= upper and margin > 0:
            # np.float64 is a float; its arithmetic is the same but slow.
            distance = float((lower - x if x < lower else x - upper) / margin)
            if -1e100 < distance < 1e100:  # else Python raises where numpy warns
                if sigmoid == "long_tail":
                    return 1 / ((distance * LONG_TAIL) ** 2 + 1)
                if sigmoid == "gaussian":  # numpy's exponential is not libm's
                    return float(np.exp(-0.5 * (distance * GAUSSIAN) ** 2))
    return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)  # type: ignore[arg-type]


class Frame:
    """A rotation matrix of MuJoCo's, standing in for a `Rotation`."""

    def __init__(self, matrix: NDArray[Any]) -> None:
        self._matrix = matrix

    def as_quat(self) -> Any:
        """Scipy's quaternion, without its proof that the matrix is a rotation."""
        if compiled_rotation is not None:
            return compiled_rotation.from_matrix(self._matrix, assume_valid=True)
        return Rotation.from_matrix(self._matrix).as_quat()


@functools.lru_cache(maxsize=10_000)
def _unpickled(data: bytes) -> Any:
    return pickle.loads(data)


def loads(data: bytes) -> dict[str, Any]:
    """`pickle.loads` of what a task holds, a dict of arrays, a class and flags."""
    return {name: copy.copy(value) for name, value in _unpickled(data).items()}


def _facade(module: ModuleType, **exchanged: Any) -> ModuleType:
    facade = ModuleType(module.__name__)
    vars(facade).update(vars(module), **exchanged)
    return facade


CHEAPER: Mapping[str, Any] = {
    "np": _facade(np, linalg=_facade(np.linalg, norm=norm), clip=clip, hstack=hstack),
    "reward_utils": _facade(reward_utils, tolerance=tolerance),
    "tolerance": tolerance,
    "pickle": _facade(pickle, loads=loads),
    "Rotation": _facade(ModuleType("Rotation"), from_matrix=Frame),
}
"""Global name -> what upstream's methods find under it."""
