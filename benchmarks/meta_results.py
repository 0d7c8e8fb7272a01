"""The page docs/results/cavia.md with its pictures, made from the metrics of finished runs.

    python benchmarks/meta_results.py runs --out docs/results

`runs` holds `<experiment>/seed_<n>/metrics.jsonl`, as the commands in the page write them.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from pictures import Picture
from two_tasks import Records, minutes, series

from runners.records import read_records

METHODS = {
    "2D navigation": {
        "cavia_navigation": "CAVIA",
        "nm_cavia_navigation": "neuromodulated, soft gates",
    },
    "CT-graph, depth 2": {
        "ctd2_cavia": "CAVIA",
        "nm_cavia_ct_graph": "neuromodulated, hard gates",
        "nm_cavia_ct_graph_ste": "neuromodulated, hard_ste",
    },
    "half-cheetah, direction, reduced": {"cavia_half_cheetah": "CAVIA"},
}
FILES = {
    "ctd2_cavia": "papers/nm_cavia/ctd2_cavia",
    "cavia_half_cheetah": "quick/cavia_half_cheetah",
}
FIGURES = {
    "2D navigation": "cavia_navigation.png",
    "CT-graph, depth 2": "cavia_ct_graph.png",
    "half-cheetah, direction, reduced": "cavia_half_cheetah.png",
}
EXPECTED = "Against the expectations"
STEPS = 5
Run = tuple[str, int, Records]
"""Experiment, seed, records."""
PAGE = """# CAVIA and neuromodulated CAVIA

Returns on test tasks, which training never sees: before adaptation, and after each of up to four
gradient steps, every one on the newest 40 episodes of each of 20 tasks (2D navigation, CT-graph),
or on the newest 10 of each of 10 (half-cheetah, two steps). Actions are sampled. Sizes are the
published ones ([CAVIA](../methods/cavia.md)), but for the half-cheetah's: hidden layers of 100, 10
tasks, 10 episodes, 150 iterations. One process with one thread for each run; minutes are its
processor time, evaluations included, on virtual machines of two cores on which other work ran: an
Intel Xeon (Cascade Lake) for 2D navigation, an AMD EPYC for the rest. A seed gives the same numbers
on the same processor only: where sums are rounded in another way, runs of this length come apart.

{commands}
    python benchmarks/meta_results.py runs --out docs/results

This page is written by the last command from the runs' metrics.jsonl, with the pictures that the
commands below them make; runs that have not ended are left out, and a part none of whose runs is
there stays as it was. In a picture a thin line is the return before adaptation (step 0), a thick
one that after the last gradient step; one seed has no interval. The same command writes
`adaptation.png`, the last return after each number of steps. The first evaluation follows the tenth
iteration. No step of the trust region may come to a divergence of 0.01; one that is refused leaves
the weights as they are.

{tables}
## {expected}

2D navigation was to reach, by iteration 100: before adaptation better than -60; after one step
better than that by 5, and better than -40; after two no worse than after one. By iteration 500:
about -38 to -45 before, better than -20 after one step, better than -10 after two or more. A policy
that stays at the start gets -38.3 on average, and -35.6 on these 20 test tasks: what "before" comes
to. MAML's authors print -40.4, -11.7, -3.3 for theirs. On the CT-graph success was to be above 0.6
after one step and above 0.8 after four, plain CAVIA perhaps below; seed 42, run on the Xeon as
well, came to 0.65 (CAVIA), 1.00 (hard gates) and 0.85 (hard_ste) there. On the half-cheetah one
step was to help.

