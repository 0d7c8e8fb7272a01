"""How fast this machine is, beside the one of docs/performance.md; for `runners.doctor`.

    python -m runners.speed

prints, as JSON, environment steps a second of MT10 in all workers, and milliseconds of one MT-SAC
update on MT10 (10 tasks of 128 rows, 3 layers of 400), each the median window of some seconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import gin
import torch
from tensordict import TensorDict

from runners import config, training
from runners.command_line import FINISHED
from runners.memory import keep_freed_memory

DOCUMENTED = {"steps_per_second": 10023.0, "update_ms": 92.3}
"""The figures of docs/performance.md for two cores of an AMD EPYC, no GPU."""
FILE, ROWS = "gin/mtsac_mt10.gin", 128


def measure(seconds: float = 9.0) -> dict[str, float]:
    """Both figures.

    Args:
        seconds: for each of the two.

    Raises:
        ConfigError: the gin files are not there.
    """
    config.parse([FILE])
    bound = gin.get_bindings(training.train)
    suite = bound["suite"]
    spec = suite.spec
    with suite.vector(seed=0) as vector:
        td = vector.reset()
        actions = 2.0 * torch.rand(spec.num_tasks, spec.action_dim) - 1.0

        def step() -> None:
            td["action"] = actions
            vector.step(td)

        one_step = _median(step, seconds, window=25)
    keep_freed_memory()  # as the loop does
    learner = bound["algorithm"](spec)
    shape = (spec.num_tasks, ROWS)
    following = {
        "observation": torch.randn(*shape, spec.observation_dim),
        "reward": torch.randn(*shape, 1),
        "terminated": torch.zeros(*shape, 1, dtype=torch.bool),
    }
    batch = TensorDict(
        {
            "observation": torch.randn(*shape, spec.observation_dim),
            "action": 2.0 * torch.rand(*shape, spec.action_dim) - 1.0,
            "task_id": torch.arange(spec.num_tasks)[:, None].expand(*shape),
            "next": TensorDict(following, shape),
        },
        shape,
    )
    one_update = _median(lambda: learner.update(batch), seconds, window=3)
    return {"steps_per_second": spec.num_tasks / one_step, "update_ms": 1e3 * one_update}


def _median(work: Callable[[], object], seconds: float, window: int) -> float:
    """Seconds of one call: the median of windows that fill the time, one at least."""
    work()
    windows: list[float] = []
    begin = time.perf_counter()
    while not windows or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        for _ in range(window):
            work()
        windows.append((time.perf_counter() - start) / window)
    return statistics.median(windows)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=9.0)
    told = {**measure(parser.parse_args().seconds), "documented": DOCUMENTED}
    print(json.dumps(told), flush=True)
    return FINISHED


if __name__ == "__main__":
    raise SystemExit(main())
