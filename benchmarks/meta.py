"""CAVIA: iterations and updates beside loops over tasks, stepping, and where the time goes.

    python benchmarks/meta.py [--parts iteration,update,steps,phases] [--rounds 5] [--json FILE]

Everything has the size of the published runs on 2D navigation and on the CT-graph of depth 2: 20
tasks, 20 episodes of each. Systems alternate, and the figure is the median window; only ratios
mean anything. One part at a time takes a minute or two.

- `iteration`: collecting episodes, adapting to them, collecting again, and the update. A loop does
  all of it with one task at a time.
- `update`: the update alone, on the same episodes. `task by task` calls the same functions with one
  task at a time and takes means. The naive forms also loop over the tasks, in plain autograd, with
  a double backward pass for each product with the curvature; the last one begins each product with
  the policy's forward passes, as the published code does.
- `steps`: all environments as rows of tensors, and as single environments one after the other.
- `phases`: the loop itself.
"""

import argparse
import functools
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the entry points do
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gin  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from timing import medians_of  # noqa: E402
from torch import Tensor  # noqa: E402

from algorithms import episodes  # noqa: E402
from algorithms.cavia import CAVIA  # noqa: E402
from algorithms.episodes import Episodes  # noqa: E402
from envs.suite import Suite  # noqa: E402
from runners import config  # noqa: E402
from runners.memory import keep_freed_memory  # noqa: E402
from runners.rollouts import Rollouts  # noqa: E402

FILES = {
    "2D navigation": "gin/papers/nm_cavia/2dnav_cavia.gin",
    "CT-graph": "gin/papers/nm_cavia/ctd2_cavia.gin",
}
TASKS, EPISODES = 20, 20
Pair = tuple[Tensor, Tensor]


def parts(name: str) -> dict[str, Any]:
    """Suite, factories of learner and loop, as the file binds them."""
    importlib.import_module("runners.training")
    config.parse([FILES[name]])
    torch.manual_seed(0)
    made: dict[str, Any] = gin.get_bindings("train")
    return made


class Collection:
    """The episodes of one iteration.

    Args:
        suite: the tasks.
        learner: acts in them and adapts to them.
        at_once: how many of the tasks run side by side.
    """

    def __init__(self, suite: Any, learner: CAVIA, at_once: int) -> None:
        self.learner, self.at_once = learner, at_once
        self.tasks = suite.sample(TASKS, "train", np.random.default_rng(0))
        self.rollouts = Rollouts(suite, at_once, EPISODES)

    def collect(self) -> list[TensorDict]:
        """`[at_once]` with "before" and "after" adaptation, of one group of tasks after another."""
        first = range(0, TASKS, self.at_once)
        return [self._of(self.tasks[task : task + self.at_once]) for task in first]

    def _of(self, tasks: Any) -> TensorDict:
        prior = self.learner.prior(len(tasks))
        before = self.rollouts.collect(self.learner, tasks, prior["latent"])
        latent = self.learner.adapt(before, prior)["latent"]
        after = self.rollouts.collect(self.learner, tasks, latent)
        return TensorDict({"before": before, "after": after}, [len(tasks)])


