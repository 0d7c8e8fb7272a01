"""Imports MuJoCo without OpenGL; modules that need MuJoCo or Meta-World import this one first.

MuJoCo loads the OpenGL library that MUJOCO_GL names as it is imported, and where that is missing it
cannot be imported. Stepping needs none; who takes pictures (`envs.camera`) reads the variable then.
"""

import os

_given = os.environ.pop("MUJOCO_GL", None)
import mujoco  # noqa: E402, F401

if _given is not None:
    os.environ["MUJOCO_GL"] = _given
