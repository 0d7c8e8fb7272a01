import os
import subprocess
import sys
from pathlib import Path

import envs


def test_stepping_needs_no_opengl():
    """A cluster may name a library that is not there; who takes pictures is told of it."""
    script = (
        "import os, envs.meta_world, envs.body, mujoco\n"
        "assert os.environ['MUJOCO_GL'] == 'nothing'\n"
        "mujoco.MjModel.from_xml_string('<mujoco/>')"
    )
    root = Path(envs.__file__).resolve().parents[1]
    environment = {**os.environ, "MUJOCO_GL": "nothing", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)
