"""Engines that search codes: one protocol, from one machine to a cluster; all give the same lists where they are exact.

An engine is given rows with numbers of the caller's and finds the nearest. `flat` and `ivf` are FAISS in this process,
`milvus` is a server. Each is imported when it is chosen.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENGINES", "Engine", "Found", "ordered"]

ENGINES = ("flat", "ivf", "milvus")

Found: TypeAlias = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Distances and rows (q, k'), ordered by (distance, row); −1 in both behind the end of a shorter list."""


class Engine(Protocol):
    """What every engine can do."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def add(self, rows: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Add packed codes (n, ceil(L / 8)) under row numbers (n,), ascending and above all that are there.

        Raises:
            ValueError: the rows do not ascend, or the codes are no packed ones of this length.
        """

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Remove rows by their numbers; those that are not there do not matter."""

    def search(self, codes: NDArray[np.uint8], k: int, where: NDArray[np.bool_] | None = None) -> Found:
        """Return the k nearest rows of each packed code (q, ceil(L / 8)).

        Args:
            codes: queries.
            k: length of a list; as many rows as there are at most.
            where: which rows may be found, by their numbers; None: all.

        Raises:
            ValueError: k is below 1, or the codes are no packed ones of this length.
        """


def check_rows(rows: NDArray[np.int64], codes: NDArray[np.uint8], last: int) -> None:
    """Refuse rows that do not ascend, or are not above the last one, or not as many as the codes.

    Raises:
        ValueError: see above.
    """
    if len(rows) != len(codes):
        raise ValueError(f"rows has {len(rows)} numbers, codes {len(codes)}; give one a code")
    if len(rows) and (rows[0] <= last or (np.diff(rows) < 1).any()):
        raise ValueError(f"rows do not ascend from above {last}; number them in the order in which they are added")


def check_k(k: int) -> None:
    """Refuse a length of lists below 1.

    Raises:
        ValueError: see above.
    """
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one neighbour")


def ordered(lists: list[tuple[NDArray[np.int32], NDArray[np.int64]]], k: int) -> Found:
    """Return lists of distances and rows, of any order and length, as `Found`: by (distance, row), cut behind k."""
    near = np.full((len(lists), k), -1, dtype=np.int32)
    places = np.full((len(lists), k), -1, dtype=np.int64)
    for query, (distances, rows) in enumerate(lists):
        order = np.lexsort((rows, distances))[:k]
        near[query, : len(order)], places[query, : len(order)] = distances[order], rows[order]
    return near, places
