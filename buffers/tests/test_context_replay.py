"""PEARL's replay: its two rings a task, its draws, and exact continuation."""

from typing import Any

import pytest
import torch
from tensordict import TensorDict

from buffers.context_replay import ContextReplay

D, A, N = 4, 2, 3
Lists = list[list[tuple[float, ...]]]


def replay(num_tasks: int = N, **options: Any) -> ContextReplay:
    sizes = {"capacity": num_tasks * 9, "context_capacity": 5, "meta_batch": 4, "seed": 0}
    sizes |= {"batch_size": 6, "context_size": 3}
    return ContextReplay(D, A, num_tasks, **{**sizes, **options})


def experience(*shape: int, seed: int = 0, masked: bool = True) -> Any:
    draw = torch.Generator().manual_seed(seed)
    after = {
        "observation": torch.randn(*shape, D, generator=draw),
        "reward": torch.randn(*shape, 1, generator=draw),
        "sparse_reward": torch.randn(*shape, 1, generator=draw),
        "terminated": torch.rand(*shape, 1, generator=draw) < 0.3,
        "truncated": torch.rand(*shape, 1, generator=draw) < 0.3,
    }
    td = {
        "observation": torch.randn(*shape, D, generator=draw),
        "action": torch.randn(*shape, A, generator=draw),
        "next": TensorDict(after, shape),
    }
    if masked:
        td["mask"] = torch.rand(shape, generator=draw) < 0.7
    return TensorDict(td, shape)


def flat(td: Any, reward: str = "reward", terminated: bool = True) -> torch.Tensor:
    """All numbers of each transition in one row."""
    after = td["next"]
    parts = [td["observation"], td["action"], after[reward], after["observation"]]
    if terminated:
        parts.append(after["terminated"].float())
    return torch.cat(parts, -1)


def rows_of(td: Any) -> set[tuple[float, ...]]:
    return {tuple(row) for row in flat(td).flatten(0, -2).tolist()}


def held(buffer: ContextReplay, draws: int = 60) -> tuple[list[Any], list[Any]]:
    """What is drawn of each task in many draws: transitions, and contexts."""
    tasks = torch.arange(buffer.num_tasks)
    learnt: list[set[Any]] = [set() for _ in range(buffer.num_tasks)]
    seen: list[set[Any]] = [set() for _ in range(buffer.num_tasks)]
    for _ in range(draws):
        batch = buffer.sample(tasks)
        for task in range(buffer.num_tasks):
            learnt[task] |= rows_of(batch["transitions"][task])
            context = flat(batch["context"][task], terminated=False)
            seen[task] |= {tuple(row) for row in context.tolist()}
    return learnt, seen


def test_equals_a_list_per_task() -> None:
    """Tasks in any order and twice, gaps, more rows than a ring holds, rings emptied."""
    buffer, draw = replay(), torch.Generator().manual_seed(7)
    learnt: Lists = [[] for _ in range(N)]
    recent: Lists = [[] for _ in range(N)]
    for step in range(40):
        tasks = torch.randint(N, (int(torch.randint(1, 5, (), generator=draw)),), generator=draw)
        context = bool(torch.rand((), generator=draw) < 0.7)
        shape = (len(tasks), 2, int(torch.randint(1, 4, (), generator=draw)))
        if step % 10 == 9:
            shape = (len(tasks), 5, 6)
        td = experience(*shape, seed=step)
        if step % 4 == 0:
            gone = torch.randint(N, (1,), generator=draw)
            buffer.clear_context(gone)
            recent[int(gone)] = []
        buffer.extend(td, tasks, context=context)
        for place, task in enumerate(tasks.tolist()):
            rows = [tuple(row) for row in flat(td[place])[td["mask"][place]].tolist()]
            learnt[task] = (learnt[task] + rows)[-9:]
            if context:
                recent[task] = (recent[task] + [row[:-1] for row in rows])[-5:]
        assert buffer.rows.tolist() == [len(rows) for rows in learnt]
        assert buffer.context_rows.tolist() == [len(rows) for rows in recent]
        assert len(buffer) == min(len(rows) for rows in learnt)
        if step % 5 or not all(recent) or not all(learnt):
            continue
        assert held(buffer) == ([set(rows) for rows in learnt], [set(rows) for rows in recent])


def test_invariant_15_contexts_are_of_the_last_collection() -> None:
    """Cleared, collected for it and beyond: the extra data is learnt from, and is no context."""
    buffer = replay(capacity=300, context_capacity=100)
    assert (buffer.task_capacity, buffer.task_context_capacity) == (100, 100)
    tasks = torch.arange(N)
    first, prior, extra = (experience(N, 1, 4, seed=n, masked=False) for n in range(3))
    buffer.extend(first, tasks, context=True)
    before = buffer.rows
    chosen = torch.tensor([1])
    buffer.clear_context(chosen)
    buffer.extend(prior[1:2], chosen, context=True)
    buffer.extend(extra[1:2], chosen, context=False)
    assert (buffer.rows >= before).all() and buffer.rows.tolist() == [4, 12, 4]
    learnt, seen = held(buffer)
    assert learnt[1] == rows_of(first[1]) | rows_of(prior[1]) | rows_of(extra[1])
    assert seen[1] == {row[:-1] for row in rows_of(prior[1])}
    for task in (0, 2):
        assert seen[task] == {row[:-1] for row in rows_of(first[task])}


