"""Meta-World's Sawyer tasks, faster and bit for bit the same.

Most of a Meta-World step is not physics but Python around arrays of three numbers. `accelerate`
derives a class from one of Meta-World's own at run time. Task logic, rewards and resets stay
upstream's code; what it calls is exchanged:

- Upstream's methods run with module globals of their own, in which `np`, `reward_utils` and
  `Rotation` lead to the functions of `envs.cheaper`. Upstream's modules are not touched.
- Bodies, sites, geoms and joints are looked up by name once, see `NamedData`.
- Step, observation, contact test and reset are written anew. A task's own version of them wins.
- A reset with a goal that was seen before puts back what the first one led to.

With other versions of the libraries `tests/test_sawyer.py` decides whether it is still the same;
`accelerated=False` does without all this.
"""

import envs.opengl  # noqa: F401

# isort: split
import functools
import math
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerMocapBase, SawyerXYZEnv
from numpy._core.umath import clip as ufunc_clip  # type: ignore[attr-defined]
from numpy.typing import NDArray

from envs import snapshot
from envs.cheaper import CHEAPER

Array = NDArray[Any]
GRIPPER_DOWN = np.array([1.0, 0.0, 1.0, 0.0])
ONE = np.float32(1)  # bounds of single precision promote neither kind of action


