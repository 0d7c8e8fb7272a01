"""Stepping Meta-World beside gymnasium's vectors and beside the physics alone, in one run.

    python benchmarks/stepping.py [--benchmarks MT10,MT50] [--rounds 5] [--cores 2] [--json FILE]

Every window is one episode of 500 vector steps under the same uniform actions, resets included.
Windows of all systems alternate in random order, and the figure is the median window; only ratios
mean anything.
The limit is what all cores together do in MuJoCo alone: each process repeats the controls of a
recorded episode, five physics steps and one forward pass for each, and no reset; on huge pages, as
our workers.
Then come shorter windows, in which only the faces of our own vector alternate.
A last table times single steps and repeated resets, one process, upstream's classes and ours;
`--benchmarks=` makes it alone.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import metaworld  # noqa: E402, F401  registers the environments

from envs import snapshot  # noqa: E402
from envs.gym_vector import GymVector  # noqa: E402
from envs.meta_world import MetaWorldSuite  # noqa: E402
from envs.vector import VectorTasks  # noqa: E402
from envs.worker import HUGE_PAGES  # noqa: E402

STEPS = 500
BATCH = 5


def uniform_actions(number: int) -> Any:
    """`[steps, number, 4]` in [-1, 1]."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1.0, 1.0, (STEPS, number, 4)).astype(np.float32)


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def physics(pipe: Connection, benchmark: str, index: int, processes: int) -> None:
    """Every `processes`-th environment: record an episode, then repeat it in MuJoCo when asked."""
    suite = MetaWorldSuite(benchmark, workers=0)
    tasks = suite.tasks()
    build, actions = suite.build(tasks), uniform_actions(len(tasks))
    tapes = []
    for number in range(index, len(tasks), processes):
        environment: Any = build(tasks[number])
        environment.reset(options={"goal": 0})
        model, data = environment.simulator.model, environment.simulator.data
        start, controls = snapshot.take_physics(model, data), []
        for action in actions[:, number]:
            environment.step(action)
            controls.append((data.mocap_pos[0].copy(), data.ctrl.copy()))
        tapes.append((environment, start, controls))
    pipe.send("ready")
    while pipe.recv() == "go":
        for environment, start, _ in tapes:
            simulator = environment.simulator
            snapshot.put_physics(simulator.model, simulator.data, start)
        for step in range(STEPS):
            for environment, _, controls in tapes:
                model, data = environment.simulator.model, environment.simulator.data
                data.mocap_pos[0], data.ctrl[:] = controls[step]
                mujoco.mj_step(model, data, nstep=BATCH)
                mujoco.mj_forward(model, data)
        pipe.send("done")


