"""The trajectory store against a plain reading of MUST's rule, one task at a time."""

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict

from buffers.trajectory_store import TrajectoryStore

D = 3


class Worlds:
    """Made-up environments: random observations, episodes of random length, some broken."""

    def __init__(self, num_tasks: int, horizon: int, seed: int, success: float = 0.2) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.num_tasks, self.horizon, self.success = num_tasks, horizon, success
        self.observation = torch.randn(num_tasks, D, generator=self.draw)
        self.left = self._lengths()
        self.first = torch.ones(num_tasks, dtype=torch.bool)

    def _lengths(self) -> torch.Tensor:
        return torch.randint(1, self.horizon + 1, (self.num_tasks,), generator=self.draw)

    def _chance(self, probability: float) -> torch.Tensor:
        return torch.rand(self.num_tasks, generator=self.draw) < probability

    def step(self) -> Any:
        self.left -= 1
        valid = ~self._chance(0.01)
        done = (self.left == 0) | ~valid
        after = torch.randn(self.num_tasks, D, generator=self.draw)
        td = TensorDict(
            {
                "observation": self.observation,
                "is_init": self.first.unsqueeze(1),
                "next": {
                    "observation": after,
                    "done": done.unsqueeze(1),
                    "success": (self._chance(self.success / self.horizon)).unsqueeze(1),
                    "valid": valid.unsqueeze(1),
                },
            },
            batch_size=[self.num_tasks],
        )
        fresh = torch.randn(self.num_tasks, D, generator=self.draw)
        self.observation = torch.where(done.unsqueeze(1), fresh, after)
        self.left = torch.where(done, self._lengths(), self.left)
        self.first = done
        return td


class Reference:
    """One task: lists, and the rule as written."""

    def __init__(self, window: int, stride: int) -> None:
        self.window, self.stride = window, stride
        self.stored: list[torch.Tensor] = []
        self.flag, self.emptied = False, 0
        self.states: list[torch.Tensor] = []
        self.broken = self.success = False

    def step(self, td: Any) -> None:
        if td["is_init"]:
            self.states, self.broken, self.success = [], False, False
        self.states.append(td["observation"])
        self.broken |= not td["next", "valid"]
        self.success |= bool(td["next", "success"])
        if td["next", "done"] and not self.broken:
            trajectory = torch.stack([*self.states[:: self.stride], td["next", "observation"]])
            if self.success and not self.flag:
                self.stored, self.flag = [], True
                self.emptied += 1
            if self.success or not self.flag:
                self.stored = [trajectory, *self.stored][: self.window]


def check(store: TrajectoryStore, references: list[Reference]) -> None:
    """The context equals the lists, newest first, padded with zeros."""
    context = store.context()
    for task, reference in enumerate(references):
        held = len(reference.stored)
        lengths = context["mask"][task].sum(1).tolist()
        assert lengths == [len(t) for t in reference.stored] + [0] * (store.window - held)
        for slot in range(store.window):
            observation = context["observation"][task, slot]
            if slot < held:
                trajectory = reference.stored[slot]
                assert torch.equal(observation[: len(trajectory)], trajectory)
                assert context["mask"][task, slot, : len(trajectory)].all()
            assert not observation[lengths[slot] :].any()
        chances = [0.0] * store.window
        if held and reference.flag:
            chances[:held] = [1 / held] * held
        elif held:
            chances[0] = 1.0
        assert torch.allclose(context["probability"][task], torch.tensor(chances))
        expected = [reference.flag and slot < held for slot in range(store.window)]
        assert context["succeeded"][task].tolist() == expected
    assert store.succeeded.tolist() == [reference.flag for reference in references]
    assert len(store) == min(len(reference.stored) for reference in references)


@pytest.mark.parametrize(
    ("num_tasks", "horizon", "window", "stride"),
    [(1, 7, 2, 3), (3, 20, 4, 10), (10, 23, 10, 10), (2, 5, 3, 1), (2, 6, 1, 50)],
)
def test_equals_the_plain_reading(num_tasks: int, horizon: int, window: int, stride: int) -> None:
    """Random lengths, successes and broken episodes: every stored number is the expected one."""
    worlds = Worlds(num_tasks, horizon, seed=horizon)
    store = TrajectoryStore(D, num_tasks, horizon, window=window, stride=stride)
    references = [Reference(window, stride) for _ in range(num_tasks)]
    for step in range(30 * horizon):
        td = worlds.step()
        store.extend(td)
        for task, reference in enumerate(references):
            reference.step(td[task])
        if step % 7 == 0:
            check(store, references)
    check(store, references)
    assert any(reference.flag for reference in references)


