"""Pictures of the pages of results: the verb `plot` makes them, and its command stands beside."""

import shlex
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runners.plotting import plot  # noqa: E402

WIDTH = 98


@dataclass(frozen=True)
class Picture:
    """A picture beside a page.

    Args:
        name: of its file.
        title: what it shows, in words.
        shown: name of the picture among those that the verb writes.
        metric: what is drawn, and
        axis: over what, as in `runners.plotting.plot`.
    """

    name: str
    title: str
    shown: str
    metric: str = ""
    axis: str = "step"

    def make(
        self,
        folder: Path,
        runs: Mapping[str, Collection[int]],
        labels: Mapping[str, str],
        out: Path,
    ) -> str:
        """Draw it into `out`, and return the lines of markdown that show it.

        Args:
            folder: `<folder>/<experiment>/seed_<n>` are the runs.
            runs: the seeds to draw, by experiment.
            labels: the text that stands for an experiment.
        """
        paths = [path for name, seeds in runs.items() for path in places(folder, name, seeds)]
        labels = {name: labels[name] for name in runs}
        with tempfile.TemporaryDirectory() as made:
            plot(paths, made, metric=self.metric, axis=self.axis, labels=labels)
            shutil.copyfile(Path(made) / f"{self.shown}.png", out / self.name)
        words = [f"runs/{path.relative_to(folder)}" for path in paths]
        words += [f"--metric={self.metric}"] if self.metric else []
        words += [f"--x={self.axis}"] if self.axis != "step" else []
        words += [f"--label={shlex.quote(f'{name}={label}')}" for name, label in labels.items()]
        code = command("python -m runners.plot", words)
        return f"![{self.title}]({self.name})\n\n`plots/{self.shown}.png` of\n\n{code}"


def places(folder: Path, name: str, seeds: Collection[int]) -> list[Path]:
    """The folder of an experiment, or those of the seeds if it has others besides."""
    wanted = [folder / name / f"seed_{seed}" for seed in seeds]
    return [folder / name] if {*wanted} == {*(folder / name).glob("seed_*")} else wanted


def command(start: str, words: Collection[str]) -> str:
    """An indented block of code, its lines broken where they get long."""
    lines = [f"    {start}"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append(" " * 7)
        lines[-1] += f" {word}"
    return " \\\n".join(lines)
