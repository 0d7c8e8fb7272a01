import ast
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


def test_whoever_loads_mujoco_loads_it_without_opengl_first():
    found = set()
    for file in Path(envs.__file__).parent.glob("*.py"):
        statements = ast.parse(file.read_text()).body
        names = [s.names[0].name for s in statements if isinstance(s, ast.Import)]
        names += [s.module or "" for s in statements if isinstance(s, ast.ImportFrom)]
        if {"mujoco", "metaworld"} & {name.split(".")[0] for name in names}:
            found.add(file.stem)
            imports = [s for s in statements if isinstance(s, ast.Import | ast.ImportFrom)]
            first = imports[1] if file.stem == "opengl" else imports[0]
            assert first.names[0].name == ("mujoco" if file.stem == "opengl" else "envs.opengl")
    assert {"meta_world", "body", "camera", "opengl"} <= found
