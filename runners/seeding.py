"""One seed for a run: the global random streams, and their states in a form that can be stored."""

import random
from typing import Any

import numpy as np
import torch

TASK_STREAM, CONTEXT_STREAM = (2,), (3,)
"""Spawn keys of meta-learners' streams; environments' begin with 0 and 1 (`envs.suite`)."""


def task_stream(seed: int) -> np.random.Generator:
    """What a meta-learner's tasks are drawn from."""
    sequence = np.random.SeedSequence(seed, spawn_key=TASK_STREAM)
    return np.random.Generator(np.random.PCG64(sequence))


class GlobalStreams:
    """The generators that belong to no object: Python's, numpy's and torch's, CPU and CUDA.

    Environments, replay and evaluation own generators and store them themselves.
    """

    def __init__(self, seed: int) -> None:
        """Seed them all from one `numpy.random.SeedSequence`.

        Raises:
            ValueError: the seed is negative.
        """
        if seed < 0:
            raise ValueError(f"train.seed must not be negative, got {seed}")
        words = np.random.SeedSequence(seed).generate_state(3, np.uint64)
        random.seed(int(words[0]))
        np.random.seed(int(words[1]) % 2**32)
        torch.manual_seed(int(words[2]))  # also of every CUDA device

    def state_dict(self) -> dict[str, Any]:
        """Where the streams are, in tensors and plain values."""
        version, words, gauss = random.getstate()
        legacy: Any = np.random.get_state(legacy=False)
        keys = torch.from_numpy(legacy["state"]["key"].astype(np.int64))
        return {
            "python": {"version": version, "words": list(words), "gauss": gauss},
            "numpy": {
                "keys": keys,
                "position": int(legacy["state"]["pos"]),
                "has_gauss": int(legacy["has_gauss"]),
                "gauss": float(legacy["gauss"]),
            },
            "torch": torch.get_rng_state(),
            "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the streams back to where they were."""
        python, legacy = state["python"], state["numpy"]
        random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
        keys = legacy["keys"].numpy().astype(np.uint32)
        np.random.set_state(
            ("MT19937", keys, legacy["position"], legacy["has_gauss"], legacy["gauss"])
        )
        torch.set_rng_state(state["torch"].cpu())
        if torch.cuda.is_available():
            for device, words in enumerate(state["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(words.cpu(), device)
