"""MUST with its real parts: learner, masked networks, generators and trajectory store together."""

import copy
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from algorithms.must import MaskedSAC
from algorithms.sac import SAC
from networks.actor import Actor
from networks.critic import Critic
from networks.mask_generator import MaskGenerator
from networks.masked import MaskedMLP
from networks.mlp import MLP
from networks.trajectory_encoder import TrajectoryEncoder


@dataclass(frozen=True)
class Dims:
    """Sizes as a suite's specification gives them."""

    observation_dim: int = 6
    action_dim: int = 2
    num_tasks: int = 3


HIDDEN = (16, 16)


def _sac(dims: Dims, **options) -> SAC:
    trunk = functools.partial(MLP, hidden=HIDDEN)
    return SAC(
        dims,
        actor=functools.partial(Actor, trunk=trunk),
        critic=functools.partial(Critic, trunk=trunk),
        **options,
    )


def _must(dims: Dims, generator: dict | None = None, **options) -> MaskedSAC:
    trunk = functools.partial(MaskedMLP, hidden=HIDDEN)
    return MaskedSAC(
        dims,
        actor=functools.partial(Actor, trunk=trunk),
        critic=functools.partial(Critic, trunk=trunk),
        generator=functools.partial(MaskGenerator, hidden=8, **(generator or {})),
        **options,
    )


def _batch(dims: Dims, seed: int, rows: int = 4) -> TensorDict:
    g = torch.Generator().manual_seed(seed)
    shape = (dims.num_tasks, rows)

    def observation() -> Tensor:
        return torch.randn(*shape, dims.observation_dim, generator=g)

    following = {
        "observation": observation(),
        "reward": torch.randn(*shape, 1, generator=g),
        "terminated": torch.zeros(*shape, 1, dtype=torch.bool),
    }
    batch = {
        "observation": observation(),
        "task_id": torch.arange(dims.num_tasks)[:, None].expand(shape),
        "action": torch.rand(*shape, dims.action_dim, generator=g) * 2 - 1,
        "next": TensorDict(following, [dims.num_tasks]),
        "context": _context(dims, seed),
    }
    return TensorDict(batch, [dims.num_tasks])


def _context(dims: Dims, seed: int, window: int = 2, length: int = 5) -> TensorDict:
    g = torch.Generator().manual_seed(seed)
    shape = (dims.num_tasks, window)
    fields = {
        "observation": torch.randn(*shape, length, dims.observation_dim, generator=g),
        "mask": torch.ones(*shape, length, dtype=torch.bool),
        "probability": torch.full(shape, 1.0 / window),
        "succeeded": torch.zeros(shape, dtype=torch.bool),
    }
    return TensorDict(fields, shape)


def _iterate(learner, dims: Dims, iteration: int, updates: int = 2) -> dict[str, Tensor]:
    context = _context(dims, iteration)
    metrics = dict(learner.begin_phase(context))
    for k in range(updates):
        metrics |= learner.update(_batch(dims, 100 * iteration + k))
    return metrics | learner.end_phase(context)


