"""One English sentence for each Meta-World task, and the file of their embeddings.

    python -m networks.task_text --out=networks/task_embeddings.json
    python -m networks.task_text --out=mine.json --encoder=my_module:encode

The first command writes the packaged file: lexical embeddings that need neither a network nor a
download, and whose bytes depend on the sentences alone. The second takes the embeddings of any
sentence encoder, a function from a list of sentences to as many vectors.
"""

import argparse
import hashlib
import importlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DIM = 768
SLOTS = 4
SEED = "polytask"

DESCRIPTIONS = {
    "assembly-v3": "grasp a ring-shaped nut and drop it over a peg",
    "basketball-v3": "carry a ball to a hoop and drop it through",
    "bin-picking-v3": "take a cube from one bin and put it in another",
    "box-close-v3": "grasp a lid and set it on an open box",
    "button-press-topdown-v3": "push a button downward from above",
    "button-press-topdown-wall-v3": "reach over a wall and press a button downward",
    "button-press-v3": "push a button on a vertical face inward",
    "button-press-wall-v3": "go around a wall and push a button inward",
    "coffee-button-v3": "press the start button of a coffee machine",
    "coffee-pull-v3": "drag a mug away from a coffee machine",
    "coffee-push-v3": "slide a mug under a coffee machine spout",
    "dial-turn-v3": "rotate a dial knob half a turn",
    "disassemble-v3": "lift a ring-shaped nut off its peg",
    "door-close-v3": "push an open hinged door until it is shut",
    "door-lock-v3": "turn a door lock clockwise to lock it",
    "door-open-v3": "swing a hinged door outward by pulling its handle",
    "door-unlock-v3": "turn a door lock counterclockwise to unlock it",
    "drawer-close-v3": "shove an open drawer shut",
    "drawer-open-v3": "pull a drawer out by its handle",
    "faucet-close-v3": "turn a faucet lever clockwise",
    "faucet-open-v3": "turn a faucet lever counterclockwise",
    "hammer-v3": "grab a hammer and drive a nail into a wall",
    "hand-insert-v3": "lower the gripper into a hole in the table",
    "handle-press-side-v3": "press a side-mounted handle down",
    "handle-press-v3": "press a front-facing handle down",
    "handle-pull-side-v3": "lift a side-mounted handle up",
    "handle-pull-v3": "lift a front-facing handle up",
    "lever-pull-v3": "rotate a lever upward by ninety degrees",
    "peg-insert-side-v3": "pick up a peg and slide it into a side hole",
    "peg-unplug-side-v3": "pull a peg sideways out of its hole",
    "pick-out-of-hole-v3": "take a puck out of a hole and raise it",
    "pick-place-v3": "lift a small puck and hold it at a raised target",
    "pick-place-wall-v3": "lift a puck over a wall to a raised target",
    "plate-slide-back-side-v3": "pull a plate sideways out of a cabinet",
    "plate-slide-back-v3": "pull a plate back out of a cabinet",
    "plate-slide-side-v3": "slide a plate sideways into a cabinet",
    "plate-slide-v3": "slide a plate forward into a cabinet",
    "push-back-v3": "drag a puck backward to a target spot",
    "push-v3": "shove a small puck over the table to a target spot",
    "push-wall-v3": "push a puck around a wall to a target spot",
    "reach-v3": "move the gripper to a marked point in free space",
    "reach-wall-v3": "move the gripper around a wall to a marked point",
    "shelf-place-v3": "lift a puck and place it on a shelf",
    "soccer-v3": "knock a ball into a small goal",
    "stick-pull-v3": "hook a container with a stick and drag it",
    "stick-push-v3": "grasp a stick and use it to push a container",
    "sweep-into-v3": "sweep a puck into a hole in the table",
    "sweep-v3": "sweep a puck off the edge of the table",
    "window-close-v3": "slide a window pane back until it is shut",
    "window-open-v3": "slide a window pane aside to open it",
}


def terms(sentence: str) -> Counter[str]:
    """Count the words of a sentence and its pairs of neighbouring words."""
    words = re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", sentence.lower())
    pairs = [" ".join(pair) for pair in zip(words[:-1], words[1:], strict=True)]
    return Counter(words + pairs)


