"""Distances by a kernel on the CPU that is given a block of queries and a part of the database; no torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.backends import Packed

__all__ = ["QUERY_BLOCK", "Fill", "Kernel", "as_words", "filled_parts", "widen", "write_distances"]

Fill: TypeAlias = Callable[[Packed], None]
"""Writes the distances of packed codes (q, bytes) to where its maker was told."""
Kernel: TypeAlias = Callable[[Packed, NDArray[np.int32]], Fill]
"""From widened database codes (g, bytes) and where distances (q, g) go to the function that writes them there."""

QUERY_BLOCK = 12  # queries whose distances are held at once: 12 bytes a database item; twice that for small databases
DATABASE_CHUNK = 16_384  # database items a kernel call: its int32 distances stay in the cache


def widen(packed: Packed) -> Packed:
    """Widen rows with zero bytes to 4, 8, 16, 24, … bytes: the widths with a fast kernel."""
    width = packed.shape[1]
    target = 4 if width <= 4 else -(-width // 8) * 8
    if width == target:
        return np.ascontiguousarray(packed)
    wide = np.zeros((len(packed), target), dtype=np.uint8)
    wide[:, :width] = packed
    return wide


def as_words(packed: Packed) -> NDArray[Any]:
    """View widened rows as machine words (n, W)."""
    return packed.view(np.dtype(np.uint32 if packed.shape[1] == 4 else np.uint64))


def filled_parts(kernel: Kernel, database: Packed, queries: int) -> Iterator[tuple[slice, Fill, NDArray[np.int32]]]:
    """Yield, for each part of the database, a function that writes distances of `queries` codes and where it does.

    The buffer (queries, g) is one and the same memory for all parts, small enough to stay in the cache: read it before
    the next part is filled; rows beyond the codes of a call keep older distances. The functions refer to it and to
    `database` by address: keep both alive.
    """
    memory = np.zeros(queries * min(DATABASE_CHUNK, len(database)), dtype=np.int32)
    for start in range(0, len(database), DATABASE_CHUNK):
        part = database[start : start + DATABASE_CHUNK]
        out = memory[: queries * len(part)].reshape(queries, len(part))
        yield slice(start, start + len(part)), kernel(part, out), out


def write_distances(kernel: Kernel, queries: Packed, database: Packed, result: NDArray[Any]) -> None:
    """Write the distances of queries to database rows to `result` (q, G), unsigned and wide enough."""
    left = widen(queries)
    for columns, fill, block in filled_parts(kernel, widen(database), min(len(left), QUERY_BLOCK)):
        for start in range(0, len(left), QUERY_BLOCK):
            rows = left[start : start + QUERY_BLOCK]
            fill(rows)
            result[start : start + QUERY_BLOCK, columns] = block[: len(rows)]
