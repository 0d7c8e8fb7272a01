"""Nested states on disk: tensors in safetensors, everything around them in JSON, never a pickle.

A state is made of dict, list, tuple, str, int, float, bool, None and torch.Tensor, which is what
`state_dict()` of modules, optimizers, replay buffers and random generators gives. What was saved
comes back equal in type and in every bit; keys may be numbers, and ints may have any length.

Plain JSON values stand for themselves. Everything else is an object with one key:
`{"!tensor": name}`, `{"!tuple": [...]}`, `{"!dict": [[key, value], ...]}` (keys that are no plain
strings) and `{"!float": "nan"}`.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from runners.files import write_synced

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What safetensors calls each dtype."""

MAPPED_BYTES = 64 * 2**20
"""Larger tensors stay mapped to their file when read; smaller ones get memory of their own."""


def encode(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Split a nested state into values for JSON and the tensors they refer to by name.

    Raises:
        TypeError: for anything but the types named above; the message says where it lies.
    """
    tensors: dict[str, torch.Tensor] = {}
    return _encode(state, "", tensors), tensors


def _encode(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"!float": repr(float(value))}
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.dtype not in DTYPES or value.is_nested:
            raise TypeError(f"{path or 'state'}: cannot store a {value.dtype}, {value.layout}")
        name = path or "state"
        while name in tensors or name == "__metadata__":
            name += "+"
        tensors[name] = value
        return {"!tensor": name}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]
        return {"!tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        pairs = [
            [_encode_key(key, path), _encode(item, f"{path}/{key}" if path else str(key), tensors)]
            for key, item in value.items()
        ]
        if all(isinstance(key, str) and not key.startswith("!") for key in value):
            return dict(pairs)
        return {"!dict": pairs}
    raise TypeError(f"{path or 'state'}: cannot store a {type(value).__name__}")


def _encode_key(key: Any, path: str) -> Any:
    if key is None or isinstance(key, bool | int | str):
        return key
    raise TypeError(f"{path or 'state'}: cannot store a dict key of type {type(key).__name__}")


def decode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Put back together what `encode` took apart.

    Raises:
        KeyError: if a tensor is missing.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(tag, content)] = value.items()
        if tag == "!tensor":
            return tensors[content]
        if tag == "!float":
            return float(content)
        if tag == "!tuple":
            return tuple(decode(item, tensors) for item in content)
        if tag == "!dict":
            return {key: decode(item, tensors) for key, item in content}
    return {key: decode(item, tensors) for key, item in value.items()}


def _chunks(tensors: dict[str, torch.Tensor]) -> Iterator[Any]:
    """The bytes of a safetensors file, one tensor at a time: no second copy of the whole."""
    # Wide items first, as the format's own writer does: every tensor starts at a multiple of
    # its item's size.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        tensor = tensors[name].detach()
        if tensor.numel():
            flat = tensor.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy()


def write_tensors(path: Path | str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write a safetensors file, force it to disk and return its `size` and `sha256`.

    Raises:
        OSError: from the file system.
    """
    return write_synced(path, _chunks(tensors))


def read_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Read a safetensors file to the CPU.

    Raises:
        safetensors.SafetensorError: if the file's header is damaged.
        OSError: if it cannot be read.
    """
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(str(path), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a dict
            tensor = file.get_tensor(name)
            large = tensor.numel() * tensor.element_size() > MAPPED_BYTES
            tensors[name] = tensor if large else tensor.clone()
    return tensors


def save_state(folder: Path | str, name: str, state: Any) -> dict[str, dict[str, Any]]:
    """Write `<name>.safetensors` and `<name>.json` into the folder, each forced to disk.

    Returns:
        `size` and `sha256` for each of the two files.

    Raises:
        TypeError: if the state holds something that cannot be stored.
        OSError: from the file system.
    """
    structure, tensors = encode(state)
    text = json.dumps(structure, allow_nan=False, separators=(",", ":")).encode()
    folder = Path(folder)
    return {
        f"{name}.safetensors": write_tensors(folder / f"{name}.safetensors", tensors),
        f"{name}.json": write_synced(folder / f"{name}.json", [text]),
    }


def load_state(folder: Path | str, name: str) -> Any:
    """Read what `save_state` wrote; all tensors are on the CPU.

    Args:
        folder: where it lies.
        name: as given to `save_state`.

    Raises:
        OSError, ValueError, KeyError, safetensors.SafetensorError: on files that are damaged.
    """
    folder = Path(folder)
    structure = json.loads((folder / f"{name}.json").read_text())
    return decode(structure, read_tensors(folder / f"{name}.safetensors"))
