"""A value derived from tensors, kept until one of them changes in place."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

_Value = TypeVar("_Value")


def is_vmapped(tensor: Tensor) -> bool:
    """Say whether the tensor is a slice inside `torch.func.vmap`, which has no version to read."""
    if torch.compiler.is_compiling():
        return False
    return bool(torch._C._functorch.is_batchedtensor(tensor))


class _Steps:
    """Counts the steps of all optimizers of this process: fused ones leave versions as they are."""

    count = 0

    @classmethod
    def add(cls, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        cls.count += 1


register_optimizer_step_post_hook(_Steps.add)


class VersionCache(Generic[_Value]):
    """Holds make() for as long as the same source tensors keep their version counters.

    In-place operations, `copy_` and `load_state_dict` count in the version. Fused optimizers of
    PyTorch do not, so with `trained` sources the steps of all optimizers are counted as well.
    Writing in place through `tensor.data`, or calling a fused kernel without its optimizer, stays
    unseen. Only tensors on the CPU are cached, outside compiled code and `torch.func.vmap`:
    elsewhere the work is small, and a captured graph would go on reading what was cached at its
    capture.
    Copies and pickles of a cache are empty.
    """

    def __init__(self, trained: bool = True) -> None:
        """Start empty; `trained` says that optimizers may step the sources."""
        self._trained = trained
        self._steps = -1
        self._sources: tuple[Tensor, ...] = ()
        self._key: tuple[tuple[int, int, torch.dtype], ...] = ()
        self._value: _Value | None = None

    def get(self, sources: Sequence[Tensor], make: Callable[[], _Value]) -> _Value:
        """Return make(), computed anew without gradient only when a source changed."""
        if torch.compiler.is_compiling() or any(
            source.device.type != "cpu" or is_vmapped(source) for source in sources
        ):
            return make()
        steps = _Steps.count if self._trained else 0
        key = tuple((source._version, source.data_ptr(), source.dtype) for source in sources)
        same = (
            self._value is not None
            and steps == self._steps
            and key == self._key
            and all(old is new for old, new in zip(self._sources, sources, strict=True))
        )
        if not same:
            with torch.inference_mode(False), torch.no_grad():
                self._value = make()
            self._sources, self._key, self._steps = tuple(sources), key, steps
        assert self._value is not None
        return self._value

    def clear(self) -> None:
        """Forget the value."""
        self._sources, self._key, self._value = (), (), None

    def __deepcopy__(self, memo: dict[int, Any]) -> "VersionCache[_Value]":
        """Return an empty cache."""
        return VersionCache(self._trained)

    def __reduce__(self) -> tuple[type["VersionCache[_Value]"], tuple[bool]]:
        """Pickle as an empty cache."""
        return VersionCache, (self._trained,)
