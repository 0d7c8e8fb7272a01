"""The page docs/results/inference.md with its pictures, made from runs that infer tasks.

    python benchmarks/inference_results.py runs --out docs/results

`runs` holds `<experiment>/seed_<n>`, as the commands in the page write them: metrics.jsonl, eval/
and, for the latents, the newest checkpoint. Runs that are not there are left out, and what has not
ended is said to be so.
"""

import argparse
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from inference_page import (
    CHEETAH,
    CHEETAH_PEARL,
    FAMILIES,
    LATENTS,
    PAGE,
    POINT_ROBOT,
)
from pictures import Picture
from tensordict import TensorDict
from two_tasks import Records, minutes, series

from envs.point_robots import PointRobotSuite
from runners.config import ConfigError
from runners.evaluating import evaluate
from runners.inference_scores import accuracy, matching, separation
from runners.latent_records import Arrays, of_split
from runners.records import read_records

BURN_IN = 10
"""Steps of an episode before latents are compared."""
ITERATIONS = (1, 5, 10, 20, 30)
EPOCHS = (5, 10, 20, 30, 45, 60, 90, 125)
STEPS = (25_000, 50_000, 100_000, 200_000, 300_000)
STORED_PEARL = dict(zip(STEPS, (48, 143, 334, 618, 706), strict=True))
STORED_CEMRL = {30: 279, 60: 687, 125: 1078}
"""By epoch of 800 steps: at 25, 50 and 100 thousand."""
THREAD = "--gin='train.threads = 1'"
STARTS = 400_000
"""Episodes from which the levels of the point robot are computed."""
WINDOWS = {
    "tigr_cheetah_direction": "TIGR",
    "cemrl_cheetah_direction": "CEMRL",
    "blind_cheetah_direction": "no latent",
}


@dataclass(frozen=True)
class Run:
    """A run that was evaluated at least once."""

    name: str
    seed: int
    folder: Path
    records: Records

    def curve(self, tag: str) -> dict[int, float]:
        """Return by iteration, of a tag after `eval/`."""
        return series(self.records, f"eval/{tag}")

    @property
    def env_steps(self) -> dict[int, int]:
        """Steps of the environments by iteration."""
        return {step: int(n) for step, n in series(self.records, "env_steps").items()}

    @property
    def reached(self) -> str:
        """The last iteration, of how many, and whether the run goes on."""
        last = max(self.env_steps)
        text = (self.folder / "config.gin").read_text()
        found = re.search(r"^ITERATIONS = (\d+)", text, re.MULTILINE)
        total = int(found[1]) if found else last
        return f"{last} of {total}" + ("" if last == total else ", not ended")

    @property
    def ended(self) -> bool:
        """Whether it came to its last iteration."""
        return "," not in self.reached

    def tasks(self, iteration: int) -> list[float]:
        """Mean return of each test task, actions deterministic, from the evaluation's file."""
        told = json.loads((self.folder / "eval" / f"{iteration}.json").read_text())
        tasks = told["runs"]["test/deterministic"]["tasks"]
        return [float(np.mean(task["returns"])) for task in tasks]

    def directions(self, iteration: int) -> list[str]:
        """Mean and least return of episode 3, forward and backward, of PEARL's evaluation."""
        told = json.loads((self.folder / "eval" / f"{iteration}.json").read_text())
        cells = {}
        for task in told["splits"]["test"]["tasks"]:
            third = [episodes[2] for episodes in task["returns"]]
            cells[task["specification"][0]] = f"{np.mean(third):.0f} ({min(third):.0f})"
        return [cells[1.0], cells[-1.0]]


def found(folder: Path, name: str) -> list[Run]:
    """The runs `<folder>/<name>/seed_<n>`, by seed."""
    runs = []
    for path in sorted((folder / name).glob("seed_*")):
        run = Run(
            name, int(path.name.removeprefix("seed_")), path, read_records(path / "metrics.jsonl")
        )
        if run.curve("return"):
            runs.append(run)
    return runs


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def verdict(wanted: str, seen: float | None, met: bool, digits: int = 2) -> tuple[str, str, str]:
    """A row of expectations; what was not reached is neither met nor missed."""
    if seen is None:
        return wanted, "", "not reached"
    return wanted, f"{seen:.{digits}f}", "met" if met else "missed"


