"""Windows that never leave their episode, against a plain loop; split, statistics, continuation."""

from typing import Any

import pytest
import torch
from tensordict import TensorDict

from buffers.rolling_window import RollingWindow
from buffers.window_replay import WindowReplay

D, A, T = 3, 2, 4
KEYS = ("observation", "action", ("next", "reward"), ("next", "observation"))


def replay(**options: Any) -> WindowReplay:
    sizes = {"capacity": 30, "length": T, "batch_size": 8, "seed": 0}
    return WindowReplay(D, A, **{**sizes, **options})


def episodes(lengths: list[int], time: int | None = None, seed: int = 0, first: int = 1) -> Any:
    """Random episodes of these lengths; the action's first number counts all transitions."""
    draw = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths) if time is None else time)
    mask = torch.arange(shape[1]) < torch.tensor(lengths).unsqueeze(1)
    after = {
        "observation": torch.randn(*shape, D, generator=draw),
        "reward": torch.randn(*shape, 1, generator=draw),
        "terminated": torch.rand(*shape, 1, generator=draw) < 0.3,
    }
    action = torch.randn(*shape, A, generator=draw)
    numbers = torch.arange(int(mask.sum())) + float(first)
    action[..., 0] = torch.zeros(shape).masked_scatter(mask, numbers)
    td = {
        "observation": torch.randn(*shape, D, generator=draw),
        "action": action,
        "family": torch.randint(0, 5, shape, generator=draw),
        "mask": mask,
        "next": TensorDict(after, shape),
    }
    made = TensorDict(td, shape)
    made["observation"][~mask] = torch.nan  # padding after an episode is never read
    return made


def flat(td: Any) -> torch.Tensor:
    """All numbers of each transition in one row, and whether it is one."""
    after = td["next"]
    rest = (after["terminated"], td["mask"].unsqueeze(-1), td["family"].unsqueeze(-1))
    parts = [td[key] for key in KEYS] + [x.float() for x in rest]
    return torch.cat(parts, -1)


