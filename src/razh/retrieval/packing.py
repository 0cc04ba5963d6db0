"""Bits to bytes and back: the one place that owns the bit order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["check_packed", "code_bytes", "pack", "unpack"]

MAX_BITS = 1024


def code_bytes(bits: int) -> int:
    """Return the number of bytes of a packed code of `bits` bits, ceil(L / 8).

    Raises:
        ValueError: `bits` is not in 1..1024.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits is {bits}; a code has 1 to {MAX_BITS} bits")
    return (bits + 7) // 8


def pack(codes: ArrayLike) -> NDArray[np.uint8]:
    """Pack bool codes (n, L) into bytes (n, ceil(L / 8)), first bit highest (the order of `np.packbits`).

    Padding bits are 0, so they never count in a Hamming distance.

    Raises:
        ValueError: `codes` is not a two-dimensional bool array with 1 to 1024 columns.
    """
    array = np.asarray(codes)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise ValueError(f"codes has shape {array.shape} and dtype {array.dtype}; pass bool (n, L), e.g. logits >= 0")
    code_bytes(array.shape[1])
    return np.packbits(array, axis=1)


def unpack(packed: ArrayLike, bits: int) -> NDArray[np.bool_]:
    """Return the bool codes (n, L) of bytes (n, ceil(L / 8)); the inverse of `pack`.

    Raises:
        ValueError: `packed` is not uint8 with ceil(bits / 8) columns.
    """
    array = check_packed(packed, bits, "packed")
    return np.unpackbits(array, axis=1, count=bits).astype(np.bool_)


def check_packed(packed: ArrayLike, bits: int, name: str) -> NDArray[np.uint8]:
    """Return `packed` as contiguous uint8 (n, ceil(bits / 8)) after checking shape, type and padding bits.

    Raises:
        ValueError: wrong dtype or shape, or a padding bit is set; the message starts with `name`.
    """
    array = np.asarray(packed)
    width = code_bytes(bits)
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != width:
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; "
            f"{bits} bits need uint8 (n, {width}), see razh.retrieval.packing.pack"
        )
    padding = width * 8 - bits
    if padding and np.any(array[:, -1] & ((1 << padding) - 1)):
        raise ValueError(
            f"{name} has padding bits that are 1; with bits={bits} the last {padding} bits of a row must be 0"
        )
    return np.ascontiguousarray(array)
