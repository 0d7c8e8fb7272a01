"""Arithmetic of an update: single precision, or bfloat16 in parts of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = ("fp32", "bf16_matmul", "autocast")


def bfloat16_is_native(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; one that does not is slow, or ignores it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def products_are_bfloat16(device: torch.device) -> bool:
    """Whether `bf16_products` does what it says there: tried, since a library may not.

    On processors that is done by those with AMX alone.
    """
    number = 1.0 + 2.0**-12  # bfloat16 has eight bits of it, TF32 eleven
    with bf16_products(True):
        sums = torch.full((64, 64), number, device=device) @ torch.ones(64, 64, device=device)
    return bool((sums != 64.0 * number).any())


@contextmanager
def bf16_products(on: bool) -> Iterator[None]:
    """Let matrix products of float32 numbers be taken in bfloat16, forward and backward."""
    if not on:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
