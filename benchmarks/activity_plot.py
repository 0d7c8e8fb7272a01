"""A picture of what a policy's units and segments did in one evaluation.

    python benchmarks/activity_plot.py runs/<name>/seed_0/eval/<step>_activity.npz [--out FILE]

The file is written by an evaluation with gin/runners/activity.gin.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Figures = Mapping[str, NDArray[np.float32]]
SHOWN_UNITS = 64
SEGMENT_UNITS = (0, 5, 10)


def heat(axis: Axes, values: NDArray[np.float32], title: str, *, signed: bool = False) -> None:
    """One heat map; its colours span the values it shows."""
    peak = max(float(np.nanmax(np.abs(values))), 1e-12)
    low, colours = (-peak, "coolwarm") if signed else (0.0, "viridis")
    image = axis.imshow(values, aspect="auto", vmin=low, vmax=peak, cmap=colours)
    axis.figure.colorbar(image, ax=axis)
    axis.set_title(title, fontsize=9)


def name_tasks(axis: Axes, names: list[str], *, both: bool = False) -> None:
    """The tasks' names beside the rows, or their numbers below columns too."""
    axis.set_yticks(range(len(names)), names if len(names) <= 10 else range(len(names)), fontsize=6)
    if both:
        axis.set_xticks(range(len(names)), range(len(names)), fontsize=6)


def layer_row(row: NDArray[np.object_], figures: Figures, part: str, names: list[str]) -> None:
    """One hidden layer: activations, overlaps, how often its units are active."""
    heat(
        row[0],
        figures[f"{part}/activation"][:, :SHOWN_UNITS],
        f"{part}: mean activation, first {SHOWN_UNITS} units",
        signed=True,
    )
    heat(row[1], figures[f"{part}/overlap"], "active in both of two samples, share of units")
    heat(row[2], figures[f"{part}/top_overlap"], "overlap of the most active quarters")
    within, across = (float(figures[f"{part}/distance_{where}"]) for where in ("within", "across"))
    title = f"cosine distance of two samples, within a task {within:.2f}, across {across:.2f}"
    heat(row[3], figures[f"{part}/pair_distance"], title)
    for axis in row[:4]:
        name_tasks(axis, names, both=axis is not row[0])
    frequency = np.nanmean(figures[f"{part}/frequency"], axis=0)
    row[4].hist(frequency, bins=np.linspace(0.0, 1.0, 26))
    on, dead = float(figures[f"{part}/percent_on"]), int(figures[f"{part}/dead_units"])
    row[4].set_title(
        f"share of samples a unit is active in: mean {on:.3f}, never {dead}", fontsize=9
    )


def segment_row(row: NDArray[np.object_], figures: Figures, part: str, names: list[str]) -> None:
    """One dendritic layer: segments of three units, gates, use of the segments."""
    segments = figures[f"{part}/segment"]
    for axis, unit in zip(row[:3], SEGMENT_UNITS, strict=True):
        if unit < len(segments):
            heat(axis, segments[unit], f"{part}: mean segment activation, unit {unit}", signed=True)
            axis.set(ylabel="segment", xlabel="task", xticks=range(len(names)))
        else:
            axis.axis("off")
    for name, gates in zip(names, figures[f"{part}/gate"], strict=True):
        row[3].hist(gates, bins=40, histtype="step", label=name if len(names) <= 10 else None)
    row[3].set_title("mean gate of each unit, by task", fontsize=9)
    if len(names) <= 10:
        row[3].legend(fontsize=6)
    row[4].hist(figures[f"{part}/entropy"], bins=30)
    limit = np.log(segments.shape[1])
    row[4].set_title(f"entropy of a unit's winning segments, at most {limit:.2f}", fontsize=9)


def main() -> None:
    """Read one file, write one picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, help="by default beside the file")
    arguments = parser.parse_args()
    figures: Figures = np.load(arguments.file)
    result = arguments.file.with_name(arguments.file.name.replace("_activity.npz", ".json"))
    layers = sorted({key.split("/")[0] for key in figures if key.startswith("layer")})
    segments = sorted({key.split("/")[0] for key in figures if key.startswith("segments")})
    count = len(figures[f"{layers[0]}/activation"])
    names = [str(index) for index in range(count)]
    if result.exists():
        names = list(json.loads(result.read_text())["tasks"])
    rows = len(layers) + len(segments)
    figure, axes = plt.subplots(rows, 5, figsize=(22, 3.6 * rows), squeeze=False)
    for row, part in zip(axes, layers + segments, strict=True):
        draw = layer_row if part in layers else segment_row
        draw(row, figures, part, names)
    figure.tight_layout()
    out = arguments.out or arguments.file.with_suffix(".png")
    figure.savefig(out, dpi=90)
    print(out)


if __name__ == "__main__":
    main()
