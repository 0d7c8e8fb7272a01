"""Tests of the mask generator; the numbers are those of MUST's list of invariants."""

import copy
from functools import partial

import pytest
import torch
from tensordict import TensorDict

from networks import similarity as similarities
from networks.mask_generator import MaskGenerator
from networks.masked import MaskedMLP
from networks.trajectory_encoder import TrajectoryEncoder

SHAPES = ((9, 7), (11, 9), (1, 11))
ENCODER = partial(TrajectoryEncoder, width=6)


def build(shapes=SHAPES, tasks=3, **options):
    return MaskGenerator(shapes, tasks, 4, **{"hidden": 16, "encoder": ENCODER, **options})


def trajectories(tasks=3, length=8):
    mask = torch.ones(tasks, length, dtype=torch.bool)
    return TensorDict({"observation": torch.randn(tasks, length, 4), "mask": mask}, mask.shape)


def counts(mask):
    return (mask != 0).flatten(1).sum(1)


@pytest.mark.parametrize("ratio", [0, 0.1, 0.5, 0.55, 0.7, 0.8, 0.95])
@pytest.mark.parametrize("head", ["low_rank", "dense"])
def test_invariant_01_exact_sparsity(ratio, head):
    generator = build(pruning_ratio=ratio, score_head=head, noise_scale=1.0)
    scores = generator.scores(trajectories())
    ones = [torch.ones_like(score, dtype=torch.bool) for score in scores]
    first = generator.commit(ones, scores)
    later = generator.commit(first, generator.scores(trajectories()))
    for masks in (
        generator.masks(scores),
        generator.masks(scores, noise=torch.Generator()),
        generator.hard(scores),
        first,
        later,
    ):
        for mask, shape in zip(masks, SHAPES, strict=True):
            size = shape[0] * shape[1]
            k = max(1, int((1000 * size - round(1000 * ratio) * size + 500) // 1000))
            assert mask.shape == (3, *shape)
            assert (counts(mask) == k).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("surrogate", ["sigmoid_k", "softmax", "identity"])
@pytest.mark.parametrize("noise", [torch.Generator(), None], ids=["noise", "no-noise"])
def test_invariant_02_masks_are_zero_or_one(dtype, surrogate, noise):
    generator = build(surrogate=surrogate, noise_scale=0.3).to(dtype)
    drawn = trajectories()
    drawn["observation"] = drawn["observation"].to(dtype)
    masks = generator.masks(generator.scores(drawn), noise)
    for mask in masks:
        assert mask.dtype == dtype and mask.requires_grad
        assert ((mask == 0) | (mask == 1)).all()


@pytest.mark.parametrize("head", ["low_rank", "dense"])
def test_invariant_10_deterministic_and_equivariant(head):
    generator = build(score_head=head, noise_scale=1.0)
    drawn = trajectories()
    state = torch.get_rng_state()
    first, second = (generator.masks(generator.scores(drawn)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    order = torch.tensor([2, 0, 1])
    permuted = copy.deepcopy(generator)
    with torch.no_grad():  # the one-hot columns, permuted, are the permuted tasks
        permuted.body.first.weight[:, :3] = generator.body.first.weight[:, :3][:, order]
    for a, b in zip(first, permuted.masks(permuted.scores(drawn[order])), strict=True):
        assert torch.equal(a[order], b)
    with torch.no_grad():
        generator.body.first.weight[:, 1] = generator.body.first.weight[:, 0]
        drawn["observation"][1] = drawn["observation"][0]
    for mask in generator.hard(generator.scores(drawn)):
        assert torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("standardise", [True, False])
def test_invariant_11_noise(standardise):
    generator = build(noise_scale=1.0, standardise=standardise)
    scores = generator.scores(None)
    draws = torch.Generator().manual_seed(0)
    first = generator.masks(scores, noise=draws)
    second = generator.masks(scores, noise=draws)
    again = generator.masks(scores, noise=draws.manual_seed(0))
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(counts(a), counts(b)) for a, b in zip(first, second, strict=True))
    quiet = build()
    state = draws.get_state()
    quiet.masks(quiet.scores(None), noise=draws)
    assert torch.equal(draws.get_state(), state)


def test_invariant_12_gradient_at_full_width():
    torch.manual_seed(0)
    network = MaskedMLP(39, 8, 2)
    generator = MaskGenerator(network.mask_shapes, 2, 39, encoder=partial(ENCODER, width=16))
    assert generator.body.rank == 16
    drawn = TensorDict(
        {"observation": torch.randn(2, 5, 39), "mask": torch.ones(2, 5, dtype=torch.bool)}, [2, 5]
    )
    scores = generator.scores(drawn)
    masks = generator.masks(scores)
    for tensor in (*scores, *masks):
        tensor.retain_grad()
    task = torch.arange(2)[:, None].expand(2, 16)
    loss = network(torch.randn(2, 16, 39), task, masks).sub(1).square().mean()
    loss.backward()
    for parameter in (*generator.body.parameters(), *generator.encoder.parameters()):
        assert parameter.grad.isfinite().all() and parameter.grad.norm() > 1e-8
    assert all(parameter.grad is None for parameter in generator.encoder_target.parameters())
    torch.optim.SGD(generator.body.parameters(), lr=1e-3, fused=True).step()
    gain = sum(
        ((new - old.detach()) * -mask.grad).sum()
        for new, old, mask in zip(generator.scores(drawn), scores, masks, strict=True)
    )
    assert gain > 0
    for score, mask in zip(scores, masks, strict=True):
        assert (score.grad * mask.grad >= 0).all()


def test_detached_masks_leave_the_generator_alone():
    network = MaskedMLP(4, 2, 3, hidden=(9,))
    generator = build(network.mask_shapes)
    network(torch.randn(3, 5, 4), torch.arange(3)[:, None].expand(3, 5)).sum().backward()
    assert all(parameter.grad is None for parameter in generator.parameters())


@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_invariant_14_supervised_gradient_at_full_width(ratio):
    torch.manual_seed(0)
    generator = MaskGenerator(
        ((400, 49), (400, 400), (8, 400)), 3, 4, pruning_ratio=ratio, encoder=ENCODER
    )
    generator.similarity_loss(trajectories()).backward()
    for parameter in (*generator.body.parameters(), *generator.encoder.parameters()):
        assert parameter.grad.norm() > 1e-8
    assert all(parameter.grad is None for parameter in generator.encoder_target.parameters())


@pytest.mark.parametrize("target", ["encoding", "chance_corrected"])
def test_invariant_14_similar_tasks_come_to_share_masks(target):
    torch.manual_seed(0)
    generator = build(
        ((32, 16), (32, 32)),
        4,
        score_head="dense",
        hidden=32,
        similarity_target=target,
        use_trajectory_info=False,
    )
    drawn = trajectories(4)
    group = torch.tensor([0.0, 0.0, 3.0, 3.0]).view(4, 1, 1)
    drawn["observation"] = group + 0.1 * drawn["observation"]
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3)
    losses = []
    for _ in range(200):
        loss = generator.similarity_loss(drawn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    value = similarities.overlap(generator.hard(generator.scores(drawn)))
    within, across = (value[0, 1] + value[2, 3]) / 2, value[:2, 2:].mean()
    assert within > across + 0.1


@pytest.mark.parametrize("tasks", [1, 2, 10])
@pytest.mark.parametrize("use_trajectory_info", [True, False])
def test_flags_and_task_numbers(tasks, use_trajectory_info):
    generator = build(tasks=tasks, use_trajectory_info=use_trajectory_info)
    for drawn in (None, trajectories(tasks)):
        loss = generator.similarity_loss(drawn)
        loss.backward()
        assert loss.isfinite() and (tasks > 1 or loss == 0)
    for parameter in generator.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    moved = [
        torch.equal(a, b)
        for a, b in zip(generator.scores(None), generator.scores(trajectories(tasks)), strict=True)
    ]
    assert all(moved) != use_trajectory_info


def test_missing_trajectories_are_zero_encodings():
    generator = build()
    drawn = trajectories()
    drawn["mask"][:] = False
    assert (generator.encode(drawn) == 0).all() and (generator.encode(None) == 0).all()
    for a, b in zip(generator.scores(drawn), generator.scores(None), strict=True):
        torch.testing.assert_close(a, b)


def test_slow_encoder():
    generator = build(target_rate=0.25)
    before = [parameter.clone() for parameter in generator.encoder_target.parameters()]
    with torch.no_grad():
        for parameter in generator.encoder.parameters():
            parameter.add_(1.0)
    generator.follow()
    for old, new in zip(before, generator.encoder_target.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)
        assert not new.requires_grad
    drawn = trajectories()
    assert not torch.allclose(generator.encode(drawn), generator.encode(drawn, slow=True))


def test_commits_change_little_at_a_time():
    generator = build(((40, 25),), max_swap=0.02)
    old = generator.hard(generator.scores(None))
    target = [torch.randn(3, 40, 25)]
    new = generator.commit(old, target)
    assert ((old[0] & ~new[0]).flatten(1).sum(1) == 10).all()
    free = build(((40, 25),), max_swap=None)
    assert torch.equal(free.commit(old, target)[0], free.hard(target)[0])
    lazy = build(((40, 25),), max_swap=None, hysteresis=100.0)
    assert torch.equal(lazy.commit(old, target)[0], old[0])


def test_score_heads():
    assert build().body.rank == 0
    assert build(((128, 4),), rank=5).body.rank == 5
    generator = build(score_head="low_rank", rank=2)
    for score in generator.scores(None):
        assert torch.linalg.matrix_rank(score.detach()).max() <= 2
    neuron = build(((9,), (200,)))
    assert [score.shape for score in neuron.scores(None)] == [(3, 9), (3, 200)]


def test_published_preset():
    generator = build(
        score_head="dense",
        surrogate="softmax",
        standardise=False,
        noise_scale=1.0,
        max_swap=None,
        rounding="trunc",
        similarity="exp_distance",
        target_rate=1.0,
        pruning_ratio=0.7,
    )
    loss = generator.similarity_loss(trajectories())
    loss.backward()
    assert loss.isfinite() and loss > 0
    assert generator.kept == (18, 29, 3)


def test_gaussian_target_needs_pretraining():
    with pytest.raises(ValueError, match="pretrain_passes"):
        build(similarity_target="gaussian_kl")
    encoder = partial(ENCODER, pretrain_passes=1)
    generator = build(similarity_target="gaussian_kl", encoder=encoder)
    assert generator.similarity_loss(trajectories()).isfinite()
    mask = torch.ones(3, 7, 8, dtype=torch.bool)
    observation = torch.randn(3, 7, 8, 4) + torch.tensor([0.0, 5.0, 5.0]).view(3, 1, 1, 1)
    before = [parameter.clone() for parameter in generator.encoder.parameters()]
    context = TensorDict({"observation": observation, "mask": mask}, [3, 7])
    generator.pretrain(context, torch.Generator())
    assert any(
        not torch.equal(a, b) for a, b in zip(before, generator.encoder.parameters(), strict=True)
    )
    target = generator.target_similarity(None)
    assert target[1, 2] > target[0, 1] and target[0, 0] == 1
    other = build(similarity_target="gaussian_kl", encoder=encoder)
    other.load_state_dict(generator.state_dict())
    assert torch.equal(other.target_similarity(None), target)
    build().pretrain(context, torch.Generator())


def test_slow_encoder_at_rate_one_is_the_trained_one():
    generator = build(encoder=partial(ENCODER, pretrain_passes=1), target_rate=1.0)
    observation, mask = torch.randn(3, 7, 8, 4), torch.ones(3, 7, 8, dtype=torch.bool)
    context = TensorDict({"observation": observation, "mask": mask}, [3, 7])
    before = [parameter.clone() for parameter in generator.encoder_target.parameters()]
    generator.pretrain(context, torch.Generator())
    slow = list(generator.encoder_target.parameters())
    assert all(map(torch.equal, slow, generator.encoder.parameters()))
    assert not all(map(torch.equal, slow, before))


def test_copy_and_state_dict():
    generator = build()
    drawn = trajectories()
    expected = generator.hard(generator.scores(drawn))
    other = build()
    other.load_state_dict(generator.state_dict())
    for twin in (copy.deepcopy(generator), other):
        masks = twin.hard(twin.scores(drawn))
        assert all(torch.equal(a, b) for a, b in zip(masks, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mask_shapes", {"shapes": ()}),
        ("mask_shapes", {"shapes": ((3, 0),)}),
        ("num_tasks", {"tasks": 0}),
        ("pruning_ratio", {"pruning_ratio": 1.0}),
        ("pruning_ratio", {"pruning_ratio": -0.1}),
        ("hidden", {"hidden": 0}),
        ("score_head", {"score_head": "sparse"}),
        ("rank", {"rank": 0}),
        ("surrogate", {"surrogate": "relu"}),
        ("noise_scale", {"noise_scale": -1.0}),
        ("rounding", {"rounding": "up"}),
        ("max_swap", {"max_swap": 1.5}),
        ("hysteresis", {"hysteresis": -1.0}),
        ("target_rate", {"target_rate": 2.0}),
        ("similarity", {"similarity": "cosine"}),
        ("similarity_target", {"similarity_target": "labels"}),
    ],
)
def test_errors_name_the_argument(name, options):
    with pytest.raises(ValueError, match=f"^{name} must"):
        build(**options)


def test_chance_correction_belongs_to_the_overlap():
    with pytest.raises(ValueError, match="similarity"):
        build(similarity="exp_distance", similarity_target="chance_corrected")
