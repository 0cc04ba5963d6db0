"""Descriptions of many images, read in chunks, and sums over them that are the same on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from razh.support.distributed import world

__all__ = ["Rows", "Some", "chunks", "own_chunks", "positions", "spread", "summed"]

CHUNK = 4096  # rows in memory at once, as 32-bit floats


class Rows(Protocol):
    """Descriptions (n, D), all of which every process can read: an array, in memory or mapped from a disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, D)."""

    def __getitem__(self, at: NDArray[np.int64], /) -> NDArray[Any]:
        """Return the rows (B, D) at these positions (B,)."""


@dataclass(frozen=True)
class Some:
    """Some of the rows: those `at` these positions."""

    rows: Rows
    at: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, D) of what there is."""
        return (len(self.at), *self.rows.shape[1:])

    def __getitem__(self, at: NDArray[np.int64], /) -> NDArray[Any]:
        """Return the rows (B, D) at these positions (B,) among them."""
        return self.rows[self.at[at]]


def chunks(rows: Rows, most: int) -> Iterator[Tensor]:
    """Yield this process's share of the rows, of at most `most` of them, as (B, D) 32-bit floats with B ≤ `CHUNK`.

    The chunks are the same on any number of processes: only who takes which differs.
    """
    at = positions(rows.shape[0], most)
    rank, size = world()
    for start in range(rank * CHUNK, len(at), size * CHUNK):
        yield _read(rows, at[start : start + CHUNK])


def own_chunks(rows: Tensor) -> list[Tensor]:
    """Return this process's share of rows (n, D) that all processes have, as `chunks` does of those to be read."""
    rank, size = world()
    return list(torch.split(rows, CHUNK))[rank::size]


def spread(rows: Rows, most: int) -> Tensor:
    """Return rows (≤ `most`, D) that are spread evenly over all, the same in every process."""
    return _read(rows, positions(rows.shape[0], most))


def positions(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` positions that are spread evenly over `count` rows."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _read(rows: Rows, at: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.asarray(rows[at], dtype=np.float32))


def summed(
    share: Iterable[Tensor], of_chunk: Callable[[Tensor], tuple[Tensor, ...]], *shapes: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Return the sums over all chunks of what a function makes of each, on every process, in double precision.

    Args:
        share: this process's chunks (B, D), perhaps none.
        of_chunk: from a chunk to as many tensors as there are shapes.
        *shapes: of these tensors.
    """
    totals = tuple(torch.zeros(shape, dtype=torch.double) for shape in shapes)
    for chunk in share:
        for total, part in zip(totals, of_chunk(chunk), strict=True):
            total += part
    if world()[1] > 1:
        for total in totals:
            _reduce(total)
    return totals


def _reduce(total: Tensor) -> None:
    """Add up a tensor over all processes, in place."""
    if dist.get_backend() != "nccl":
        dist.all_reduce(total)
        return
    moved = total.cuda()
    dist.all_reduce(moved)
    total.copy_(moved)
