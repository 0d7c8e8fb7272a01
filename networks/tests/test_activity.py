"""The statistics against plain loops over pairs of samples (dendrites.md 3.7, invariant 30)."""

import itertools
import math

import torch

from networks.activity import SegmentUse, UnitUse, mean_off_diagonal, win_cosine

T, U, S = 3, 12, 4


def samples(rows=20):
    """Activations of which some are zero, in several calls."""
    torch.manual_seed(0)
    use, kept = UnitUse(T, U), []
    for _ in range(4):
        hidden = torch.randn(rows, U) * (torch.rand(rows, U) < 0.4)
        hidden[:, 5] = 0.0
        task = torch.randint(T, (rows,))
        use.add(hidden, task)
        kept += list(zip(hidden.double(), task.tolist(), strict=True))
    return use, kept


def test_invariant_30_units_against_loops():
    use, kept = samples()
    seen = use.summary()
    for key, shape in {
        "activation": (T, U),
        "frequency": (T, U),
        "overlap": (T, T),
        "jaccard": (T, T),
        "top_overlap": (T, T),
        "cosine_distance": (T, T),
        "pair_distance": (T, T),
        "distance_within": (),
        "distance_across": (),
        "percent_on": (),
        "dead_units": (),
    }.items():
        assert seen[key].shape == shape, key
    by_task = [torch.stack([h for h, t in kept if t == task]) for task in range(T)]
    for i, j in itertools.product(range(T), repeat=2):
        total, pairs, apart = 0.0, 0, 0.0
        for a, one in enumerate(by_task[i]):
            for b, other in enumerate(by_task[j]):
                if i != j or a != b:
                    total += float(((one != 0) & (other != 0)).sum()) / U
                    apart += 1.0 - float(torch.nn.functional.cosine_similarity(one, other, dim=0))
                    pairs += 1
        assert math.isclose(seen["overlap"][i, j], total / pairs, rel_tol=1e-12)
        assert math.isclose(seen["pair_distance"][i, j], apart / pairs, rel_tol=1e-12)
        ever = [(h != 0).any(0) for h in (by_task[i], by_task[j])]
        expected = (ever[0] & ever[1]).sum() / (ever[0] | ever[1]).sum()
        assert math.isclose(seen["jaccard"][i, j], expected, rel_tol=1e-6)
        means = by_task[i].mean(0), by_task[j].mean(0)
        cosine = torch.nn.functional.cosine_similarity(*means, dim=0)
        assert math.isclose(seen["cosine_distance"][i, j], 1.0 - cosine, abs_tol=1e-12)
    torch.testing.assert_close(seen["activation"][1], by_task[1].mean(0))
    torch.testing.assert_close(seen["frequency"][2], (by_task[2] != 0).double().mean(0))
    assert seen["dead_units"] == 1.0
    share = torch.stack([(h != 0).double().mean() for h, _ in kept]).mean()
    assert math.isclose(seen["percent_on"], share, rel_tol=1e-12)
    assert torch.equal(seen["top_overlap"].diagonal(), torch.ones(T).double())
    distance = seen["pair_distance"]
    within, across = distance.trace() / T, (distance.sum() - distance.trace()) / (T * (T - 1))
    torch.testing.assert_close(seen["distance_within"], within)
    torch.testing.assert_close(seen["distance_across"], across)


def test_invariant_30_identical_samples_overlap_in_all_that_is_on():
    use = UnitUse(2, 8)
    hidden = torch.tensor([1.0, 0, -2, 0, 0, 0, 3, 0]).expand(6, 8)
    use.add(hidden, torch.tensor([0, 1, 0, 1, 0, 1]))
    seen = use.summary()
    torch.testing.assert_close(seen["overlap"], torch.full((2, 2), 3 / 8).double())
    assert seen["percent_on"] == 3 / 8


def test_a_task_without_samples_has_no_figures():
    use = UnitUse(2, 4)
    use.add(torch.ones(3, 4), torch.zeros(3).long())
    seen = use.summary()
    assert seen["frequency"][0].tolist() == [1.0] * 4 and seen["frequency"][1].isnan().all()
    assert seen["overlap"][0, 0] == 1.0 and seen["overlap"][0, 1].isnan()


def test_invariant_30_segments_against_loops():
    torch.manual_seed(0)
    d, task = torch.randn(30, U, S), torch.arange(30) % T
    winner, gate = d.abs().argmax(-1), torch.rand(30, U)
    use = SegmentUse(T, U, S)
    for rows in (slice(0, 13), slice(13, 30)):
        use.add(d[rows], winner[rows], gate[rows], task[rows])
    seen = use.summary()
    share, selected = torch.zeros(U, S, T).double(), torch.zeros(U, S, T).double()
    for u, s, t in itertools.product(range(U), range(S), range(T)):
        of_task = [row for row in range(30) if task[row] == t]
        won = [row for row in of_task if winner[row, u] == s]
        share[u, s, t] = len(won) / len(of_task)
        selected[u, s, t] = sum(float(d[row, u, s]) for row in won) / len(won) if won else 0.0
    torch.testing.assert_close(seen["win_share"], share)
    torch.testing.assert_close(seen["selected"], selected)
    torch.testing.assert_close(seen["segment"][:, :, 1], d[task == 1].double().mean(0))
    torch.testing.assert_close(seen["gate"][2], gate[task == 2].double().mean(0))
    torch.testing.assert_close(seen["duty_cycle"].sum(1), torch.ones(U).double())
    assert (seen["entropy"] <= math.log(S) + 1e-12).all()
    for u in range(U):
        values = [
            torch.nn.functional.cosine_similarity(share[u, :, i], share[u, :, j], dim=0)
            for i, j in itertools.permutations(range(T), 2)
        ]
        assert math.isclose(seen["segment_overlap"][u], sum(values) / len(values), rel_tol=1e-9)
    assert win_cosine(share).shape == (U, T, T)


def test_one_task_has_no_overlap_with_others():
    assert mean_off_diagonal(torch.ones(2, 1, 1)).isnan().all()
