"""The body of a MuJoCo robot: its simulator, what it senses, how it moves and how it starts."""

import envs.opengl  # noqa: F401

# isort: split
import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco import mujoco_env
from numpy.typing import NDArray

from envs.camera import Camera, named

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
# Bad positions, velocities or accelerations: MuJoCo numbers these warnings one after the other.
BROKEN = slice(mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQACC + 1)
PARAMETERS = ("body_mass", "body_inertia", "dof_damping", "geom_friction")
RIGHT_FOOT = 0.9  # friction of the walker's right foot before gymnasium's v5


@dataclass(frozen=True)
class Anatomy:
    """A robot of gymnasium.

    Attributes:
        file: its model among gymnasium's assets.
        frame_skip: simulator steps of a step.
        num_positions: of joints, the root's included.
        num_velocities: of joints.
        num_actions: actuators.
        num_bodies: with the world.
        num_geoms: with the floor.
        noise: of the start.
        normal: the noise of velocities is normal, not uniform.
        scale: of actions.
        timestep: of the simulator in seconds; None for the model's own.
        centre: what is followed is the centre of mass, not the torso.
    """

    file: str
    frame_skip: int
    num_positions: int
    num_velocities: int
    num_actions: int
    num_bodies: int
    num_geoms: int
    noise: float
    normal: bool = False
    scale: float = 1.0
    timestep: float | None = None
    centre: bool = False


HALF_CHEETAH = Anatomy("half_cheetah.xml", 5, 9, 9, 6, 8, 9, noise=0.1, normal=True)
ANT = Anatomy("ant.xml", 5, 15, 14, 8, 14, 14, noise=0.1, normal=True)
WALKER = Anatomy("walker2d_v5.xml", 4, 9, 9, 6, 8, 8, noise=0.005)
HOPPER = Anatomy("hopper.xml", 4, 6, 6, 3, 5, 5, noise=0.005)
HUMANOID = Anatomy("humanoid.xml", 5, 24, 23, 17, 14, 18, noise=0.01, scale=0.4, centre=True)


@dataclass(frozen=True)
class Layout:
    """What is observed: positions, velocities, the torso's place, forces, in this order.

    Attributes:
        skip: leading positions left out.
        velocity: velocities are observed.
        clip: bound of the velocities.
        torso: the place of the torso is observed (3).
        forces: inertias and velocities of bodies, actuator and contact forces are (humanoid).
        contacts: contact forces clipped to [-1, 1] are (6 for each body).
    """

    skip: int
    velocity: bool = True
    clip: float = math.inf
    torso: bool = False
    forces: bool = False
    contacts: bool = False

    def width(self, anatomy: Anatomy) -> int:
        """Numbers of an observation."""
        bodies, velocities = anatomy.num_bodies, anatomy.num_velocities
        return (
            anatomy.num_positions
            - self.skip
            + velocities * self.velocity
            + 3 * self.torso
            + (22 * bodies + velocities) * self.forces
            + 6 * bodies * self.contacts
        )


@dataclass(frozen=True, kw_only=True)
class Physics:
    """Where gymnasium's simulators of today and those of the references differ.

    Attributes:
        contact_forces: compute the forces that rewards charge for and observations show. In the
            references' MuJoCo 2.0 nothing computed them: they were 0.
        observe_contacts: show them, clipped to [-1, 1], at the end of the observation, as PEARL's
            ant that must reach a goal saw them; zeros unless they are computed.
        legacy_feet: friction 0.9, not 1.9, of the walker's right foot; None as the benchmark says.
        refresh_constants: after a change of parameters derive again what follows from them
            (masses of subtrees, inverse weights); the references do not.
    """

    contact_forces: bool = False
    observe_contacts: bool = False
    legacy_feet: bool | None = None
    refresh_constants: bool = False