class Limit:
    """The physics alone, on all cores."""

    def __init__(self, benchmark: str, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        os.environ.setdefault("GLIBC_TUNABLES", HUGE_PAGES)  # read where a process begins
        self.pipes = []
        for index in range(processes):
            ours, theirs = context.Pipe()
            context.Process(
                target=physics, args=(theirs, benchmark, index, processes), daemon=True
            ).start()
            self.pipes.append(ours)
        self.wait()

    def wait(self) -> None:
        """Until every process has answered."""
        for pipe in self.pipes:
            pipe.recv()

    def window(self) -> None:
        """One episode."""
        for pipe in self.pipes:
            pipe.send("go")
        self.wait()

    def close(self) -> None:
        """Let the processes end."""
        for pipe in self.pipes:
            pipe.send("end")


def tensordict_window(vector: VectorTasks, actions: Any) -> None:
    """One episode through the TensorDict face."""
    for action in torch.from_numpy(actions):
        td = vector.current()
        td["action"] = action
        vector.step(td)


def array_window(vector: VectorTasks, actions: Any) -> None:
    """One episode below every face: the shared block and the workers."""
    for action in actions:
        vector.advance(action)


def gymnasium_window(vector: Any, actions: Any) -> None:
    """One episode of a gymnasium vector."""
    for action in actions:
        vector.step(action)


def stepping(benchmark: str, rounds: int, cores: int) -> dict[str, float]:
    """System -> environment steps a second."""
    made: dict[str, Any] = {
        f"gymnasium {kind}": gymnasium.make_vec(
            f"Meta-World/{benchmark}", vector_strategy=kind.lower(), seed=0
        )
        for kind in ("Sync", "Async")
    }
    ours = f"ours, {cores} workers"
    made[ours] = MetaWorldSuite(benchmark, workers=cores).vector(seed=0)
    made["ours, in process"] = MetaWorldSuite(benchmark, workers=0).vector(seed=0)
    for vector in made.values():
        vector.reset()
    limit = Limit(benchmark, cores)
    number = made[ours].num_envs
    actions = uniform_actions(number)
    windows: dict[str, Callable[[], None]] = {"physics alone": limit.window}
    for name, vector in made.items():
        window = tensordict_window if name.startswith("ours") else gymnasium_window
        windows[name] = lambda window=window, vector=vector: window(vector, actions)
    face = GymVector(made[ours])
    windows[f"{ours}, gymnasium's face"] = lambda: gymnasium_window(face, actions)
    windows[f"{ours}, arrays alone"] = lambda: array_window(made[ours], actions)
    taken: dict[str, list[float]] = {name: [] for name in windows}
    order, shuffled = np.random.default_rng(0), list(windows)
    for _ in range(rounds):
        order.shuffle(shuffled)  # a core that was idle in the window before starts slowly
        for name in shuffled:
            taken[name].append(seconds(windows[name]))
    for vector in made.values():
        vector.close()
    limit.close()
    return {name: STEPS * number / statistics.median(times) for name, times in taken.items()}


def faces(benchmark: str, rounds: int, cores: int) -> dict[str, float]:
    """Face -> how many times as long as arrays alone: median over pairs of 100 vector steps."""
    vector = MetaWorldSuite(benchmark, workers=cores).vector(seed=0)
    vector.reset()
    face = GymVector(vector)
    windows: dict[str, Callable[[Any], None]] = {
        "arrays alone": lambda actions: array_window(vector, actions),
        "gymnasium's face": lambda actions: gymnasium_window(face, actions),
        "TensorDict": lambda actions: tensordict_window(vector, actions),
    }
    taken: dict[str, list[float]] = {name: [] for name in windows}
    order, shuffled = np.random.default_rng(0), list(windows)
    for part in range(rounds):
        order.shuffle(shuffled)
        actions = np.split(uniform_actions(vector.num_envs), STEPS // 100)[part % (STEPS // 100)]
        for name in shuffled:
            taken[name].append(seconds(lambda name=name, actions=actions: windows[name](actions)))
    vector.close()
    alone = taken.pop("arrays alone")
    return {
        name: statistics.median(time / other for time, other in zip(times, alone, strict=True))
        for name, times in taken.items()
    }


def singles(rounds: int) -> dict[str, dict[str, float]]:
    """MT10 in one process: microseconds of a step and of a repeated reset, median over rounds."""
    kinds = {"upstream": False, "ours": True}
    suites = {k: MetaWorldSuite("MT10", workers=0, accelerated=v) for k, v in kinds.items()}
    tasks = suites["ours"].tasks()
    actions = uniform_actions(len(tasks))[:100]
    result: dict[str, dict[str, float]] = {}
    for number, task in enumerate(tasks):
        environments = {kind: suite.build((task,))(task) for kind, suite in suites.items()}
        chosen = actions[:, number]
        times: dict[str, list[float]] = {}
        for environment in environments.values():
            environment.reset(options={"goal": 0})
        for _ in range(rounds):
            for kind, environment in environments.items():
                reset = seconds(lambda e=environment: e.reset(options={"goal": 0}))
                step = seconds(lambda e=environment, c=chosen: [e.step(a) for a in c])
                times.setdefault(f"reset, {kind}", []).append(reset * 1e6)
                times.setdefault(f"step, {kind}", []).append(step * 1e6 / len(actions))
        result[task.name] = {name: statistics.median(taken) for name, taken in times.items()}
    return result


def main() -> None:
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", default="MT10,MT50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"cores": arguments.cores, "stepping": {}, "faces": {}}
    for benchmark in filter(None, arguments.benchmarks.split(",")):
        rates = stepping(benchmark, arguments.rounds, arguments.cores)
        report["stepping"][benchmark] = rates
        best = max(rate for name, rate in rates.items() if name.startswith("gymnasium"))
        print(f"\n{benchmark}, {arguments.cores} cores, median of {arguments.rounds} episodes\n")
        print("| system | env steps/s | of the better gymnasium | of the physics |")
        print("|---|---|---|---|")
        for name, rate in sorted(rates.items(), key=lambda pair: pair[1]):
            share = rate / rates["physics alone"]
            print(f"| {name} | {rate:.0f} | {rate / best:.2f} | {share:.0%} |", flush=True)
        report["faces"][benchmark] = faces(benchmark, 20 * arguments.rounds, arguments.cores)
        told = (f"{name} {times:.3f}" for name, times in report["faces"][benchmark].items())
        print(f"\ntimes as long as arrays alone: {', '.join(told)}", flush=True)
    report["singles"] = singles(arguments.rounds)
    rows = list(report["singles"].items())
    mean = {key: statistics.fmean(row[key] for _, row in rows) for key in rows[0][1]}
    print("\n| task | step us, upstream | ours | ratio | reset us, upstream | ours | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, row in [*rows, ("mean", mean)]:
        cells = []
        for verb in ("step", "reset"):
            upstream, ours = row[f"{verb}, upstream"], row[f"{verb}, ours"]
            cells += [f"{upstream:.0f}", f"{ours:.0f}", f"{upstream / ours:.1f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
