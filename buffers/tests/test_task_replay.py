"""Replay: equal shares, exact rings, uniform and independent draws, exact continuation."""

from typing import Any

import pytest
import torch
from tensordict import TensorDict

from buffers.task_replay import TaskReplay

D, A = 5, 2


def transition(num_tasks: int, draw: torch.Generator, valid: torch.Tensor | None = None) -> Any:
    """One random transition per task; the observation ends with the task's one-hot."""

    def observation() -> torch.Tensor:
        return torch.cat((torch.randn(num_tasks, D, generator=draw), torch.eye(num_tasks)), 1)

    if valid is None:
        valid = torch.ones(num_tasks, dtype=torch.bool)
    return TensorDict(
        {
            "observation": observation(),
            "task_id": torch.arange(num_tasks),
            "action": torch.rand(num_tasks, A, generator=draw) * 2 - 1,
            "next": {
                "observation": observation(),
                "reward": torch.randn(num_tasks, 1, generator=draw),
                "terminated": torch.rand(num_tasks, 1, generator=draw) < 0.3,
                "valid": valid.unsqueeze(1),
            },
        },
        batch_size=[num_tasks],
    )


def replay(
    num_tasks: int = 3, per_task: int = 7, rows: int = 4, seed: int = 0, **options: Any
) -> TaskReplay:
    sizes = {"capacity": num_tasks * per_task, "batch_size": num_tasks * rows}
    return TaskReplay(D + num_tasks, A, num_tasks, **{**sizes, "seed": seed, **options})


def flat(td: Any) -> torch.Tensor:
    """All numbers of each transition in one row."""
    after = td["next"]
    parts = (td["observation"], td["action"], after["reward"], after["terminated"].float())
    return torch.cat((*parts, after["observation"]), -1)


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("per_task", [4, 7, 50])
def test_equals_a_list_per_task(num_tasks: int, per_task: int) -> None:
    """With gaps and several turns of the ring, what is drawn is what a list would hold."""
    draw = torch.Generator().manual_seed(num_tasks * 100 + per_task)
    buffer = replay(num_tasks, per_task, rows=4, seed=1)
    lists: list[list[tuple[float, ...]]] = [[] for _ in range(num_tasks)]
    for step in range(4 * per_task):
        valid = torch.rand(num_tasks, generator=draw) < 0.7
        td = transition(num_tasks, draw, valid)
        buffer.extend(td)
        for task in valid.nonzero().flatten().tolist():
            lists[task] = [*lists[task], tuple(flat(td)[task].tolist())][-per_task:]
        assert buffer.rows.tolist() == [len(rows) for rows in lists]
        assert len(buffer) == min(len(rows) for rows in lists)
        if len(buffer) == 0 or step % 3:
            continue
        batch = buffer.sample()
        for task in range(num_tasks):
            drawn = {tuple(row) for row in flat(batch)[task].tolist()}
            assert drawn <= set(lists[task])
    seen: list[set[tuple[float, ...]]] = [set() for _ in range(num_tasks)]
    for _ in range(40 * per_task):
        rows = flat(buffer.sample()).tolist()
        seen = [old | {tuple(row) for row in new} for old, new in zip(seen, rows, strict=True)]
    assert seen == [set(rows) for rows in lists]


def test_invariant_24_batches_hold_equal_shares() -> None:
    """Each batch has exactly b rows per task, and the observation's one-hot agrees with the id."""
    draw = torch.Generator().manual_seed(0)
    buffer = replay(num_tasks=4, per_task=20, rows=6)
    for _ in range(30):
        valid = torch.rand(4, generator=draw) < 0.8
        buffer.extend(transition(4, draw, valid))
    for _ in range(20):
        batch = buffer.sample()
        assert batch.batch_size == (4, 6)
        assert torch.equal(batch["task_id"].flatten().bincount(), torch.full((4,), 6))
        for key in ("observation", ("next", "observation")):
            assert torch.equal(batch[key][..., D:].argmax(-1), batch["task_id"])