def _hash(masks: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for layer in masks:
        digest.update(layer.cpu().numpy().tobytes())
    return digest.hexdigest()


def test_masks_under_a_learner_that_never_sets_them_are_told_of() -> None:
    trunk = functools.partial(MaskedMLP, hidden=HIDDEN)
    networks = {"actor": functools.partial(Actor, trunk=trunk)}
    networks["critic"] = functools.partial(Critic, trunk=trunk)
    with pytest.warns(UserWarning, match="SAC prunes nothing.*learn with MaskedSAC"):
        SAC(Dims(), **networks)


@pytest.fixture
def double() -> Iterator[None]:
    """Everything in double precision, so that rounding hides nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("options", [{}, {"commit": "resample"}, {"initial_masks": "random"}])
def test_invariant_08_nothing_pruned_is_mtsac(double: None, options: dict) -> None:
    """With pruning ratio 0 losses and parameters follow MT-SAC of the same seed step by step.

    Trajectories are drawn and encoders trained all the while, and noise is drawn.
    """
    dims = Dims()
    encoder = functools.partial(TrajectoryEncoder, width=8, pretrain_passes=1)
    generator = {"pruning_ratio": 0.0, "noise_scale": 1.0, "encoder": encoder}
    seen = []
    for build in (
        _sac,
        functools.partial(_must, generator=generator, update_interval=2, **options),
    ):
        torch.manual_seed(0)
        learner = build(dims)
        metrics = [_iterate(learner, dims, iteration, 10) for iteration in range(6)]
        seen.append((metrics, dict(learner.named_parameters()), torch.get_rng_state()))
    (expected, sac, state), (found, must, after) = seen
    for one, other in zip(expected, found, strict=True):
        for name in ("loss/alpha", "loss/actor", "loss/critic"):
            torch.testing.assert_close(other[name], one[name], rtol=1e-12, atol=1e-12)
    for name, value in sac.items():
        torch.testing.assert_close(must[name], value, rtol=1e-12, atol=1e-12)
    assert torch.equal(state, after)


def test_invariant_12_and_13_who_is_moved_by_which_loss() -> None:
    """Generator phases move all generators, others none; the policy's loss only its own."""
    dims = Dims()
    torch.manual_seed(0)
    learner = _must(dims, update_interval=2)
    context = _context(dims, 0)

    def moved() -> list[bool]:
        old = copy.deepcopy(learner.generators)
        learner.update(_batch(dims, 1))
        pairs = zip(old, learner.generators, strict=True)
        return [
            any(
                not torch.equal(a, b)
                for a, b in zip(x.body.parameters(), y.body.parameters(), strict=True)
            )
            for x, y in pairs
        ]

    learner.begin_phase(context)
    assert moved() == [True, True, True]
    learner.end_phase(context)
    learner.begin_phase(context)
    assert moved() == [False, False, False]

    learner = _must(dims)
    learner.begin_phase(context)
    names = [name for name, p in learner.named_parameters() if p.requires_grad]
    parameters = [p for p in learner.parameters() if p.requires_grad]
    sample, losses = learner._functions
    moved_by: list[set[str]] = []

    def watched(*args):
        values = losses(*args)
        for loss in values[:2]:
            g = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            moved_by.append({n for n, x in zip(names, g, strict=True) if x is not None and x.any()})
        return values

    learner._functions = sample, watched
    learner.update(_batch(dims, 1))
    by_policy, by_critics = moved_by
    for by, own in (
        (by_policy, ("actor", "generators.0")),
        (by_critics, ("critic", "generators.1", "generators.2")),
    ):
        assert all(name.startswith(own) for name in by)
        assert all(any(name.startswith(one) for name in by) for one in own)


def test_invariant_13_a_critic_moves_its_own_generator_only() -> None:
    """The loss of Q_1 leaves no gradient on generator 2."""
    dims = Dims()
    learner = _must(dims)
    drawn = learner._draw(_context(dims, 0))
    masks = [g.masks(s) for g, s in zip(learner.generators, learner._scores(drawn), strict=True)]
    stacked = [torch.stack(layer) for layer in zip(*masks[1:], strict=True)]
    batch = _batch(dims, 0)
    q = learner.critic(batch.copy(), masks=stacked)["state_action_value"]
    q[..., 0].square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in learner.generators[1].parameters())
    for p in [*learner.generators[2].parameters(), *learner.generators[0].parameters()]:
        assert p.grad is None or not p.grad.any()


def test_invariant_19_one_committed_mask_for_everybody() -> None:
    """Learner, targets and actors share a mask; it changes at commits and only there."""
    dims = Dims()
    torch.manual_seed(0)
    learner = _must(dims, update_interval=3)
    previous = None
    for iteration in range(8):
        context = _context(dims, iteration)
        learner.begin_phase(context)
        for k in range(3):
            learner.update(_batch(dims, 10 * iteration + k))
            hashes = (_hash(learner.actor.committed()), _hash(learner.critic.committed()))
            assert hashes[1] == _hash(learner.target.committed())
            assert previous is None or hashes == previous
            previous = hashes
        learner.end_phase(context)
        now = (_hash(learner.actor.committed()), _hash(learner.critic.committed()))
        assert (now != previous) == (iteration % 3 == 0)
        previous = now


