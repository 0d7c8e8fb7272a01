"""TIGR and CEMRL: what inference costs beside plain SAC of the same sizes.

    python benchmarks/inference.py [--parts updates,rollouts] [--rounds 9] [--threads 1]
                                   [--inference_batch 4096] [--cpu_time] [--device cuda]
                                   [--json FILE]

Sizes are those of the published runs on the half-cheetah: eight families (TIGR, 64 transitions) and
velocities (CEMRL, 10). Systems alternate, and the figure is the median; only ratios mean anything.
Plain SAC is the learner's own policy and critics with a z that is given.

- `updates`: one policy update without and with the inference of z, the drawing of its windows, and
  one update of encoder and decoder, with its own batch. Transitions are random numbers.
- `rollouts`: one step of as many point robots as an epoch has tasks, with a constant z, and with
  one inferred from the window; environments included.
"""

import argparse
import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the entry points do
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gin  # noqa: E402
import torch  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from timing import medians_of  # noqa: E402

from buffers.rolling_window import RollingWindow  # noqa: E402
from envs.point_robots import PointRobotSuite  # noqa: E402
from runners import config  # noqa: E402
from runners.rollouts import Rollouts  # noqa: E402
from runners.window_rollouts import WindowRollouts  # noqa: E402

FILES = {
    "TIGR": "gin/papers/tigr/cheetah_eight.gin",
    "CEMRL": "gin/papers/cemrl/cheetah_stationary_velocity.gin",
}
EPISODES, HORIZON = 100, 200
Clock = Callable[[], float]


def parts(name: str, *bindings: str) -> dict[str, Any]:
    """Suite, factories of learner and loop, as the file binds them."""
    importlib.import_module("runners.training")
    config.parse([FILES[name]], ["REPLAY_CAPACITY = 20000", *bindings])
    torch.manual_seed(0)
    made: dict[str, Any] = gin.get_bindings("train")
    return made


def episodes(spec: Any) -> TensorDict:
    """Made-up experience."""
    shape = (EPISODES, HORIZON)
    after = {
        "observation": torch.randn(*shape, spec.observation_dim),
        "reward": torch.randn(*shape, 1),
        "terminated": torch.zeros(*shape, 1, dtype=torch.bool),
    }
    return TensorDict(
        {
            "observation": torch.randn(*shape, spec.observation_dim),
            "action": torch.rand(*shape, spec.action_dim) * 2 - 1,
            "family": torch.randint(spec.num_tasks, (EPISODES, 1)).expand(shape),
            "next": TensorDict(after, shape),
        },
        shape,
    )


def synchronised(call: Callable[[], object], device: str) -> Callable[[], object]:
    """The call, and the wait for what it started."""

    def waited() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return waited


def updates(name: str, rounds: int, clock: Clock, device: str, large: int) -> dict[str, float]:
    """Milliseconds of an update, by what it contains."""
    made = parts(name, f"DEVICE = {device!r}")
    suite = made["suite"]
    learner = made["algorithm"](suite.spec).to(device)
    schedule = made["loop"](suite, learner).schedule
    replay = schedule.replay
    replay.extend(episodes(suite.spec))
    learner.load_statistics(replay.statistics())
    small = schedule.policy_batch
    batch, many = replay.sample("all", small), replay.sample("train", large)
    latent = learner.adapt(batch[:, :-1], learner.prior(small))["latent"]
    systems: dict[str, Callable[[], object]] = {
        "plain SAC": lambda: learner.agent.step(batch[:, -1], latent, latent),
        "policy update, z inferred": lambda: learner.update(batch),
        "drawing its windows": lambda: replay.sample("all", small),
        f"inference update of {large} windows": lambda: learner.infer(many),
        f"drawing {large} windows": lambda: replay.sample("train", large),
    }
    systems = {what: synchronised(call, device) for what, call in systems.items()}
    medians, _ = medians_of(systems, rounds, clock=clock)
    count = f"{small} windows of {learner.window + 1} transitions"
    print(f"\n{name}, {suite.name}, one update; {count}\n")
    table(medians, "plain SAC", "median ms")
    share = medians["drawing its windows"] / medians["policy update, z inferred"]
    other = medians[f"drawing {large} windows"] / medians[f"inference update of {large} windows"]
    print(f"\ndrawing windows: {share:.1%} of a policy update, {other:.1%} of an inference update")
    return medians


def rollouts(name: str, rounds: int, clock: Clock, device: str) -> dict[str, float]:
    """Milliseconds of a step of all episodes, with and without a window."""
    whole = "TransitionDecoder.reconstructed = None"  # these robots see less than half-cheetahs
    made = parts(name, f"DEVICE = {device!r}", whole)
    number = {"TIGR": 80, "CEMRL": 20}[name]
    suite = PointRobotSuite("point-robot-families", horizon=10)
    learner = made["algorithm"](suite.spec).to(device)
    tasks = [suite.each("train")[i % 40] for i in range(number)]
    latent = learner.prior(number)["latent"]
    plain = Rollouts(suite, number, 1)
    window = WindowRollouts(suite, number, RollingWindow)
    systems = {
        "plain SAC": functools.partial(plain.collect, learner, tasks, latent),
        "z inferred at each step": functools.partial(window.collect, learner, tasks, latent),
    }
    medians, _ = medians_of(systems, rounds, clock=clock)
    medians = {what: median / suite.spec.horizon for what, median in medians.items()}
    print(f"\n{name}, {number} episodes side by side, a window of {learner.window}\n")
    table(medians, "plain SAC", "ms a step")
    return medians


def table(medians: dict[str, float], reference: str, what: str) -> None:
    """Print the figures and their ratios to the reference."""
    print(f"| system | {what} | times plain SAC |")
    print("|---|---|---|")
    for system, median in medians.items():
        print(f"| {system} | {median:.2f} | {median / medians[reference]:.2f} |", flush=True)


PARTS = ("updates", "rollouts")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cpu_time",
        action="store_true",
        help="processor time in place of wall-clock time: where others use the machine too",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--inference_batch", type=int, default=256, help="published: 4096, 256")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    wanted, report = arguments.parts.split(","), {}
    common = arguments.rounds, clock, arguments.device
    for name in FILES:
        if "updates" in wanted:
            report[f"updates {name}"] = updates(name, *common, arguments.inference_batch)
        if "rollouts" in wanted:
            report[f"rollouts {name}"] = rollouts(name, *common)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
