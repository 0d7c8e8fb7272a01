"""CAVIA: an update beside loops over tasks, environment steps a second, and where the time goes.

    python benchmarks/meta.py [--parts update,steps,phases] [--rounds 5] [--threads 1] [--json FILE]

Everything has the size of the published runs on 2D navigation and on the CT-graph of depth 2: 20
tasks, 20 episodes of each. Systems alternate, and the figure is the median window; only ratios
mean anything. One part at a time takes a minute or two.

- `update`: one meta-update on the same episodes. `task by task` calls the same functions with one
  task at a time and takes means. The naive forms also loop over the tasks, in plain autograd, with
  a double backward pass for each product with the curvature; the last one begins each product with
  the policy's forward passes, as the published code does.
- `steps`: all environments as rows of tensors, and as single environments one after the other.
- `phases`: whole iterations of the loop.
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


def collected(suite: Any, learner: CAVIA) -> TensorDict:
    """The episodes of one iteration."""
    tasks = suite.sample(TASKS, "train", np.random.default_rng(0))
    rollouts, prior = Rollouts(suite, TASKS, EPISODES), learner.prior(TASKS)
    before = rollouts.collect(learner, tasks, prior["latent"])
    after = rollouts.collect(learner, tasks, learner.adapt(before, prior)["latent"])
    rollouts.close()
    return TensorDict({"before": before, "after": after}, [TASKS])


class Update:
    """One update of a learner from the same weights on the same episodes, in several ways."""

    def __init__(self, learner: CAVIA, batch: TensorDict) -> None:
        self.learner, self.batch = learner, batch
        self.theta = learner.weights.vector()

    def together(self) -> Tensor:
        """All tasks at once: the learner's own."""
        self.learner.weights.write(self.theta)
        self.learner.update(self.batch)
        return self.learner.weights.vector()

    @torch.no_grad()
    def apart(self) -> Tensor:
        """One task at a time, by the learner's own functions."""
        theta = self.theta
        problems = [self.learner.surrogate(theta, *pair) for pair in self.prepared()]

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

    def naive(self, recompute: bool) -> Tensor:
        """One task at a time, in plain autograd with double backward passes."""
        pairs = [
            tuple(Episodes(*(value[0] for value in part)) for part in pair)
            for pair in self.prepared()
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

    def prepared(self) -> list[tuple[Episodes, Episodes]]:
        """Episodes before and after the step, of one task after the other."""
        pairs = []
        for task in range(TASKS):
            batch = self.batch[task : task + 1]
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


def updates(name: str, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds of an update by system, and how far its step is from the learner's own."""
    made = parts(name)
    learner = made["algorithm"](made["suite"].spec)
    update = Update(learner, collected(made["suite"], learner))
    systems: dict[str, Callable[[], Tensor]] = {
        "all tasks at once": update.together,
        "task by task": update.apart,
        "naive, graph kept": functools.partial(update.naive, recompute=False),
        "naive, as published": functools.partial(update.naive, recompute=True),
    }
    ours = update.together() - update.theta
    apart = {}
    for system, call in systems.items():
        step = call() - update.theta
        apart[system] = float((step - ours).norm() / ours.norm())
    medians, times = medians_of(systems, rounds, warmup=0, clock=clock)  # each has been called
    print(f"\nOne meta-update, {name}: {TASKS} tasks x {EPISODES} episodes, {shape(update)}\n")
    print("| system | median ms | times ours | step, relative difference |")
    print("|---|---|---|---|")
    for system, median in medians.items():
        ratio = median / medians["all tasks at once"]
        print(f"| {system} | {median:.0f} | {ratio:.1f} | {apart[system]:.1e} |", flush=True)
    return {"median_ms": medians, "times_ms": times, "difference": apart}


def shape(update: Update) -> str:
    """What the update works on."""
    steps = int(update.batch["before"]["mask"].sum() + update.batch["after"]["mask"].sum())
    return f"{steps:,} steps, {len(update.theta):,} parameters"


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
    parser.add_argument("--parts", default="update,steps,phases")
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
