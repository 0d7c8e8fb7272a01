"""How alike two representations are: linear centered kernel alignment (CKA).

Kornblith, Norouzi, Lee and Hinton, "Similarity of Neural Network Representations Revisited", ICML
2019.
"""

import torch
from torch import Tensor


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the similarity of x [rows, p] and y [rows, q], whose rows are of the same occasions.

    CKA = ||Y' X||^2 / (||X' X|| ||Y' Y||), Frobenius norms, columns centered

    It lies in [0, 1] and stays the same when either is turned, mirrored, shifted or scaled as a
    whole. It is not a number where one of the two is constant. With far fewer rows than columns
    unrelated ones seem alike too.
    """
    return gram_cka(x @ x.T, y @ y.T)


def gram_cka(k: Tensor, m: Tensor) -> Tensor:
    """Return `linear_cka` from K = X X' and M = Y Y', both [rows, rows]."""
    k, m = _centered(k), _centered(m)
    alike: Tensor = (k * m).sum() / (k.norm() * m.norm())
    return alike


def time_courses(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return each task's mean over its episodes at each time step, and where there is one.

    Args:
        values: [tasks, episodes, time, width].
        mask: bool [tasks, episodes, time], False after the end of an episode.

    Returns:
        [tasks, time, width], double, 0 where no episode goes on; bool [tasks, time].
    """
    running = mask.unsqueeze(-1)
    total = torch.where(running, values.double(), 0.0).sum(1)
    count = running.sum(1)
    return total / count.clamp(min=1), count.squeeze(-1) > 0


def task_alignment(
    values: Tensor, mask: Tensor, *, shuffle: torch.Generator | None = None
) -> Tensor:
    """Return the linear CKA between the representations of every two tasks, [tasks, tasks].

    Tasks lead to different states, so their rows must be matched somehow. They are matched by time:
    row t of a task is the mean of its episodes at their t-th step, over those that last as long,
    and two tasks are compared over the steps that both have. What is compared is therefore how a
    representation moves in the course of an episode.

    Where little of it moves with time, the rows are mostly chance, and even equal tasks seem
    unlike. So each comparison is between the even episodes of one task and the odd ones of the
    other, the mean of the two ways, and the diagonal, of a task's two halves, is what no difference
    looks like: two tasks differ where they are below it. There must be two episodes of each.

    Args:
        values: [tasks, episodes, time, width].
        mask: bool [tasks, episodes, time], False after the end of an episode.
        shuffle: gives the floor instead, what is left when the time steps of one of the two are in
            an order drawn from this.

    Raises:
        ValueError: if there are fewer than two episodes.
    """
    if values.shape[1] < 2:
        raise ValueError(f"values must hold at least two episodes, got {values.shape[1]}")
    even, odd = (time_courses(values[:, i::2], mask[:, i::2]) for i in range(2))
    (k, in_even), (m, in_odd) = ((courses @ courses.mT, there) for courses, there in (even, odd))
    alike = torch.full((len(values),) * 2, torch.nan, dtype=torch.float64)
    for i in range(len(values)):
        for j in range(len(values)):
            rows = (in_even[i] & in_odd[j]).nonzero().squeeze(-1)
            order = rows if shuffle is None else rows[torch.randperm(len(rows), generator=shuffle)]
            # A matrix of fewer rows is a part of the whole one, before it is centered.
            alike[i, j] = gram_cka(k[i][rows][:, rows], m[j][order][:, order])
    return (alike + alike.T) / 2


def _centered(gram: Tensor) -> Tensor:
    """H K H with H = I - 1/n, as if the rows had been centered before."""
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
