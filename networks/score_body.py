"""The body of MUST's mask generator: an embedding in, a score for every maskable entry out.

MUST is known only from a public repository, without a paper.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

SCORE_HEADS = ("auto", "low_rank", "dense")
LOW_RANK_FROM = 128


def head_rank(score_head: str, rank: int, shapes: Sequence[tuple[int, ...]]) -> int:
    """Return the rank of the scores, 0 for dense ones.

    `auto` means low rank if some side of a mask is at least 128 wide.
    """
    if score_head == "auto":
        score_head = "low_rank" if max(map(max, shapes)) >= LOW_RANK_FROM else "dense"
    return rank if score_head == "low_rank" else 0


class ScoreBody(nn.Module):
    """s_l(e) = head_l(relu(W e)); low rank: s_l(e) = A_l(e) B_l(e)^T.

    Layers keep PyTorch's default initialisation. Scores of neurons are always dense.
    """

    def __init__(
        self, in_features: int, hidden: int, shapes: Sequence[tuple[int, ...]], rank: int
    ) -> None:
        """Build two linear layers; the second holds the heads of all masked layers.

        Args:
            in_features: width of the embedding.
            hidden: width of the hidden layer.
            shapes: shape of one task's mask per masked layer, (out, in) or (units,).
            rank: rank of weight scores, 0 for dense ones.
        """
        super().__init__()
        self.shapes = tuple(shapes)
        self.rank = rank
        self._pieces: list[int] = []
        for shape in self.shapes:
            if rank and len(shape) == 2:
                self._pieces += [shape[0] * rank, shape[1] * rank]
            else:
                self._pieces.append(shape[0] * (shape[1] if len(shape) == 2 else 1))
        self.first = nn.Linear(in_features, hidden)
        self.heads = nn.Linear(hidden, sum(self._pieces))

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """Map embeddings [tasks, in_features] to scores [tasks, *shape] per masked layer."""
        flat = cast(Tensor, self.heads(torch.relu(self.first(embedding))))
        pieces = iter(torch.split(flat, self._pieces, -1))
        scores = []
        for shape in self.shapes:
            piece = next(pieces)
            if self.rank and len(shape) == 2:
                left = piece.view(-1, shape[0], self.rank)
                right = next(pieces).view(-1, shape[1], self.rank)
                scores.append(torch.bmm(left, right.transpose(1, 2)))
            else:
                scores.append(piece.view(-1, *shape))
        return scores
