"""What is settled before torch is loaded."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("given", [None, "77"])
@pytest.mark.parametrize("verb", ["train", "evaluate", "describe", "sweep", "sweep_child"])
def test_waiting_threads_spin_briefly_unless_told_otherwise(verb, given):
    """The entry points set it before they import torch, and leave a user's own value."""
    code = (
        "import importlib.abc, os, sys\n"
        "class Watch(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            print(os.environ.get('GOMP_SPINCOUNT'), flush=True)\n"
        "            os._exit(0)\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import runners.{verb}, runners.training\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if given:
        environment["GOMP_SPINCOUNT"] = given
    seen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert seen.stdout.strip() == (given or "1000")
