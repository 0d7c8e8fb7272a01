"""Suites of tasks and the vectors of environments that step them."""

import os

if "MUJOCO_GL" in os.environ:
    # MuJoCo loads the OpenGL library of that name as it is imported, and cannot be imported without
    # it. Stepping needs none; who takes pictures (`envs.camera`) looks at the variable then.
    _given = os.environ.pop("MUJOCO_GL")
    import mujoco  # noqa: F401

    os.environ["MUJOCO_GL"] = _given
