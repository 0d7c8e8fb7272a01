"""Collecting and updating together: environment steps a second of MT-SAC on Meta-World MT10.

    python benchmarks/end_to_end.py [--threads 2] [--rounds 5] [--window 20] [--json FILE]

One update of 10 x 128 transitions for each vector step, hidden layers 400, 400, 400. A system is a
precision, or upstream's classes in place of the accelerated ones. Windows of all systems alternate,
and the figure is the median window; only ratios mean anything.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the entry points do
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from algorithms.precision import PRECISIONS  # noqa: E402
from algorithms.sac import SAC  # noqa: E402
from buffers.task_replay import TaskReplay  # noqa: E402
from envs.meta_world import MetaWorldSuite  # noqa: E402
from networks.actor import Actor  # noqa: E402
from networks.critic import Critic  # noqa: E402
from networks.mlp import MLP  # noqa: E402
from runners.off_policy import OffPolicyLoop  # noqa: E402

SYSTEMS: dict[str, dict[str, Any]] = {
    **{precision: {"precision": precision} for precision in PRECISIONS},
    "fp32, upstream's classes": {"accelerated": False},
    "fp32, without workers": {"workers": 0},
}


def loop(
    workers: int | None = None, precision: str = "fp32", accelerated: bool = True
) -> OffPolicyLoop:
    """A loop past its warm-up."""
    torch.manual_seed(0)
    suite = MetaWorldSuite("MT10", workers=workers, accelerated=accelerated)
    trunk = functools.partial(MLP, hidden=(400, 400, 400))
    learner = SAC(
        suite.spec,
        actor=functools.partial(Actor, trunk=trunk),
        critic=functools.partial(Critic, trunk=trunk),
        precision=precision,
    )
    replay = functools.partial(TaskReplay, capacity=100_000, batch_size=1280)
    made = OffPolicyLoop(suite, learner, replay=replay, warmup_steps=10, log_interval=10**9)
    while made.updates < 3:
        next(made)
    return made


def main() -> None:
    """Time every system in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=int, default=20, help="vector steps of a window")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", "SAC.precision")
    loops = {name: loop(**options) for name, options in SYSTEMS.items()}
    rates: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    shares: dict[str, list[float]] = {name: [] for name in SYSTEMS}
    for _ in range(arguments.rounds):
        for name, made in loops.items():
            made._rates.restart(made.step, made.updates)
            until = made.updates + arguments.window
            first, start = made.step, time.perf_counter()
            while made.updates < until:
                next(made)
            rates[name].append((made.step - first) / (time.perf_counter() - start))
            shares[name].append(made._rates.read(made.step, made.updates)["perf/collect_fraction"])
    for made in loops.values():
        made.close()
    print(f"MT10, one update for each vector step, {arguments.threads} threads\n")
    print("| system | env steps/s | of fp32 | share of the time spent collecting |")
    print("|---|---|---|---|")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        share = statistics.median(shares[name])
        print(f"| {name} | {rate:.0f} | {rate / medians['fp32']:.2f} | {share:.0%} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({"env_steps_per_s": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
