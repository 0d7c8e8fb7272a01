from collections.abc import Callable
from typing import Any

import pytest

from buffers.context_replay import ContextReplay
from buffers.rolling_window import RollingWindow
from buffers.task_replay import TaskReplay
from buffers.trajectory_store import TrajectoryStore
from buffers.window_replay import WindowReplay

STORES: dict[str, Callable[..., Any]] = {
    "ContextReplay": lambda **more: ContextReplay(2, 1, 3, capacity=30, **more),
    "RollingWindow": lambda **more: RollingWindow(2, 1, 3, 4, **more),
    "TaskReplay": lambda **more: TaskReplay(2, 1, 3, capacity=30, batch_size=3, **more),
    "TrajectoryStore": lambda **more: TrajectoryStore(2, 3, 4, **more),
    "WindowReplay": lambda **more: WindowReplay(2, 1, capacity=30, **more),
}


@pytest.mark.parametrize("device", ["", "gpu"])
@pytest.mark.parametrize("store", STORES)
def test_an_unknown_device_is_named(store: str, device: str) -> None:
    with pytest.raises(ValueError, match=f"{store}.device is '{device}'; give 'cpu' or 'cuda'"):
        STORES[store](device=device)


def test_states_of_other_sizes_name_both() -> None:
    state = TaskReplay(2, 1, 3, capacity=30, batch_size=3).state_dict()
    other = TaskReplay(2, 1, 3, capacity=60, batch_size=3)
    message = (
        r"TaskReplay: \[observation_dim, action_dim, num_tasks, capacity per task\] is "
        r"\[2, 1, 3, 20\] and was \[2, 1, 3, 10\] when saved; use the saved run's"
    )
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(state)