@pytest.mark.parametrize("freeze_after", [None, 0, 4])
def test_invariant_20_masks_change_at_the_interval_until_frozen(freeze_after) -> None:
    """Changes happen exactly at iterations divisible by U, and never once frozen."""
    dims = Dims()
    torch.manual_seed(0)
    learner = _must(dims, update_interval=2, freeze_after=freeze_after)
    for iteration in range(8):
        old = _hash(learner.actor.committed())
        commits = learner.commits  # asked before the phase begins, as by a loop of one update
        _iterate(learner, dims, iteration)
        frozen = freeze_after is not None and iteration >= freeze_after
        assert commits == (iteration % 2 == 0 and not frozen)
        assert (_hash(learner.actor.committed()) != old) == commits


def test_invariant_21_every_base_network_moves_in_both_kinds_of_phase() -> None:
    """Policy, Q1, Q2, both targets and log alpha change at every gradient step."""
    dims = Dims()
    learner = _must(dims, update_interval=2)
    for iteration in range(4):
        context = _context(dims, iteration)
        learner.begin_phase(context)
        for k in range(2):
            old = {n: p.clone() for n, p in learner.named_parameters()}
            learner.update(_batch(dims, 10 * iteration + k))
            for name, value in learner.named_parameters():
                if name.startswith(("critic", "target")):
                    assert all(not torch.equal(value[m], old[name][m]) for m in range(2)), name
                elif name.startswith(("actor", "log_alpha")):
                    assert not torch.equal(value, old[name]), name
        learner.end_phase(context)


