"""Sampling and writing of TaskReplay beside two plain ways, in turn on one machine.

    python benchmarks/replay.py [--tasks 10] [--batch 1280] [--capacity 1000000] [--json FILE]

`packed` is ours. `five tensors` keeps one tensor per key, each read and written by itself.
`torchrl` is its ReplayBuffer over a TensorStorage of items of all tasks (so that, unlike in the
others, all tasks share the time index); it is left out where torchrl is not installed. All are
full.
Each window times a number of calls; the windows of all systems and both operations alternate;
printed is the median window.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tensordict import TensorDict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from buffers.task_replay import TaskReplay  # noqa: E402

try:
    from torchrl.data import ReplayBuffer, TensorStorage
    from torchrl.data.replay_buffers.samplers import RandomSampler
except ImportError:
    ReplayBuffer = None

OBSERVATION_DIM, ACTION_DIM = 39, 4
Pair = tuple[Callable[[], object], Callable[[], object]]


def transition(num_tasks: int) -> TensorDict:
    """One step of all tasks."""
    flags = torch.zeros(num_tasks, 1, dtype=torch.bool)
    return TensorDict(
        {
            "observation": torch.randn(num_tasks, OBSERVATION_DIM),
            "task_id": torch.arange(num_tasks),
            "action": torch.rand(num_tasks, ACTION_DIM),
            "next": {
                "observation": torch.randn(num_tasks, OBSERVATION_DIM),
                "reward": torch.randn(num_tasks, 1),
                "terminated": flags,
                "valid": ~flags,
            },
        },
        batch_size=[num_tasks],
    )


def packed(num_tasks: int, batch: int, capacity: int, td: TensorDict) -> Pair:
    """Ours."""
    buffer = TaskReplay(
        OBSERVATION_DIM, ACTION_DIM, num_tasks, capacity=capacity, batch_size=batch, seed=0
    )
    state, per_task = buffer.state_dict(), capacity // num_tasks
    state["rows"] = torch.randn(num_tasks, per_task, state["rows"].shape[2])
    state["stored"] = torch.full((num_tasks,), per_task)
    buffer.load_state_dict(state)
    return buffer.sample, lambda: buffer.extend(td)


def five_tensors(num_tasks: int, batch: int, capacity: int, td: TensorDict) -> Pair:
    """The textbook buffer with one ring per task and independent indices."""
    per_task, share = capacity // num_tasks, batch // num_tasks
    shapes = {"observation": OBSERVATION_DIM, "action": ACTION_DIM}
    after_shapes = {"observation": OBSERVATION_DIM, "reward": 1, "terminated": 1}
    data = {k: torch.zeros(num_tasks, per_task, n) for k, n in shapes.items()}
    after = {k: torch.zeros(num_tasks, per_task, n) for k, n in after_shapes.items()}
    task, cursor = torch.arange(num_tasks), torch.zeros(num_tasks, dtype=torch.int64)

    def sample() -> TensorDict:
        at = torch.randint(per_task, (num_tasks, share))
        row = task.unsqueeze(1)
        batch_size = (num_tasks, share)
        following = TensorDict({k: v[row, at] for k, v in after.items()}, batch_size=batch_size)
        drawn = {k: v[row, at] for k, v in data.items()} | {"task_id": row.expand(-1, share)}
        return TensorDict({**drawn, "next": following}, batch_size=batch_size)

    def extend() -> None:
        for key, tensor in data.items():
            tensor[task, cursor] = td[key]
        for key, tensor in after.items():
            tensor[task, cursor] = td["next", key].float()
        cursor.add_(1).remainder_(per_task)

    return sample, extend


def torchrl_storage(num_tasks: int, batch: int, capacity: int, td: TensorDict) -> Pair:
    """torchrl's buffer of items of shape [tasks], filled once."""
    item = td.clone()
    storage = item.unsqueeze(0).expand(capacity // num_tasks, num_tasks).clone()
    buffer = ReplayBuffer(
        storage=TensorStorage(storage),
        sampler=RandomSampler(),
        batch_size=batch // num_tasks,
    )
    step = item.unsqueeze(0)
    return buffer.sample, lambda: buffer.extend(step)


def measure(systems: dict[str, Pair], windows: int, calls: int) -> dict[str, dict[str, float]]:
    """Median microseconds per call of each system and operation, in alternating windows."""
    operations = ("sample", "extend")
    times: dict[str, dict[str, list[float]]] = {
        name: {operation: [] for operation in operations} for name in systems
    }
    for window in range(windows + 1):  # the first warms up and does not count
        for number, operation in enumerate(operations):
            for name, pair in systems.items():
                call = pair[number]
                start = time.perf_counter()
                for _ in range(calls):
                    call()
                if window:
                    elapsed = (time.perf_counter() - start) / calls * 1e6
                    times[name][operation].append(elapsed)
    return {
        name: {operation: statistics.median(values) for operation, values in both.items()}
        for name, both in times.items()
    }


def main() -> None:
    """Measure, print the table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1280)
    parser.add_argument("--capacity", type=int, default=1_000_000, help="transitions in all")
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--calls", type=int, default=20, help="calls per window")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    makers = {"packed": packed, "five tensors": five_tensors}
    if ReplayBuffer is not None:
        makers["torchrl"] = torchrl_storage
    sizes = (options.tasks, options.batch, options.capacity)
    systems = {name: make(*sizes, transition(options.tasks)) for name, make in makers.items()}
    figures = measure(systems, options.windows, options.calls)

    print(f"{options.tasks} tasks, batch {options.batch}, capacity {options.capacity}, ", end="")
    print(f"threads {options.threads}: median microseconds a call, and the ratio to packed")
    print(f"{'':14}{'sample':>18}{'extend':>18}{'both':>18}")
    ours = {**figures["packed"], "both": sum(figures["packed"].values())}
    for name, both in figures.items():
        row = {**both, "both": sum(both.values())}
        print(f"{name:14}" + "".join(f"{v:10.1f} {v / ours[k]:6.2f}x" for k, v in row.items()))
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k != "json"}
        options.json.write_text(json.dumps({"settings": settings, "us": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
