"""The tasks of the half-cheetah, beyond those of CAVIA.

Rakelly et al. (PEARL), "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", 2019; Bing et al. (TIGR), "Meta-Reinforcement Learning in Broad and Non-Parametric
Environments", 2021; Bing et al. (CEMRL), "Meta-Reinforcement Learning in Non-Stationary and Dynamic
Environments", 2022. Positions are x, z and pitch of the root, then joints; all rewards also charge
0.05 |action|^2, or 0.1 |action|^2 where parameters change.
"""

from math import pi
from typing import Any

from envs.body import HALF_CHEETAH, Body, Layout
from envs.families import (
    Array,
    Benchmark,
    Family,
    factors,
    fixed,
    repeated,
    signs,
    spaced,
    uniform,
)
from envs.outfits import Element

SENSES = Layout(skip=1, torso=True)
TIGR = (
    "velocity_forward",
    "velocity_backward",
    "stand_back",
    "stand_front",
    "goal_forward",
    "goal_backward",
    "flip_forward",
    "jump",
)


def level(body: Body) -> bool:
    """Pitch within 2.5 radians."""
    return bool(-2.5 <= body.data.qpos[2] <= 2.5)


def direction(body: Body, goal: Array) -> float:
    """Mean velocity over the step, along 1 or -1."""
    return body.speed(0) * float(goal[0])


def velocity(body: Body, goal: Array) -> float:
    """Distance of the mean velocity over the step."""
    return -abs(body.speed(0) - float(goal[0]))


def forward(body: Body, goal: Array) -> float:
    """Mean velocity over the step."""
    return body.speed(0)


def pace(body: Body, goal: Array) -> float:
    """Relative distance of the velocity at the end of the step."""
    return _relative(body.data.qvel[0], goal)


def goal_ahead(body: Body, goal: Array) -> float:
    """Relative distance of x."""
    return _relative(body.data.qpos[0], goal)


def stand(body: Body, goal: Array) -> float:
    """Relative distance of the pitch, which counts full turns."""
    return _relative(body.data.qpos[2], goal)


def flip(body: Body, goal: Array) -> float:
    """Relative distance of the velocity of the pitch."""
    return _relative(body.data.qvel[2], goal)


def jump(body: Body, goal: Array) -> float:
    """Relative distance of the vertical speed, up or down."""
    return _relative(abs(body.data.qvel[1]), goal)


def goal_near(body: Body, goal: Array) -> float:
    """Distance of x. The reference pays x - goal, without bound; a mistake."""
    return -abs(float(body.data.qpos[0]) - float(goal[0]))


def spin(body: Body, goal: Array) -> float:
    """Mean velocity of the pitch over the step, along 1 or -1."""
    return body.speed(2) * float(goal[0])


def height(body: Body, goal: Array) -> float:
    """Height of the root over its initial one; there is nothing to specify."""
    return float(body.data.qpos[1])


def _relative(value: float, goal: Array) -> float:
    return -abs(float(value) - float(goal[0])) / abs(float(goal[0]))


EIGHT_AND_MORE = {
    "velocity_forward": Family(term=pace, draw=spaced, span=(1.0, 5.0)),
    "velocity_backward": Family(term=pace, draw=spaced, span=(-5.0, -1.0)),
    "goal_forward": Family(term=goal_ahead, draw=spaced, span=(5.0, 25.0)),
    "goal_backward": Family(term=goal_ahead, draw=spaced, span=(-25.0, -5.0)),
    "flip_forward": Family(term=flip, draw=spaced, span=(2 * pi, 4 * pi)),
    "stand_front": Family(term=stand, draw=spaced, span=(pi / 6, pi / 2)),
    "stand_back": Family(term=stand, draw=spaced, span=(-pi / 2, -pi / 6)),
    "jump": Family(term=jump, draw=spaced, span=(1.5, 3.0)),
    "direction_forward": Family(term=direction, draw=repeated, span=(1.0, 1.0)),
    "direction_backward": Family(term=direction, draw=repeated, span=(-1.0, -1.0)),
    "velocity": Family(term=velocity, draw=spaced, span=(0.0, 3.0)),
}
FIVE = {
    "velocity": Family(term=velocity, draw=spaced, span=(1.0, 3.0)),
    "direction": Family(term=direction, draw=signs),
    "goal": Family(term=goal_near, draw=uniform, span=(-5.0, 5.0)),
    "flipping": Family(term=spin, draw=signs),
    "jumping": Family(term=height, draw=repeated),
}


def _altered(names: tuple[str, ...], index: int) -> Family:
    outfit = Element(names, index)
    return Family(term=forward, draw=factors, span=(-7.0, 7.0), control=0.1, outfit=outfit)


HEAVY = {f"mass_{i}": _altered(("body_mass", "body_inertia"), i) for i in range(1, 8)}
# All joints with a motor, of which the published loop misses the last.
STIFF = {f"damping_{i}": _altered(("dof_damping",), i) for i in range(3, 9)}


def _benchmark(families: dict[str, Family], layout: Layout = SENSES, **rest: Any) -> Benchmark:
    return Benchmark(anatomy=HALF_CHEETAH, layout=layout, families=families, alive=level, **rest)


BENCHMARKS = {
    "cheetah-direction": _benchmark(
        {"direction": Family(term=direction, draw=fixed([1.0, -1.0]), turns=True)}
    ),
    "cheetah-continual": _benchmark(
        {"direction": Family(term=direction, draw=fixed([-1.0]), turns=True)}, horizon=800
    ),
    "cheetah-velocity": _benchmark(
        {"velocity": Family(term=velocity, draw=uniform, span=(0.0, 3.0))}, sizes=(100, 30)
    ),
    "cheetah-families": _benchmark(EIGHT_AND_MORE, names=TIGR, sizes=(80, 40)),
    "cheetah-five": _benchmark(FIVE, sizes=(60, 30)),
    "cheetah-mass": _benchmark(HEAVY, Layout(skip=1), sizes=(60, 30), horizon=400),
    "cheetah-damping": _benchmark(STIFF, Layout(skip=1), sizes=(60, 30), horizon=400),
}
