"""A value derived from tensors, kept until one of them changes in place."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

_Value = TypeVar("_Value")


def is_vmapped(tensor: Tensor) -> bool:
    """Say whether the tensor is a slice inside `torch.func.vmap`, which has no version to read."""
    return bool(torch._C._functorch.is_batchedtensor(tensor))


class VersionCache(Generic[_Value]):
    """Holds make() for as long as the same source tensors keep their version counters.

    Every in-place operation counts, so optimizers (fused ones too), `copy_` and `load_state_dict`
    are noticed. Writing through `tensor.data` in place is invisible to autograd and to this class.
    Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._sources: tuple[Tensor, ...] = ()
        self._key: tuple[tuple[int, int, torch.dtype], ...] = ()
        self._value: _Value | None = None

    def get(self, sources: Sequence[Tensor], make: Callable[[], _Value]) -> _Value:
        """Return make(), computed anew without gradient only when a source changed."""
        key = tuple((source._version, source.data_ptr(), source.dtype) for source in sources)
        same = (
            self._value is not None
            and key == self._key
            and all(old is new for old, new in zip(self._sources, sources, strict=True))
        )
        if not same:
            with torch.inference_mode(False), torch.no_grad():
                self._value = make()
            self._sources, self._key = tuple(sources), key
        assert self._value is not None
        return self._value

    def clear(self) -> None:
        """Forget the value."""
        self._sources, self._key, self._value = (), (), None

    def __deepcopy__(self, memo: dict[int, Any]) -> "VersionCache[_Value]":
        """Return an empty cache."""
        return VersionCache()

    def __reduce__(self) -> tuple[type["VersionCache[_Value]"], tuple[()]]:
        """Pickle as an empty cache."""
        return VersionCache, ()
