"""Which picture of the set a state of the tree graph shows."""

from dataclasses import dataclass

import gin
import numpy as np
import torch
from torch import Tensor

from envs.tree_graph import DECISION, END, HOME, WAIT, TreeGraph

Span = tuple[int, int]  # the first and the last number


@gin.configurable
@dataclass(frozen=True, kw_only=True)
class TreeLabels:
    """Numbers of pictures: home 0, crash 1, and a span for each other type of state.

    A state of a type that is an MDP has a picture of its own. Let k branches be taken, v their
    number to base b; then

        wait, decision:  first of the span + (b^k - 1) / (b - 1) + v
        end:             first of the span + (v - 1) mod b^d,  or + v without `leaf_shift`

    A state of another type shows at each visit one of its span's, drawn uniformly. Ends are such a
    type where neither waits nor decisions are an MDP. Deviation from the reference: there, with
    more than two branches, several states of a type share a picture.

    Attributes:
        mdp_waits: wait states have pictures of their own.
        mdp_decisions: decision states have.
        leaf_shift: as the reference numbers the ends.
        wait_span: first and last picture of wait states; None for as many as there are, from 2 on.
        decision_span: of decision states; None for those that follow.
        end_span: of ends; None for those that follow.

    Raises:
        ValueError: naming the argument.
    """

    mdp_waits: bool = True
    mdp_decisions: bool = True
    leaf_shift: bool = True
    wait_span: Span | None = None
    decision_span: Span | None = None
    end_span: Span | None = None

    def spans(self, graph: TreeGraph) -> tuple[Span, Span, Span]:
        """First and last picture of wait states, decision states and ends of a graph.

        Raises:
            ValueError: spans that overlap, are out of order or too small.
        """
        kinds = (
            ("wait_span", self.wait_span, graph.waits, self.mdp_waits),
            ("decision_span", self.decision_span, graph.decisions, self.mdp_decisions),
            ("end_span", self.end_span, graph.leaves, self.mdp_waits or self.mdp_decisions),
        )
        spans: list[Span] = []
        free = 2
        for name, given, count, mdp in kinds:
            low, high = (free, free + count - 1) if given is None else tuple(given)
            if not free <= low <= high:
                raise ValueError(f"{name} must be two numbers from {free} on, got {given}")
            if mdp and high - low + 1 < count:
                raise ValueError(f"{name} must hold {count} states, got {given}")
            spans.append((low, high))
            free = high + 1
        return spans[0], spans[1], spans[2]


class Labeller:
    """Numbers the pictures of states.

    Args:
        graph: the tree.
        labels: how.
    """

    def __init__(self, graph: TreeGraph, labels: TreeLabels) -> None:
        self._shift, self._leaves = int(labels.leaf_shift), graph.leaves
        self.spans = labels.spans(graph)
        mdps = (labels.mdp_waits, labels.mdp_decisions, labels.mdp_waits or labels.mdp_decisions)
        self._types = tuple(zip((WAIT, DECISION, END), self.spans, mdps, strict=True))
        powers = graph.branching ** torch.arange(graph.depth + 1)
        self._before = (powers - 1) // (graph.branching - 1)

    def __call__(
        self, kind: Tensor, taken: Tensor, code: Tensor, rng: np.random.Generator
    ) -> Tensor:
        """Pictures of states given by type, branches taken and their number, each `[n]`."""
        inner = self._before[taken] + code
        picture = (kind != HOME).long()  # home 0, crash 1
        for of_type, (low, high), mdp in self._types:
            if mdp:
                offset = (code - self._shift) % self._leaves if of_type == END else inner
            else:
                offset = torch.from_numpy(rng.integers(high - low + 1, size=len(kind)))
            picture = torch.where(kind == of_type, low + offset, picture)
        return picture