{verdicts}
"""


def kept(page: Path, title: str) -> list[str]:
    """The lines of a part of the page as it is, without empty ones at its end."""
    lines = page.read_text().splitlines() if page.exists() else []
    if f"## {title}" not in lines:
        return []
    start = lines.index(f"## {title}")
    ends = [i for i in range(start + 1, len(lines)) if lines[i].startswith("## ")]
    part = lines[start : min(ends, default=len(lines))]
    return "\n".join(part).rstrip().splitlines()


def finished(folder: Path, names: Iterable[str]) -> list[Run]:
    """The runs under `<folder>/<name>/seed_<n>` that wrote an evaluation after their last step."""
    runs = []
    for name in names:
        for path in sorted((folder / name).glob("seed_*")):
            records = read_records(path / "metrics.jsonl")
            if '"DONE"' in (path / "status.json").read_text():
                runs.append((name, int(path.name.removeprefix("seed_")), records))
    return runs


def curves(records: Records) -> list[dict[int, float]]:
    """Return on test tasks by iteration, for each number of adaptations there is."""
    every = [series(records, f"eval/return/test/step_{k}") for k in range(STEPS)]
    return [curve for curve in every if curve]


def table(runs: list[Run], names: dict[str, str]) -> Iterable[str]:
    """Markdown rows: the first evaluation, those at iterations 100 and at the end."""
    yield "| method | seed | iteration | before | after 1 | after 2 | after 3 | after 4 |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, seed, records in runs:
        steps = curves(records)
        last = max(steps[0])
        for iteration in sorted({min(steps[0]), 100, last} & set(steps[0])):
            cells = [f"{curve[iteration]:.2f}" for curve in steps]
            cells += ["" for _ in range(STEPS - len(cells))]
            yield f"| {names[name]} | {seed} | {iteration} | {' | '.join(cells)} |"


def updates(runs: list[Run], names: dict[str, str]) -> Iterable[str]:
    """Markdown rows: how the steps of the trust region went, and what a run took."""
    yield "| method | seed | steps accepted | largest KL of one | not finite | processor minutes |"
    yield "|---|---|---|---|---|---|"
    for name, seed, records in runs:
        kept = series(records, "accepted").values()
        kl, bad = series(records, "kl").values(), series(records, "health/nonfinite").values()
        cells = f"{sum(kept):.0f} of {len(kept)} | {max(kl):.6f} | {sum(bad):.0f}"
        yield f"| {names[name]} | {seed} | {cells} | {minutes(records):.1f} |"


def verdicts(runs: list[Run], before: list[str]) -> Iterable[str]:
    """Markdown rows: which expectations each run met; rows of other runs stay as they were."""
    yield "| run | seed | expectation | seen | met |"
    yield "|---|---|---|---|---|"
    made = {name for name, *_ in runs}
    for name in (name for names in METHODS.values() for name in names):
        if name not in made:
            yield from (row for row in before if row.startswith(f"| `{name}` "))
    for name, seed, records in runs:
        for wanted, seen, met in expectations(name, curves(records)):
            yield f"| `{name}` | {seed} | {wanted} | {seen} | {'yes' if met else 'no'} |"


def expectations(name: str, steps: list[dict[int, float]]) -> Iterable[tuple[str, str, bool]]:
    """What was wanted, what was seen, and whether that is it."""
    last = max(steps[0])
    end = [curve[last] for curve in steps]
    if "navigation" in name:
        early = [curve[100] for curve in steps]
        best = max(early[2:])
        yield "100: before > -60", f"{early[0]:.1f}", early[0] > -60
        gain = early[1] - early[0]
        yield "100: after 1 > -40, 5 better", f"{early[1]:.1f}", early[1] > -40 and gain >= 5
        yield "100: after 2 or more >= after 1", f"{best:.1f}", best >= early[1]
        yield "500: before -38 to -45", f"{end[0]:.1f}", -45 <= end[0] <= -38
        yield "500: after 1 > -20", f"{end[1]:.1f}", end[1] > -20
        yield "500: after 2 or more > -10", f"{max(end[2:]):.1f}", max(end[2:]) > -10
    elif "ct" in name:
        yield "500: after 1 > 0.6", f"{end[1]:.2f}", end[1] > 0.6
        yield "500: after 4 > 0.8", f"{end[4]:.2f}", end[4] > 0.8
    else:
        yield "after 1 > before", f"{end[0]:.1f}, {end[1]:.1f}", end[1] > end[0]


def main() -> None:
    """Read the runs, write the tables and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    path = arguments.out / "cavia.md"
    everything: list[Run] = []
    tables, commands = [], []
    for title, names in METHODS.items():
        runs = finished(arguments.runs, names)
        if not runs and not (old := kept(path, title)):
            continue
        for name in names if not runs else dict.fromkeys(name for name, *_ in runs):
            file = FILES.get(name, name)
            commands.append(f"    python -m runners.train --gin_file=gin/{file}.gin --seed=<seed>")
        if not runs:
            tables += [*old, ""]
            continue
        everything += runs
        seeds = {name: [seed for there, seed, _ in runs if there == name] for name, *_ in runs}
        picture = Picture(FIGURES[title], f"Returns, {title}", "curves", "return")
        shown = picture.make(arguments.runs, seeds, names, arguments.out)
        tables += [f"## {title}", "", *table(runs, names), "", shown, ""]
        tables += [*updates(runs, names), ""]
    if not everything:
        raise SystemExit(f"no finished run under {arguments.runs}")
    page = PAGE.format(
        expected=EXPECTED,
        commands="\n".join(commands),
        tables="\n".join(tables),
        verdicts="\n".join(verdicts(everything, kept(path, EXPECTED))),
    )
    path.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
