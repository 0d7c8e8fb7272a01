"""The tasks of the ant: PEARL's, TIGR's nine families, CEMRL's; see `envs.cheetah_tasks`.

Where a reward charges for contact forces, they are 0 unless `Physics.contact_forces`.
"""

from functools import partial
from math import cos, pi, sin
from typing import Any

import numpy as np

from envs.body import ANT, Body, Layout
from envs.families import Array, Benchmark, Family, Term, disc, fixed, repeated, spaced, uniform
from envs.outfits import Limp

CONTACT = 5e-4
TIGR = (
    "velocity_left",
    "velocity_right",
    "velocity_up",
    "velocity_down",
    "goal_left",
    "goal_right",
    "goal_up",
    "goal_down",
    "jump",
)
LEGS = ((2, 3), (4, 5), (6, 7), (0, 1))  # actuators; the last leg fails in the test split alone
LAME = np.eye(4)


def upright(body: Body) -> bool:
    """Height of the torso within [0.2, 1]."""
    return bool(0.2 <= body.data.qpos[2] <= 1.0)


def off_the_floor(body: Body) -> bool:
    """Height of the torso within [0.3, 10]."""
    return bool(0.3 <= body.data.qpos[2] <= 10.0)


def heading(body: Body, goal: Array) -> float:
    """Mean velocity of the torso over the step, along an angle."""
    angle = float(goal[0])
    x, y = body.drift()
    return x * cos(angle) + y * sin(angle)


def near(body: Body, goal: Array) -> float:
    """Distance of the torso in the plane, coordinate by coordinate."""
    return -float(np.abs(body.place[:2] - goal).sum())


def planar_velocity(body: Body, goal: Array) -> float:
    """Relative square distance of the velocity in the plane."""
    return _relative_square(body.data.qvel[:2], goal)


def planar_goal(body: Body, goal: Array) -> float:
    """Relative square distance in the plane."""
    return _relative_square(body.data.qpos[:2], goal)


def jump(body: Body, goal: Array) -> float:
    """Relative distance of the vertical speed, up or down."""
    return -abs(abs(float(body.data.qvel[2])) - float(goal[0])) / float(goal[0])


def tenfold(body: Body, goal: Array) -> float:
    """Ten times the torso's mean velocity over the step, along 1 or -1."""
    return 10.0 * body.drift()[0] * float(goal[0])


def along(body: Body, goal: Array) -> float:
    """Distance of the torso's mean velocity over the step."""
    return -abs(body.drift()[0] - float(goal[0]))


def ahead(body: Body, goal: Array) -> float:
    """Mean velocity of the torso over the step."""
    return body.drift()[0]


def _relative_square(value: Array, goal: Array) -> float:
    offset = value - goal
    return -float(offset.dot(offset)) / float(goal.dot(goal))


def _velocity(axis: int, low: float, high: float) -> Family:
    return Family(term=planar_velocity, draw=partial(spaced, axis=axis, width=2), span=(low, high))


def _goal(axis: int, low: float, high: float) -> Family:
    return Family(term=planar_goal, draw=partial(spaced, axis=axis, width=2), span=(low, high))


def _ant(term: Term, **rest: Any) -> Family:
    return Family(term=term, control=0.5, contact=CONTACT, bonus=1.0, **rest)


NINE_AND_MORE = {
    "velocity_left": _velocity(0, -3.0, -1.0),
    "velocity_right": _velocity(0, 1.0, 3.0),
    "velocity_up": _velocity(1, 1.0, 3.0),
    "velocity_down": _velocity(1, -3.0, -1.0),
    "goal_left": _goal(0, -15.0, -5.0),
    "goal_right": _goal(0, 5.0, 15.0),
    "goal_up": _goal(1, 5.0, 15.0),
    "goal_down": _goal(1, -15.0, -5.0),
    "jump": Family(term=jump, draw=spaced, span=(0.5, 2.0)),
    "goal_2d": Family(term=near, draw=disc, span=(0.0, 3.0), control=0.1, contact=CONTACT),
    "direction_forward": _ant(heading, draw=repeated, span=(0.0, 0.0)),
    "direction_backward": _ant(heading, draw=repeated, span=(pi, pi)),
}


def _benchmark(families: dict[str, Family], skip: int, **rest: Any) -> Benchmark:
    rest = {"layout": Layout(skip=skip), "alive": upright, **rest}
    return Benchmark(anatomy=ANT, families=families, **rest)


CEMRL = {"layout": Layout(skip=2, torso=True), "alive": off_the_floor, "horizon": 800}
BENCHMARKS = {
    "ant-direction": _benchmark(
        {"direction": _ant(heading, draw=uniform, span=(0.0, 2 * pi))},
        2,
        sizes=(100, 30),
        terminates=True,
    ),
    "ant-forward-back": _benchmark(
        {"direction": _ant(heading, draw=fixed([0.0, pi]))}, 2, terminates=True
    ),
    "ant-goal": _benchmark({"goal": NINE_AND_MORE["goal_2d"]}, 0, sizes=(150, 30)),
    "ant-families": _benchmark(NINE_AND_MORE, 0, names=TIGR, sizes=(90, 45), alive=off_the_floor),
    "ant-reversal": _benchmark(
        {"direction": _ant(tenfold, draw=fixed([1.0, -1.0]), turns=True)},
        2,
        terminates=True,
        **CEMRL,
    ),
    "ant-velocity": _benchmark(
        {"velocity": _ant(along, draw=uniform, span=(1.0, 5.0))}, 2, sizes=(100, 30), **CEMRL
    ),
    "ant-limp": _benchmark(
        {
            "sound": _ant(ahead, draw=fixed([[0.0] * 4]), outfit=Limp(LEGS)),
            "limp": _ant(ahead, draw=fixed(LAME[:3], LAME[3:]), outfit=Limp(LEGS), final=True),
        },
        2,
        terminates=True,
        drawn=("limp",),
    ),
}
