"""Which options of MUST help with eight tasks or four: the runs, and the page they make.

    python benchmarks/must_study.py run --suite eight_turns --seeds 3 --workdir runs/study
    python benchmarks/must_study.py run --suite four_tasks --variants fixed,must --seeds 1 ...
    python benchmarks/must_study.py table runs/study --out docs/results

Each variant is one experiment of `gin/quick/` and a few bindings. A run that is done is not run
again, one that was stopped goes on. The tables are made from the runs' metrics.jsonl and replace
those of `must_study.md`; the words above them stay.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MARK = "<!-- What follows is written by benchmarks/must_study.py. -->"
ROOT = Path(__file__).resolve().parents[1]
HIDDEN_ONLY = "MaskedMLP.mask_output_layer = False"
NEURONS = "MaskedMLP.granularity = 'neuron'"
RANDOM = "MaskedSAC.initial_masks = 'random'"
CORRECTED = "MaskGenerator.similarity_target = 'chance_corrected'"
COMMITTED = "MaskedSAC.generator_phase = 'committed'"
ALONE = "MaskedSAC.generator_phase = 'generators'"
NO_SIMILARITY = ("USE_SUPERVISED_LOSS = False", "USE_TRAJECTORY_INFO = False")


@dataclass(frozen=True)
class Variant:
    """An experiment `gin/quick/<stem>_<suite><suffix>.gin` and what is changed in it."""

    title: str
    stem: str = "must"
    suffix: str = ""
    bindings: tuple[str, ...] = ()


VARIANTS = {
    "mtsac": Variant("MT-SAC", "mtsac"),
    "fixed": Variant("fixed random masks", suffix="_fixed"),
    "must": Variant("MUST"),
    "corrected": Variant("chance-corrected target", bindings=(CORRECTED,)),
    "committed": Variant("committed masks in the generator phase", bindings=(COMMITTED,)),
    "frozen_base": Variant("generators alone in the generator phase", bindings=(ALONE,)),
    "hidden_only": Variant("output layer not masked", bindings=(HIDDEN_ONLY,)),
    "hysteresis": Variant(
        "hysteresis of one standard deviation", bindings=("MaskGenerator.hysteresis = 1.0",)
    ),
    "random_start": Variant("random first masks", bindings=(RANDOM,)),
    "rl_only": Variant("no similarity loss, no trajectories", bindings=NO_SIMILARITY),
    "frozen_rl_only": Variant(
        "generators alone, no similarity loss, no trajectories", bindings=(ALONE, *NO_SIMILARITY)
    ),
    "frozen_rl_hidden": Variant(
        "generators alone, no similarity loss, no trajectories, output layer not masked",
        bindings=(ALONE, HIDDEN_ONLY, *NO_SIMILARITY),
    ),
    "random_committed": Variant(
        "random first masks, committed phase", bindings=(RANDOM, COMMITTED)
    ),
    "random_rl_only": Variant(
        "random first masks, committed phase, no similarity loss, no trajectories",
        bindings=(RANDOM, COMMITTED, *NO_SIMILARITY),
    ),
    "fixed_hidden_only": Variant(
        "fixed random masks, output layer not masked", suffix="_fixed", bindings=(HIDDEN_ONLY,)
    ),
    "fixed_neurons": Variant("fixed random masks of neurons", suffix="_fixed", bindings=(NEURONS,)),
    "neurons": Variant("masks of neurons", bindings=(NEURONS,)),
}
SUITES = {"eight_turns": "eight rotations of the point mass", "four_tasks": "four manipulations"}


def run(suite: str, names: list[str], seeds: list[int], workdir: Path) -> None:
    """Train what is not done yet, one run after the other."""
    for seed in seeds:
        for name in names:
            variant = VARIANTS[name]
            experiment = f"{suite}-{name}"
            command = [sys.executable, "-m", "runners.train", f"--seed={seed}"]
            command += [f"--gin_file=gin/quick/{variant.stem}_{suite}{variant.suffix}.gin"]
            bindings = (*variant.bindings, f"train.experiment = '{experiment}'")
            command += [f"--gin_bindings={binding}" for binding in bindings]
            command += [f"--workdir={workdir.resolve()}"]
            print(f"{experiment}, seed {seed}", flush=True)
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def scores(folder: Path) -> tuple[float, float, float]:
    """Success at the end (mean of the last three evaluations), over all of them, and overlap."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    success = [r["eval/success_rate"] for r in records if r.get("eval/success_rate") is not None]
    overlap = [r["mask/overlap/actor"] for r in records if r.get("mask/overlap/actor") is not None]
    last = overlap[-1] if overlap else float("nan")
    return statistics.fmean(success[-3:]), statistics.fmean(success), last


def done(folder: Path) -> bool:
    """Whether the run reached its last step."""
    status = folder / "status.json"
    return status.exists() and json.loads(status.read_text())["state"] == "DONE"


def table(suite: str, workdir: Path) -> list[str]:
    """Markdown rows of one suite, in the order of `VARIANTS`."""
    rows = [
        "| variant | seeds | success at the end | of each seed | over the whole run "
        "| last overlap of the policy's masks |",
        "|---|---|---|---|---|---|",
    ]
    for name, variant in VARIANTS.items():
        folders = sorted(f for f in (workdir / f"{suite}-{name}").glob("seed_*") if done(f))
        if not folders:
            continue
        ends, means, overlaps = zip(*map(scores, folders), strict=True)
        each = ", ".join(f"{end:.2f}" for end in ends)
        overlap = statistics.fmean(overlaps)
        rows.append(
            f"| {variant.title} | {len(folders)} | **{statistics.fmean(ends):.2f}** | {each} "
            f"| {statistics.fmean(means):.2f} | {'' if overlap != overlap else f'{overlap:.2f}'} |"
        )
    return rows


def main() -> None:
    """Run, or make the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--suite", choices=SUITES, default="eight_turns")
    running.add_argument("--variants", default=",".join(VARIANTS))
    running.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    running.add_argument("--workdir", type=Path, default=Path("runs/study"))
    reading = commands.add_parser("table")
    reading.add_argument("workdir", type=Path)
    reading.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    if arguments.command == "run":
        names = arguments.variants.split(",")
        run(arguments.suite, names, list(range(arguments.seeds)), arguments.workdir)
        return
    parts = []
    for suite, title in SUITES.items():
        rows = table(suite, arguments.workdir)
        if len(rows) > 2:
            parts += [f"## {title.capitalize()}", "", *rows, ""]
    if not parts:
        raise SystemExit(f"no finished run of the study under {arguments.workdir}")
    page = arguments.out / "must_study.md"
    words, _, _ = page.read_text().partition(MARK)
    page.write_text("\n".join([words + MARK, "", *parts]))
    print("\n".join(parts))


if __name__ == "__main__":
    main()