class Plain:
    """What a replay should hold, as lists: of each transition its row, episode and place in it."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.stored, self.episode = capacity, [], 0

    def extend(self, td: Any) -> None:
        for row in range(td.shape[0]):
            seen = flat(td[row])[td["mask"][row]]
            self.stored += [(x, self.episode) for x in seen]
            self.episode += len(seen) > 0
        self.stored = self.stored[-self.capacity :]

    def window(self, place: int, length: int) -> torch.Tensor:
        """The window that ends at the place-th transition."""
        end, episode = self.stored[place]
        rows = []
        for back in range(length, -1, -1):
            inside = place - back >= 0 and self.stored[place - back][1] == episode
            padding = torch.zeros_like(end)
            padding[-1] = -1.0
            rows.append(self.stored[place - back][0] if inside else padding)
        return torch.stack(rows)

    def rows(self) -> torch.Tensor:
        return torch.stack([row for row, _ in self.stored])


def layouts(seed: int, steps: int = 12, longest: int = 11) -> Any:
    """Random bunches of episodes, empty ones and bunches of none among them."""
    draw, first = torch.Generator().manual_seed(seed), 1
    for step in range(steps):
        number = int(torch.randint(1, 5, (), generator=draw))
        lengths = torch.randint(0, longest + 1, (number,), generator=draw).tolist()
        yield episodes(lengths, time=longest, seed=1000 * seed + step, first=first)
        first += sum(lengths)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("capacity", [12, 30, 1000])
def test_invariant_8_windows_equal_a_plain_loop(seed: int, capacity: int) -> None:
    """Random episode lengths, several turns of the ring: no window holds another episode."""
    buffer, plain = replay(capacity=capacity), Plain(capacity)
    for td in layouts(seed):
        buffer.extend(td)
        plain.extend(td)
        assert len(buffer) == len(plain.stored)
        if not plain.stored:
            continue
        assert buffer.num_episodes == len({episode for _, episode in plain.stored})
        place = {int(row[D]): n for n, (row, _) in enumerate(plain.stored)}
        drawn = flat(buffer.sample(batch_size=25))
        for window in drawn:
            expected = plain.window(place[int(window[-1, D])], T)
            assert torch.equal(window, expected)


def test_invariant_8_an_episode_is_never_taken_for_the_rest_of_an_older_one() -> None:
    """Capacity 12, lengths 7, 5, 3: the newest starts where the remainder of the oldest does."""
    buffer, plain, first = replay(capacity=12, length=6), Plain(12), 1
    for length in (7, 5, 3):
        td = episodes([length], first=first)
        first += length
        buffer.extend(td)
        plain.extend(td)
    place = {int(row[D]): n for n, (row, _) in enumerate(plain.stored)}
    ends = set()
    for window in flat(buffer.sample(batch_size=300)):
        number = int(window[-1, D])
        ends.add(number)
        assert torch.equal(window, plain.window(place[number], 6))
        if number > 12:
            inside = window[window[:, -2] == 1][:, D]
            assert inside.tolist() == list(range(13, number + 1))
    assert ends == set(range(4, 16))


def test_invariant_8_a_first_transition_has_nothing_before_it() -> None:
    buffer = replay(labelled=False, validation_share=0.0)
    td = episodes([1, 1, 1]).exclude("family")
    buffer.extend(td)
    window = buffer.sample()
    assert not window["mask"][:, :-1].any() and window["mask"][:, -1].all()
    for key in KEYS:
        assert (window[key][:, :-1] == 0).all()
    assert not window["next", "terminated"][:, :-1].any()


def test_invariant_9_running_windows_equal_stored_ones() -> None:
    """What a policy saw at each step is what the replay returns of that step."""
    lengths, buffer = [9, 2, 6, 1], replay(capacity=100)
    td = episodes(lengths)
    buffer.extend(td)
    rolling = RollingWindow(D, A, len(lengths), T)
    seen: dict[int, Any] = {}
    for step in range(max(lengths)):
        context = rolling.context()
        for row, length in enumerate(lengths):
            if step < length:
                seen[int(td["action"][row, step, 0])] = context[row]
        rolling.push(td[:, step])
    stored = buffer.sample(batch_size=200)
    numbers = stored["action"][:, -1, 0].long().tolist()
    assert set(numbers) == set(seen)
    for window, number in zip(stored, numbers, strict=True):
        for key in (*KEYS, ("next", "terminated"), "mask"):
            assert torch.equal(window[key][:-1], seen[number][key])


def test_invariant_10_statistics_equal_a_direct_computation() -> None:
    """Of what is stored, also after it was overwritten several times."""
    buffer, plain = replay(capacity=40), Plain(40)
    for td in layouts(seed=3, steps=25):
        buffer.extend(td)
        plain.extend(td)
        if not plain.stored:
            continue
        rows, numbers = plain.rows().double(), buffer.statistics()
        mean = torch.cat([numbers["mean"][key] for key in KEYS]).double()
        std = torch.cat([numbers["std"][key] for key in KEYS]).double()
        expected = rows[:, : len(mean)]
        torch.testing.assert_close(mean, expected.mean(0), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(std, expected.std(0, correction=0), atol=1e-6, rtol=1e-6)
        unit = (expected - mean) / (std + 1e-8)
        if len(rows) > 1:
            torch.testing.assert_close(unit.mean(0), torch.zeros_like(mean), atol=1e-5, rtol=0)
            torch.testing.assert_close(
                unit.std(0, correction=0), torch.ones_like(std), atol=1e-5, rtol=0
            )


def test_statistics_before_anything_is_stored_change_nothing() -> None:
    numbers = replay().statistics()
    for key in KEYS:
        assert (numbers["mean"][key] == 0).all() and (numbers["std"][key] == 1).all()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_invariant_11_the_split_is_by_episode_disjoint_and_stable(share: float) -> None:
    buffer = replay(capacity=10_000, validation_share=share)
    owner: dict[int, str] = {}
    episode_of: dict[int, int] = {}
    number = 0
    for td in layouts(seed=1, steps=15):
        for row in range(td.shape[0]):
            for n in td["action"][row][td["mask"][row]][:, 0].long().tolist():
                episode_of[n] = number
            number += bool(td["mask"][row].any())
        buffer.extend(td)
        for split in ("train", "validation"):
            if buffer.number(split) == 0:
                assert split == "validation" and (share == 0 or number < 2)
                continue
            drawn = buffer.sample(split, batch_size=400)["action"][:, -1, 0].long().tolist()
            for n in drawn:
                assert owner.setdefault(n, split) == split
    aside = {episode_of[n] for n, split in owner.items() if split == "validation"}
    assert not aside & {episode_of[n] for n, split in owner.items() if split == "train"}
    assert len(aside) == round(share * number)
    assert buffer.number("train") + buffer.number("validation") == len(buffer)


def test_the_split_leaves_something_on_both_sides() -> None:
    for lengths in ([3, 3], [3] * 3, [3] * 80):
        buffer = replay(capacity=1000)
        buffer.extend(episodes(lengths))
        wanted = max(round(0.2 * len(lengths)), 1)
        assert buffer.number("validation") == 3 * wanted
    buffer = replay()
    buffer.extend(episodes([4]))
    assert buffer.number("train") == 4
    with pytest.raises(RuntimeError, match="'validation' is stored yet"):
        buffer.sample("validation")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("each", [1, 3])
def test_both_sides_outlive_what_the_ring_loses(share: float, each: int) -> None:
    buffer = replay(capacity=20, validation_share=share)  # four episodes of five
    for _ in range(60):
        buffer.extend(episodes([5] * each))
        if buffer.num_episodes > 1:
            assert buffer.number("train") >= 5 and buffer.number("validation") >= 5
    assert buffer.num_episodes == 4


def test_both_sides_are_there_where_more_comes_than_the_ring_holds() -> None:
    for seed in range(20):
        buffer = replay(seed=seed, capacity=20, validation_share=0.2)
        buffer.extend(episodes([10] * 10))
        assert (buffer.number("train"), buffer.number("validation")) == (10, 10)


def test_the_split_is_drawn() -> None:
    chosen = set()
    for seed in range(60):
        buffer = replay(seed=seed)
        buffer.extend(episodes([2] * 5))
        last = buffer.sample("validation")["action"][:, -1, 0]
        chosen.add((int(last[0]) - 1) // 2)
    assert chosen == set(range(5))


def test_invariant_13_a_window_shifted_by_one_is_that_of_the_transition_before() -> None:
    """The last T of a window are the first T of its successor's: z after a step can be inferred."""
    buffer = replay(capacity=100)
    buffer.extend(episodes([9, 4, 7]))
    windows = {int(w["action"][-1, 0]): flat(w) for w in buffer.sample(batch_size=400)}
    starts = {1, 10, 14}
    for number, window in windows.items():
        if number not in starts:
            assert torch.equal(window[:-1], windows[number - 1][1:])


