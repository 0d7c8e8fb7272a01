"""One MT-SAC update beside a naive eager one, and masked layers beside dense ones, in one run.

    python benchmarks/learner.py [--threads 2] [--rounds 15] [--compiled] [--json FILE]

`naive` is MT-SAC as one writes it first: two critic modules, two target modules, the default
(unfused) Adam of each, `clip_grad_norm_`, a Python loop for the targets, gradients of the critics'
weights in the policy's loss, and `.item()` for every metric. Windows of all systems alternate; the
figure is the median window, and only ratios mean anything. At the end the update is timed once
more while another process keeps one core busy.
"""

import argparse
import copy
import functools
import json
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the entry points do

import torch  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from timing import medians_of  # noqa: E402
from torch import Tensor, nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from algorithms.must import MaskedSAC  # noqa: E402
from algorithms.precision import (  # noqa: E402
    PRECISIONS,
    bfloat16_is_native,
    products_are_bfloat16,
)
from algorithms.sac import SAC  # noqa: E402
from networks.actor import Actor  # noqa: E402
from networks.critic import Critic  # noqa: E402
from networks.mask_generator import MaskGenerator  # noqa: E402
from networks.masked import MaskedMLP  # noqa: E402
from networks.mlp import MLP  # noqa: E402
from runners.memory import keep_freed_memory  # noqa: E402

HIDDEN = (400, 400, 400)


@dataclass(frozen=True)
class Dims:
    """Meta-World MT10."""

    observation_dim: int = 39
    action_dim: int = 4
    num_tasks: int = 10


def made_up_batch(dims: Dims, rows: int) -> TensorDict:
    """A batch `[tasks, rows]` of random numbers."""
    shape = (dims.num_tasks, rows)
    following = {
        "observation": torch.randn(*shape, dims.observation_dim),
        "reward": torch.randn(*shape, 1),
        "terminated": torch.zeros(*shape, 1, dtype=torch.bool),
    }
    fields = {
        "observation": torch.randn(*shape, dims.observation_dim),
        "task_id": torch.arange(dims.num_tasks)[:, None].expand(shape).contiguous(),
        "action": torch.rand(*shape, dims.action_dim) * 2 - 1,
        "next": TensorDict(following, shape),
    }
    return TensorDict(fields, shape)


