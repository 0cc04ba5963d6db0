"""What the metrics are made of: buckets of tied items, and sums of harmonic numbers and discounts between ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Buckets",
    "Counts",
    "Floats",
    "PrefixSums",
    "buckets_of",
    "check_name",
    "check_rank",
    "checked",
    "discount_table",
    "harmonic_numbers",
    "in_blocks",
    "ratio",
    "table_size",
]

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]

QUERY_BLOCK = 512  # queries whose temporary arrays fit into the cache


@dataclass(frozen=True)
class Buckets:
    """What a histogram says about every bucket; all arrays (Q, L + 1)."""

    items: Counts  # n
    relevant: Counts  # r
    items_before: Counts  # N
    relevant_before: Counts  # P


def checked(hist: ArrayLike) -> Counts:
    """Return a histogram (Q, L + 1, S) as int64 after checking its shape and type.

    Raises:
        ValueError: it has another shape, or holds no integers.
    """
    counts = np.asarray(hist)
    if counts.ndim != 3 or counts.shape[2] < 2 or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"hist has shape {counts.shape} and dtype {counts.dtype}; pass integer counts (Q, L + 1, 2)")
    return counts.astype(np.int64, copy=False)


def buckets_of(hist: ArrayLike) -> Buckets:
    """Return what a histogram (Q, L + 1, S) says about every bucket; raises ValueError as `checked`."""
    counts = checked(hist)
    relevant = np.ascontiguousarray(counts[:, :, 1:].sum(axis=2))
    items = counts[:, :, 0] + relevant
    return Buckets(items, relevant, np.cumsum(items, axis=1) - items, np.cumsum(relevant, axis=1) - relevant)


def in_blocks(hist: ArrayLike, function: Callable[[Counts], Floats]) -> Floats:
    """Apply a function of histograms to blocks of queries, whose temporary arrays stay in the cache."""
    counts = checked(hist)
    starts = range(0, max(1, len(counts)), QUERY_BLOCK)
    return np.concatenate([function(counts[start : start + QUERY_BLOCK]) for start in starts])


def check_name(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError where an argument is none of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")


def check_rank(name: str, value: int) -> None:
    """Raise ValueError where a rank is below 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}; ranks count from 1")


def ratio(above: NDArray[Any], below: NDArray[Any]) -> Floats:
    """Return above / below, 0 where below is 0."""
    result: Floats = np.zeros(np.shape(above), dtype=np.float64)
    np.divide(above, below, out=result, where=np.asarray(below) != 0)
    return result


class PrefixSums:
    """Sums of term(1) … term(size), kept as a rounded value and what the rounding lost.

    The difference of two entries then has the relative precision of a sum of the terms between them, even where
    millions of terms lie in front.
    """

    def __init__(self, terms: Floats) -> None:
        total = np.concatenate([[0.0], np.cumsum(terms)])
        before, after = total[:-1], total[1:]
        added = after - before
        lost = (before - (after - added)) + (terms - added)  # two-sum: exact
        self.total, self.lost = total, np.concatenate([[0.0], np.cumsum(lost)])

    def between(self, start: Counts, stop: Counts) -> Floats:
        """Return term(start + 1) + … + term(stop)."""
        difference: Floats = (self.total[stop] - self.total[start]) + (self.lost[stop] - self.lost[start])
        return difference


@lru_cache(maxsize=4)
def _harmonic_table(size: int) -> PrefixSums:
    return PrefixSums(1.0 / np.arange(1, size + 1))


@lru_cache(maxsize=4)
def discount_table(size: int) -> PrefixSums:
    """Return the sums of NDCG's discounts 1 / log2(1 + rank) up to a rank."""
    return PrefixSums(1.0 / np.log2(np.arange(2, size + 2)))


def table_size(largest: int) -> int:
    """Round up, so that few tables are built; longer tables begin with the same numbers."""
    return 1 << max(10, int(largest).bit_length())


def harmonic_numbers(largest: int) -> PrefixSums:
    """Return the harmonic numbers up to `largest` at least."""
    return _harmonic_table(table_size(largest))