def nearest(steps: dict[int, int], wanted: int) -> int | None:
    """The iteration whose number of steps is nearest, if that is within a tenth."""
    close = min(steps, key=lambda iteration: abs(steps[iteration] - wanted))
    return close if abs(steps[close] - wanted) <= wanted / 10 else None


# Latents, from the newest checkpoint.


def inferred(run: Run, out: Path) -> tuple[int, Arrays] | None:
    """Evaluate the newest checkpoint, into the run's folder, and draw what it inferred.

    Returns:
        Its iteration, and the arrays of the test tasks; None without a checkpoint.
    """
    try:
        evaluated = evaluate(run.folder, latents=True)
    except ConfigError:
        return None
    data, *pictures = evaluated.files
    for path in pictures:
        if path.suffix == ".png":
            what = path.stem.removeprefix(data.stem.removesuffix("latents"))
            shutil.copyfile(path, out / f"inference_{run.name}_{what}.png")
    with np.load(data) as loaded:
        return evaluated.result["step"], of_split(loaded)[1]


def by_task(arrays: Arrays) -> tuple[float, float, float]:
    """How well latents tell tasks.

    Separation, the share of steps whose latent is nearest to the mean of its own task, and that in
    the component of their task.
    """
    mask = torch.from_numpy(arrays["mask"])
    task = torch.arange(len(mask))[:, None, None].expand(mask.shape)
    late = mask & (torch.arange(mask.shape[-1]) >= BURN_IN)
    latent, truth = torch.from_numpy(arrays["latent"])[late].double(), task[late]
    means = torch.stack([latent[truth == i].mean(0) for i in range(len(mask))])
    near = float((torch.cdist(latent, means).argmin(1) == truth).double().mean())
    component = torch.from_numpy(arrays["component"])
    steps = TensorDict({"mask": mask, "family": task, "component": component}, mask.shape)
    own = matching(steps, BURN_IN, arrays["weights"].shape[-1], labelled=False)
    return separation(latent, truth), near, accuracy(steps, own, BURN_IN)


def shown(run: Run, step: int, out: Path) -> list[str]:
    """The pictures of a run's latents, and the command that makes them."""
    lines = []
    for what, words in LATENTS.items():
        name = f"inference_{run.name}_{what}.png"
        if (out / name).exists():
            title = words.format(method=run.name.split("_")[0].upper(), step=step)
            lines += [f"![{title}]({name})", "", f"{title}.", ""]
    place = f"{run.name}/seed_{run.seed}"
    return [*lines, f"    python -m runners.evaluate runs/{place} --latents", ""]


# The sections.


def levels() -> list[tuple[str, list[float]]]:
    """Returns of four policies on the point robot: goals uniform in the square, the test goals."""
    suite = PointRobotSuite("point-robot", sizes=(40, 10))
    rng = np.random.default_rng(0)
    own = np.stack([suite.specification(task) for task in suite.each("test")])
    goals = [rng.uniform(-1, 1, (STARTS, 2)), own[rng.integers(len(own), size=STARTS)]]
    starts = rng.uniform(-1, 1, (STARTS, 2))
    policies = {
        "goes straight to the goal": lambda place, goal: 10 * (goal - place),
        "goes straight to the middle": lambda place, goal: -10 * place,
        "stands still": lambda place, goal: 0 * place,
        "uniform actions": lambda place, goal: rng.uniform(-1, 1, place.shape),
    }
    rows = []
    for name, policy in policies.items():
        totals = []
        for goal in goals:
            place, total = starts, 0.0
            for _ in range(suite.spec.horizon):
                place = place + 0.1 * np.clip(policy(place, goal), -1, 1)
                total -= float(np.linalg.norm(place - goal, axis=-1).mean())
            totals.append(total)
        rows.append((name, totals))
    return rows


def episodes(runs: list[Run], iterations: Iterable[int]) -> list[str]:
    """Returns on test tasks of each episode, at some evaluations and at the last one."""
    rows = []
    numbers = [1, 2, 3] + [10] * all(run.curve("return/test/episode_10") for run in runs)
    for run in runs:
        curves = [run.curve(f"return/test/episode_{i}") for i in numbers]
        last = max(curves[0])
        for iteration in sorted({*iterations, last} & set(curves[0])):
            cells = [f"{curve[iteration]:.2f}" for curve in curves]
            rows.append((run.seed, iteration, f"{run.env_steps[iteration]:,}", *cells))
    header = ("seed", "iteration", "environment steps", *(f"episode {i}" for i in numbers))
    return table(header, rows)


