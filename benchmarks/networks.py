"""Each trunk beside a dense perceptron of as many parameters, forward and backward, in one run.

    python benchmarks/networks.py [--threads 2] [--rounds 9] [--mixed] [--json FILE]

Policies (39 -> 8) and twin critics (43 -> 1, stacked), on batches in equal shares per task: 128
rows of each of 10 and of 50 tasks. The dense perceptron has three hidden layers of one width,
chosen so that its parameters are as many as the trunk's, a state encoder included. Active Dendrites
are timed at their published size, 256 rows of each of 10 tasks, beside the perceptron they were
published with. Windows of all systems alternate, and only the ratios mean anything.
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the entry points do

import torch  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from timing import medians_of  # noqa: E402
from torch import Tensor, nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks.care import CareEncoder  # noqa: E402
from networks.critic import Critic  # noqa: E402
from networks.dendritic import DendriticMLP  # noqa: E402
from networks.masked import MaskedMLP  # noqa: E402
from networks.mlp import MLP  # noqa: E402
from networks.multi_head import MultiHeadMLP  # noqa: E402
from networks.projected import ProjectedMLP  # noqa: E402
from networks.small_soft_modular import SmallSoftModularMLP  # noqa: E402
from networks.soft_modular import SoftModularMLP  # noqa: E402
from networks.state_encoders import FeedforwardEncoder  # noqa: E402
from networks.task_encoder import TaskEncoder  # noqa: E402

OBSERVATION, ACTION = 39, 4
Trunk = Callable[..., nn.Module]
learned_code = functools.partial(TaskEncoder, kind="learned")


class System(NamedTuple):
    """A trunk, the encoder in front of it, and the perceptron it is compared with (None: equal)."""

    trunk: Trunk
    encoder: Trunk | None = None
    rival: tuple[int, ...] | None = None


def systems() -> dict[str, System]:
    """Every trunk at the size its paper gives it."""
    wide = {"hidden": (400, 400, 400)}
    blind = functools.partial(MLP, one_hot=False, **wide)
    care = functools.partial(CareEncoder, task_encoder=learned_code)
    feedforward = functools.partial(FeedforwardEncoder, task_encoder=learned_code)
    deep = functools.partial(SoftModularMLP, num_layers=4, num_modules=4, module_width=128)
    return {
        "multi-head": System(functools.partial(MultiHeadMLP, **wide)),
        "MUST, weights masked": System(functools.partial(MaskedMLP, **wide)),
        "Soft Modularization, shallow": System(SoftModularMLP),
        "Soft Modularization, deep": System(deep),
        "Soft Modularization of MTRL": System(SmallSoftModularMLP, feedforward),
        "CARE": System(blind, care),
        "PTSL": System(ProjectedMLP, care),
        "PTSL, independent, project": System(
            functools.partial(ProjectedMLP, projection="independent", residual="project"), care
        ),
    }


def dendrites() -> dict[str, System]:
    """Active Dendrites as published."""
    return {"Active Dendrites": System(DendriticMLP, rival=(2800, 2800))}


class Behind(nn.Module):
    """A network behind its encoder, called as the learner's losses call it."""

    def __init__(self, system: System, num_tasks: int, critics: bool) -> None:
        super().__init__()
        names = tuple(f"task {index}" for index in range(num_tasks))
        self.encoder = system.encoder(OBSERVATION, names) if system.encoder else None
        width: Any = self.encoder.out_features if self.encoder else OBSERVATION
        self.network: Any
        if critics:
            self.network = Critic(width, ACTION, num_tasks, trunk=system.trunk)
        else:
            self.network = system.trunk(width, 2 * ACTION, num_tasks)
        self.critics = critics

    def forward(self, td: TensorDict) -> Tensor:
        """Values [tasks, rows, 2] or the policy's numbers [tasks, rows, 8]."""
        observation, task = td["observation"], td["task_id"]
        if self.encoder is not None:
            coder: Any = self.encoder
            observation = coder(observation, coder.code(task))
        if self.critics:
            y: Tensor = self.network.values(torch.cat((observation, td["action"]), -1), task, {})
        else:
            y = self.network(observation, task)
        return y


def count(module: nn.Module) -> int:
    """Trained parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def dense(system: System, made: Behind, num_tasks: int, critics: bool) -> Behind:
    """The perceptron beside `made`."""
    if system.rival is not None:
        return Behind(System(functools.partial(MLP, hidden=system.rival)), num_tasks, critics)

    def of_width(width: int) -> Behind:
        trunk = functools.partial(MLP, hidden=(width,) * 3)
        return Behind(System(trunk), num_tasks, critics)

    low, high = 8, 2048
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(of_width(middle)) <= count(made) else (low, middle)
    return of_width(low)


def compare(
    table: dict[str, System], num_tasks: int, rows: int, rounds: int, mixed: bool
) -> list[dict[str, Any]]:
    """Milliseconds of forward and backward of each system and of its perceptron."""
    shape = (num_tasks, rows)
    td = TensorDict(
        {
            "observation": torch.randn(*shape, OBSERVATION),
            "action": torch.rand(*shape, ACTION),
            "task_id": torch.arange(num_tasks)[:, None].expand(shape),
        },
        shape,
    )
    if mixed:
        td = td.reshape(-1)[torch.randperm(num_tasks * rows)]

    def both(net: nn.Module) -> None:
        net.zero_grad()
        net(td).square().mean().backward()

    results = []
    for name, system in table.items():
        for critics in (False, True):
            made = Behind(system, num_tasks, critics)
            rival = dense(system, made, num_tasks, critics)
            calls: dict[str, Callable[[], object]] = {
                "ours": functools.partial(both, made),
                "dense": functools.partial(both, rival),
            }
            medians, _ = medians_of(calls, rounds)
            results.append(
                {
                    "trunk": name,
                    "network": "twin critics" if critics else "policy",
                    "tasks": num_tasks,
                    "rows": rows,
                    "parameters": count(made),
                    "dense_parameters": count(rival),
                    **{f"{key}_ms": value for key, value in medians.items()},
                    "ratio": medians["ours"] / medians["dense"],
                }
            )
            row = results[-1]
            print(
                f"| {name} | {row['network']} | {num_tasks} x {rows} | {row['parameters']:,} | "
                f"{row['dense_parameters']:,} | {row['ours_ms']:.1f} | {row['dense_ms']:.1f} | "
                f"{row['ratio']:.2f} |",
                flush=True,
            )
    return results


def main() -> None:
    """Time everything in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mixed", action="store_true", help="rows in any order, not by task")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(f"Forward and backward, {arguments.threads} threads\n")
    print("| trunk | network | batch | parameters | dense | ms | dense ms | times as long |")
    print("|---|---|---|---|---|---|---|---|")
    results = []
    for num_tasks in (10, 50):
        results += compare(systems(), num_tasks, 128, arguments.rounds, arguments.mixed)
    results += compare(dendrites(), 10, 256, arguments.rounds, arguments.mixed)
    worst = max(results, key=lambda row: row["ratio"])
    print(f"\nThe slowest beside its perceptron: {worst['trunk']}, {worst['ratio']:.2f} times")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