@pytest.mark.parametrize("split", ["all", "train", "validation"])
def test_draws_are_uniform_and_equal_a_loop(split: str) -> None:
    buffer, plain = replay(capacity=40), Plain(40)
    for td in layouts(seed=5):
        buffer.extend(td)
        plain.extend(td)
    number = buffer.number(split)
    drawn = buffer.sample(split, batch_size=20_000)["action"][:, -1, 0].long()
    held, count = drawn.unique(return_counts=True)
    assert len(held) == number
    expected = len(drawn) / number
    chi = ((count - expected) ** 2 / expected).sum()
    assert chi < number - 1 + 5 * (2 * (number - 1)) ** 0.5
    state = torch.Generator()
    state.set_state(buffer.state_dict()["generator"])
    uniform = torch.rand(50, dtype=torch.float64, generator=state)
    window = buffer.sample(split, batch_size=50)
    for row, u in enumerate(uniform.tolist()):
        assert int(window["action"][row, -1, 0]) == int(held[int(u * number)])


@pytest.mark.parametrize("number", [1, 2, 3, 25])
def test_linear_weights_are_those_of_a_loop(number: int) -> None:
    buffer = replay(weighting="linear", capacity=25, validation_share=0.0)
    buffer.extend(episodes([number]))
    weight = torch.tensor([0.1 + 0.8 * n / max(number - 1, 1) for n in range(number)]).double()
    total = (weight / weight.sum()).cumsum(0)
    state = torch.Generator()
    for _ in range(3):
        state.set_state(buffer.state_dict()["generator"])
        uniform = torch.rand(500, dtype=torch.float64, generator=state)
        drawn = buffer.sample(batch_size=500)["action"][:, -1, 0].long() - 1
        expected = torch.searchsorted(total, uniform, right=True).clamp(max=number - 1)
        assert torch.equal(drawn, expected)


