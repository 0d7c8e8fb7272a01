"""How alike the masks of two tasks are, and how alike they should be (MUST).

MUST is known only from a public repository, without a paper. Its supervised loss makes the
similarity of masks follow the similarity of trajectories. No labels are involved.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SIMILARITIES = ("overlap", "exp_distance")
TARGETS = ("encoding", "chance_corrected", "gaussian_kl")


def off_diagonal_mean(matrix: Tensor) -> Tensor:
    """Return the mean of [tasks, tasks] over i != j; 0 for one task."""
    tasks = matrix.shape[0]
    other = 1.0 - torch.eye(tasks, dtype=matrix.dtype, device=matrix.device)
    return (matrix * other).sum() / max(1, tasks * (tasks - 1))


def min_max(matrix: Tensor) -> Tensor:
    """Scale a matrix to [0, 1] over all its entries; a constant matrix becomes 0."""
    low, high = matrix.amin(), matrix.amax()
    return (matrix - low) / (high - low).clamp_min(torch.finfo(matrix.dtype).tiny)


def distances(rows: Tensor) -> Tensor:
    """Return Euclidean distances [n, n] between rows [n, d]; gradients at distance 0 are 0."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def overlap(masks: Sequence[Tensor]) -> Tensor:
    """Return the share of kept entries that two tasks have in common, [tasks, tasks].

    S[i, j] = sum_e m_i[e] m_j[e] / k, k = kept entries of a task over all layers. Masks are
    [tasks, *shape] per layer, valued 0 or 1, each task with equally many ones.
    """
    rows = [mask.flatten(1) for mask in masks]
    rows = [row.float() if row.dtype == torch.bool else row for row in rows]
    common = torch.stack([row @ row.t() for row in rows]).sum(0)
    kept = torch.stack([row[0].detach().sum() for row in rows]).sum()
    return common / kept


def exp_distance(masks: Sequence[Tensor]) -> Tensor:
    """Return minmax(exp(-||m_i - m_j||)), [tasks, tasks], the published form; of encodings too.

    The exponential underflows for masks with more than some thousand entries: then this is the
    identity matrix and has no gradient.
    """
    rows = torch.cat([mask.flatten(1) for mask in masks], 1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return min_max(torch.exp(-distances(rows)))


def encoding_similarity(encoding: Tensor) -> Tensor:
    """Return exp(-d_ij / mean off-diagonal d) for encodings [tasks, d_e]."""
    apart = distances(encoding)
    return torch.exp(-apart / off_diagonal_mean(apart).clamp_min(torch.finfo(apart.dtype).tiny))


def chance_corrected(similarity: Tensor, pruning_ratio: float) -> Tensor:
    """Return (1 - p) + p S: tasks infinitely far apart overlap as two random masks would."""
    return (1.0 - pruning_ratio) + pruning_ratio * similarity


def gaussian_kl_similarity(mean: Tensor, std: Tensor) -> Tensor:
    """Return minmax(exp(-(KL(i || j) + KL(j || i)) / 100)) for task Gaussians [tasks, latent_dim].

    This is the target of the first published version of the method.
    """
    variance = std.square()
    gap = (mean.unsqueeze(1) - mean.unsqueeze(0)).square()
    # KL(i || j) + KL(j || i); the logarithms of the two cancel.
    ratio = (variance.unsqueeze(1) + gap) / variance.unsqueeze(0)
    both = 0.5 * (ratio + ratio.transpose(0, 1) - 2.0).sum(-1)
    return min_max(torch.exp(-both / 100.0))


def mean_square(similarity: Tensor, target: Tensor) -> Tensor:
    """Return the mean of (S - target)^2 over i != j, a scalar; 0 for one task."""
    return off_diagonal_mean((similarity - target).square())


def euclidean(similarity: Tensor, target: Tensor) -> Tensor:
    """Return ||vec(S) - vec(target)||_2, the published loss; its gradient at 0 is 0."""
    norm: Tensor = torch.linalg.vector_norm(similarity - target)
    return norm