def play(store: TrajectoryStore, success: list[bool], length: int, value: float) -> None:
    """One episode in every task, all observations `value` times 100 plus the time."""
    for time in range(length):
        last = time == length - 1
        td = TensorDict(
            {
                "observation": torch.full((store.num_tasks, D), value * 100.0 + time),
                "is_init": torch.full((store.num_tasks, 1), time == 0),
                "next": {
                    "observation": torch.full((store.num_tasks, D), value * 100.0 + time + 1),
                    "done": torch.full((store.num_tasks, 1), last),
                    "success": torch.tensor(success).unsqueeze(1) & (time == length // 2),
                    "valid": torch.ones(store.num_tasks, 1, dtype=torch.bool),
                },
            },
            batch_size=[store.num_tasks],
        )
        store.extend(td)


def newest(store: TrajectoryStore, task: int) -> list[int]:
    """Which episodes are stored, newest first."""
    context = store.context()
    held = context["mask"][task].any(1)
    return [int(v) // 100 for v in context["observation"][task, held, 0, 0]]


def test_invariant_18_flag_logic_window_and_sampling_rule() -> None:
    """All before the first success, emptied once at it, only successes after, window kept."""
    store = TrajectoryStore(D, 2, 20, window=3, stride=10)
    for episode in range(5):
        play(store, [False, False], 20, episode)
    assert newest(store, 0) == newest(store, 1) == [4, 3, 2]
    assert store.context()["probability"].tolist() == [[1, 0, 0]] * 2
    play(store, [True, False], 20, 5)
    assert newest(store, 0) == [5] and newest(store, 1) == [5, 4, 3]
    assert store.succeeded.tolist() == [True, False]
    play(store, [False, False], 20, 6)
    assert newest(store, 0) == [5] and newest(store, 1) == [6, 5, 4]
    for episode in range(7, 9):
        play(store, [True, False], 20, episode)
    assert newest(store, 0) == [8, 7, 5], "emptied at the first success only"
    assert torch.allclose(store.context()["probability"][0], torch.tensor(1 / 3))
    assert store.context()["probability"][1].tolist() == [1, 0, 0]
    play(store, [True, False], 20, 9)
    assert newest(store, 0) == [9, 8, 7]


@pytest.mark.parametrize("length", [1, 9, 10, 11, 19, 20])
def test_invariant_17_padding_is_marked_and_empty(length: int) -> None:
    """Stored lengths are fixed; all beyond an episode's last observation is zero and masked."""
    store = TrajectoryStore(D, 1, 20, window=2, stride=10)
    play(store, [False], 20, 1)
    play(store, [False], length, 2)
    context = store.context()
    assert context["observation"].shape == (1, 2, math.ceil(20 / 10) + 1, D)
    times = [*range(0, length, 10), length]
    assert context["observation"][0, 0, : len(times), 0].tolist() == [200.0 + t for t in times]
    assert context["mask"][0, 0].tolist() == [i < len(times) for i in range(3)]
    assert not context["observation"][0, 0, len(times) :].any()


def test_the_context_lasts_until_an_episode_is_stored() -> None:
    store = TrajectoryStore(D, 1, 4, window=2, stride=2)
    play(store, [False], 4, 1)
    context, before = store.context(), store.context()["observation"].clone()
    play(store, [True], 4, 2)
    assert store.context() is not context and torch.equal(context["observation"], before)
    assert store.context() is store.context()


def test_an_unfinished_or_overlong_episode_is_not_stored() -> None:
    store = TrajectoryStore(D, 1, 4, window=2, stride=2)
    assert store.context()["probability"].tolist() == [[0, 0]] and len(store) == 0
    play(store, [False], 5, 1)
    assert len(store) == 0


@pytest.mark.parametrize("steps", [1, 33, 150])
def test_state_round_trip_continues_identically(steps: int, tmp_path: Any) -> None:
    """In the middle of episodes, through a file."""
    worlds = Worlds(3, 17, seed=steps)
    one, two = (TrajectoryStore(D, 3, 17, window=4, stride=5) for _ in range(2))
    for _ in range(steps):
        one.extend(worlds.step())
    state = one.state_dict()
    torch.save(state, tmp_path / "state")
    two.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for _ in range(100):
        td = worlds.step()
        one.extend(td)
        two.extend(td)
        first, second = one.context(), two.context()
        assert all(torch.equal(first[key], second[key]) for key in first.keys())  # noqa: SIM118
    loaded = torch.load(tmp_path / "state", weights_only=True)
    assert all(torch.equal(state[k], loaded[k]) for k in state if k != "sizes"), "a copy"
    with pytest.raises(ValueError, match="window"):
        TrajectoryStore(D, 3, 17, window=5, stride=5).load_state_dict(state)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="TrajectoryStore.stride is 0"):
        TrajectoryStore(D, 1, 4, stride=0)
    with pytest.raises(ValueError, match="one row for each of the 2 tasks"):
        TrajectoryStore(D, 2, 4).extend(Worlds(3, 4, seed=0).step())