def test_keys_shapes_and_types() -> None:
    """The batch speaks the step's names."""
    buffer = replay(num_tasks=2, rows=4)
    td = transition(2, torch.Generator().manual_seed(0))
    buffer.extend(td)
    batch = buffer.sample()
    expected = {
        "observation": ((2, 4, D + 2), torch.float32),
        "task_id": ((2, 4), torch.int64),
        "action": ((2, 4, A), torch.float32),
        ("next", "observation"): ((2, 4, D + 2), torch.float32),
        ("next", "reward"): ((2, 4, 1), torch.float32),
        ("next", "terminated"): ((2, 4, 1), torch.bool),
    }
    assert set(batch.keys(include_nested=True, leaves_only=True)) == set(expected)
    for key, (shape, dtype) in expected.items():
        assert batch[key].shape == shape and batch[key].dtype == dtype
    assert torch.equal(flat(batch), flat(td).unsqueeze(1).expand(2, 4, -1))
    batch["observation"].zero_()
    assert torch.equal(flat(buffer.sample())[:, 0], flat(td)), "a batch is memory of its own"


def _marked(num_tasks: int, per_task: int, rows: int, filled: int) -> TaskReplay:
    """A ring whose transition n of each task has reward n."""
    buffer = replay(num_tasks, per_task, rows)
    draw = torch.Generator().manual_seed(0)
    for n in range(filled):
        td = transition(num_tasks, draw)
        td["next", "reward"].fill_(n)
        buffer.extend(td)
    return buffer


@pytest.mark.parametrize("filled", [8, 20, 27])
def test_draws_are_uniform_and_independent(filled: int) -> None:
    """Chi-square of every task's index, and of the pairs of two tasks, half full and wrapped."""
    per_task, held = 20, min(filled, 20)
    buffer = _marked(num_tasks=2, per_task=per_task, rows=per_task, filled=filled)
    draws = [buffer.sample()["next", "reward"].squeeze(2) for _ in range(1000)]
    drawn = torch.cat(draws, 1).long() % held
    total = drawn.shape[1]
    for task in range(2):
        count = drawn[task].bincount(minlength=held).double()
        chi = ((count - total / held) ** 2 / (total / held)).sum()
        assert chi < held - 1 + 5 * (2 * (held - 1)) ** 0.5
    pairs = (drawn[0] * held + drawn[1]).bincount(minlength=held**2).double()
    chi = ((pairs - total / held**2) ** 2 / (total / held**2)).sum()
    assert chi < held**2 - 1 + 5 * (2 * (held**2 - 1)) ** 0.5
    assert abs(float(torch.corrcoef(drawn.double())[0, 1])) < 5 / total**0.5


def _uneven(stored: tuple[int, ...], seed: int = 1, **options: Any) -> tuple[TaskReplay, Any]:
    """A mixing replay that has seen `stored` transitions of each task, and lists of its rows."""
    num_tasks, draw = len(stored), torch.Generator().manual_seed(sum(stored))
    buffer = replay(num_tasks, 7, seed=seed, **{"stratified": False, "batch_size": 6, **options})
    held: list[list[torch.Tensor]] = [[] for _ in stored]
    for step in range(max(stored)):
        valid = torch.tensor([step < number for number in stored])
        td = transition(num_tasks, draw, valid)
        buffer.extend(td)
        for task in valid.nonzero().flatten().tolist():
            ring, rows = held[task], flat(td)
            ring.insert(step % 7, rows[task])
            del ring[step % 7 + 1 : step % 7 + 2]  # the one that it replaces, if any
    return buffer, held


@pytest.mark.parametrize("stored", [(3, 0, 9, 1), (7, 7), (20, 20, 20), (5,)])
def test_mixed_batches_equal_a_loop_over_one_list(stored: tuple[int, ...]) -> None:
    """A row is entry `floor(u * total)` of all that is stored, task after task."""
    buffer, held = _uneven(stored)
    state = torch.Generator()
    state.set_state(buffer.state_dict()["generator"])
    population = [(task, row) for task, ring in enumerate(held) for row in ring]
    assert len(population) == sum(min(number, 7) for number in stored)
    for _ in range(10):
        uniform = torch.rand(6, dtype=torch.float64, generator=state)
        batch = buffer.sample()
        assert batch.batch_size == batch["task_id"].shape == (6,)
        for i, u in enumerate(uniform.tolist()):
            task, row = population[int(u * len(population))]
            assert batch["task_id"][i] == task and torch.equal(flat(batch)[i], row)


