"""Task identities as inputs of a network."""

import torch
from torch import Tensor


def one_hot(task: Tensor, num_tasks: int, dtype: torch.dtype) -> Tensor:
    """Map task ids [*] to [*, num_tasks]: one where the id is, else zero.

    A comparison, which is static in shape and waits for no device; an id that is out of range
    gives zeros.
    """
    return (task.unsqueeze(-1) == torch.arange(num_tasks, device=task.device)).to(dtype)


def append_one_hot(x: Tensor, task: Tensor, num_tasks: int) -> Tensor:
    """Append the task one-hot: x [*, n], task [*] -> [*, n + num_tasks]."""
    return torch.cat((x, one_hot(task, num_tasks, x.dtype)), -1)
