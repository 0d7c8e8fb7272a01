"""The replay of TIGR and CEMRL: windows of transitions that follow one another.

TIGR: Bing et al., "Meta-Reinforcement Learning in Broad and Non-Parametric Environments", 2021.
CEMRL: Bing et al., "Meta-Reinforcement Learning in Non-Stationary and Dynamic Environments", 2022.
"""

from typing import Any

import gin
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from buffers.arguments import check_saved_sizes, check_sizes, named_device
from buffers.episode_table import EpisodeTable
from buffers.running_statistics import RunningStatistics
from buffers.transition_rows import TransitionRows

WEIGHTINGS = ("uniform", "linear")


@gin.configurable
class WindowReplay:
    """One ring of whole episodes of all tasks; batches are windows that end at drawn transitions.

    A window holds `length` transitions and the one that it ends at. Those before the beginning of
    its episode, or before what is left of it, are padding: zeros, mask False. Nothing is normalised
    here; mean and standard deviation of what is stored are counted for whoever does.

    Deviations from the published code:
        1. Episodes are set aside for validation, not transitions, whose windows overlap.
        2. Where an episode begins, its own beginning alone decides. There an episode of another
           length may be taken for the rest of an older one.
        3. Statistics are counted as transitions come and go, not anew once per epoch.

    Memory on the CPU is claimed as rows are written; on a GPU at once.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        *,
        capacity: int = 10_000_000,
        length: int = 64,
        batch_size: int = 256,
        validation_share: float = 0.2,
        weighting: str = "uniform",
        newest: int | None = None,
        labelled: bool = True,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        """Check the sizes, then allocate.

        Args:
            observation_dim: numbers in an observation.
            action_dim: numbers in an action.
            capacity: transitions in all.
            length: transitions T of a window before its end.
            batch_size: windows of a batch, unless `sample` is told otherwise.
            validation_share: share of the episodes that "train" batches never see.
            weighting: of ends: `uniform`, or `linear`, from 0.1 for the oldest to 0.9.
            newest: ends are among so many of the newest transitions of a split; all if None.
            labelled: transitions come with "family", the number of their task's family.
            device: where the rows lie and the indices are drawn.
            seed: of the draws; None takes torch's seed without drawing from its generator.

        Raises:
            ValueError: a size is not positive, the share is not in [0, 1), or `weighting` or the
                device is unknown.
        """
        check_sizes(
            "WindowReplay",
            observation_dim=observation_dim,
            action_dim=action_dim,
            capacity=capacity,
            length=length,
            batch_size=batch_size,
            newest=1 if newest is None else newest,
        )
        if not 0.0 <= validation_share < 1.0:
            raise ValueError(
                f"WindowReplay.validation_share is {validation_share}; give a share below 1"
            )
        if seed is not None and seed < 0:
            raise ValueError(f"WindowReplay.seed is {seed}; give none, or one of at least 0")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"WindowReplay.weighting is {weighting!r}; give one of {WEIGHTINGS}")
        self.capacity, self.length, self.batch_size = capacity, length, batch_size
        self.weighting, self.newest, self.labelled = weighting, newest, labelled
        self.device = named_device("WindowReplay", device)
        self._layout = TransitionRows(observation_dim, action_dim, more=int(labelled))
        self._sizes = {
            "observation_dim": observation_dim,
            "action_dim": action_dim,
            "capacity": capacity,
            "labelled": int(labelled),
        }
        self._block = torch.empty(capacity, self._layout.width, device=self.device)
        self._table = EpisodeTable(validation_share, self.device)
        self._statistics = RunningStatistics(self._layout.vector, self.device)
        self._back = torch.arange(length, -1, -1, device=self.device)
        self._generator = torch.Generator(device=self.device)
        self.seed(torch.initial_seed() if seed is None else seed)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows when full."""
        return self._block.nbytes

    @property
    def num_episodes(self) -> int:
        """Episodes of which something is left."""
        return len(self._table)

    def __len__(self) -> int:
        """Transitions held."""
        return self.number("all")

    def number(self, split: str) -> int:
        """Transitions held of "all" episodes, of those to "train" or of those for "validation"."""
        return self._table.number(split)

    def seed(self, seed: int) -> None:
        """Restart the draws."""
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def extend(self, experience: TensorDictBase) -> None:
        """Store whole episodes; a full ring loses its oldest transitions.

        Args:
            experience: `[*, time]`, an episode in each row: "observation", "action", ("next",
                "observation" | "reward" | "terminated"), where labelled "family" `[*, time]`, and
                perhaps "mask" `[*, time]` bool, False after an episode's end.

        Raises:
            ValueError: the mask has a gap.
        """
        family = (experience["family"].unsqueeze(-1),) if self.labelled else ()
        rows = self._layout.pack(experience, *family).to(self.device)
        rows = rows.reshape(-1, *rows.shape[-2:])
        mask = experience.get("mask", None)
        if mask is None:
            mask = torch.ones(rows.shape[:-1], dtype=torch.bool)
        mask = mask.to(self.device).reshape(rows.shape[:-1])
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError("WindowReplay.extend: a mask is True again after False")
        lengths = mask.sum(1)
        self._write(rows[mask])
        oldest = self._oldest(self._table.total + int(lengths.sum()))
        self._table.append(lengths[lengths > 0], oldest, self._generator)

    def _write(self, rows: Tensor) -> None:
        """Put rows `[n, width]` after the last one, and count what comes and goes."""
        total, number, vector = self._table.total, len(rows), self._layout.vector
        lost = range(self._oldest(total), min(self._oldest(total + number), total))
        gone = torch.arange(lost.start, lost.stop, device=self.device) % self.capacity
        self._statistics.remove(self._block.index_select(0, gone)[:, :vector])
        rows = rows[-self.capacity :]
        end = total + number
        at = torch.arange(end - len(rows), end, device=self.device) % self.capacity
        self._block.index_copy_(0, at, rows)
        self._statistics.add(rows[:, :vector])

    def _oldest(self, total: int) -> int:
        """Number of the oldest transition held, of `total` ever."""
        return max(0, total - self.capacity)

    @torch.no_grad()
    def sample(self, split: str = "all", batch_size: int | None = None) -> TensorDict:
        """Draw windows, none twice, unless more than there are.

        Args:
            split: ends in "all" episodes, in those to "train" or in those for "validation".
            batch_size: how many; None takes the replay's.

        Returns:
            `[batch_size, length + 1]`, fresh memory: "observation", "action", ("next",
            "observation" | "reward" | "terminated"), "mask" `[.., length + 1]` bool, and where
            labelled "family" `[.., length + 1]` int64, -1 on padding. The last of a window is the
            drawn transition, and never padding.

        Raises:
            RuntimeError: the split holds nothing.
            ValueError: the split is unknown.
        """
        number = self._table.number(split)
        if number == 0:
            raise RuntimeError(
                f"WindowReplay.sample: no transition of {split!r} is stored yet; collect first"
            )
        count = self.batch_size if batch_size is None else batch_size
        drawn_from = number if self.newest is None else min(number, self.newest)
        place = self._draw(count, drawn_from) + (number - drawn_from)
        end, start = self._table.find(split, place)
        serial = end.unsqueeze(1) - self._back
        mask = serial >= start.unsqueeze(1)
        at = serial.where(mask, end.unsqueeze(1)) % self.capacity
        rows = self._block.index_select(0, at.flatten()).view(*at.shape, -1)
        td, family = self._layout.unpack(rows.masked_fill_(~mask.unsqueeze(-1), 0.0))
        td["mask"] = mask
        if self.labelled:
            td["family"] = family.squeeze(-1).long().masked_fill(~mask, -1)
        return td

    def _draw(self, count: int, number: int) -> Tensor:
        """Places of `count` ends among `number` transitions, without replacement where it can be.

        They are drawn one after the other, each at its weight among those that are left. Shapes
        follow from the two numbers, so that nothing waits for a GPU.
        """
        if count > number:
            return self._place(self._uniform(count), number)
        if number <= 4 * count:  # the first of `number` exponential clocks, at the weights' rates
            rate = torch.ones(number, dtype=torch.float64, device=self.device)
            if self.weighting == "linear":
                rate = torch.linspace(0.1, 0.9, number, dtype=torch.float64, device=self.device)
            times = -torch.log1p(-self._uniform(number)) / rate
            return times.topk(count, largest=False).indices
        # The first `count` different ones of enough draws with replacement: the chance that these
        # hold fewer is below 1e-15 for any two numbers.
        drawn = self._place(self._uniform(2 * count + 64), number)
        ascending, order = drawn.sort(stable=True)
        again = torch.zeros_like(drawn, dtype=torch.uint8)
        again[order[1:]] = (ascending[1:] == ascending[:-1]).to(torch.uint8)
        return drawn[again.argsort(stable=True)[:count]]

    def _uniform(self, count: int) -> Tensor:
        """Draws below 1 of 53 random bits: a number times that is never the number itself."""
        return torch.rand(count, dtype=torch.float64, device=self.device, generator=self._generator)

    def _place(self, uniform: Tensor, number: int) -> Tensor:
        """Places of ends among `number` transitions, the oldest first, of draws below 1.

        Linear weights w_n = 0.1 + 0.8 n / (number - 1) add up to 0.1 m + 0.4 m (m - 1) / (number -
        1) over n < m, which is solved for m.
        """
        if self.weighting == "uniform":
            return (uniform * number).long()
        a = 0.4 / max(number - 1, 1)
        b = 0.1 - a
        root = (b * b + 2.0 * a * number * uniform).sqrt()
        return ((root - b) / (2.0 * a)).long().clamp(max=number - 1)

    def statistics(self) -> TensorDict:
        """Return "mean" and "std" of what is stored, each with a transition's keys, batch size [].

        "observation", "action", ("next", "reward") and ("next", "observation"), each `[numbers]`;
        before anything is stored, 0 and 1.
        """
        moments = {"mean": self._statistics.mean, "std": self._statistics.std}
        parts = {name: self._layout.columns(x.float()) for name, x in moments.items()}
        return TensorDict(parts, [])

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on exactly: rows, episodes, statistics and generator, as copies."""
        return {
            "sizes": list(self._sizes.values()),
            "rows": self._block[: min(self._table.total, self.capacity)].to("cpu", copy=True),
            "episodes": self._table.state_dict(),
            "statistics": self._statistics.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of a replay of the same sizes; windows may be longer or shorter.

        Raises:
            ValueError: the state is of other sizes.
        """
        check_saved_sizes("WindowReplay", self._sizes, state["sizes"])
        rows = state["rows"]
        self._block[: len(rows)] = rows.to(self.device)
        self._table.load_state_dict(state["episodes"])
        self._statistics.load_state_dict(state["statistics"])
        self._generator.set_state(state["generator"].cpu())