def test_mixed_draws_are_uniform_over_all_transitions() -> None:
    """Chi-square over rows of tasks of unlike number; the tasks' counts are multinomial."""
    buffer, held = _uneven((3, 0, 9, 1), batch_size=20)
    sizes = torch.tensor([len(ring) for ring in held]).double()
    rows = torch.stack([row for ring in held for row in ring])
    draws = [buffer.sample() for _ in range(2000)]
    found = (torch.cat([flat(td) for td in draws]).unsqueeze(1) == rows).all(2)
    assert (found.sum(1) == 1).all()
    expected = found.numel() / len(rows) ** 2
    chi = ((found.sum(0) - expected) ** 2 / expected).sum()
    assert chi < len(rows) - 1 + 5 * (2 * (len(rows) - 1)) ** 0.5
    counts = torch.stack([td["task_id"].bincount(minlength=4) for td in draws]).double()
    share = sizes / sizes.sum()
    torch.testing.assert_close(counts.mean(0), 20 * share, atol=0.2, rtol=0.0)
    torch.testing.assert_close(counts.var(0), 20 * share * (1 - share), atol=0.1, rtol=0.15)


def test_mixed_batches_of_any_size_and_the_same_memory() -> None:
    """No multiple of the tasks is asked for, fewer rows than tasks will do."""
    draw = torch.Generator().manual_seed(0)
    for batch_size in (1, 2, 13):
        buffer = replay(batch_size=batch_size, stratified=False)
        buffer.extend(transition(3, draw))
        assert buffer.sample().batch_size == (batch_size,)
        assert buffer.nbytes == replay().nbytes
    with pytest.raises(ValueError, match="one row of each of 3 tasks; set it to 3 or more"):
        replay(batch_size=2, capacity=2, stratified=False)


def test_mixed_sampling_needs_one_transition() -> None:
    buffer = replay(stratified=False)
    with pytest.raises(RuntimeError, match=r"task \[0, 1, 2\]"):
        buffer.sample()
    valid = torch.tensor([False, False, True])
    buffer.extend(transition(3, torch.Generator().manual_seed(0), valid))
    assert (buffer.sample()["task_id"] == 2).all()


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_states_of_both_kinds_are_alike(before: bool, after: bool) -> None:
    """Either kind of replay goes on from the other's state; of the same kind, exactly."""
    one, two = (replay(seed=n, stratified=kind) for n, kind in ((1, before), (2, after)))
    draw = torch.Generator().manual_seed(5)
    for _ in range(9):
        one.extend(transition(3, draw, torch.rand(3, generator=draw) < 0.8))
        one.extend(transition(3, draw))
    one.sample()
    two.load_state_dict(one.state_dict())
    for _ in range(10):
        td = transition(3, draw)
        one.extend(td)
        two.extend(td)
        ours, theirs = flat(one.sample()), flat(two.sample())
        if before == after:
            assert torch.equal(ours, theirs)
    assert torch.equal(one.state_dict()["rows"], two.state_dict()["rows"])


def test_a_full_ring_loses_its_oldest() -> None:
    """After a turn of the ring only the newest are drawn, each of them."""
    buffer = _marked(num_tasks=2, per_task=7, rows=4, filled=18)
    drawn = {float(r) for _ in range(60) for r in buffer.sample()["next", "reward"].flatten()}
    assert drawn == set(range(11, 18))


@pytest.mark.parametrize("filled", [3, 7, 12])
def test_state_round_trip_continues_identically(filled: int) -> None:
    """Saved, loaded into a fresh buffer of another seed, and continued: the same draws."""
    draw = torch.Generator().manual_seed(5)
    one, two = replay(seed=1), replay(seed=2)
    for _ in range(filled):
        one.extend(transition(3, draw, torch.rand(3, generator=draw) < 0.8))
    for task in range(3):
        one.extend(transition(3, draw, torch.arange(3) == task))
    one.sample()
    state = one.state_dict()
    assert state["rows"].shape[1] == int(one.rows.max())
    two.load_state_dict(state)
    copied = {k: v.clone() for k, v in state.items() if isinstance(v, torch.Tensor)}
    for _ in range(20):
        td = transition(3, draw, torch.rand(3, generator=draw) < 0.8)
        one.extend(td)
        two.extend(td)
        assert torch.equal(flat(one.sample()), flat(two.sample()))
    assert all(torch.equal(copied[key], state[key]) for key in copied), "a state is a copy"
    for key in copied:
        assert torch.equal(one.state_dict()[key], two.state_dict()[key])


