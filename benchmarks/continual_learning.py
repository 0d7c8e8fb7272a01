"""Tasks in sequence without a task label: does a gated sparse network forget less than a dense one?

    python benchmarks/continual_learning.py [--seeds 3] [--threads 1] [--json FILE]

A small synthetic analogue of permuted MNIST (Iyer et al. 2022, section on continual learning).
A sample is o + m_y + noise, with an offset o that all samples share and a mean m_y of its class,
all normal; task t sees the features in a fixed order of its own. Tasks are learnt one after the
other, each with a fresh Adam, by one network with one head. The context of the dendrites is a
prototype, the mean training input of a task: in training that of the current task, in testing
the stored one nearest to the sample.

The figure is the accuracy over the test samples of all tasks after the last one.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks.dendrites import Dendrites  # noqa: E402
from networks.dendritic import DendriticMLP  # noqa: E402
from networks.task_context import TaskContext  # noqa: E402

FEATURES, CLASSES, TASKS = 64, 8, 8
TRAIN_SAMPLES, TEST_SAMPLES = 800, 300
WIDTH, EPOCHS, BATCH = 192, 3, 64


@dataclass(frozen=True)
class Net:
    """A network, as arguments of `DendriticMLP`, and its learning rate."""

    learning_rate: float
    gated: bool = True
    percent_on: float | None = None
    sparsity: float = 0.5

    def build(self) -> DendriticMLP:
        """Draw a network with the global generator."""
        return DendriticMLP(
            FEATURES,
            CLASSES,
            TASKS,
            hidden=(WIDTH, WIDTH),
            layers_modulated=(0, 1) if self.gated else (),
            percent_on=self.percent_on,
            weight_sparsity=self.sparsity,
            context=functools.partial(TaskContext, source="prototype"),
            dendrites=functools.partial(Dendrites, num_segments=TASKS, context_percent_on=0.1),
        )


NETS = {
    "dendrites and k-winners 0.10": Net(2e-3, percent_on=0.10),
    "dendrites and k-winners 0.05": Net(3e-3, percent_on=0.05),
    "k-winners 0.10, no dendrites": Net(2e-3, gated=False, percent_on=0.10),
    "dendrites, ReLU": Net(2e-3),
    "dense MLP, rate 5e-4": Net(5e-4, gated=False, sparsity=0.0),
    "dense MLP, rate 2e-4": Net(2e-4, gated=False, sparsity=0.0),
}


@dataclass(frozen=True)
class Data:
    """Samples `[tasks, samples, features]` and labels `[tasks, samples]`."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def draw(cls, generator: torch.Generator) -> "Data":
        """All tasks of one seed."""
        normal = functools.partial(torch.randn, generator=generator)
        offset, means = normal(FEATURES), normal(CLASSES, FEATURES)
        orders = [torch.randperm(FEATURES, generator=generator) for _ in range(TASKS - 1)]
        orders.insert(0, torch.arange(FEATURES))

        def samples(number: int) -> tuple[Tensor, Tensor]:
            y = torch.randint(CLASSES, (TASKS, number), generator=generator)
            x = offset + means[y] + normal(TASKS, number, FEATURES)
            return torch.stack([x[t][:, order] for t, order in enumerate(orders)]), y

        return cls(*samples(TRAIN_SAMPLES), *samples(TEST_SAMPLES))

    @property
    def prototypes(self) -> Tensor:
        """The mean training input of each task, `[tasks, features]`."""
        return self.train_x.mean(1)


def learn(net: DendriticMLP, data: Data, task: int, learning_rate: float) -> None:
    """Train on one task."""
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    prototype = data.prototypes[task]
    ids = torch.full((TRAIN_SAMPLES,), task)
    net.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(TRAIN_SAMPLES).split(BATCH):
            context = prototype.expand(len(rows), -1)
            loss = cross_entropy(
                net(data.train_x[task, rows], ids[rows], context), data.train_y[task, rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(net: DendriticMLP, data: Data, task: int, known: int) -> tuple[float, float]:
    """The share of right labels and of right prototypes, among those of the first `known` tasks."""
    x = data.test_x[task]
    nearest = torch.cdist(x, data.prototypes[:known]).argmin(-1)
    y = net.eval()(x, nearest, data.prototypes[nearest]).argmax(-1)
    return (y == data.test_y[task]).double().mean().item(), (nearest == task).double().mean().item()


def run(net: Net, seed: int) -> dict[str, float]:
    """Learn all tasks in sequence; accuracies after each task, and over all after the last."""
    data = Data.draw(torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    network, fresh = net.build(), []
    start = time.perf_counter()
    for task in range(TASKS):
        learn(network, data, task, net.learning_rate)
        fresh.append(accuracy(network, data, task, task + 1)[0])
    last = [accuracy(network, data, task, TASKS) for task in range(TASKS)]
    return {
        "fresh": statistics.mean(fresh),
        "final": statistics.mean(right for right, _ in last),
        "inferred": statistics.mean(inferred for _, inferred in last),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Run all networks and seeds, print the table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures: dict[str, list[dict[str, Any]]] = {}
    print(f"{TASKS} tasks, {options.seeds} seeds: mean accuracy")
    print(f"{'':30}{'rate':>7}{'after its task':>16}{'after all':>11}{'s a run':>9}  each seed")
    for name, net in NETS.items():
        runs = figures[name] = [run(net, seed) for seed in range(options.seeds)]
        mean = {key: statistics.mean(r[key] for r in runs) for key in runs[0]}
        seeds = " ".join(f"{r['final']:.3f}" for r in runs)
        print(
            f"{name:30}{net.learning_rate:7.0e}{mean['fresh']:16.3f}{mean['final']:11.3f}"
            f"{mean['seconds']:9.1f}  {seeds}"
        )
    inferred = min(r["inferred"] for runs in figures.values() for r in runs)
    print(f"prototype found for at least {inferred:.1%} of the test samples")
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k != "json"}
        options.json.write_text(
            json.dumps({"settings": settings, "runs": figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