def test_invariant_18_contexts_hold_the_sparse_reward() -> None:
    buffer, td = replay(sparse_context=True), experience(N, 4, masked=False)
    buffer.extend(td, torch.arange(N), context=True)
    batch = buffer.sample(torch.arange(N))
    dense = td["next", "reward"]
    for task in range(N):
        assert set(batch["transitions", "next", "reward"][task].flatten().tolist()) <= set(
            dense[task].flatten().tolist()
        )
        expected = {tuple(row) for row in flat(td[task], "sparse_reward", False).tolist()}
        drawn = {tuple(row) for row in flat(batch["context"][task], terminated=False).tolist()}
        assert drawn <= expected
    drawn = batch["context", "next", "reward"].flatten().tolist()
    assert not set(drawn) & set(dense.flatten().tolist())


def test_invariant_14_a_time_limit_is_not_stored() -> None:
    """What is learnt from knows terminations alone."""
    buffer, td = replay(), experience(N, 4, masked=False)
    td["next", "terminated"][:] = False
    td["next", "truncated"][:] = True
    buffer.extend(td, torch.arange(N), context=True)
    assert not buffer.sample()["transitions", "next", "terminated"].any()


def test_keys_shapes_and_types() -> None:
    buffer, td = replay(), experience(N, 4, masked=False)
    buffer.extend(td, torch.arange(N), context=True)
    batch = buffer.sample()
    assert batch.batch_size == (4,) and batch["task_id"].dtype == torch.int64
    assert batch["transitions"].batch_size == (4, 6) and batch["context"].batch_size == (4, 3)
    expected = {
        "observation": ((D,), torch.float32),
        "action": ((A,), torch.float32),
        ("next", "observation"): ((D,), torch.float32),
        ("next", "reward"): ((1,), torch.float32),
        ("next", "terminated"): ((1,), torch.bool),
    }
    part = batch["transitions"]
    assert set(part.keys(True, True)) == set(expected)
    for key, (shape, dtype) in expected.items():
        assert part[key].shape == (4, 6, *shape) and part[key].dtype == dtype
    assert set(batch["context"].keys(True, True)) == set(expected) - {("next", "terminated")}
    alone = buffer.context(torch.tensor([2, 0]), length=8)
    assert alone.batch_size == (2, 8)
    part["observation"].zero_()
    assert rows_of(buffer.sample()["transitions"]) <= rows_of(td), "a batch is memory of its own"


def test_rows_belong_to_the_task_they_are_drawn_for() -> None:
    buffer, td = replay(), experience(N, 4, masked=False)
    td["observation"][..., 0] = torch.arange(N).float().unsqueeze(1)
    buffer.extend(td, torch.arange(N), context=True)
    for tasks in (None, torch.tensor([2, 2, 0, 1, 2])):
        batch = buffer.sample(tasks)
        assert tasks is None or torch.equal(batch["task_id"], tasks)
        for part in ("transitions", "context"):
            seen = batch[part]["observation"][..., 0]
            assert (seen == batch["task_id"].unsqueeze(1)).all()


def test_draws_are_uniform_over_tasks_and_rows() -> None:
    buffer = replay(batch_size=20, context_size=20)
    td = experience(N, 5, masked=False)
    td["next", "reward"][:] = torch.arange(5.0).view(1, 5, 1)
    buffer.extend(td, torch.arange(N), context=True)
    batches = [buffer.sample() for _ in range(600)]
    tasks = torch.cat([batch["task_id"] for batch in batches]).bincount(minlength=N).double()
    assert ((tasks - 800) ** 2 / 800).sum() < N - 1 + 5 * (2 * (N - 1)) ** 0.5
    drawn = []
    for part in ("transitions", "context"):
        reward = torch.stack([batch[part]["next", "reward"] for batch in batches]).flatten().long()
        count, expected = reward.bincount(minlength=5).double(), len(reward) / 5
        assert ((count - expected) ** 2 / expected).sum() < 4 + 5 * 8**0.5
        drawn.append(reward.double())
    assert abs(float(torch.corrcoef(torch.stack(drawn))[0, 1])) < 5 / len(drawn[0]) ** 0.5


