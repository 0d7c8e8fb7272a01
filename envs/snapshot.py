"""Exact snapshot of a Meta-World simulator.

MuJoCo's integration state is not enough. Meta-World also depends on plain attributes of the
environment, on model arrays a reset moves, on derived arrays it overwrites by hand, and on which
attributes are live views of the simulator's memory or share memory with each other: a view that
became a copy changes the reward of several tasks.
"""

import envs.opengl  # noqa: F401

# isort: split
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

MODEL_ARRAYS = ("body_pos", "body_quat", "site_pos", "site_quat", "geom_pos", "geom_quat")
DERIVED_ARRAYS = ("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat") + (
    "site_xpos",
    "site_xmat",
)
FIXED = {"model", "data", "mujoco_renderer", "_ezpickle_args", "_ezpickle_kwargs", "spec"} | {
    "_resets"  # the reset cache of `envs.sawyer` says nothing about the future
}


def take(environment: Any) -> dict[str, Any]:
    """Everything the future of a Meta-World environment depends on.

    Returns:
        dicts, lists, strings, numbers, None and numpy arrays.

    Raises:
        TypeError: an attribute of a kind this module does not know.
    """
    encoder = _Encoder(environment)
    attributes = {
        name: encoder.encode(value, name)
        for name, value in vars(environment).items()
        if name not in FIXED and not isinstance(value, gymnasium.Space)
    }
    return {
        **take_physics(environment.model, environment.data),
        "attributes": attributes,
        "buffers": encoder.buffers,
        "spaces": {name: _space_state(space) for name, space in _spaces(environment).items()},
    }


def put(environment: Any, state: Mapping[str, Any]) -> None:
    """Bring an environment of the same class and task set-up to the moment of `take`."""
    put_physics(environment.model, environment.data, state)
    buffers = [np.array(buffer) for buffer in state["buffers"]]
    gone = set(vars(environment)) - FIXED - set(_spaces(environment)) - set(state["attributes"])
    for name in gone:
        delattr(environment, name)
    for name, value in state["attributes"].items():
        setattr(environment, name, _decode(value, environment, buffers))
    for name, rng in state["spaces"].items():
        if rng is not None:
            getattr(environment, name).np_random.bit_generator.state = rng


def take_physics(model: Any, data: Any) -> dict[str, Any]:
    """The part of a snapshot that is MuJoCo's: state, model arrays, arrays derived from them."""
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION)
    physics = np.empty(size)
    mujoco.mj_getState(model, data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
    return {
        "physics": physics,
        **{
            owner: {name: array.copy() for name, array in arrays.items()}
            for owner, arrays in live_arrays(model, data).items()
        },
    }


def live_arrays(model: Any, data: Any) -> dict[str, dict[str, NDArray[Any]]]:
    """The simulator's memory, by name, that belongs to a snapshot and not to MuJoCo's state."""
    return {
        "model": {name: getattr(model, name) for name in MODEL_ARRAYS},
        "derived": {name: getattr(data, name) for name in DERIVED_ARRAYS},
    }


def put_physics(
    model: Any,
    data: Any,
    state: Mapping[str, Any],
    live: Mapping[str, Mapping[str, NDArray[Any]]] | None = None,
) -> None:
    """Bring MuJoCo to the moment of `take_physics`; `live_arrays` take long to ask for."""
    live = live or live_arrays(model, data)
    for name, array in state["model"].items():
        live["model"][name][:] = array
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_resetData(model, data)
    mujoco.mj_setState(model, data, state["physics"], kind)
    mujoco.mj_forward(model, data)
    mujoco.mj_setState(model, data, state["physics"], kind)  # the forward pass warms the solver
    for name, array in state["derived"].items():
        live["derived"][name][:] = array


class _Encoder:
    """Turns attributes into plain data; arrays become references into memory they may share."""

    def __init__(self, environment: Any) -> None:
        self.buffers: list[NDArray[Any]] = []
        self._known: dict[int, int] = {}
        live = live_arrays(environment.model, environment.data)
        self._regions = [
            (owner, name, array.__array_interface__["data"][0], array.nbytes)
            for owner, kind in (("data", "derived"), ("model", "model"))
            for name, array in live[kind].items()
        ]

    def encode(self, value: Any, name: str) -> Any:
        """Plain data for one attribute."""
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.ndarray):
            return self._array(value, name)
        if isinstance(value, np.generic):
            return {"kind": "scalar", "value": np.array(value)}
        if isinstance(value, np.random.Generator):
            return {"kind": "generator", "state": value.bit_generator.state}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {"kind": kind, "items": [self.encode(item, name) for item in value]}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            items = {key: self.encode(item, name) for key, item in value.items()}
            return {"kind": "dict", "items": items}
        raise TypeError(f"cannot snapshot attribute {name!r} of type {type(value).__name__}")

    def _array(self, value: NDArray[Any], name: str) -> dict[str, Any]:
        address = value.__array_interface__["data"][0]
        place = {"shape": list(value.shape), "strides": list(value.strides)}
        root = value
        while isinstance(root.base, np.ndarray):
            root = root.base
        for owner, region, start, nbytes in self._regions:
            if start <= address < start + nbytes:
                return {"kind": owner, "name": region, "offset": address - start, **place}
        if root.base is not None and not root.flags.c_contiguous:
            raise TypeError(f"cannot snapshot attribute {name!r}: a view of unknown memory")
        if type(root.base).__name__ == "PyCapsule":
            raise TypeError(f"cannot snapshot attribute {name!r}: a view of an unknown sim array")
        if id(root) not in self._known:
            self._known[id(root)] = len(self.buffers)
            self.buffers.append(root.copy())
        offset = address - root.__array_interface__["data"][0]
        return {"kind": "buffer", "index": self._known[id(root)], "offset": offset, **place}


def _decode(value: Any, environment: Any, buffers: list[NDArray[Any]]) -> Any:
    if not isinstance(value, Mapping):
        return value
    kind = value["kind"]
    if kind == "scalar":
        return np.asarray(value["value"])[()]
    if kind == "generator":
        generator = np.random.Generator(np.random.PCG64())
        generator.bit_generator.state = value["state"]
        return generator
    if kind in ("list", "tuple"):
        items = [_decode(item, environment, buffers) for item in value["items"]]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {key: _decode(item, environment, buffers) for key, item in value["items"].items()}
    if kind == "buffer":
        memory = buffers[value["index"]]
    else:
        memory = getattr(getattr(environment, kind), value["name"])
    if value["offset"] == 0 and list(memory.shape) == value["shape"]:
        return memory
    return np.ndarray(
        tuple(value["shape"]), memory.dtype, memory, value["offset"], tuple(value["strides"])
    )


def _spaces(environment: Any) -> dict[str, gymnasium.Space[Any]]:
    members = vars(environment).items()
    return {name: value for name, value in members if isinstance(value, gymnasium.Space)}


def _space_state(space: gymnasium.Space[Any]) -> dict[str, Any] | None:
    if space._np_random is None:  # the property would seed it
        return None
    return dict(space._np_random.bit_generator.state)