class Body:
    """One robot: a simulator and its live views.

    A start is the model's, plus noise: uniform on positions, normal or uniform on velocities. As in
    the originals the places of bodies are those which the last simulator step of a step began with.

    Attributes:
        model: MuJoCo's; shared by all robots of a process unless `own`.
        data: MuJoCo's.
        original: the parameters of an `own` model before anything changed them.
        seconds: of a step.
        strength: `[num_actions]` factor on the actions, or None.
        place: `[3]` of the torso, or of the centre of mass.

    Args:
        anatomy: which robot.
        layout: what it senses.
        physics: see `Physics`.
        own: its model is its own, to be changed.
    """

    def __init__(
        self, anatomy: Anatomy, layout: Layout, physics: Physics | None = None, own: bool = False
    ) -> None:
        self._physics, self._anatomy = physics or Physics(), anatomy
        shared = model(anatomy.file, anatomy.timestep, bool(self._physics.legacy_feet))
        self.model: Any = copy.copy(shared) if own else shared
        self.data: Any = mujoco.MjData(self.model)
        changed = PARAMETERS if own else ()
        self.original = {name: getattr(self.model, name).copy() for name in changed}
        self.strength: NDArray[np.float64] | None = None
        self.seconds: float = self.model.opt.timestep * anatomy.frame_skip
        self._start = self.data.qpos.copy()
        self._before = self._start.copy()
        self._weights = self.model.body_mass / self.model.body_mass.sum()
        # Live views:
        data = self.data
        self._torso = data.xpos[self.model.body("torso").id]
        self._broken = data.warning.number[BROKEN]
        self._clip = layout.clip if layout.velocity else math.inf
        self._contacts = layout.contacts
        self._views = [data.qpos[layout.skip :]] + [data.qvel] * layout.velocity
        self._views += [self._torso] * layout.torso
        if layout.forces:
            bodies = (data.cinert, data.cvel, data.qfrc_actuator, data.cfrc_ext)
            self._views += [view.reshape(-1) for view in bodies]
        self.place = self._last_place = self._torso.copy()
        self._camera: Camera | None = None

    @property
    def broken(self) -> bool:
        """Whether the simulation broke down since the start."""
        return any(self._broken.tolist())

    def begin(self, rng: np.random.Generator) -> None:
        """Start anew."""
        data, noise = self.data, self._anatomy.noise
        mujoco.mj_resetData(self.model, data)
        data.qpos[:] = self._start + rng.uniform(-noise, noise, self.model.nq)
        if self._anatomy.normal:
            data.qvel[:] = noise * rng.standard_normal(self.model.nv)
        else:
            data.qvel[:] = rng.uniform(-noise, noise, self.model.nv)
        mujoco.mj_forward(self.model, data)
        self.place = self._where()

    def move(self, action: NDArray[np.float32]) -> float:
        """One step; the square of the controls."""
        data, anatomy = self.data, self._anatomy
        control = action.astype(np.float64) * anatomy.scale
        if self.strength is not None:
            control *= self.strength
        self._before[:] = data.qpos
        self._last_place = self.place
        data.ctrl[:] = control
        mujoco.mj_step(self.model, data, nstep=anatomy.frame_skip)
        if self._physics.contact_forces:
            mujoco.mj_rnePostConstraint(self.model, data)
        self.place = self._where()
        return float(control.dot(control))

    def speed(self, joint: int) -> float:
        """How fast a position changed over the last step."""
        return (float(self.data.qpos[joint]) - float(self._before[joint])) / self.seconds

    def drift(self) -> tuple[float, float]:
        """Velocity of the place in the plane over the last step."""
        x, y = ((self.place[:2] - self._last_place[:2]) / self.seconds).tolist()
        return x, y

    def contact(self) -> float:
        """Squares of the contact forces, each clipped to [-1, 1]; 0 if they are not computed."""
        if not self._physics.contact_forces:
            return 0.0
        return float(np.square(self.data.cfrc_ext.clip(-1.0, 1.0)).sum())

    def impact(self) -> float:
        """Squares of the contact forces; 0 if they are not computed."""
        return float(np.square(self.data.cfrc_ext).sum()) if self._physics.contact_forces else 0.0

    def observe(self) -> NDArray[np.float64]:
        """See `Layout`."""
        views = self._views
        if self._clip < math.inf:
            views = [views[0], views[1].clip(-self._clip, self._clip), *views[2:]]
        if self._contacts:
            views = [*views, self.data.cfrc_ext.clip(-1.0, 1.0).reshape(-1)]
        return np.concatenate(views)

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """From the model's own camera, which follows the robot."""
        if self._camera is None or self._camera.size != (width, height):
            self.put_away()
            self._camera = Camera(self.model, named(self.model, "track"), width, height)
        return self._camera.take(self.data)

    def put_away(self) -> None:
        """Free what pictures needed."""
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()

    def settle(self) -> None:
        """Take note of changed parameters, see `Physics.refresh_constants`."""
        if self._physics.refresh_constants:
            mujoco.mj_setConst(self.model, mujoco.MjData(self.model))

    def snapshot(self) -> dict[str, Any]:
        """MuJoCo's state, and where the robot was; parameters are the caller's affair."""
        physics = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, physics, STATE)
        return {"physics": physics, "place": self.place.copy()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `snapshot` was taken."""
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, state["physics"], STATE)
        mujoco.mj_forward(self.model, self.data)  # for pictures; it warms the solver
        mujoco.mj_setState(self.model, self.data, state["physics"], STATE)
        self.place = np.array(state["place"], dtype=np.float64)

    def _where(self) -> NDArray[np.float64]:
        if self._anatomy.centre:
            centre: NDArray[np.float64] = self._weights @ self.data.xipos
            return centre
        torso: NDArray[np.float64] = self._torso.copy()
        return torso


@cache
def model(file: str, timestep: float | None = None, legacy_feet: bool = False) -> Any:
    """A compiled model, one for all robots of a process that do not change it."""
    made = mujoco.MjModel.from_xml_path(str(Path(mujoco_env.__file__).parent / "assets" / file))
    if timestep is not None:
        made.opt.timestep = timestep
    if legacy_feet:
        made.geom_friction[made.geom("foot_geom").id, 0] = RIGHT_FOOT
    return made
