"""The configurable tree graph as a suite: find out which leaf pays, and go there again.

Soltoggio et al., "The configurable tree graph (CT-graph)", 2023 (arXiv 2302.10887).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gin
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.ct_graph_files import read
from envs.dynamics import Dynamics, Outcome, State
from envs.episodes import Task
from envs.numbered import BatchedSuite
from envs.suite import Spec
from envs.tree_graph import CRASH, DECISION, END, HOME, WAIT, TreeGraph
from envs.tree_labels import Labeller, TreeLabels
from envs.tree_pictures import OneHotPictures, Pictures

PATIENCE = 10  # shortest episodes that fit into the horizon where there are delays
LARGEST_TABLE = 2**30
"""Bytes of the pictures that a graph may show."""


class TreeWalk(Dynamics):
    """A walk through the tree: action 0 waits, action i takes branch i - 1.

    From home any action leads on. In a wait state one must wait, which leads to the decision, or
    after the last one to the end, unless the delay strikes; in a decision state one must take a
    branch, which leads to the next wait state. Anything else is a crash, which ends the episode at
    once. The reward comes with the step to the end; one more step, of any action, leads home and
    ends the episode.

    The state of a row: its type, the number of branches taken, their number to base b, the goal's,
    and the share of the highest reward last earned.

    Args:
        graph: the tree.
        labels: which picture a state shows.
        pictures: the pictures.

    Raises:
        ValueError: fewer pictures than the labels name, or too many to keep.
    """

    discrete = True

    def __init__(self, graph: TreeGraph, labels: TreeLabels, pictures: Pictures) -> None:
        self._graph, self._pictures = graph, pictures
        self._picture_of = Labeller(graph, labels)
        needed = self._picture_of.spans[-1][1] + 1
        self.num_pictures = needed if pictures.num_pictures is None else pictures.num_pictures
        if self.num_pictures < needed:
            raise ValueError(f"num_pictures must be at least {needed}, got {self.num_pictures}")
        self.observation_dim = pictures.width(self.num_pictures)
        if 4 * self.num_pictures * self.observation_dim > LARGEST_TABLE:
            raise ValueError(
                f"depth: with {graph.branching} branches a tree of {graph.depth} shows "
                f"{self.num_pictures} pictures of {self.observation_dim} numbers, which is more "
                f"than {LARGEST_TABLE // 2**20} MiB; lower one of the two, or let states share "
                "pictures"
            )
        self.action_dim = graph.branching + 1
        self._table = pictures.table(self.num_pictures)

    def begin(self, goal: Tensor, rng: np.random.Generator) -> tuple[State, Tensor]:
        """Home; goals `[n, 1]` are the numbers of leaves."""
        home = torch.full_like(goal[:, 0], HOME)
        state = {"kind": home, "taken": 0 * home, "code": 0 * home, "goal": goal[:, 0]}
        state["share"] = torch.zeros(len(goal))
        return state, self._see(state, rng)

    def step(self, state: State, action: Tensor, rng: np.random.Generator) -> tuple[State, Outcome]:
        """Actions `[n]`, whole numbers from 0 to the number of branches."""
        graph, kind = self._graph, state["kind"]
        waits, chooses = action == 0, action != 0
        at_wait, at_decision = kind == WAIT, kind == DECISION
        moves = at_wait & waits
        if graph.delay > 0.0:
            moves = moves & torch.from_numpy(rng.random(len(kind)) >= graph.delay)
        arrives = moves & (state["taken"] == graph.depth)
        branches = at_decision & chooses
        crashes = (at_wait & chooses) | (at_decision & waits)
        leaves = (kind == END) | (kind == CRASH)
        after = torch.where((kind == HOME) | branches, WAIT, kind)
        after = torch.where(moves, torch.where(arrives, END, DECISION), after)
        after = torch.where(crashes, CRASH, torch.where(leaves, HOME, after))
        code = torch.where(branches, state["code"] * graph.branching + action - 1, state["code"])
        share = graph.share(code, state["goal"], rng) * arrives
        new = {
            "kind": after,
            "taken": (state["taken"] + branches) * ~leaves,
            "code": code * ~leaves,
            "goal": state["goal"],
            "share": share,
        }
        reward = graph.high_reward * share + graph.crash_reward * crashes
        success = arrives & (code == state["goal"])
        return new, Outcome(self._see(new, rng), reward, crashes | leaves, success)

    def _see(self, state: State, rng: np.random.Generator) -> Tensor:
        picture = self._picture_of(state["kind"], state["taken"], state["code"], rng)
        return self._pictures.look(self._table[picture], state["kind"] == END, state["share"], rng)


@gin.configurable
class CTGraphSuite(BatchedSuite):
    """One tree, and a task for each of its leaves, the same ones for training and test.

    Goal i is the leaf whose branches are the digits of i to base b, the first one the most
    significant.

    Args:
        graph: the tree; the binary one of depth 2 by default.
        labels: which picture a state shows.
        pictures: what the pictures look like; one-hot vectors by default.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        graph: TreeGraph | None = None,
        labels: TreeLabels | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        self.graph = graph or TreeGraph()
        self._labels, self._pictures = labels or TreeLabels(), pictures or OneHotPictures()
        super().__init__((f"ct-graph-d{self.graph.depth}",), self.graph.leaves)
        self.dynamics = TreeWalk(self.graph, self._labels, self._pictures)
        self.goals = leaf

    @classmethod
    def from_json(cls, source: str | Path | Mapping[str, Any]) -> "CTGraphSuite":
        """The suite of a configuration file of the reference; see `envs.ct_graph_files`."""
        return cls(*read(source))

    @property
    def name(self) -> str:
        """For example "ct-graph-d2"."""
        return self._names[0]

    @property
    def spec(self) -> Spec:
        """A picture to see; to wait or one of the branches to choose.

        Without delays every episode ends by itself within the horizon.
        """
        patience = PATIENCE if self.graph.delay > 0.0 else 1
        sizes = (self.dynamics.observation_dim, self.dynamics.action_dim)
        return Spec(*sizes, 1, patience * self.graph.shortest, self._names, discrete=True)

    def protocol(self) -> dict[str, Any]:
        """What decides a score besides the agent."""
        return {
            "suite": "CT-graph",
            "benchmark": self.name,
            "tasks": list(self._names),
            "horizon": self.spec.horizon,
            "goals": f"{self.graph.leaves} leaves, the same ones for training and test",
            "graph": repr(self.graph),
            "labels": repr(self._labels),
            "pictures": repr(self._pictures),
            "success": "the goal's leaf is reached",
        }


def leaf(task: Task, number: int) -> NDArray[np.int64]:
    """The goal `[1]` of that number: the number."""
    return np.array([number], dtype=np.int64)
