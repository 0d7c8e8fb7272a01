"""Which units and segments work for which task: statistics of a policy, gathered step by step.

The figures are those of the analysis that came with Active Dendrites (Iyer et al. 2022). They are
sums over samples, so that no activation has to be kept.
"""

import torch
from torch import Tensor


class UnitUse:
    """How the units of one hidden layer are used by each task.

    A unit is active where its activation is not zero. Sums are in double precision, on the CPU.
    """

    def __init__(self, num_tasks: int, num_units: int) -> None:
        """Begin without samples."""
        self.samples = torch.zeros(num_tasks, dtype=torch.float64)
        self.active = torch.zeros(num_tasks, num_units, dtype=torch.float64)
        self.total = torch.zeros(num_tasks, num_units, dtype=torch.float64)
        self.direction = torch.zeros(num_tasks, num_units, dtype=torch.float64)
        self.directed = torch.zeros(num_tasks, dtype=torch.float64)

    def add(self, hidden: Tensor, task: Tensor) -> None:
        """Count activations [rows, units] of the tasks [rows]."""
        hidden, task = hidden.detach().cpu().double(), task.cpu()
        self.samples.index_add_(0, task, torch.ones(len(task), dtype=torch.float64))
        self.active.index_add_(0, task, (hidden != 0).double())
        self.total.index_add_(0, task, hidden)
        self.direction.index_add_(0, task, torch.nn.functional.normalize(hidden, dim=1))
        self.directed.index_add_(0, task, (hidden != 0).any(1).double())

    def summary(self) -> dict[str, Tensor]:
        """Figures of the layer; not a number for a task without samples.

        Returns:
            `activation` [tasks, units]: mean activation.
            `frequency` [tasks, units]: share of the samples in which a unit is active.
            `overlap` [tasks, tasks]: units active in both of two different samples, as a share of
                all units, mean over the pairs.
            `jaccard` [tasks, tasks]: of the units that two tasks ever use, the share both use.
            `top_overlap` [tasks, tasks]: share that two tasks' quarters of most frequently active
                units have in common.
            `cosine_distance` [tasks, tasks]: between mean activations.
            `pair_distance` [tasks, tasks]: cosine distance between two different samples, mean over
                the pairs; 1 to a sample without any activity. `distance_within` and
                `distance_across` []: its means on and off the diagonal.
            `percent_on` []: mean share of active units. `dead_units` []: number never active.
        """
        n, units = self.samples.unsqueeze(1), self.active.shape[1]
        frequency, activation = self.active / n, self.total / n
        overlap = frequency @ frequency.T / units
        pairs = (self.active * (self.active - 1.0)).sum(1) / (n * (n - 1.0)).squeeze(1) / units
        overlap.diagonal().copy_(pairs)
        used = (self.active > 0).double()
        both = used @ used.T
        either = used.sum(1).unsqueeze(1) + used.sum(1) - both
        quarter = max(1, units // 4)
        top = torch.zeros_like(frequency).scatter_(1, frequency.topk(quarter).indices, 1.0)
        unit = torch.nn.functional.normalize(activation, dim=1)
        direction = self.direction / n
        distance = 1.0 - direction @ direction.T
        # Of the pairs of samples of a task, those of a sample with itself do not count.
        others = self.direction.square().sum(1) - self.directed
        distance.diagonal().copy_(1.0 - others / (n * (n - 1.0)).squeeze(1))
        return {
            "activation": activation,
            "frequency": frequency,
            "overlap": overlap,
            "jaccard": both / either,
            "top_overlap": top @ top.T / quarter,
            "cosine_distance": 1.0 - unit @ unit.T,
            "pair_distance": distance,
            "distance_within": distance.diagonal().nanmean(),
            "distance_across": _off_diagonal(distance).nanmean(),
            "percent_on": self.active.sum() / (self.samples.sum() * units),
            "dead_units": (used.sum(0) == 0).sum().double(),
        }


class SegmentUse:
    """How the segments of one dendritic layer are used by each task."""

    def __init__(self, num_tasks: int, num_units: int, num_segments: int) -> None:
        """Begin without samples."""
        shape = (num_tasks, num_units, num_segments)
        self.samples = torch.zeros(num_tasks, dtype=torch.float64)
        self.total, self.wins, self.won = (torch.zeros(shape, dtype=torch.float64) for _ in "123")
        self.gate = torch.zeros(shape[:2], dtype=torch.float64)

    def add(self, d: Tensor, winner: Tensor, gate: Tensor, task: Tensor) -> None:
        """Count samples.

        Args:
            d: activations of the segments [rows, units, segments].
            winner: number of each unit's selected segment [rows, units].
            gate: what the drive is multiplied by [rows, units].
            task: [rows].
        """
        d, task = d.detach().cpu().double(), task.cpu()
        one_hot = torch.zeros_like(d).scatter_(-1, winner.cpu().unsqueeze(-1), 1.0)
        self.samples.index_add_(0, task, torch.ones(len(task), dtype=torch.float64))
        self.total.index_add_(0, task, d)
        self.wins.index_add_(0, task, one_hot)
        self.won.index_add_(0, task, one_hot * d)
        self.gate.index_add_(0, task, gate.detach().cpu().double())

    def summary(self) -> dict[str, Tensor]:
        """Figures of the layer; not a number for a task without samples.

        Returns:
            `win_share` [units, segments, tasks]: share of the samples in which a segment wins.
            `segment` [units, segments, tasks]: mean activation of the segments.
            `selected` [units, segments, tasks]: mean activation where selected, 0 if never.
            `gate` [tasks, units]: mean gate.
            `duty_cycle` [units, segments]: share of wins over all samples.
            `entropy` [units]: of the duty cycle, in nats, at most log(segments).
            `segment_overlap` [units]: mean cosine between the win shares of two tasks.
        """
        n = self.samples.view(-1, 1, 1)
        share = (self.wins / n).permute(1, 2, 0)
        selected = (self.won / self.wins).nan_to_num(0.0).permute(1, 2, 0)
        duty = self.wins.sum(0) / self.samples.sum()
        return {
            "win_share": share,
            "segment": (self.total / n).permute(1, 2, 0),
            "selected": selected,
            "gate": self.gate / n.squeeze(-1),
            "duty_cycle": duty,
            "entropy": -torch.special.xlogy(duty, duty).sum(1),
            "segment_overlap": mean_off_diagonal(win_cosine(share)),
        }


def win_cosine(win_share: Tensor) -> Tensor:
    """Cosine between tasks of each unit's win shares: [units, segments, tasks] -> [U, T, T]."""
    unit = torch.nn.functional.normalize(win_share, dim=1)
    return unit.transpose(1, 2) @ unit


def mean_off_diagonal(matrix: Tensor) -> Tensor:
    """Mean of the entries off the diagonal, [*, n, n] -> [*]; not a number for n = 1."""
    return _off_diagonal(matrix).mean(-1)


def _off_diagonal(matrix: Tensor) -> Tensor:
    """The entries off the diagonal, [*, n, n] -> [*, n (n - 1)]."""
    n = matrix.shape[-1]
    return matrix[..., ~torch.eye(n, dtype=torch.bool, device=matrix.device)]