def point_robot(folder: Path, out: Path) -> list[str]:
    """PEARL on the point robot."""
    runs = found(folder, "pearl_point_robot")
    if not runs:
        return []
    picture = Picture("inference_point_robot.png", "PEARL on the point robot", "curves", "return")
    seeds = {"pearl_point_robot": [run.seed for run in runs]}
    drawn = picture.make(folder, seeds, {"pearl_point_robot": "PEARL"}, out)
    told = [(name, *(f"{total:.2f}" for total in totals)) for name, totals in levels()]
    met = []
    for run in runs:
        before, after = (run.curve(f"return/test/episode_{i}") for i in (1, 3))
        last = max(after)
        gain = after[last] - before[last] if run.ended else None
        final = after[last] if run.ended else None
        spent = f"{minutes(run.records):.1f}"
        for row in (
            verdict("episode 3 at least -10", final, (final or 0) >= -10),
            verdict("episode 3 better than episode 1 by 4", gain, (gain or 0) >= 4),
        ):
            met.append((run.seed, run.reached, *row, spent))
    lines = [POINT_ROBOT, *table(("policy", "all goals", "the 10 test goals"), told)]
    lines += episodes(runs, ITERATIONS)
    header = ("seed", "iterations", "expectation", "seen", "", "processor minutes")
    lines += [*table(header, met), drawn, ""]
    if (one := inferred(runs[0], out)) is not None:
        lines += shown(runs[0], one[0], out)
    return lines


def cheetah_pearl(folder: Path, out: Path) -> list[str]:
    """PEARL on the half-cheetah's directions."""
    runs = found(folder, "pearl_cheetah_direction")
    if not runs:
        return []
    rows, met = [], []
    for run in runs:
        curves = [run.curve(f"return/test/episode_{i}") for i in (1, 2, 3)]
        steps = {iteration: run.env_steps[iteration] for iteration in curves[0]}
        for wanted, stored in STORED_PEARL.items():
            if (iteration := nearest(steps, wanted)) is not None:
                cells = [round(curve[iteration]) for curve in curves]
                cells += run.directions(iteration)
                rows.append((run.seed, f"{steps[iteration]:,}", *cells, stored, f"{wanted:,}"))
        last = max(steps)
        cells = [round(curve[last]) for curve in curves]
        cells += run.directions(last)
        rows.append((run.seed, f"{steps[last]:,} (last)", *cells, "", ""))
        spent = f"{minutes(run.records):.1f}"
        early, late = (nearest(steps, wanted) for wanted in (54_000, 200_000))
        values = [None if at is None else curves[2][at] for at in (early, late)]
        for row in (
            verdict("episode 3 above 50 at 54,000 steps", values[0], (values[0] or 0) > 50, 0),
            verdict("episode 3 from 400 on at 200,000", values[1], (values[1] or 0) >= 400, 0),
        ):
            met.append((run.seed, run.reached, *row, spent))
    header = ("seed", "environment steps", "episode 1", "episode 2", "episode 3")
    header += ("forward", "backward", "stored", "at")
    picture = Picture(
        "inference_cheetah_pearl.png", "PEARL, half-cheetah", "curves", "return", "env_steps"
    )
    name = "pearl_cheetah_direction"
    drawn = picture.make(folder, {name: [run.seed for run in runs]}, {name: "PEARL"}, out)
    lines = [CHEETAH_PEARL, *table(header, rows)]
    lines += table(("seed", "iterations", "expectation", "seen", "", "processor minutes"), met)
    return [*lines, drawn, ""]


