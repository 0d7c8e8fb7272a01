"""The device a flag or a binding names, or one clear error; and where a learner lies."""

import torch
from torch import nn

from runners.config import ConfigError


def named_device(name: str, culprit: str, fix: str) -> torch.device:
    """The device, if this machine has it.

    Args:
        name: for example "cpu" or "cuda".
        culprit: the flag or binding that holds the name, for the message.
        fix: what to do where there is no CUDA device.

    Raises:
        ConfigError: no such kind of device, or no CUDA device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{culprit}: {name!r} is no device; 'cpu' or 'cuda'") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{culprit}: {name!r} is not supported; 'cpu' or 'cuda'")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{culprit}: no CUDA device here for {name!r}; {fix}")
    if device.type == "cuda" and (device.index or 0) >= (number := torch.cuda.device_count()):
        raise ConfigError(f"{culprit}: {name!r}, and {number} CUDA devices here; {fix}")
    return device


def device_of(learner: nn.Module) -> torch.device:
    """Where the learner's parameters lie; the CPU if it has none."""
    parameter = next(learner.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
