"""The schedule of PEARL: some tasks are collected anew with prior and posterior, then updates.

Rakelly et al., "Efficient Off-Policy Meta-Reinforcement Learning via Probabilistic Context
Variables", ICML 2019.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import gin
import torch
from tensordict import TensorDict

from runners.devices import device_of
from runners.ledger import Ledger
from runners.posterior_collector import Pools, PosteriorCollector
from runners.regimes import POSTERIOR, check_loop
from runners.seeding import task_stream
from runners.task_lists import listed_tasks


@gin.configurable
class PosteriorSchedule:
    """The meta-iteration of PEARL; a `Schedule` of `runners.meta_off_policy`.

    At the start every training task is collected with latents of the prior. Then, in an iteration,

    1. `tasks_per_iteration` tasks are drawn, with replacement. What contexts of a drawn task came
       from is forgotten. Its episodes, whole ones until there are at least as many steps:
       a. `prior_steps`, each with a new latent of the prior;
       b. `posterior_steps`, of which the first has a latent of the prior, each next one a latent
          adapted to a context of all transitions of a and b so far;
       c. `extra_steps`, as b, but contexts are never drawn from them.
    2. `updates_per_iteration` updates are made.

    The drawn tasks are run side by side, each in an environment of its own; the policy stands
    still meanwhile, so that this is the same as one after the other. Of a task that is drawn twice
    contexts keep what was collected for the last draw.

    1. Where episodes end early, environments whose tasks have enough steps run along, and what
       they do is neither kept nor counted.

    Args:
        suite: the tasks; a training task is one goal of a name.
        learner: a meta-learner whose latent stays as it is in an episode.
        seed: of the tasks and contexts drawn, and of the environments' random streams.
        replay: factory called with observation size, action size and number of tasks.
        tasks_per_iteration: tasks drawn.
        initial_steps: environment steps of each training task at the start.
        prior_steps: see a.
        posterior_steps: see b.
        extra_steps: see c.
        updates_per_iteration: updates.
        carry_posterior: let b and c begin with the posterior of what there is, where the published
            code begins with the prior each time.
        num_goals: train on the first goals of each name only; all of them if None.

    Raises:
        ValueError: for a value out of range, or a learner, replay and suite that do not fit.
    """

    def __init__(
        self,
        suite: Any,
        learner: Any,
        *,
        seed: int = 0,
        replay: Callable[..., Any] = gin.REQUIRED,
        tasks_per_iteration: int = 5,
        initial_steps: int = 2000,
        prior_steps: int = 400,
        posterior_steps: int = 0,
        extra_steps: int = 400,
        updates_per_iteration: int = 2000,
        carry_posterior: bool = False,
        num_goals: int | None = None,
    ) -> None:
        least = {
            "tasks_per_iteration": (tasks_per_iteration, 1),
            "initial_steps": (initial_steps, 1),
            "prior_steps": (prior_steps, 0),
            "posterior_steps": (posterior_steps, 0),
            "extra_steps": (extra_steps, 0),
            "updates_per_iteration": (updates_per_iteration, 1),
        }
        for name, (value, low) in least.items():
            if value < low:
                raise ValueError(f"PosteriorSchedule.{name} must be at least {low}, got {value}")
        if not prior_steps + posterior_steps:
            raise ValueError(
                "PosteriorSchedule.prior_steps and posterior_steps are 0: contexts would have "
                "nothing to come from; make one of them positive"
            )
        check_loop("PosteriorSchedule", learner, POSTERIOR)
        spec = suite.spec
        self.suite, self.learner, self.carry_posterior = suite, learner, carry_posterior
        self.tasks = listed_tasks(suite, "train", num_goals)
        self.replay = replay(spec.observation_dim, spec.action_dim, len(self.tasks))
        self.initial_steps, self.prior_steps = initial_steps, prior_steps
        self.posterior_steps, self.extra_steps = posterior_steps, extra_steps
        self.num_drawn, self.updates_per_iteration = tasks_per_iteration, updates_per_iteration
        self._check_replay()
        self.collector = PosteriorCollector(
            suite,
            learner,
            self.tasks,
            tasks_per_iteration,
            seed=seed,
            context_size=self.replay.context_size,
            sparse=bool(self.replay.sparse_context),
        )
        self.device = device_of(learner)
        self._stream = task_stream(seed)
        self._filled = [0] * len(self.tasks)  # initial steps of each task so far
        self._place = 0  # in the iteration: before the collection, then before each update

    def _check_replay(self) -> None:
        name = type(self.replay).__name__
        if not hasattr(self.replay, "clear_context"):
            raise ValueError(
                f"PosteriorSchedule.replay: {name} keeps no contexts; bind it to @ContextReplay"
            )
        if self.replay.sparse_context and not self.suite.spec.sparse:
            raise ValueError(
                f"{name}.sparse_context is True, and {self.suite.name} pays no sparse reward; "
                "set it to False"
            )
        beyond = self.suite.spec.horizon - 1  # the last episode may begin one step too early
        first = self.initial_steps + beyond
        recent = self.prior_steps + self.posterior_steps + 2 * beyond
        wanted = {"capacity": first, "context_capacity": max(first, recent)}
        for size, needed in wanted.items():
            held = getattr(self.replay, f"task_{size}")
            if held < needed:
                factor = len(self.tasks) if size == "capacity" else 1
                raise ValueError(
                    f"{name}.{size} holds {held} transitions of each task, and one collection is "
                    f"{needed}; set it to {needed * factor} or more"
                )

    @property
    def about(self) -> str:
        """The schedule, in a line."""
        steps = f"{self.prior_steps} + {self.posterior_steps} + {self.extra_steps} steps each"
        return (
            f"{self.initial_steps} steps of each of {len(self.tasks)} tasks; then "
            f"{self.num_drawn} tasks, {steps}, {self.updates_per_iteration} updates"
        )

    @property
    def pending(self) -> bool:
        """Whether updates of an iteration are left."""
        return self._place > 0

    @property
    def faults(self) -> dict[str, int]:
        """Counts of dead workers and of episodes that broke."""
        return self.collector.rollouts.faults

    def advance(self, ledger: Ledger) -> bool:
        """Some episodes of the start, the collection of an iteration, or an update."""
        if min(self._filled) < self.initial_steps:
            with ledger.timed("collect"):
                self._fill(ledger)
            return False
        if not self._place:
            with ledger.timed("collect"):
                self._collect(ledger)
            ledger.note(self.learner.begin_phase(None))
        else:
            with ledger.timed("update"):
                batch = self.replay.sample().to(self.device)
                ledger.updated(self.learner.update(batch), batch)
        self._place = (self._place + 1) % (self.updates_per_iteration + 1)
        if not self._place:
            ledger.note(self.learner.end_phase(None))
        return not self._place

    def _fill(self, ledger: Ledger) -> None:
        """One round of the first collection."""
        numbers = range(len(self.tasks))
        for number, steps in self.collector.round(
            ledger, numbers, self._filled, self.initial_steps
        ):
            self._filled[number] += len(steps)
            self._store(number, [steps], context=True)

    def _collect(self, ledger: Ledger) -> list[int]:
        """The collection of an iteration; the numbers of its tasks."""
        draws = self._stream.integers(len(self.tasks), size=self.num_drawn)
        numbers: list[int] = draws.tolist()
        recent = self.collector.with_prior(ledger, numbers, self.prior_steps)
        extra: Pools = [[] for _ in numbers]
        for wanted, kept in ((self.posterior_steps, recent), (self.extra_steps, extra)):
            if wanted:
                self.collector.with_posterior(
                    ledger, numbers, recent, wanted, kept=kept, carry=self.carry_posterior
                )
        self.replay.clear_context(torch.tensor(numbers))
        last = {number: place for place, number in enumerate(numbers)}
        for place, number in enumerate(numbers):
            self._store(number, recent[place], context=last[number] == place)
            self._store(number, extra[place], context=False)
        return numbers

    def _store(self, number: int, episodes: list[TensorDict], *, context: bool) -> None:
        """Put a task's episodes into the replay, if there are any."""
        if episodes:
            steps = torch.cat(episodes)[None]
            self.replay.extend(steps, torch.tensor([number]), context=context)

    def rehearse(self, ledger: Ledger, updates: int) -> tuple[float, float]:
        """For `--dry_run`: seconds of one iteration's collection, and of one of some updates."""
        start = perf_counter()
        numbers = torch.tensor(self._collect(ledger))
        middle = perf_counter()
        tasks = numbers[torch.arange(self.replay.meta_batch) % len(numbers)]
        for _ in range(updates):
            batch = self.replay.sample(tasks).to(self.device)
            ledger.updated(self.learner.update(batch), batch)
        return middle - start, (perf_counter() - middle) / updates

    def whole(self, iterations: int, collection: float, update: float) -> float:
        """Seconds of a run, the first collection included, from what `rehearse` measured."""
        of_each = self.prior_steps + self.posterior_steps + self.extra_steps
        share = self.initial_steps * len(self.tasks) / (of_each * self.num_drawn)
        return (iterations + share) * collection + iterations * self.updates_per_iteration * update

    def state_dict(self) -> dict[str, Any]:
        """All but the replay."""
        return {
            "place": self._place,
            "filled": list(self._filled),
            "tasks": self._stream.bit_generator.state,
            "collector": self.collector.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._place, self._filled = state["place"], list(state["filled"])
        self._stream.bit_generator.state = state["tasks"]
        self.collector.load_state_dict(state["collector"])

    def refill(self) -> None:
        """Begin the iteration anew, with the collection of the start before it."""
        self._place, self._filled = 0, [0] * len(self.tasks)

    def close(self) -> None:
        """Release the environments."""
        self.collector.rollouts.close()