def cheetah(folder: Path, out: Path) -> list[str]:
    """TIGR, CEMRL and a policy without a latent on the half-cheetah's directions."""
    runs = [run for name in WINDOWS for run in found(folder, name)]
    if not runs:
        return []
    rows, seen, told, pictures = [], [], [], []
    for run in runs:
        method = WINDOWS[run.name]
        curve, share = run.curve("return"), run.curve("accuracy")
        noisy = run.curve("return/test/stochastic")
        for epoch in sorted({*EPOCHS, max(curve)} & set(curve)):
            forward, backward = run.tasks(epoch)
            stated = f"{share[epoch]:.3f}" if run.name.startswith("tigr") else ""
            cells = (round(x) for x in (forward, backward, curve[epoch], noisy[epoch]))
            steps = f"{run.env_steps[epoch]:,}"
            rows.append((method, epoch, steps, *cells, stated, STORED_CEMRL.get(epoch, "")))
        for epoch, wanted in ((30, 150), (60, 400), (125, 800)):
            value = curve.get(epoch)
            text = f"return above {wanted} at {400 + 800 * epoch:,} steps"
            if run.name != "blind_cheetah_direction":
                seen.append((method, *verdict(text, value, (value or 0) > wanted, 0)))
        spent = f"{minutes(run.records):.1f}"
        if run.name == "blind_cheetah_direction" or (one := inferred(run, out)) is None:
            told.append((method, run.reached, spent, "", "", "", ""))
            continue
        apart, *shares = by_task(one[1])
        told.append(
            (method, run.reached, spent, one[0], f"{apart:.1f}", *map("{:.3f}".format, shares))
        )
        text = "latents apart by more than 3 deviations, at the newest checkpoint"
        seen.append((method, *verdict(text, apart, apart > 3, 1)))
        pictures += shown(run, one[0], out)
    names = {run.name: [other.seed for other in runs if other.name == run.name] for run in runs}
    mix = ("tasks", "goals", "other") if len(names) > 1 else ()
    picture = Picture(
        "inference_cheetah.png", "Half-cheetah, direction", "curves", "return", "env_steps", mix
    )
    header = ["method", "epoch", "environment steps", "forward", "backward", "mean"]
    lines = [CHEETAH, *table([*header, "mean, sampled", "accuracy", "stored CEMRL"], rows)]
    header = ["method", "epochs", "processor minutes", "checkpoint", "separation", "own mean"]
    header.append("own component")
    lines += table(header, told) + table(("method", "expectation", "seen", ""), seen)
    return [*lines, picture.make(folder, names, WINDOWS, out), "", *pictures]


def families(folder: Path, out: Path) -> list[str]:
    """TIGR on point robots of two families."""
    runs = found(folder, "tigr_point_robot")
    if not runs:
        return []
    place = "return/test/deterministic"
    rows, met = [], []
    for run in runs:
        share = run.curve("accuracy")
        goal, way = (run.curve(f"{place}/{name}") for name in ("goal", "direction"))
        last = max(share)
        for epoch in sorted({10, 20, 50, last} & set(share)):
            cells = (f"{share[epoch]:.3f}", f"{goal[epoch]:.2f}", f"{way[epoch]:.2f}")
            rows.append((run.seed, epoch, f"{run.env_steps[epoch]:,}", *cells))
        early = share.get(10)
        for row in (
            verdict("accuracy above 0.9 at epoch 10", early, (early or 0) > 0.9, 3),
            verdict("return of direction above 14", way[last], way[last] > 14),
            verdict("return of goal above -11 (-0.55 a step)", goal[last], goal[last] > -11),
        ):
            met.append((run.seed, run.reached, *row, f"{minutes(run.records):.1f}"))
    header = ("seed", "epochs", "expectation", "seen", "", "processor minutes")
    lines = [
        FAMILIES,
        *table(("seed", "epoch", "environment steps", "accuracy", "goal", "direction"), rows),
    ]
    lines += table(header, met)
    if (one := inferred(runs[0], out)) is not None:
        lines += shown(runs[0], one[0], out)
    return lines


def main() -> None:
    """Read the runs, write the page and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    folder, out = arguments.runs, arguments.out
    sections = [make(folder, out) for make in (point_robot, cheetah_pearl, families, cheetah)]
    if not any(sections):
        raise SystemExit(f"no run that was evaluated under {folder}")
    names = ["pearl_point_robot", "pearl_cheetah_direction", "tigr_point_robot", *WINDOWS]
    commands = [
        f"    python -m runners.train --gin_file=gin/quick/{name}.gin --seed=<seed> {THREAD}"
        for name in names
        if found(folder, name)
    ]
    text = "\n".join(line for section in sections for line in section)
    page = PAGE.format(commands="\n".join(commands), sections=text.rstrip())
    (out / "inference.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
