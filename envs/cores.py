"""How many processor cores this process may keep busy."""

import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's microseconds of processor time, and of what period, or "max"."""


def usable_cores() -> float:
    """By the process's mask, and by its container's quota where there is one.

    A job on a cluster often has few of a node's cores, and a container a share that the mask does
    not show: more processes than that would be stopped for a part of each period.
    """
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
        return min(float(mask), int(quota) / int(period))
    except (OSError, ValueError):  # no such file, no quota
        return float(mask)
