"""Pictures of a MuJoCo simulation, by the back end that the variable MUJOCO_GL names at that time.

    MUJOCO_GL=egl python -m envs.camera

tries a back end: it prints, as JSON, seconds for each picture and what drew it, or fails.
"""

import envs.opengl  # noqa: F401

# isort: split
import importlib
import json
import os
import sys
import time
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

MODULES = {"glx": "glfw", "": "cgl" if sys.platform == "darwin" else "glfw"}
"""Modules of `mujoco` that are not called as MUJOCO_GL calls them."""
MAX_GEOMS = 10_000
SIZE, TRIES = 480, 5
TRIAL = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="2 2 0.1" rgba="0.3 0.3 0.3 1"/>
    <geom type="sphere" size="0.4" pos="0 0 0.4" rgba="0.9 0.6 0.1 1"/>
    <camera name="front" pos="0 -2 1.5" xyaxes="1 0 0 0 0.6 0.8"/>
  </worldbody>
  <visual><global offwidth="480" offheight="480"/></visual>
</mujoco>
"""


def named(model: Any, name: str) -> Any:
    """The view of one of the model's own cameras."""
    view = mujoco.MjvCamera()
    view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(name).id
    return view


def free(look_at: tuple[float, float, float], distance: float, turn: float, tilt: float) -> Any:
    """A view from anywhere; `turn` and `tilt` are MuJoCo's azimuth and elevation in degrees."""
    view = mujoco.MjvCamera()
    view.type, view.lookat[:] = mujoco.mjtCamera.mjCAMERA_FREE, look_at
    view.distance, view.azimuth, view.elevation = distance, turn, tilt
    return view


class Camera:
    """Takes pictures of one simulation; nothing of the simulation is changed.

    Args:
        model: MuJoCo's; its off-screen buffer is enlarged if need be.
        view: from where, see `named` and `free`.
        width: of the picture, in pixels.
        height: likewise.

    Raises:
        RuntimeError, ImportError, AttributeError: there is no such back end, or it does not work.
    """

    def __init__(self, model: Any, view: Any, width: int, height: int) -> None:
        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = (
            max(buffer.offwidth, width),
            max(buffer.offheight, height),
        )
        backend = os.environ.get("MUJOCO_GL", "").lower()
        module = importlib.import_module(f"mujoco.{MODULES.get(backend, backend)}")
        self._context = module.GLContext(width, height)
        if not self._context._context:  # MuJoCo's drawing would crash the process at a second try
            raise RuntimeError(
                f"MUJOCO_GL is {backend!r}, and no window can be opened here; set it to egl or "
                "osmesa"
            )
        self._context.make_current()
        self._model, self._view = model, view
        self._options, self._scene = mujoco.MjvOption(), mujoco.MjvScene(model, MAX_GEOMS)
        self._drawer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawer)
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.zeros((height, width, 3), np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self._rectangle.width, self._rectangle.height

    def take(self, data: Any) -> NDArray[np.uint8]:
        """The picture `[height, width, 3]`."""
        self._context.make_current()
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._options,
            None,
            self._view,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        mujoco.mjr_render(self._rectangle, self._scene, self._drawer)
        mujoco.mjr_readPixels(self._pixels, None, self._rectangle, self._drawer)
        return self._pixels[::-1].copy()

    def close(self) -> None:
        """Free the buffers."""
        self._context.make_current()
        self._drawer.free()
        self._context.free()


def trial() -> dict[str, Any]:
    """Take some pictures of a ball.

    Returns:
        "seconds" of one picture, and "drawn_by", the name of the graphics device.

    Raises:
        RuntimeError: the pictures are empty.
    """
    model = mujoco.MjModel.from_xml_string(TRIAL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = Camera(model, named(model, "front"), SIZE, SIZE)
    camera.take(data)
    begin = time.perf_counter()
    pictures = [camera.take(data) for _ in range(TRIES)]
    seconds = (time.perf_counter() - begin) / TRIES
    drawn_by = importlib.import_module("OpenGL.GL").glGetString(0x1F01)  # GL_RENDERER
    camera.close()
    if pictures[0].std() < 1.0:
        raise RuntimeError("the pictures are empty")
    return {"seconds": seconds, "drawn_by": (drawn_by or b"").decode(errors="replace")}


if __name__ == "__main__":
    print(json.dumps(trial()), flush=True)
    os._exit(0)  # back ends are known to crash while the interpreter is taken down
