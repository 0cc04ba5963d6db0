"""Counting by NumPy: xor and `np.bitwise_count`, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.backends import Counts, Labelled, Packed, kernels
from razh.retrieval.backends.kernels import Fill, as_words

__all__ = ["count", "kernel", "write_distances"]


def kernel(database: Packed, out: NDArray[np.int32]) -> Fill:
    """Distances by xor and `np.bitwise_count`, one machine word at a time."""
    right = np.ascontiguousarray(as_words(database).T)  # (W, g)
    scratch = np.empty(right.shape[1], dtype=right.dtype)

    def fill(query: Packed) -> None:
        for row, codes in enumerate(as_words(query)):
            for position, code in enumerate(codes):
                np.bitwise_xor(right[position], code, out=scratch)
                if position:
                    out[row] += np.bitwise_count(scratch)
                else:
                    np.bitwise_count(scratch, out=out[row], casting="unsafe")

    return fill


def count(queries: Labelled, database: Labelled, levels: int = 2) -> Counts:
    """Return the histogram (Q, L + 1, S); see `Backend`."""
    from razh.retrieval.backends import blocks  # needs torch, which searches do without

    return blocks.count(kernel, queries, database, levels)


def write_distances(queries: Packed, database: Packed, bits: int, result: NDArray[Any]) -> None:
    """Write distances to `result` (q, G); see `Backend`."""
    kernels.write_distances(kernel, queries, database, result)