@pytest.mark.parametrize("weighting", ["uniform", "linear"])
@pytest.mark.parametrize("number", [1, 2, 5, 31, 33, 200])
def test_no_end_comes_twice_while_there_are_others(weighting: str, number: int) -> None:
    buffer = replay(weighting=weighting, capacity=200, validation_share=0.0)
    buffer.extend(episodes([number]))
    for count in {1, 2, number // 5, number // 4, number // 2, number - 1, number} - {0}:
        if count <= number:
            for _ in range(20):
                ends = buffer.sample(batch_size=count)["action"][:, -1, 0]
                assert len(ends.unique()) == count
    assert len(buffer.sample(batch_size=number + 1)) == number + 1


@pytest.mark.parametrize("weighting", ["uniform", "linear"])
@pytest.mark.parametrize("number", [5, 10])
def test_draws_without_replacement_have_the_chances_of_one_after_the_other(
    weighting: str, number: int
) -> None:
    """Of two, the second falls on what the first left, at the same weights; either way to draw."""
    buffer = replay(weighting=weighting, capacity=number, validation_share=0.0)
    buffer.extend(episodes([number]))
    drawn = torch.stack([buffer.sample(batch_size=2)["action"][:, -1, 0] for _ in range(6000)])
    seen = torch.zeros(number, number).index_put_(
        tuple((drawn.long() - 1).T), torch.tensor(1.0), accumulate=True
    )
    weight = torch.ones(number)
    if weighting == "linear":
        weight = torch.tensor([0.1 + 0.8 * n / (number - 1) for n in range(number)])
    p = weight / weight.sum()
    expected = p[:, None] * p[None, :] / (1.0 - p[:, None]) * len(drawn)
    expected.fill_diagonal_(0.0)
    assert not seen.diagonal().any()
    off = ~torch.eye(number, dtype=torch.bool)
    chi = ((seen - expected) ** 2 / expected)[off].sum()
    freedom = number * (number - 1) - 1
    assert chi < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("newest", [1, 6, 50])
def test_ends_among_the_newest_of_a_split(newest: int) -> None:
    """Of all, and of the training episodes alone; windows still reach back before them."""
    buffer = replay(newest=newest, batch_size=400, validation_share=0.4)
    buffer.extend(episodes([7, 6, 5, 4, 3]))
    everything = replay(batch_size=2000, validation_share=0.4)
    everything.extend(episodes([7, 6, 5, 4, 3]))
    for split in ("all", "train", "validation"):
        held = everything.sample(split)["action"][:, -1, 0].unique().tolist()
        ends = buffer.sample(split)["action"][:, -1, 0].unique().tolist()
        assert ends == held[-newest:]
    window = buffer.sample()
    last = window["action"][:, -1, 0] == 7 + 6 + 5 + 4 + 3
    assert last.any() and (window["mask"][last].sum(1) == 3).all()


def test_invariant_14_keys_shapes_and_types() -> None:
    """Terminations alone are known of an episode's end."""
    buffer = replay()
    buffer.extend(episodes([5, 5]))
    window = buffer.sample()
    assert window.batch_size == (8, T + 1)
    expected = {
        "observation": ((D,), torch.float32),
        "action": ((A,), torch.float32),
        "mask": ((), torch.bool),
        "family": ((), torch.int64),
        ("next", "observation"): ((D,), torch.float32),
        ("next", "reward"): ((1,), torch.float32),
        ("next", "terminated"): ((1,), torch.bool),
    }
    assert set(window.keys(True, True)) == set(expected)
    for key, (shape, dtype) in expected.items():
        assert window[key].shape == (8, T + 1, *shape) and window[key].dtype == dtype
    assert (window["family"][~window["mask"]] == -1).all()
    assert buffer.sample("train", batch_size=3).batch_size == (3, T + 1)
    window["observation"].fill_(torch.nan)
    assert buffer.sample()["observation"].isfinite().all(), "a batch is memory of its own"


def test_leading_dimensions_of_tasks_and_episodes() -> None:
    """Experience of tasks, episodes and time is stored task after task."""
    td, one, two = episodes([3, 5, 0, 2, 4, 1]), replay(), replay()
    one.extend(td)
    two.extend(td.reshape(2, 3, 5))
    for _ in range(5):
        assert torch.equal(flat(one.sample()), flat(two.sample()))
    three = replay()
    whole = episodes([4, 4])
    three.extend(whole.exclude("mask"))
    assert len(three) == 8


@pytest.mark.parametrize("steps", [2, 12])
def test_state_round_trip_continues_identically(steps: int) -> None:
    one, two = replay(seed=1), replay(seed=2)
    for td in layouts(seed=4, steps=steps):
        one.extend(td)
    one.sample()
    state = one.state_dict()
    assert len(state["rows"]) == len(one)
    two.load_state_dict(state)
    for td in layouts(seed=9, steps=8):
        for buffer in (one, two):
            buffer.extend(td)
        for split in ("all", "train"):
            assert torch.equal(flat(one.sample(split)), flat(two.sample(split)))
        for key in KEYS:
            numbers = [buffer.statistics()["std"][key] for buffer in (one, two)]
            assert torch.equal(*numbers)
    again = replay()
    again.load_state_dict(state)
    assert torch.equal(again.state_dict()["rows"], state["rows"]), "a state is a copy"
    assert len(again) == len(state["rows"])


def test_state_holds_only_plain_values(tmp_path: Any) -> None:
    buffer = replay()
    buffer.extend(episodes([5, 5, 9]))
    torch.save(buffer.state_dict(), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    replay().load_state_dict(state)
    replay(length=9).load_state_dict(state)
    for options in ({"capacity": 31}, {"labelled": False}):
        with pytest.raises(ValueError, match="capacity, labelled"):
            replay(**options).load_state_dict(state)


def test_seeds() -> None:
    """Equal seeds draw alike, others do not; the default follows torch's seed and draws nothing."""

    def drawn(seed: int | None) -> torch.Tensor:
        buffer = replay(seed=seed)
        buffer.extend(episodes([9, 9, 9]))
        return flat(buffer.sample(batch_size=50))

    assert torch.equal(drawn(4), drawn(4)) and not torch.equal(drawn(4), drawn(5))
    before = torch.get_rng_state()
    assert torch.equal(drawn(None), drawn(torch.initial_seed()))
    assert torch.equal(before, torch.get_rng_state())


def test_wrong_input_is_named() -> None:
    buffer = replay()
    with pytest.raises(RuntimeError, match="'all' is stored yet"):
        buffer.sample()
    td = episodes([3, 3])
    td["mask"][0, 1] = False
    with pytest.raises(ValueError, match="True again after False"):
        buffer.extend(td)
    assert len(buffer) == 0
    buffer.extend(episodes([3, 3]))
    with pytest.raises(ValueError, match="split.*'test'"):
        buffer.sample("test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"capacity": 0}, "capacity is 0"),
        ({"length": 0}, "length is 0"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"weighting": "cut"}, "weighting is 'cut'"),
    ],
)
def test_bad_sizes_are_refused_before_allocating(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowReplay(10**15, 4, **settings)


def test_bytes() -> None:
    assert WindowReplay(20, 6, capacity=1000).nbytes == 4 * 49 * 1000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_windows_are_the_same() -> None:
    buffer, plain = replay(device="cuda"), Plain(30)
    for td in layouts(seed=2):
        buffer.extend(td)
        plain.extend(td)
    place = {int(row[D]): n for n, (row, _) in enumerate(plain.stored)}
    for window in flat(buffer.sample()).cpu():
        assert torch.equal(window, plain.window(place[int(window[-1, D])], T))
    torch.cuda.set_sync_debug_mode("error")  # drawing does not wait for the device
    try:
        buffer.sample()
    finally:
        torch.cuda.set_sync_debug_mode("default")
