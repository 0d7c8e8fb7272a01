"""What this process does with memory it has freed."""

import ctypes
import os

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of the settings, from malloc.h."""
LARGEST = 2**30
"""Bytes of the blocks that still go back to the system."""
USERS_OWN = ("MALLOC_", "GLIBC_TUNABLES")
"""How the environment variables begin with which a user sets the same."""


def keep_freed_memory() -> bool:
    """Let malloc keep freed blocks below 1 GiB for the next ones, where it is glibc's.

    It would give large ones, and the free end of the heap, back to the system and ask for them
    again, and the kernel clears every page of them anew: a tenth of the time of an iteration on the
    episodes of 20 navigation tasks and of an update on ten tasks of Meta-World, nothing where
    tensors are small (`benchmarks/meta.py` and the same with `--free_memory`,
    `benchmarks/learner.py` and the same after `GLIBC_TUNABLES=`). What the environment says of
    malloc stays.

    Returns:
        Whether it does now.
    """
    if any(name.startswith(USERS_OWN) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, 2**31 - 1))
    return all([mallopt(name, value) for name, value in settings])