@pytest.mark.parametrize("filled", [2, 30])
def test_state_round_trip_continues_identically(filled: int) -> None:
    """Saved, loaded into a fresh buffer of another seed, and continued: the same draws."""
    one, two = replay(seed=1), replay(seed=2)
    for step in range(filled):
        one.extend(experience(N, 2, seed=step), torch.arange(N), context=step % 3 == 0)
        one.extend(experience(N, 1, masked=False), torch.arange(N), context=step == 0)
    one.sample()
    state = one.state_dict()
    assert len(state["all"]["rows"]) == int(one.rows.sum())
    two.load_state_dict(state)
    for step in range(10):
        for buffer in (one, two):
            if step == 4:
                buffer.clear_context(torch.tensor([1]))
            buffer.extend(experience(N, 2, seed=step, masked=False), torch.arange(N), context=True)
        ours, theirs = one.sample(), two.sample()
        assert torch.equal(ours["task_id"], theirs["task_id"])
        assert torch.equal(flat(ours["transitions"]), flat(theirs["transitions"]))
        assert torch.equal(ours["context", "observation"], theirs["context", "observation"])
    assert torch.equal(two.state_dict()["recent"]["rows"], one.state_dict()["recent"]["rows"])
    again = replay()
    again.load_state_dict(state)
    assert torch.equal(again.state_dict()["all"]["rows"], state["all"]["rows"]), "a state is a copy"


def test_state_holds_only_plain_values(tmp_path: Any) -> None:
    buffer = replay()
    buffer.extend(experience(N, 4), torch.arange(N), context=True)
    torch.save(buffer.state_dict(), tmp_path / "state")
    replay().load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    with pytest.raises(ValueError, match="context_capacity"):
        replay(context_capacity=6).load_state_dict(buffer.state_dict())
    with pytest.raises(ValueError, match="sparse_context"):
        replay(sparse_context=True).load_state_dict(buffer.state_dict())


def test_seeds() -> None:
    """Equal seeds draw alike, others do not; the default follows torch's seed and draws nothing."""

    def drawn(seed: int | None) -> torch.Tensor:
        buffer = replay(seed=seed)
        buffer.extend(experience(N, 4, masked=False), torch.arange(N), context=True)
        return flat(buffer.sample()["transitions"])

    assert torch.equal(drawn(4), drawn(4)) and not torch.equal(drawn(4), drawn(5))
    before = torch.get_rng_state()
    assert torch.equal(drawn(None), drawn(torch.initial_seed()))
    assert torch.equal(before, torch.get_rng_state())


def test_drawing_from_nothing_names_the_tasks() -> None:
    buffer = replay()
    with pytest.raises(RuntimeError, match=r"task \[0, 1, 2\]"):
        buffer.sample()
    td = experience(2, 4, masked=False)
    buffer.extend(td, torch.tensor([0, 2]), context=True)
    with pytest.raises(RuntimeError, match=r"task \[1\]"):
        buffer.sample()
    buffer.sample(torch.tensor([2, 0, 2]))
    buffer.context(torch.tensor([2]))
    buffer.extend(td[:1], torch.tensor([1]), context=True)
    buffer.sample()
    buffer.clear_context(torch.tensor([2]))
    with pytest.raises(RuntimeError, match=r"task \[2\], or no context"):
        buffer.context(torch.tensor([2, 1]))
    buffer.extend(td[:1], torch.tensor([2]), context=False)
    with pytest.raises(RuntimeError, match=r"task \[2\], or no context"):
        buffer.sample()


def test_wrong_input_is_named() -> None:
    buffer = replay()
    with pytest.raises(ValueError, match=r"tasks are \[0\]; give 2 numbers below 3"):
        buffer.extend(experience(2, 4), torch.tensor([0]), context=True)
    with pytest.raises(ValueError, match=r"tasks are \[3\]"):
        buffer.extend(experience(1, 4), torch.tensor([3]), context=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"meta_batch": 0}, "meta_batch is 0"),
        ({"context_size": 0}, "context_size is 0"),
        ({"capacity": 2}, "capacity is 2, less than one row of each of 3 tasks; set it to 3"),
    ],
)
def test_bad_sizes_are_refused_before_allocating(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContextReplay(10**15, 4, 3, **settings)


def test_bytes() -> None:
    buffer = ContextReplay(20, 6, 100, capacity=1000, context_capacity=50)
    assert buffer.nbytes == 4 * 48 * (1000 + 100 * 50)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_rows_are_the_same() -> None:
    buffer, td = replay(device="cuda"), experience(N, 4, masked=False)
    buffer.extend(td, torch.arange(N), context=True)
    batch = buffer.sample()
    assert rows_of(batch["transitions"].cpu()) <= rows_of(td)
    other = replay(device="cuda", seed=1)
    other.load_state_dict(buffer.state_dict())
    buffer.sample(), other.sample()
    torch.cuda.set_sync_debug_mode("error")  # drawing does not wait for the device
    try:
        ours, theirs = buffer.sample(), other.sample()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(flat(ours["transitions"]), flat(theirs["transitions"]))