class Update:
    """The step of a learner from the same weights, in several ways, which leave the weights be.

    Episodes come in parts, each of one task or more.
    """

    def __init__(self, learner: CAVIA) -> None:
        self.learner = learner
        self.theta = learner.weights.vector()

    def together(self, parts: list[TensorDict]) -> Tensor:
        """All tasks at once: the learner's own."""
        (batch,) = parts
        self.learner.update(batch)
        step = self.learner.weights.vector()
        self.learner.weights.write(self.theta)
        return step

    @torch.no_grad()
    def apart(self, parts: list[TensorDict]) -> Tensor:
        """One task at a time, by the learner's own functions."""
        theta = self.theta
        problems = [self.learner.surrogate(theta, *pair) for pair in self.prepared(parts)]

        def evaluate(new: Tensor) -> Pair:
            pairs = [problem.evaluate(new) for problem in problems]
            return mean(pair[0] for pair in pairs), mean(pair[1] for pair in pairs)

        step = self.learner.trust_region.step(
            theta,
            mean(problem.loss for problem in problems),
            mean(problem.gradient for problem in problems),
            lambda vector: mean(problem.curvature(vector) for problem in problems),
            evaluate,
        )
        return step.theta

    def naive(self, parts: list[TensorDict], recompute: bool) -> Tensor:
        """One task at a time, in plain autograd with double backward passes."""
        pairs = [
            tuple(Episodes(*(value[0] for value in part)) for part in pair)
            for pair in self.prepared(parts)
        ]
        theta = self.theta.clone().requires_grad_()
        old = [detached(self.policy(theta, *pair)) for pair in pairs]
        loss, kl = self.loss_and_kl(theta, old, pairs)
        (gradient,) = torch.autograd.grad(loss, theta, retain_graph=True)
        (kept,) = torch.autograd.grad(kl, theta, create_graph=True)

        def curvature(vector: Tensor) -> Tensor:
            slope = kept
            if recompute:
                _, again = self.loss_and_kl(theta, old, pairs)
                (slope,) = torch.autograd.grad(again, theta, create_graph=True)
            (product,) = torch.autograd.grad(slope @ vector, theta, retain_graph=not recompute)
            return product

        def evaluate(new: Tensor) -> Pair:
            loss, kl = self.loss_and_kl(new.detach().requires_grad_(), old, pairs)
            return loss.detach(), kl.detach()

        region = self.learner.trust_region
        step = region.step(self.theta, loss.detach(), gradient, curvature, evaluate)
        return step.theta

    def prepared(self, parts: list[TensorDict]) -> list[tuple[Episodes, Episodes]]:
        """Episodes before and after the step, of one task after the other."""
        pairs = []
        for batch in (one for part in parts for one in part.split(1)):
            numbers = self.learner.discount, self.learner.gae_lambda
            baseline = episodes.fit(batch["before"], numbers[0])
            before, after = (
                episodes.prepare(batch[name], baseline, *numbers) for name in ("before", "after")
            )
            pairs.append((before, after))
        return pairs

    def policy(self, theta: Tensor, before: Episodes, after: Episodes) -> Any:
        """The adapted policy of a task, differentiable by theta."""
        context = theta.new_zeros(self.learner.policy.num_context, requires_grad=True)
        loss = self.learner._inner_loss(theta, context, before)
        (slope,) = torch.autograd.grad(loss, context, create_graph=True)
        moved = context - self.learner.fast_lr * slope
        return self.learner._policy(theta, moved, after.observation)

    def loss_and_kl(self, theta: Tensor, old: list[Any], pairs: list[Any]) -> Pair:
        """J and KL, with the policies that acted in `old`."""
        losses, kls = [], []
        for acted, (before, after) in zip(old, pairs, strict=True):
            policy = self.policy(theta, before, after)
            ratio = (policy.log_prob(after.action) - acted.log_prob(after.action)).exp()
            losses.append(-episode_mean(ratio * after.advantage, after.mask))
            kls.append(episode_mean(policy.kl(acted).mean(-1), after.mask))
        return mean(losses), mean(kls)


def mean(values: Any) -> Tensor:
    """Mean of tensors."""
    return torch.stack(list(values)).mean(0)


def detached(policy: Any) -> Any:
    """The same distribution as a constant."""
    return type(policy)(*(value.detach() for value in policy))


def episode_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over time, then over episodes."""
    return ((values * mask).sum(-1) / mask.sum(-1)).mean()


def systems_of(update: Update) -> dict[str, Callable[[list[TensorDict]], Tensor]]:
    """The ways to update, by name; the first is the learner's own."""
    return {
        "all tasks at once": update.together,
        "task by task": update.apart,
        "naive, graph kept": functools.partial(update.naive, recompute=False),
        "naive, as published": functools.partial(update.naive, recompute=True),
    }


