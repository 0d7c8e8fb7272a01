import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs import camera
from envs.cheetah import build as build_cheetah
from envs.episodes import Task
from envs.meta_world import MetaWorldSuite
from envs.plane import SEEN, PointMass

ROOT = Path(__file__).resolve().parents[2]


def played(environment, pictures):
    """What is observed and paid in a few steps, with or without a picture after each."""
    rng = np.random.default_rng(0)
    told = [environment.reset(options={"goal": 1, "rng": np.random.default_rng(1)})[0]]
    for _ in range(12):
        action = rng.uniform(-1, 1, environment.action_space.shape).astype(np.float32)
        observation, reward, *_ = environment.step(action)
        told += [observation, np.array([reward])]
        if pictures:
            environment.picture(64, 48)
    environment.close()
    return np.concatenate(told)


BUILDS = {
    "reach": lambda: MetaWorldSuite(["reach-v3"], workers=0),
    "cheetah": None,
}


def made(name):
    if name == "cheetah":
        return build_cheetah(
            "direction", 0, 2.0, Task("half-cheetah-direction", 0, "train", (0, 1))
        )
    suite = BUILDS[name]()
    return suite.build(suite.tasks())(suite.tasks()[0])


@pytest.mark.gl
@pytest.mark.parametrize("name", BUILDS)
def test_pictures_show_something_and_change_nothing(gl, name):
    environment = made(name)
    assert environment.needs_gl and environment.rate > 0
    environment.reset(options={"goal": 0, "rng": np.random.default_rng(0)})
    first = environment.picture(96, 64)
    assert first.shape == (64, 96, 3) and first.dtype == np.uint8 and first.std() > 5
    assert np.array_equal(first, environment.picture(96, 64))
    for _ in range(10):
        environment.step(np.ones(environment.action_space.shape, np.float32))
    assert not np.array_equal(first, environment.picture(96, 64))
    environment.close()
    assert np.array_equal(played(made(name), False), played(made(name), True))


WITHOUT_A_WINDOW = """
import os, sys
from envs import camera
model = camera.mujoco.MjModel.from_xml_string(camera.TRIAL)
for _ in range(2):
    try:
        camera.Camera(model, camera.named(model, "front"), 32, 32)
    except RuntimeError as error:
        print(error)
os.environ["MUJOCO_GL"] = sys.argv[1]
camera.trial()
print("drawn", flush=True)
os._exit(0)
"""


@pytest.mark.gl
@pytest.mark.skipif(sys.platform == "darwin", reason="windows can be opened without a display")
def test_where_no_window_opens_the_process_can_still_draw_in_another_way(gl):
    wanted = {"MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM"}
    environment = {name: value for name, value in os.environ.items() if name not in wanted}
    command = [sys.executable, "-c", WITHOUT_A_WINDOW, gl]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    said = "MUJOCO_GL is '', and no window can be opened here; set it to egl or osmesa"
    assert done.stdout.splitlines() == [said, said, "drawn"], done.stderr


def test_a_back_end_that_is_none_is_an_error(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "crayons")
    model = camera.mujoco.MjModel.from_xml_string(camera.TRIAL)
    with pytest.raises(ImportError, match="crayons"):
        camera.Camera(model, camera.named(model, "front"), 32, 32)


def test_the_point_mass_is_drawn_where_it_is():
    environment = PointMass(0, (0, 0))
    assert not environment.needs_gl
    environment.restore({"state": np.array([-0.7, 0.35, 0.0, 0.0, 0.7, -0.7])})
    size = 200
    picture = environment.picture(size, size)

    def pixel(x, y):
        column, row = (round((value / SEEN + 1) / 2 * (size - 1)) for value in (x, -y))
        return tuple(picture[row, column].tolist())

    assert pixel(-0.7, 0.35) == (0, 78, 122)
    assert pixel(0.7, -0.7) == (230, 159, 0)
    assert pixel(0.0, 0.0) == (255, 255, 255)
    assert pixel(1.3, 1.3) == (225, 225, 225)
