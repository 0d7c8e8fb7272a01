"""A picture of how alike a meta-learner's tasks are to each layer, before and after adaptation.

    python -m runners.evaluate runs/<name>/seed_0 --activations
    python benchmarks/representation_plot.py runs/<name>/seed_0/eval/<name>_activations.npz

Each matrix is the linear centered kernel alignment (CKA) of a layer's outputs between half the
episodes of every two tasks, matched by time within the episode; on the diagonal between the two
halves of a task (`networks.kernel_alignment`). The title gives the mean over tasks of the same
goal, over those of different goals, and the floor: the latter with time in another order. Tasks
differ to a layer where the second is below the first. Where all three are close, its outputs do not
move with time, and the matrix says nothing.
"""

import argparse
import os
import sys
import zipfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

from networks.kernel_alignment import task_alignment  # noqa: E402

Arrays = dict[str, NDArray[np.generic]]
MOST_LABELS = 24


def read(file: Path, split: str | None) -> tuple[str, Arrays]:
    """The arrays of one split, tasks in the order of their names and goals; the last split if None.

    Raises:
        SystemExit: there is no such file or split.
    """
    try:
        opened = np.load(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{file} is no file of activations (.npz): {error}") from error
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise SystemExit(f"{file} is no file of activations (.npz), but one array")
    with opened as loaded:
        splits = list(dict.fromkeys(name.split("/")[0] for name in loaded.files))
        split = split or splits[-1]
        if split not in splits:
            raise SystemExit(f"--split={split}: {file} has {', '.join(splits)}")
        arrays = {
            name.removeprefix(f"{split}/"): loaded[name]
            for name in loaded.files
            if name.startswith(f"{split}/")
        }
    order = np.lexsort((arrays["goal"], arrays["task"]))
    return split, {name: array[order] for name, array in arrays.items()}


def labels(arrays: Arrays) -> list[str]:
    """A name for each task: what tells it from the others."""
    names, goals = arrays["task"].tolist(), arrays["goal"].tolist()
    if len(set(names)) == 1:
        return [f"goal {goal}" for goal in goals]
    return [f"{name}, {goal}" for name, goal in zip(names, goals, strict=True)]


def draw(axis: Axes, matrix: Tensor, names: list[str], borders: list[int]) -> None:
    """One matrix; lines where the next goal begins, if some goals come more than once."""
    axis.imshow(matrix, vmin=0.0, vmax=1.0, cmap="cividis")
    if len(borders) < len(names) - 1:
        for border in borders:
            axis.axhline(border - 0.5, color="white", linewidth=0.8)
            axis.axvline(border - 0.5, color="white", linewidth=0.8)
    starts = [0, *borders]
    starts = starts[:: -(-len(starts) // MOST_LABELS)]
    axis.set_xticks(starts, [names[i] for i in starts], rotation=90, fontsize=7)
    axis.set_yticks(starts, [names[i] for i in starts], fontsize=7)


def main() -> None:
    """Read one file, write one picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--split", help="train or test; by default the last one recorded")
    parser.add_argument("--part", default="output", help="or drive, modulators, gates")
    parser.add_argument("--out", type=Path, help="by default <file>_<split>_<part>.png")
    arguments = parser.parse_args()
    split, arrays = read(arguments.file, arguments.split)
    layers = sorted(name for name in arrays if name.endswith(f"/{arguments.part}"))
    if not layers:
        raise SystemExit(f"--part={arguments.part}: no layer of {arguments.file} has it")
    if arrays["mask"].shape[2] < 2:
        raise SystemExit(
            f"{arguments.file} holds one episode of each task, and two halves are compared: "
            "evaluate with --activation_episodes of at least 2"
        )
    names, mask = labels(arrays), torch.from_numpy(arrays["mask"])
    steps = mask.shape[1]
    other = np.array(names)[:, None] != np.array(names)
    borders = [i for i in range(1, len(names)) if other[i, i - 1]]
    figure, axes = plt.subplots(
        len(layers),
        steps,
        figsize=(2.9 * steps + 1.6, 3.3 * len(layers) + 0.9),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    shuffle = torch.Generator().manual_seed(0)
    for row, layer in zip(axes, layers, strict=True):
        values = torch.from_numpy(arrays[layer])
        for step, axis in enumerate(row):
            seen = values[:, step], mask[:, step]
            matrix, floor = task_alignment(*seen), task_alignment(*seen, shuffle=shuffle)
            draw(axis, matrix, names, borders)
            same, apart, low = (
                float(m[pairs].nanmean())
                for m, pairs in ((matrix, ~other), (matrix, other), (floor, other))
            )
            axis.set_title(
                f"same goal {same:.2f}, others {apart:.2f}\n(floor {low:.2f})", fontsize=9
            )
        row[0].set_ylabel(layer.replace("_", " ").replace("/", ": "))
    for step, axis in enumerate(axes[-1]):
        axis.set_xlabel("before adaptation" if step == 0 else f"after adaptation {step}")
    figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.7, label="linear CKA, 1 = the same")
    kind = arrays["task"][0] if len(set(arrays["task"].tolist())) == 1 else f"{len(names)} tasks"
    figure.suptitle(f"How alike tasks are to each layer: {kind}, {split} tasks")
    name = f"{arguments.file.stem}_{split}_{arguments.part}.png"
    out = arguments.out or arguments.file.with_name(name)
    figure.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    main()