def updates(name: str, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds of an update by system, and how far its step is from the learner's own."""
    made = parts(name)
    learner = made["algorithm"](made["suite"].spec)
    update, batches = Update(learner), Collection(made["suite"], learner, TASKS).collect()
    calls = {key: functools.partial(call, batches) for key, call in systems_of(update).items()}
    ours = update.together(batches) - update.theta
    apart = {}
    for system, call in calls.items():
        step = call() - update.theta
        apart[system] = float((step - ours).norm() / ours.norm())
    medians, times = medians_of(calls, rounds, warmup=0, clock=clock)  # each has been called
    steps = sum(int(batches[0][part]["mask"].sum()) for part in ("before", "after"))
    shape = f"{steps:,} steps, {len(update.theta):,} parameters"
    print(f"\nOne update, {name}: {TASKS} tasks x {EPISODES} episodes, {shape}\n")
    print("| system | median ms | times ours | step, relative difference |")
    print("|---|---|---|---|")
    for system, ratio in ratios(medians).items():
        print(f"| {system} | {medians[system]:.0f} | {ratio:.1f} | {apart[system]:.1e} |")
    return {"median_ms": medians, "times_ms": times, "difference": apart}


def iterations(name: str, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds of an iteration by system; all but the first go through the tasks in a loop."""
    made = parts(name)
    learner = made["algorithm"](made["suite"].spec)
    systems = systems_of(Update(learner))
    collections = {key: Collection(made["suite"], learner, 1) for key in systems}
    collections["all tasks at once"] = Collection(made["suite"], learner, TASKS)
    calls = {
        key: lambda key=key, call=call: call(collections[key].collect())
        for key, call in systems.items()
    }
    medians, times = medians_of(calls, rounds, warmup=1, clock=clock)
    print(f"\nOne iteration, {name}: {TASKS} tasks x {EPISODES} episodes, twice\n")
    print("| system | median ms | times ours |")
    print("|---|---|---|")
    for system, ratio in ratios(medians).items():
        print(f"| {system} | {medians[system]:.0f} | {ratio:.1f} |")
    return {"median_ms": medians, "times_ms": times}


def ratios(medians: dict[str, float]) -> dict[str, float]:
    """Each time in units of the first."""
    ours = next(iter(medians.values()))
    return {system: median / ours for system, median in medians.items()}


def stepping(name: str, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Environment steps a second, as rows of tensors and one environment after the other."""
    suite = parts(name)["suite"]
    tasks = suite.sample(TASKS * EPISODES, "train", np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    steps, spec = 50, suite.spec
    sizes = (steps, len(tasks))
    actions = 0.1 * torch.randn(*sizes, spec.action_dim, generator=generator)
    if spec.discrete:
        actions = torch.randint(spec.num_actions, sizes, generator=generator)
    single = functools.partial(Suite.start, suite)  # what a suite with simulators does
    vectors = {"rows of tensors": suite.vector(tasks)}
    suite.start = single
    vectors["one after the other"] = suite.vector(tasks)

    def window(vector: Any) -> None:
        vector.reset()
        for action in actions:
            td = vector.current()
            td["action"] = action
            vector.step(td)

    calls = {system: functools.partial(window, vector) for system, vector in vectors.items()}
    medians, _ = medians_of(calls, rounds, warmup=1, clock=clock)
    rates = {system: 1000.0 * steps * len(tasks) / median for system, median in medians.items()}
    print(f"\nStepping, {name}, {len(tasks)} environments\n")
    print("| system | env steps/s | ratio |")
    print("|---|---|---|")
    for system, rate in rates.items():
        print(f"| {system} | {rate:,.0f} | {rate / rates['one after the other']:.1f} |", flush=True)
    return rates


def phases(name: str, rounds: int) -> dict[str, float]:
    """Shares of the time of whole iterations, their number and environment steps a second."""
    made = parts(name)
    loop = made["loop"](made["suite"], made["algorithm"](made["suite"].spec))
    seen: dict[str, list[float]] = {}
    for round_ in range(rounds + 1):
        _, metrics = next(loop)
        for key, value in metrics.items():
            if round_ and key.startswith("perf/"):
                seen.setdefault(key.removeprefix("perf/"), []).append(float(value))
    loop.close()
    medians = {key: statistics.median(values) for key, values in seen.items()}
    cells = [f"{medians[f'{phase}_fraction']:.1%}" for phase in ("collect", "adapt", "update")]
    cells += [f"{1.0 / medians['updates_per_s']:.2f}", f"{medians['env_steps_per_s']:,.0f}"]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return medians


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="iteration,update,steps,phases")
    parser.add_argument("--sizes", default=",".join(FILES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--cpu_time",
        action="store_true",
        help="processor time in place of wall-clock time: where others use the machine too",
    )
    parser.add_argument(
        "--free_memory", action="store_true", help="do not keep freed memory for the next update"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.free_memory:
        keep_freed_memory()  # as the loop does
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    wanted, sizes = arguments.parts.split(","), arguments.sizes.split(",")
    report: dict[str, Any] = {"threads": arguments.threads, "cpu_time": arguments.cpu_time}
    print(f"{arguments.threads} threads, {arguments.rounds} rounds")
    if "iteration" in wanted:
        report["iteration"] = {name: iterations(name, arguments.rounds, clock) for name in sizes}
    if "update" in wanted:
        report["update"] = {name: updates(name, arguments.rounds, clock) for name in sizes}
    if "steps" in wanted:
        report["steps"] = {name: stepping(name, arguments.rounds, clock) for name in sizes}
    if "phases" in wanted:
        print("\n| iteration | collect | adapt | update | seconds | env steps/s |")
        print("|---|---|---|---|---|---|")
        report["phases"] = {name: phases(name, arguments.rounds) for name in sizes}
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
