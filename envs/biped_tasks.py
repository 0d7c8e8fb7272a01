"""The tasks of humanoid, walker and hopper: PEARL's and CEMRL's; see `envs.cheetah_tasks`."""

from dataclasses import replace
from math import cos, pi, sin
from typing import Any

import numpy as np

from envs.body import HOPPER, HUMANOID, WALKER, Anatomy, Body, Layout
from envs.cheetah_tasks import forward, velocity
from envs.families import Array, Benchmark, Family, exponents, uniform
from envs.outfits import Parameters

# The random-parameter models step twice as long as gymnasium's.
LONG = 0.004
CLIPPED = Layout(skip=1, clip=10.0)


def standing(body: Body) -> bool:
    """The humanoid: height of the torso within [1, 2]."""
    return bool(1.0 <= body.data.qpos[2] <= 2.0)


def walking(body: Body) -> bool:
    """The walker: height within (0.8, 2), pitch within 1 radian."""
    _, height, pitch = body.data.qpos[:3].tolist()
    return bool(0.8 < height < 2.0 and -1.0 < pitch < 1.0)


def hopping(body: Body) -> bool:
    """The hopper: height over 0.7, pitch within 0.2 radians, all but x and z within 100."""
    data = body.data
    _, height, pitch = data.qpos[:3].tolist()
    bounded = np.abs(data.qpos[2:]).max() < 100.0 and np.abs(data.qvel).max() < 100.0
    return bool(bounded and height > 0.7 and abs(pitch) < 0.2)


def march(body: Body, goal: Array) -> float:
    """Mean velocity of the centre of mass over the step along an angle, less the impact.

    The weight 1.25 is 0.25 divided by the simulator's time step, 0.003, in place of the step's.
    """
    angle = float(goal[0])
    x, y = body.drift()
    return 1.25 * (x * cos(angle) + y * sin(angle)) - min(5e-7 * body.impact(), 10.0)


def _parameters(anatomy: Anatomy, limit: float, names: tuple[str, ...] = ()) -> dict[str, Family]:
    outfit = Parameters(names) if names else Parameters()
    return {
        "parameters": Family(
            term=forward,
            draw=exponents(outfit.width(anatomy)),
            span=(-limit, limit),
            control=1e-3,
            bonus=1.0,
            outfit=outfit,
        )
    }


def _velocity(bonus: float | None) -> dict[str, Family]:
    family = Family(term=velocity, draw=uniform, span=(0.0, 3.0), control=1e-3, bonus=bonus)
    return {"velocity": family}


def _walker(families: dict[str, Family], layout: Layout = CLIPPED, **rest: Any) -> Benchmark:
    rest = {"anatomy": WALKER, "alive": walking, "sizes": (100, 30), **rest}
    return Benchmark(layout=layout, families=families, **rest)


MARCH = Family(term=march, draw=uniform, span=(0.0, 2 * pi), control=0.1, bonus=5.0)
HIDDEN = ("body_mass", "dof_damping", "geom_friction")
SHIFTING: dict[str, Any] = {"horizon": 800, "terminates": True, "legacy_feet": True}
BENCHMARKS = {
    "humanoid-direction": Benchmark(
        anatomy=HUMANOID,
        layout=Layout(skip=2, forces=True),
        families={"direction": MARCH},
        sizes=(100, 30),
        alive=standing,
        terminates=True,
    ),
    "walker-parameters": _walker(
        _parameters(WALKER, 3.0),
        anatomy=replace(WALKER, timestep=LONG),
        sizes=(40, 10),
        terminates=True,
    ),
    "hopper-parameters": Benchmark(
        anatomy=replace(HOPPER, timestep=LONG),
        layout=CLIPPED,
        families=_parameters(HOPPER, 3.0),
        sizes=(40, 10),
        alive=hopping,
        terminates=True,
    ),
    "walker-velocity": _walker(_velocity(1.0), legacy_feet=True),
    "hopper-velocity": Benchmark(
        anatomy=HOPPER,
        layout=replace(CLIPPED, torso=True),
        families=_velocity(None),
        sizes=(100, 30),
        alive=hopping,
    ),
    "walker-shifting": _walker(_parameters(WALKER, 1.0), **SHIFTING),
    "walker-shifting-hidden": _walker(
        _parameters(WALKER, 3.0, HIDDEN),
        Layout(skip=1, velocity=False),
        **{**SHIFTING, "horizon": 400},
    ),
}