def test_committed_generator_phase_trains_the_networks_as_an_ordinary_one() -> None:
    """The networks compute under the committed masks; only the generators move besides."""
    dims = Dims()
    batch = _batch(dims, 0)
    updated = []
    for generating in (False, True):
        torch.manual_seed(0)
        learner = _must(dims, generator_phase="committed")
        _iterate(learner, dims, 0)
        learner.generating = generating
        old = {n: p.clone() for n, p in learner.generators.named_parameters()}
        torch.manual_seed(1)
        if not generating:
            learner._draw(batch["context"])  # the generators' draw comes before the policy's
        learner.update(batch)
        moved = {n for n, p in learner.generators.named_parameters() if not torch.equal(p, old[n])}
        assert bool(moved) == generating
        updated.append(learner)
    plain, generated = updated
    for part in ("actor", "critic", "target"):
        sides = [getattr(learner, part).parameters() for learner in (plain, generated)]
        for a, b in zip(*sides, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_generators_alone_learn_in_a_phase_of_theirs() -> None:
    """Policy and critics stand still, and the generators get the gradient of a joint phase."""
    dims = Dims()
    moves = []
    for phase in ("joint", "generators"):
        torch.manual_seed(0)
        learner = _must(dims, generator_phase=phase)
        learner.begin_phase(_context(dims, 0))
        old = {n: p.clone() for n, p in learner.named_parameters()}
        learner.update(_batch(dims, 0))
        stood = all(
            torch.equal(p, old[n])
            for n, p in learner.named_parameters()
            if n.startswith(("actor", "critic"))
        )
        assert stood == (phase == "generators")
        moves.append(
            [p.detach() - old[f"generators.{n}"] for n, p in learner.generators.named_parameters()]
        )
    for a, b in zip(*moves, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cut", [0, 1, 2])
@pytest.mark.parametrize("commit", ["top_k", "resample"])
def test_invariant_25_resuming_inside_an_interval_changes_nothing(cut, commit) -> None:
    """A learner restored between any two updates goes on identically."""
    dims = Dims()

    def build() -> MaskedSAC:
        torch.manual_seed(0)
        return _must(dims, {"noise_scale": 1.0}, update_interval=2, commit=commit)

    def finish(learner: MaskedSAC, begun: bool) -> dict[str, Tensor]:
        for iteration in (1, 2):
            context = _context(dims, iteration)
            if not (begun and iteration == 1):
                learner.begin_phase(context)
            for k in range(cut if begun and iteration == 1 else 0, 3):
                learner.update(_batch(dims, 10 * iteration + k))
            learner.end_phase(context)
        return {k: v for k, v in learner.state_dict().items() if isinstance(v, Tensor)}

    learner = build()
    _iterate(learner, dims, 0)
    learner.begin_phase(_context(dims, 1))
    for k in range(cut):
        learner.update(_batch(dims, 10 + k))
    state, rng = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    expected = finish(learner, begun=True)
    other = build()
    other.load_state_dict(state)
    torch.set_rng_state(rng)
    got = finish(other, begun=True)
    assert [k for k in expected if not torch.equal(expected[k], got[k])] == []


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
def test_masks_drawn_before_a_resume_come_to_the_learners_device() -> None:
    """Checkpoints are read on the CPU; "meta" stands for another device."""
    dims = Dims()
    options = {"update_interval": 2, "commit": "resample"}
    learner = _must(dims, {"noise_scale": 1.0}, **options)
    _iterate(learner, dims, 0)
    learner.begin_phase(_context(dims, 1))
    other = _must(dims, {"noise_scale": 1.0}, **options).to("meta")
    other.load_state_dict(learner.state_dict())
    drawn = [mask for masks in other._drawn for mask in masks]
    assert drawn and all(mask.device.type == "meta" for mask in drawn)


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.parametrize("trajectories", [False, True])
def test_invariant_26_all_flags_and_numbers_of_tasks_run(
    num_tasks, supervised, trajectories
) -> None:
    """Every combination trains, finitely, for several intervals."""
    dims = Dims(num_tasks=num_tasks)
    learner = _must(
        dims,
        {"use_trajectory_info": trajectories},
        use_supervised_loss=supervised,
        update_interval=2,
    )
    for iteration in range(5):
        metrics = _iterate(learner, dims, iteration)
        assert all(torch.isfinite(v).all() for v in metrics.values())
    assert ("loss/similarity" in metrics) == (supervised and num_tasks > 1)
    if not supervised and not trajectories:
        learner.begin_phase(None)


def test_missing_trajectories_are_named() -> None:
    """Where masks ever change and depend on them the message says which binding to add."""
    learner = _must(Dims())
    for call in (learner.begin_phase, learner.check_trajectories):
        with pytest.raises(ValueError, match="OffPolicyLoop.trajectories"):
            call(None)
    learner.check_trajectories(True)
    apart = {"use_trajectory_info": False}
    _must(Dims(), apart, use_supervised_loss=False).check_trajectories(False)
    _must(Dims(), freeze_after=0).check_trajectories(False)


def test_commit_metrics_equal_a_count_by_hand() -> None:
    """Kept fraction, overlap and turnover are what counting gives."""
    dims = Dims()
    torch.manual_seed(0)
    learner = _must(dims, {"max_swap": None}, update_interval=1)
    old = [m.clone() for m in learner.actor.committed()]
    metrics = _iterate(learner, dims, 0)
    new = learner.actor.committed()
    kept = sum(int(m[0].sum()) for m in new)
    size = sum(m[0].numel() for m in new)
    assert metrics["mask/kept_fraction/actor"].item() == pytest.approx(kept / size)
    pairs = [
        sum(int((m[i] & m[j]).sum()) for m in new) / kept
        for i in range(3)
        for j in range(3)
        if i != j
    ]
    assert metrics["mask/overlap/actor"].item() == pytest.approx(sum(pairs) / 6)
    stayed = sum(int((a & b).sum()) for a, b in zip(old, new, strict=True)) / (3 * kept)
    assert metrics["mask/turnover/actor"].item() == pytest.approx(1.0 - stayed, abs=1e-6)


def test_commit_metrics_of_dense_masks_and_of_one_task() -> None:
    """Half of a dense mask goes at the first commit; one task shares with no other."""
    dims = Dims(num_tasks=1)
    metrics = _iterate(_must(dims, update_interval=1, initial_masks="dense"), dims, 0)
    assert metrics["mask/turnover/actor"].item() == pytest.approx(0.5, abs=0.01)
    assert not [name for name in metrics if name.startswith("mask/overlap")]


def test_supervised_steps_are_counted_when_refused() -> None:
    """Numbers that are not finite stop the generator they reach, and the metrics say so."""
    dims, context = Dims(), _context(Dims(), 0)
    learner = _must(dims, update_interval=1)
    _iterate(learner, dims, 0)
    metrics = learner.begin_phase(context)
    assert metrics["health/nonfinite"] == 0.0
    assert all(metrics[f"grad_norm/supervised/{name}"] > 0.0 for name in learner.names)
    _iterate(learner, dims, 1)
    context["observation"][0] = torch.nan
    trained = [p for p in learner.generators.parameters() if p.requires_grad]
    before = [p.clone() for p in trained]
    assert learner.begin_phase(context)["health/nonfinite"] == 1.0
    assert all(map(torch.equal, before, trained))


def test_update_gate_waits_for_success_and_for_weakness() -> None:
    """Only a task that has succeeded and is below 0.66 gets new masks.

    Task 3 has succeeded in training alone.
    """
    dims = Dims(num_tasks=4)
    torch.manual_seed(0)
    generator = {"max_swap": None}
    learner = _must(dims, generator, update_interval=1, update_gate=True, rl_generator_lr=1e-2)
    for _ in range(3):
        learner.evaluated(torch.tensor([0.0, 0.5, 1.0, 0.0]))
    old = learner.actor.committed()
    context = _context(dims, 0)
    context["succeeded"][3, 1] = True
    learner.begin_phase(context)
    for k in range(2):
        learner.update(_batch(dims, k))
    learner.end_phase(context)
    changed = [
        any(
            not torch.equal(a[t], b[t]) for a, b in zip(old, learner.actor.committed(), strict=True)
        )
        for t in range(4)
    ]
    assert changed == [False, True, False, True]


def test_no_supervised_steps_are_none() -> None:
    """The second generator phase, the first with a supervised loss, takes only its own steps."""
    dims, seen = Dims(), []
    for options in ({"sl_steps": 0}, {"use_supervised_loss": False}):
        torch.manual_seed(0)
        learner = _must(dims, update_interval=1, **options)
        for iteration in range(3):
            assert "loss/similarity" not in _iterate(learner, dims, iteration)
        seen.append(_hash(learner.actor.committed()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("num_tasks", [1, 3])
def test_encoders_are_trained_without_the_supervised_loss_too(num_tasks) -> None:
    """From the second generator phase on, as `TrajectoryEncoder.pretrain_passes` says."""
    dims = Dims(num_tasks=num_tasks)
    encoder = functools.partial(TrajectoryEncoder, pretrain_passes=2)
    learner = _must(dims, {"encoder": encoder}, update_interval=2, use_supervised_loss=False)
    decoder = learner.generators[0].encoder.decoder
    before = [p.clone() for p in decoder.parameters()]
    for iteration in range(2):
        _iterate(learner, dims, iteration)
        assert all(torch.equal(a, b) for a, b in zip(before, decoder.parameters(), strict=True))
    _iterate(learner, dims, 2)
    assert not any(torch.equal(a, b) for a, b in zip(before, decoder.parameters(), strict=True))


@pytest.mark.parametrize("initial", ["generator", "random", "dense"])
def test_initial_masks(initial) -> None:
    """Masks start at the ratio asked for, or dense."""
    learner = _must(Dims(), {"pruning_ratio": 0.75}, initial_masks=initial)
    for layer in learner.actor.committed():
        expected = 1.0 if initial == "dense" else 0.25
        assert layer.float().mean().item() == pytest.approx(expected, abs=0.02)


def test_resampled_masks_are_noisy_everywhere_and_the_last_drawn_are_committed() -> None:
    """As in the reference code: in supervised steps too, and no draw of its own for a commit."""
    dims = Dims()
    torch.manual_seed(0)
    learner = _must(dims, {"noise_scale": 1.0}, update_interval=1, commit="resample")
    asked: list[bool] = []
    drawn: list[list[Tensor]] = []
    masks = learner.generators[0].masks

    def watched(scores, noise=False, committed=None):
        asked.append(noise)
        drawn.append(masks(scores, noise, committed))
        return drawn[-1]

    learner.generators[0].masks = watched
    for iteration in range(3):
        _iterate(learner, dims, iteration)
        for committed, last in zip(learner.actor.committed(), drawn[-1], strict=True):
            assert torch.equal(committed, last.detach().bool())
    assert len(asked) == 3 * 2 + 2 * learner.sl_steps and all(asked)


@pytest.mark.parametrize("shared", [False, True])
def test_whose_encoding_the_masks_are_to_follow(shared) -> None:
    """Each generator's own, or for all of them that of the policy's, as in the reference code."""
    dims = Dims()
    torch.manual_seed(0)
    learner = _must(dims, shared_target=shared, update_interval=1)
    targets = []
    for generator in learner.generators:

        def watched(trajectories, target=None, *, noise=False, loss=generator.similarity_loss):
            targets.append(target)
            return loss(trajectories, target, noise=noise)

        generator.similarity_loss = watched
    for iteration in range(2):
        _iterate(learner, dims, iteration)
    policy, *critics = targets[:3]
    assert [torch.equal(policy, target) for target in critics] == [shared, shared]


def test_action_change_of_a_commit_is_a_mean_over_real_states() -> None:
    """Padding and empty places of the store do not dilute it."""
    dims = Dims()
    torch.manual_seed(0)
    learner = _must(dims, {"max_swap": None}, update_interval=1)
    context = _context(dims, 0)
    context["mask"][:, 0, 2:] = False
    context["mask"][:, 1] = False

    def actions() -> list[Tensor]:
        return [
            learner.act(
                TensorDict({"observation": state[None], "task_id": torch.tensor([t])}, [1]), False
            )["action"]
            for t in range(3)
            for state in context["observation"][t, 0, :2]
        ]

    learner.begin_phase(context)
    learner.update(_batch(dims, 0))
    before = actions()
    metrics = learner.end_phase(context)
    change = torch.stack([(a - b).abs() for a, b in zip(actions(), before, strict=True)])
    assert change.mean() > 1e-5
    assert metrics["mask/action_change"].item() == pytest.approx(change.mean().item(), rel=1e-3)


def test_networks_are_told_of_each_iteration(monkeypatch) -> None:
    """As by SAC, whose masks stand still."""
    dims, told = Dims(4, 2, 2), []
    monkeypatch.setattr(Actor, "end_iteration", lambda network: told.append(network))
    monkeypatch.setattr(Critic, "end_iteration", lambda network: told.append(network))
    learner = _must(dims, update_interval=2)
    for iteration in range(3):
        _iterate(learner, dims, iteration)
    assert told == [learner.actor, learner.critic] * 3


def test_similarities_are_those_of_the_masks_and_of_the_last_commit() -> None:
    """Overlaps against a loop; targets are zero before a commit, and come with the state."""
    dims = Dims()
    torch.manual_seed(0)
    learner = _must(dims, update_interval=2)
    before = learner.similarities()
    names = {f"{kind}/{n}" for kind in ("overlap", "target") for n in learner.names}
    assert set(before) == names and not any(before[f"target/{n}"].any() for n in learner.names)
    _iterate(learner, dims, 0)
    seen = learner.similarities()
    for name, masks in zip(learner.names, learner._committed(), strict=True):
        for i in range(dims.num_tasks):
            kept = [layer[i].bool() for layer in masks]
            for j in range(dims.num_tasks):
                both = sum(
                    int((a & layer[j].bool()).sum()) for a, layer in zip(kept, masks, strict=True)
                )
                share = both / sum(int(a.sum()) for a in kept)
                assert float(seen[f"overlap/{name}"][i, j]) == pytest.approx(share)
        target = seen[f"target/{name}"]
        torch.testing.assert_close(target.diagonal(), torch.ones(dims.num_tasks))
        torch.testing.assert_close(target, target.T)
    other = _must(dims, update_interval=2)
    other.load_state_dict(learner.state_dict())
    for name, value in other.similarities().items():
        assert torch.equal(value, seen[name])
