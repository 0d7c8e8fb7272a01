"""Trees of arrays as trees of tensors and back: what a checkpoint may hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def tensors(tree: Any) -> Any:
    """The same tree with tensors for arrays, lists for tuples, and Python's own numbers."""
    if isinstance(tree, np.ndarray):
        array: NDArray[Any] = np.array(tree, order="C")
        return torch.from_numpy(array)
    if isinstance(tree, Mapping):
        return {key: tensors(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [tensors(value) for value in tree]
    return tree.item() if isinstance(tree, np.generic) else tree


def arrays(tree: Any) -> Any:
    """The inverse of `tensors`."""
    if isinstance(tree, Tensor):
        return tree.cpu().numpy()
    if isinstance(tree, Mapping):
        return {key: arrays(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [arrays(value) for value in tree]
    return tree