def test_state_holds_only_plain_values(tmp_path: Any) -> None:
    """It passes through a file without pickled objects."""
    buffer = replay()
    buffer.extend(transition(3, torch.Generator().manual_seed(0)))
    torch.save(buffer.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert state["generator"].dtype == torch.uint8
    replay().load_state_dict(state)
    with pytest.raises(ValueError, match="capacity per task"):
        replay(per_task=8).load_state_dict(state)


def test_seeds() -> None:
    """Equal seeds draw alike, others do not; the default follows torch's seed and draws nothing."""
    draw = torch.Generator().manual_seed(0)
    transitions = [transition(3, draw) for _ in range(7)]

    def drawn(seed: int | None) -> torch.Tensor:
        buffer = TaskReplay(D + 3, A, 3, capacity=60, batch_size=60, seed=seed)
        for td in transitions:
            buffer.extend(td)
        return flat(buffer.sample())

    assert torch.equal(drawn(4), drawn(4)) and not torch.equal(drawn(4), drawn(5))
    before = torch.get_rng_state()
    assert torch.equal(drawn(None), drawn(torch.initial_seed()))
    assert torch.equal(before, torch.get_rng_state())


def test_sampling_too_early_names_the_tasks() -> None:
    buffer = replay()
    with pytest.raises(RuntimeError, match=r"task \[0, 1, 2\]"):
        buffer.sample()
    valid = torch.tensor([True, False, True])
    buffer.extend(transition(3, torch.Generator().manual_seed(0), valid))
    with pytest.raises(RuntimeError, match=r"task \[1\]"):
        buffer.sample()


def test_wrong_input_is_named() -> None:
    buffer, draw = replay(), torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="one row for each of the 3 tasks"):
        buffer.extend(transition(2, draw))
    td = transition(3, draw)
    td["task_id"] = td["task_id"].flip(0)
    with pytest.raises(ValueError, match=r"task_id is \[2, 1, 0\]"):
        buffer.extend(td)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 128}, "batch_size is 128, not a multiple of the 10 tasks; set it to 130"),
        ({"capacity": 1000}, "capacity is 1000, less than one batch of 1280"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_sizes_are_refused_before_allocating(settings: dict[str, int], message: str) -> None:
    """Also with an observation so long that allocating would fail."""
    with pytest.raises(ValueError, match=message):
        TaskReplay(10**15, 4, 10, **settings)


def test_bytes_are_known_beforehand() -> None:
    buffer = TaskReplay(39, 4, 10, capacity=12_345, batch_size=1280)
    known = TaskReplay.bytes_needed(39, 4, 10, capacity=12_345)
    assert buffer.nbytes == known == 4 * 84 * (10 * 1234 + 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("stratified", [True, False])
def test_on_a_gpu_the_rows_are_the_same(stratified: bool) -> None:
    options = {"capacity": 21, "batch_size": 12, "stratified": stratified, "device": "cuda"}
    buffer = TaskReplay(D + 3, A, 3, **options, seed=0)
    draw = torch.Generator().manual_seed(0)
    transitions = [transition(3, draw) for _ in range(7)]
    for td in transitions:
        buffer.extend(td)
    held = torch.cat([flat(td) for td in transitions])
    batch = buffer.sample()
    rows = flat(batch).cpu().view(12, -1)
    assert (rows.unsqueeze(1) == held).all(2).any(1).all()
    assert torch.equal(batch["observation"][..., D:].argmax(-1), batch["task_id"])
    other = TaskReplay(D + 3, A, 3, **options, seed=1)
    other.load_state_dict(buffer.state_dict())
    assert torch.equal(flat(buffer.sample()), flat(other.sample()))
    torch.cuda.set_sync_debug_mode("error")  # drawing does not wait for the device
    try:
        buffer.sample()
    finally:
        torch.cuda.set_sync_debug_mode("default")