def slots(term: str, dim: int) -> list[int]:
    """Return the SLOTS coordinates of a term, read off a hash: the same on every platform."""
    digest = hashlib.sha256(f"{SEED}/{term}".encode()).digest()
    return [int.from_bytes(digest[4 * k : 4 * k + 4], "big") % dim for k in range(SLOTS)]


def lexical(sentences: Sequence[str], dim: int = DIM) -> list[list[float]]:
    """Embed sentences by the words they share; all coordinates are at least 0.

    With f(w, i) the count of term w in sentence i, and n(w) the number of sentences with w:

        x_i(w) = f(w, i) log((1 + N) / (1 + n(w))),     y_i = P x_i / |P x_i|

    P is a random non-negative projection: each term adds to SLOTS of the dim coordinates. So few
    keep the angles, which a dense non-negative projection would close.
    """
    counts = [terms(sentence) for sentence in sentences]
    spread = Counter(term for count in counts for term in count)
    rows = []
    for count in counts:
        parts: list[list[float]] = [[] for _ in range(dim)]
        for term, number in count.items():
            weight = number * math.log((1 + len(sentences)) / (1 + spread[term]))
            for slot in slots(term, dim):
                parts[slot].append(weight)
        rows.append(unit([math.fsum(part) for part in parts]))
    return rows


def unit(row: Sequence[float]) -> list[float]:
    """Scale a row to length 1; a row of zeros stays one."""
    length = math.sqrt(math.fsum(value * value for value in row)) or 1.0
    return [value / length for value in row]


def centred(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Subtract the mean of the rows and scale each to length 1.

    Raises:
        ValueError: if the rows differ in length or hold a value that is not finite.
    """
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(f"embeddings must be of one width, got {sorted(set(map(len, rows)))}")
    if not all(math.isfinite(value) for row in rows for value in row):
        raise ValueError("embeddings must be finite, got nan or inf")
    mean = [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [unit([value - m for value, m in zip(row, mean, strict=True)]) for row in rows]


def document(rows: Sequence[Sequence[float]], encoder: str) -> str:
    """Return the text of an embedding file; rows are of length 1, in the order of DESCRIPTIONS.

    They are written with the length sqrt(dim), so that a coordinate is of the size of one, as a
    learned embedding is, and with four decimals.
    """
    dim = len(rows[0])
    text = "".join(f"{name}\t{sentence}\n" for name, sentence in DESCRIPTIONS.items())
    digest = hashlib.sha256(text.encode()).hexdigest()
    meta = json.dumps({"encoder": encoder, "dim": dim, "text_sha256": digest})
    lines = []
    for name, row in zip(DESCRIPTIONS, rows, strict=True):
        values = [round(value * math.sqrt(dim), 4) or 0 for value in row]
        lines.append(f"{json.dumps(name)}: {json.dumps(values, separators=(',', ':'))}")
    return f'{{"meta": {meta}, "embeddings": {{\n' + ",\n".join(lines) + "\n}}\n"


def load(path: str) -> Callable[[list[str]], Any]:
    """Return the function that `module:function` names.

    Raises:
        ValueError: if there is none.
    """
    module, _, name = path.partition(":")
    try:
        function: Callable[[list[str]], Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"encoder must be module:function, got {path!r}: {error}") from error
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file that the command line asks for; 2 if that cannot be done."""
    parser = argparse.ArgumentParser(prog="networks.task_text", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--encoder", help="module:function from sentences to vectors")
    options = parser.parse_args(arguments)
    sentences = list(DESCRIPTIONS.values())
    try:
        if options.encoder is None:
            text = document(lexical(sentences), f"tf-idf of words and pairs, {SLOTS} of {DIM}")
        else:
            rows = [[float(value) for value in row] for row in load(options.encoder)(sentences)]
            if len(rows) != len(sentences):
                raise ValueError(f"encoder must give {len(sentences)} vectors, got {len(rows)}")
            text = document(centred(rows), f"{options.encoder}, centred")
        options.out.write_text(text, encoding="utf-8", newline="\n")
    except (OSError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