class View:
    """One named body (or site, ...) of a simulation; each of its arrays is fetched once.

    It keeps the arrays and not MuJoCo's accessor, which would hold the simulation for ever: the
    garbage collector does not see that reference.
    """

    def __init__(self, find: Callable[[], Any]) -> None:
        self.__dict__["_find"] = find

    def __getattr__(self, name: str) -> Any:
        """Called for what is not yet known."""
        value = self.__dict__[name] = getattr(self._find(), name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Write into the array, as MuJoCo's accessor does."""
        setattr(self._find(), name, value)


class Views(dict[str, View]):
    """Name -> `View`, made where it is first asked for."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    def __missing__(self, name: str) -> View:
        """The view of a name that was not asked for before; an unknown one is MuJoCo's error."""
        self._find(name)
        view = self[name] = View(functools.partial(self._find, name))
        return view


class NamedData(mujoco.MjData):  # type: ignore[misc]
    """MuJoCo's data with remembered named access; the arrays are live views, as upstream's are.

    Attributes:
        live: See `snapshot.live_arrays`.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model)
        for kind in ("body", "site", "geom", "joint"):
            setattr(self, kind, Views(getattr(super(), kind)).__getitem__)
        self.hand, self.hand_quat, self.fingers = self.mocap_pos, self.mocap_quat, self.ctrl
        self.live = snapshot.live_arrays(model, self)


class Layer(SawyerXYZEnv):
    """What every accelerated task does in its own way."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._resets: dict[tuple[Any, ...], Reset] = {}
        super().__init__(*args, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as upstream does; the copy's simulation is a new one, its cache empty."""
        state = self.__getstate__()
        state["state"]["_resets"] = {}
        return _bare, (type(self).__mro__[2],), state

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model, _ = super()._initialize_simulation()
        if (model.nmocap, model.nu) != (1, 2):
            raise ValueError(f"expected one mocap body, two actuators: {model.nmocap}, {model.nu}")
        return model, NamedData(model)

    def touching_object(self, object_geom_id: int) -> bool:
        """Whether both pads press on the object."""
        data = self.data
        if not data.ncon:
            return False
        left, right = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
        contact, force = data.contact, data.efc_force
        left_force, right_force = 0.0, 0.0
        for i, pair in enumerate(contact.geom.tolist()):
            # An inactive contact has address -1; upstream reads the last force then.
            if object_geom_id in pair and left in pair:
                left_force += force[contact.efc_address[i]]
            if object_geom_id in pair and right in pair:
                right_force += force[contact.efc_address[i]]
        return bool(0 < left_force and 0 < right_force)

    def _get_curr_obs_combined_no_goal(self) -> Array:
        body = self.data.body
        frame = np.zeros(4 + self._obs_obj_max_len)
        frame[:3] = self.get_endeff_pos()
        apart = body("rightclaw").xpos - body("leftclaw").xpos
        frame[3] = min(max(math.sqrt(apart.dot(apart)) / 0.1, 0.0), 1.0)
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        for i in range(len(positions) // 3):
            frame[4 + 7 * i : 7 + 7 * i] = positions[3 * i : 3 * i + 3]
            frame[7 + 7 * i : 11 + 7 * i] = quaternions[4 * i : 4 * i + 4]
        return frame

    def _get_obs(self) -> Array:
        goal = self._get_pos_goal()
        if self._partially_observable:
            goal = np.zeros_like(goal)
        frame = self._get_curr_obs_combined_no_goal()
        observation = np.concatenate((frame, self._prev_obs, goal))
        self._prev_obs = frame
        return observation

    def step(self, action: Array) -> Any:
        """Upstream's step; it leaves out what the forward pass overwrites."""
        if (
            type(action) is not np.ndarray
            or action.shape != (4,)
            or action.dtype.char not in "fd"
            or self.curr_path_length >= self.max_path_length
            or self._did_see_sim_exception
            or not self._set_task_called
        ):
            return super().step(action)  # or its error
        self.simulate(action)
        return self.outcome(action)

    def simulate(self, action: Array) -> None:
        """The physics of a step with four numbers, within an episode."""
        model, data = self.model, self.data
        hand = data.hand[0]
        moved = hand + ufunc_clip(action[:3], -ONE, ONE) * self.action_scale
        ufunc_clip(moved, self.mocap_low, self.mocap_high, hand)
        data.hand_quat[0] = GRIPPER_DOWN
        fingers, grip = data.fingers, action[3]
        fingers[0] = grip
        fingers[1] = -grip
        mujoco.mj_step(model, data, nstep=self.frame_skip)
        mujoco.mj_rnePostConstraint(model, data)
        self.curr_path_length += 1
        mujoco.mj_forward(model, data)

    def outcome(self, action: Array) -> Any:
        """What follows from `simulate`: what `step` returns."""
        space = self.sawyer_observation_space
        observation = ufunc_clip(self._get_obs(), space.low, space.high)
        self._last_stable_obs = observation
        reward, info = self.evaluate_state(observation, action)
        truncated = self.curr_path_length == self.max_path_length
        return observation.copy(), reward, False, truncated, info

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Upstream's reset, once per goal; it always ends at the same point for a goal."""
        if not self._freeze_rand_vec or self._last_rand_vec is None:
            return super().reset(seed, options)
        version = getattr(self, "reward_function_version", None)  # assembly's reset asks for it
        key = (self._last_rand_vec.tobytes(), self._partially_observable, version)
        known = self._resets.get(key)
        if known is None:
            known = self._resets[key] = Reset(self, super().reset)
        else:
            known.repeat(self)
        return known.observation.copy(), dict(known.info)


class Reset:
    """A reset that was run, ready to be repeated.

    Attributes that upstream assigned are kept by reference: some are live views of the simulation,
    and none is written in place after a reset. Those it did not assign stay what they are.

    One thing upstream carries over from the episode before is not repeated: where a task moves its
    goal's mark after the last forward pass, the mark is seen at its old place until the next step.
    """

    def __init__(self, environment: Any, reset: Callable[[], tuple[Array, dict[str, Any]]]) -> None:
        plain: Any = type(environment)
        names: set[str] = set()

        def record(self: Any, name: str, value: Any) -> None:
            names.add(name)
            plain.__setattr__(self, name, value)

        # A class of its own for this one reset, so that no other assignment pays for it.
        environment.__class__ = type(plain.__name__, (plain,), {"__setattr__": record})
        try:
            observation, self.info = reset()
        finally:
            object.__setattr__(environment, "__class__", plain)
        self.observation = observation.copy()
        self._attributes = {name: getattr(environment, name) for name in names}
        self._physics = snapshot.take_physics(environment.model, environment.data)

    def repeat(self, environment: Any) -> None:
        """Put the environment where the reset ended."""
        data = environment.data
        snapshot.put_physics(environment.model, data, self._physics, data.live)
        for name, value in self._attributes.items():
            setattr(environment, name, value)
        if environment.render_mode == "human":
            environment.render()


@functools.cache
def accelerate(kind: Any) -> Any:
    """The accelerated subclass of a Meta-World task class.

    Args:
        kind: for example `ALL_V3_ENVIRONMENTS["reach-v3"]`.
    """
    globals_of: dict[str, dict[str, Any]] = {}
    members: dict[str, Any] = {"__module__": __name__, "__doc__": kind.__doc__}
    for owner in reversed(kind.__mro__):
        if not issubclass(owner, SawyerMocapBase):
            continue
        shared = owner in Layer.__mro__
        for name, member in vars(owner).items():
            if not name.startswith("__") and not (shared and name in vars(Layer)):
                rebound = _rebind(member, globals_of)
                if rebound is not member:
                    members[name] = rebound
    accelerated = type(kind.__name__, (Layer, kind), members)
    for names in globals_of.values():
        if kind.__name__ in names:  # static methods are called by the name of their class
            names[kind.__name__] = accelerated
    return accelerated


def _bare(kind: Any) -> Any:
    made = accelerate(kind)
    return made.__new__(made)


def _rebind(member: Any, globals_of: dict[str, dict[str, Any]]) -> Any:
    """The same code with the cheaper globals; what is no function comes back as it is."""
    if isinstance(member, staticmethod):
        return staticmethod(_rebind(member.__func__, globals_of))
    if isinstance(member, property):
        return property(*(_rebind(f, globals_of) for f in (member.fget, member.fset, member.fdel)))
    if not isinstance(member, FunctionType):
        return member
    module = member.__module__
    if module not in globals_of:
        names = member.__globals__
        exchanged = {name: new for name, new in CHEAPER.items() if name in names}
        globals_of[module] = {**names, **exchanged}
    # A decorated method holds the real one in its closure.
    closure = tuple(
        CellType(_rebind(cell.cell_contents, globals_of)) for cell in member.__closure__ or ()
    )
    rebound = FunctionType(
        member.__code__, globals_of[module], member.__name__, member.__defaults__, closure
    )
    rebound.__kwdefaults__ = member.__kwdefaults__
    return rebound
