"""Tests of what becomes of freed memory."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from runners.memory import keep_freed_memory

kept = {call}

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():  # 40 MiB, which malloc would never keep by itself
    torch.ones(10 * 2**20)

torch.set_num_threads(1)
for _ in range(15):  # glibc before 2.38 needs some until a freed block fits
    work()
before = faults()
for _ in range(10):
    work()
print(kept, faults() - before)
"""
PAGES = 10 * 40 * 2**20 // 4096


def faulted(call, **environment):
    """What the call says, and page faults of the work after it, in a process of its own."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    seen = subprocess.run(
        [sys.executable, "-c", CODE.format(call=call)],
        capture_output=True,
        text=True,
        check=True,
        env=own | environment,
    )
    said, number = seen.stdout.split()
    return said, int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_used_again():
    assert faulted("None")[1] > PAGES / 2
    said, number = faulted("keep_freed_memory()")
    assert said == "True" and number < PAGES / 100


def test_what_the_environment_says_of_malloc_stays():
    assert faulted("keep_freed_memory()", MALLOC_TOP_PAD_="131072")[0] == "False"
