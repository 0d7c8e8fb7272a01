"""Robots of MuJoCo with hidden tasks: the benchmarks of PEARL, TIGR and CEMRL.

See `envs.cheetah_tasks`, `envs.ant_tasks` and `envs.biped_tasks` for the papers and the formulas.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import gin
import numpy as np

from envs import ant_tasks, biped_tasks, cheetah_tasks
from envs.arguments import check_number, check_whole
from envs.body import WALKER, Physics
from envs.changes import Change, LocationChange, TimedChange
from envs.episodes import Build, Task
from envs.errand import Plan, build
from envs.families import Benchmark, Family
from envs.listed import ListedSuite, Pair, shares, tabled
from envs.suite import Spec, closest

BENCHMARKS: dict[str, Benchmark] = {
    **cheetah_tasks.BENCHMARKS,
    **ant_tasks.BENCHMARKS,
    **biped_tasks.BENCHMARKS,
}
for _part in (LocationChange, Physics, TimedChange):
    gin.external_configurable(_part, module="envs")


@gin.configurable
class RobotSuite(ListedSuite):
    """One benchmark: a robot, families of tasks, and a list of specifications for each.

    A family is a task name of the suite, its specifications are the goals. Those of both splits
    come from one draw. Families of different width are filled up with zeros.

    Args:
        benchmark: a key of `BENCHMARKS`.
        families: names among the benchmark's, in the order of their ids; by default its own choice.
        sizes: how many tasks for training and for test, in equal shares for the families; what a
            division leaves over is dropped.
        span: of the specifications, where the benchmark has one family.
        horizon: steps per episode.
        goal_seed: of the draw.
        change: when the task of a running episode changes; None for never.
        terminates: an episode ends where the robot has fallen, as the benchmark defines it.
        physics: see `envs.body.Physics`.
        workers: worker processes, 0 for this process, None for one per core.
        timeout: seconds after which a worker counts as hung.

    Where an argument is None the benchmark decides.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        benchmark: str = "cheetah-velocity",
        *,
        families: Sequence[str] | None = None,
        sizes: tuple[int, int] | None = None,
        span: tuple[float, float] | None = None,
        horizon: int | None = None,
        goal_seed: int = 1337,
        change: Change | None = None,
        terminates: bool | None = None,
        physics: Physics | None = None,
        workers: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(workers=workers, timeout=timeout)
        if benchmark not in BENCHMARKS:
            hint = closest(benchmark, list(BENCHMARKS))
            raise ValueError(
                f"benchmark must be one of {list(BENCHMARKS)}, got {benchmark!r}{hint}"
            )
        record = BENCHMARKS[benchmark]
        self._record, self._benchmark = record, benchmark
        self._horizon = record.horizon if horizon is None else horizon
        check_whole("horizon", self._horizon, 1)
        check_whole("goal_seed", goal_seed, 0, 2**32 - 1)
        self._names = _names(record, families)
        if change is not None and record.drawn and not set(record.drawn) & set(self._names):
            raise ValueError(
                f"change draws new tasks from the families {list(record.drawn)}, and families are "
                f"{list(self._names)}; add one of them or leave change out"
            )
        self._goal_seed, self._change = goal_seed, change
        self._terminates = record.terminates if terminates is None else terminates
        self._physics = physics or Physics()
        if self._physics.legacy_feet is None:
            self._physics = replace(self._physics, legacy_feet=record.legacy_feet)
        if self._physics.legacy_feet and record.anatomy.file != WALKER.file:
            raise ValueError(f"physics: legacy_feet are the walker's, the benchmark is {benchmark}")
        contacts = self._physics.observe_contacts
        self._layout = replace(record.layout, contacts=contacts or record.layout.contacts)
        self._families = tuple(_spanned(record, name, span) for name in self._names)
        counts = _counts(record, sizes, len(self._names))
        known = list(record.families)
        pairs = zip(self._names, self._families, strict=True)
        draws = {known.index(name): partial(_drawn, family, counts) for name, family in pairs}
        self._tables = tabled(draws, goal_seed)

    @property
    def name(self) -> str:
        """The benchmark, and its families where they are not its own choice."""
        if self._names == _names(self._record, None):
            return self._benchmark
        last = self._names[0] if len(self._names) == 1 else str(len(self._names))
        return f"{self._benchmark}-{last}"

    @property
    def spec(self) -> Spec:
        """The robot's sizes; a task for each family."""
        anatomy = self._record.anatomy
        return Spec(
            self._layout.width(anatomy),
            anatomy.num_actions,
            len(self._names),
            self._horizon,
            self._names,
            specification_dim=self._tables["train"][0].shape[1],
        )

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions of the joints, which the observation begins with."""
        return tuple(range(self._record.anatomy.num_positions - self._layout.skip))

    def protocol(self) -> dict[str, Any]:
        """What decides a score besides the agent."""
        change = self._change
        return {
            "suite": "robots",
            "benchmark": self.name,
            "tasks": list(self._names),
            "horizon": self._horizon,
            "goals": self.counts,
            "spans": [list(family.span) for family in self._families],
            "goal_seed": self._goal_seed,
            "change": None if change is None else repr(change),
            "terminates": self._terminates,
            "physics": asdict(self._physics),
            "success": "not defined",
        }

    def build(self, tasks: Sequence[Task]) -> Build:
        """See `envs.errand.Errand`."""
        drawn = self._record.drawn or self._names
        plan = Plan(
            self._record.anatomy,
            self._layout,
            self._physics,
            self._families,
            self._tables,
            self._record.alive if self._terminates else None,
            self._change,
            tuple(i for i, name in enumerate(self._names) if name in drawn),
        )
        return partial(build, plan)


def _names(record: Benchmark, families: Sequence[str] | None) -> tuple[str, ...]:
    if families is None:
        return record.names or tuple(record.families)
    names = tuple(families)
    known = list(record.families)
    if not names or len(set(names)) != len(names) or not set(names) <= set(known):
        raise ValueError(f"families must be different ones among {known}, got {names}")
    return names


def _spanned(record: Benchmark, name: str, span: tuple[float, float] | None) -> Family:
    family = record.families[name]
    if span is None:
        return family
    if len(record.families) > 1 or family.span[0] == family.span[1]:
        raise ValueError(f"span is for a benchmark of one family that has one, got {span}")
    if len(span) != 2:
        raise ValueError(f"span must be two numbers, got {span}")
    check_number("span", span[0])
    check_number("span", span[1], span[0])
    return replace(family, span=(float(span[0]), float(span[1])))


def _counts(record: Benchmark, sizes: tuple[int, int] | None, num_families: int) -> tuple[int, int]:
    if record.sizes is not None:
        return shares(record.sizes if sizes is None else sizes, num_families)
    if sizes is not None:
        raise ValueError(f"sizes must be None where the lists are fixed, got {sizes}")
    return 0, 0


def _drawn(family: Family, counts: tuple[int, int], stream: np.random.RandomState) -> Pair:
    return family.draw(family.span, counts, stream)