class Naive:
    """MT-SAC as one writes it first."""

    def __init__(self, dims: Dims) -> None:
        def net(inputs: int, outputs: int) -> nn.Sequential:
            sizes = (inputs + dims.num_tasks, *HIDDEN)
            layers: list[nn.Module] = []
            for a, b in zip(sizes, sizes[1:], strict=False):
                layers += [nn.Linear(a, b), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

        self.num_tasks = dims.num_tasks
        self.actor = net(dims.observation_dim, 2 * dims.action_dim)
        self.critics = [net(dims.observation_dim + dims.action_dim, 1) for _ in range(2)]
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = nn.Parameter(torch.zeros(dims.num_tasks))
        nets = [self.actor, *self.critics]
        self.optimizers = [torch.optim.Adam(n.parameters(), lr=3e-4) for n in nets]
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=3e-4)

    def policy(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sampled action and its log-probability."""
        loc, log_scale = self.actor(x).chunk(2, -1)
        normal = torch.distributions.Normal(loc, log_scale.clamp(-20, 2).exp())
        raw = normal.rsample()
        action = raw.tanh()
        log_prob = normal.log_prob(raw) - torch.log(1 - action.square() + 1e-6)
        return action, log_prob.sum(-1, keepdim=True)

    def update(self, batch: TensorDict) -> dict[str, float]:
        """One step."""
        flat = batch.flatten(0, 1)
        one_hot = nn.functional.one_hot(flat["task_id"], self.num_tasks).float()
        x = torch.cat((flat["observation"], one_hot), -1)
        y = torch.cat((flat["next", "observation"], one_hot), -1)
        action, log_prob = self.policy(x)
        log_alpha = one_hot @ self.log_alpha[:, None]
        alpha_loss = -(log_alpha * (log_prob - 4.0).detach()).mean()
        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        alpha = (one_hot @ self.log_alpha[:, None]).exp().detach()
        with torch.no_grad():
            then, then_log_prob = self.policy(y)
            value = torch.min(*(t(torch.cat((y, then), -1)) for t in self.targets))
            soft = value - alpha * then_log_prob
            target = flat["next", "reward"] + 0.99 * (~flat["next", "terminated"]) * soft
        old = torch.cat((x, flat["action"]), -1)
        for q, optimizer in zip(self.critics, self.optimizers[1:], strict=True):
            critic_loss = (q(old) - target).square().mean()
            self.step(q, optimizer, critic_loss)
        new = torch.cat((x, action), -1)
        actor_loss = (alpha * log_prob - torch.min(*(q(new) for q in self.critics))).mean()
        self.step(self.actor, self.optimizers[0], actor_loss)
        for online, slow in zip(self.critics, self.targets, strict=True):
            for a, b in zip(online.parameters(), slow.parameters(), strict=True):
                b.data.copy_(0.995 * b.data + 0.005 * a.data)
        return {
            "alpha": alpha_loss.item(),
            "actor": actor_loss.item(),
            "critic": critic_loss.item(),
        }

    @staticmethod
    def step(net: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Gradient, clip and step of one network."""
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()


def trunks(dims: Dims, rows: int) -> dict[str, Callable[[], object]]:
    """Forward and backward of one trunk, dense and masked."""
    x = torch.randn(dims.num_tasks, rows, dims.observation_dim)
    task = torch.arange(dims.num_tasks)[:, None].expand(dims.num_tasks, rows)
    sizes = (dims.observation_dim, 2 * dims.action_dim, dims.num_tasks)
    nets: dict[str, nn.Module] = {
        "dense forward + backward": MLP(*sizes, hidden=HIDDEN),
        "masked weights": MaskedMLP(*sizes, hidden=HIDDEN),
        "masked neurons": MaskedMLP(*sizes, hidden=HIDDEN, granularity="neuron"),
    }
    for net in nets.values():
        if isinstance(net, MaskedMLP):
            net.commit([torch.rand(dims.num_tasks, *s) < 0.5 for s in net.mask_shapes])

    def both(net: nn.Module) -> None:
        net.zero_grad()
        net(x, task).square().mean().backward()

    return {name: functools.partial(both, net) for name, net in nets.items()}


def learner(dims: Dims, masked: bool, **options: Any) -> SAC:
    """Ours."""
    trunk = functools.partial(MaskedMLP if masked else MLP, hidden=HIDDEN)
    parts = {
        "actor": functools.partial(Actor, trunk=trunk),
        "critic": functools.partial(Critic, trunk=trunk),
    }
    if not masked:
        return SAC(dims, **parts, **options)
    generator = functools.partial(MaskGenerator, use_trajectory_info=False)
    return MaskedSAC(dims, **parts, generator=generator, use_supervised_loss=False)


def spin() -> None:
    """Keep a core busy."""
    while True:
        pass


def main() -> None:
    """Time everything in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rows", type=int, default=128, help="rows of each task")
    parser.add_argument("--compiled", action="store_true", help="compile too, which takes minutes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the loop does
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", "SAC.precision")  # the table says so itself
    dims = Dims()
    batch = made_up_batch(dims, arguments.rows)
    must = learner(dims, masked=True)
    generating = learner(dims, masked=True)
    generating.begin_phase(None)
    plain = learner(dims, masked=False)
    variants: dict[str, Callable[[], object]] = {
        "naive MT-SAC update": functools.partial(Naive(dims).update, batch),
        "MT-SAC update": functools.partial(plain.update, batch),
    }
    for precision in PRECISIONS[1:]:
        made = learner(dims, masked=False, precision=precision)
        variants[f"MT-SAC update, {precision}"] = functools.partial(made.update, batch)
    if arguments.compiled:
        for precision in PRECISIONS:
            made = learner(dims, masked=False, precision=precision, compiled=True)
            variants[f"MT-SAC, {precision}, compiled"] = functools.partial(made.update, batch)
    variants |= {
        "MUST update": functools.partial(must.update, batch),
        "MUST update, generator phase": functools.partial(generating.update, batch),
    }
    layers = trunks(dims, arguments.rows)
    medians, times = medians_of({**variants, **layers}, arguments.rounds)
    native = "has" if bfloat16_is_native(torch.device("cpu")) else "has no"
    print(f"MT10 sizes, {arguments.rows} rows of each task, {arguments.threads} threads")
    products = "bfloat16" if products_are_bfloat16(torch.device("cpu")) else "single precision"
    print(f"{torch.cpu.get_capabilities()['cpu_name']}: {native} bfloat16 arithmetic;", end=" ")
    print(f"bf16_matmul takes products in {products}\n")
    print("| system | median ms | rate against the first of its group |")
    print("|---|---|---|")
    for group in (variants, layers):
        reference = medians[next(iter(group))]
        for name in group:
            print(f"| {name} | {medians[name]:.1f} | {reference / medians[name]:.2f} |")
    neighbour = multiprocessing.get_context("spawn").Process(target=spin, daemon=True)
    neighbour.start()
    busy, _ = medians_of({"busy": variants["MT-SAC update"]}, arguments.rounds)
    neighbour.kill()
    idle, _ = medians_of({"idle": variants["MT-SAC update"]}, arguments.rounds)
    slower = busy["busy"] / idle["idle"]
    print(f"\nMT-SAC update with one core kept busy by another process: {slower:.2f} times as long")
    if arguments.json:
        report = {"median_ms": medians, "times_ms": times, "busy_core": slower}
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
