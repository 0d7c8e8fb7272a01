"""The task encoder of CARE: from a task to its code, by its description or by a learnt row.

Sodhani, Zhang and Pineau, "Multi-Task Reinforcement Learning with Context-based Representations",
2021; layers as in MTRL (Sodhani and Zhang 2021).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from networks.arguments import check_choice, check_sizes
from networks.feed_forward import FeedForward

KINDS = ("learned", "pretrained")
PACKAGED = Path(__file__).with_name("task_embeddings.json")


def read_embeddings(path: Path, task_names: Sequence[str]) -> Tensor:
    """Read the rows of some tasks from a file that `networks.task_text` wrote.

    The file is a JSON object: "meta" with the width "dim", and "embeddings" from name to row.

    Args:
        path: the file.
        task_names: names of the tasks.

    Returns:
        Rows [tasks, dim] in the order of the names, single precision.

    Raises:
        ValueError: if the file cannot be read, is not of that form or lacks a task, or if a row is
            not finite or all zeros.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"embeddings {path}: cannot be read: {error}") from error
    try:
        dim, rows = document["meta"]["dim"], document["embeddings"]
    except (KeyError, TypeError) as error:
        raise ValueError(f'embeddings {path}: "meta" with "dim" or "embeddings" missing') from error
    if type(dim) is not int or dim < 1 or not isinstance(rows, dict):
        raise ValueError(
            f'embeddings {path}: "dim" must be at least 1 and "embeddings" an object, '
            f"got {dim!r} and {type(rows).__name__}"
        )
    tensors = []
    for name in task_names:
        if name not in rows:
            raise ValueError(
                f"embeddings {path}: no row for task {name!r}; give another file, or bind "
                "TaskEncoder.kind = 'learned'"
            )
        row = rows[name]
        numbers = isinstance(row, list) and all(type(value) in (int, float) for value in row)
        if not numbers or len(row) != dim:
            raise ValueError(f"embeddings {path}: the row of {name!r} is not {dim} numbers")
        try:
            tensor = torch.tensor(row, dtype=torch.float64).float()
        except OverflowError:  # a whole number beyond all floats
            tensor = torch.full((dim,), torch.inf)
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"embeddings {path}: the row of {name!r} is not finite")
        if not bool(tensor.any()):
            raise ValueError(f"embeddings {path}: the row of {name!r} is all zeros")
        tensors.append(tensor)
    return torch.stack(tensors)


@gin.configurable
class TaskEncoder(nn.Module):
    """c_t = F(relu(e_t)): the code of task t, F three linear layers with ReLUs between them.

    Learned:     e_t is a trained row of `hidden` numbers, drawn from N(0, 1).
    Pretrained:  e_t = W_1 relu(W_0 relu(T_t) + b_0) + b_1, T_t the frozen embedding of the task's
                 description and W_0 twice as wide as `hidden`.

    Deviation from MTRL: the packaged T comes from the words the descriptions share, not from a
    language model, and holds no negative number that the first ReLU could lose. For embeddings
    with both signs there is `relu_on_pretrained`.
    """

    table: Tensor

    def __init__(
        self,
        task_names: Sequence[str],
        *,
        kind: str = "pretrained",
        code_dim: int = 50,
        hidden: int = 50,
        embeddings: str | None = None,
        relu_on_pretrained: bool = True,
    ) -> None:
        """Build the layers, and read the embeddings where they are pretrained.

        Args:
            task_names: names of the tasks; task id i is the i-th of them.
            kind: `pretrained` or `learned`.
            code_dim: width of the code.
            hidden: width of the hidden layers and of e_t.
            embeddings: JSON file of the pretrained embeddings, see `read_embeddings`; None takes
                the packaged one, of Meta-World's 50 tasks. Only `pretrained` reads it.
            relu_on_pretrained: take the positive part of T first.

        Raises:
            ValueError: if there is no task, a width is below 1 or `kind` is unknown; if `learned`
                is given an option of `pretrained`; as `read_embeddings`; or if the first ReLU
                would leave zeros of a row.
        """
        super().__init__()
        check_choice("kind", kind, KINDS)
        if isinstance(task_names, str) or not task_names:
            raise ValueError(f"task_names must be a list of names, got {task_names!r}")
        check_sizes(code_dim=code_dim, hidden=hidden)
        if kind == "learned" and (embeddings is not None or not relu_on_pretrained):
            raise ValueError(
                "kind 'learned' reads no embeddings, so leave embeddings and relu_on_pretrained "
                f"at their defaults, got {embeddings!r} and {relu_on_pretrained!r}"
            )
        self.task_names = tuple(task_names)
        self.kind, self.code_dim = kind, code_dim
        if kind == "learned":
            self.rows = nn.Embedding(len(self.task_names), hidden)
        else:
            path = PACKAGED if embeddings is None else Path(embeddings)
            table = read_embeddings(path, self.task_names)
            if relu_on_pretrained:
                table = table.relu()
                for name, row in zip(self.task_names, table, strict=True):
                    if not bool(row.any()):
                        raise ValueError(
                            f"embeddings {path}: the row of {name!r} has no positive number; "
                            "relu_on_pretrained must be False for it"
                        )
            self.register_buffer("table", table)
            self.squeeze = FeedForward((table.shape[1], 2 * hidden, hidden))
        self.layers = FeedForward((hidden, hidden, hidden, code_dim))

    def codes(self) -> Tensor:
        """Return the codes of all tasks, [tasks, code_dim]."""
        if self.kind == "learned":
            rows = self.rows.weight
        else:
            rows = self.squeeze(self.table)
        code: Tensor = self.layers(rows.relu())
        return code

    def forward(self, task: Tensor) -> Tensor:
        """Map task ids [*] int64 to their codes [*, code_dim], each task encoded once."""
        return embedding(task, self.codes())
