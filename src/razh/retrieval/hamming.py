"""Hamming distances, their histograms and ranked lists; four backends, one result.

Exact retrieval metrics need no ranked list: the number of relevant and irrelevant database items at each of the L + 1
distances says everything (`razh.retrieval.metrics`). `histogram` counts them in blocks of queries, so that memory stays
one block. Backends:

* `numba`: compiled xor, popcount and count in one loop (`razh.retrieval.backends.numba`), on the CPU;
* `faiss`: `faiss.hammings` (xor and popcount in C++), counted on the CPU;
* `numpy`: xor and `np.bitwise_count`, counted on the CPU;
* `torch`: inner products of ±1 codes on a CUDA device (or the CPU), which are exact integers, counted there.

All count integers, so they agree to the last digit whatever the block size and the number of threads.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from razh.retrieval.backends import (
    BACKENDS,
    Backend,
    BackendName,
    Counts,
    Integers,
    Labelled,
    Packed,
    choose_backend,
    load,
    on_the_cpu,
)
from razh.retrieval.backends.kernels import QUERY_BLOCK, filled_parts, widen
from razh.retrieval.packing import check_packed

if TYPE_CHECKING:
    from razh.retrieval.backends.kernels import Kernel

__all__ = ["BACKENDS", "BackendName", "choose_backend", "distances", "grades", "histogram", "nearest", "rank"]

WIDENED = 1 << 20  # database rows that are brought to whole machine words at once
FAISS_PAIRS = 50_000_000  # pairs from which FAISS saves a search more time than its import takes


def distances(
    query: ArrayLike, database: ArrayLike, bits: int, *, backend: BackendName = "auto"
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return Hamming distances (q, G) of packed codes; uint8 up to 255 bits, uint16 beyond.

    Args:
        query: packed codes (q, ceil(L / 8)).
        database: packed codes (G, ceil(L / 8)).
        bits: code length L, 1 to 1024.
        backend: `numba`, `faiss`, `numpy`, `torch`, or `auto` for the best one here.

    Raises:
        ValueError: wrong shapes or types, or an unknown backend.
        ImportError: `backend="faiss"` without FAISS, or `backend="numba"` without numba.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    result = np.empty((len(left), len(right)), dtype=np.uint8 if bits < 256 else np.uint16)
    load(choose_backend(backend)).write_distances(left, right, bits, result)
    return result


# ------------------------------------------------------------------------------------------------------ relevance


def grades(query_labels: ArrayLike, database_labels: ArrayLike) -> NDArray[np.int64]:
    """Return the number of shared labels (q, G): 0 or 1 for label ids (n,), a count for multi-hot labels (n, C)."""
    left, right = _check_labels(query_labels, database_labels)
    shared = left[:, None] == right if left.ndim == 1 else left.astype(np.float32) @ right.astype(np.float32).T
    return np.asarray(shared, dtype=np.int64)


def _check_labels(query_labels: ArrayLike, database_labels: ArrayLike) -> tuple[Integers, Integers]:
    left, right = np.asarray(query_labels), np.asarray(database_labels)
    for name, labels in (("query_labels", left), ("database_labels", right)):
        if labels.ndim not in (1, 2) or not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == np.bool_):
            raise ValueError(
                f"{name} has shape {labels.shape} and dtype {labels.dtype}; pass integer ids (n,) or multi-hot (n, C)"
            )
        if labels.ndim == 2 and labels.size and (labels.min() < 0 or labels.max() > 1):
            raise ValueError(f"{name} holds values from {labels.min()} to {labels.max()}; multi-hot labels are 0 or 1")
    if left.ndim != right.ndim or left.shape[1:] != right.shape[1:]:
        raise ValueError(
            f"query_labels has shape {left.shape} but database_labels {right.shape}; "
            "both must be ids (n,) or multi-hot (n, C)"
        )
    return left, right


# ------------------------------------------------------------------------------------------------------ histograms


def histogram(
    query: ArrayLike,
    database: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    bits: int,
    *,
    exclude: ArrayLike | None = None,
    graded: bool = False,
    backend: BackendName = "auto",
) -> Counts:
    """Count the database by distance and relevance for every query: int64 (Q, L + 1, 2).

    `[q, d, 0]` is the number of irrelevant items at distance d of query q, `[q, d, 1]` that of relevant ones (sharing a
    label). The result depends neither on the backend, nor on the order of the database, nor on threads. The row of a
    query does not depend on the other queries, so shares of them can be counted apart and concatenated.

    Args:
        query: packed codes (Q, ceil(L / 8)).
        database: packed codes (G, ceil(L / 8)).
        query_labels: class ids (Q,) or multi-hot labels (Q, C).
        database_labels: class ids (G,) or multi-hot labels (G, C).
        bits: code length L, 1 to 1024.
        exclude: for each query the database row that is the query itself and is left out, −1 for none; (Q,).
        graded: count by the number of shared labels instead: (Q, L + 1, S + 1), S the most labels a database item has.
        backend: `numba`, `faiss`, `numpy`, `torch`, or `auto` for the best one here.

    Raises:
        ValueError: lengths, shapes or types that do not fit, an empty database, `exclude` out of range.
        ImportError: `backend="faiss"` without FAISS, or `backend="numba"` without numba.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    left_labels, right_labels = _check_labels(query_labels, database_labels)
    _check_lengths(left, right, left_labels, right_labels)
    levels = 2
    if graded and right_labels.ndim == 2:
        levels = 1 + int(right_labels.sum(axis=1, dtype=np.int64).max())
    chosen = choose_backend(backend, len(left) * len(right))
    if len(left):
        counts = load(chosen).count(Labelled(left, left_labels, bits), Labelled(right, right_labels, bits), levels)
    else:
        counts = np.zeros((0, bits + 1, levels), dtype=np.int64)
    if exclude is not None:
        _leave_out(counts, np.asarray(exclude), left, right, left_labels, right_labels)
    return counts


def _check_lengths(left: Packed, right: Packed, left_labels: Integers, right_labels: Integers) -> None:
    if len(left) != len(left_labels):
        raise ValueError(f"query_labels has {len(left_labels)} rows but query {len(left)}; give one label a code")
    if len(right) != len(right_labels):
        raise ValueError(
            f"database_labels has {len(right_labels)} rows but database {len(right)}; give one label a code"
        )
    if not len(right):
        raise ValueError("database is empty; retrieval needs at least one database code")


def _leave_out(
    counts: Counts, exclude: Integers, left: Packed, right: Packed, left_labels: Integers, right_labels: Integers
) -> None:
    """Take the query itself out of its own row of the histogram."""
    if exclude.shape != (len(left),) or (exclude.size and not -1 <= exclude.min() <= exclude.max() < len(right)):
        raise ValueError(
            f"exclude has shape {exclude.shape}; give every query a database row below {len(right)}, or -1"
        )
    rows = np.flatnonzero(exclude >= 0)
    own = exclude[rows]
    distance = np.bitwise_count(left[rows] ^ right[own]).sum(axis=1, dtype=np.int64)
    if left_labels.ndim == 1:
        level = (left_labels[rows] == right_labels[own]).astype(np.int64)
    else:
        level = (left_labels[rows].astype(np.int64) * right_labels[own].astype(np.int64)).sum(axis=1)
    counts[rows, distance, np.minimum(level, counts.shape[2] - 1)] -= 1


# ----------------------------------------------------------------------------------------------------- ranked lists


def rank(
    query: ArrayLike, database: ArrayLike, bits: int, k: int | None = None, *, backend: BackendName = "auto"
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return distance and database row (q, k) of the k nearest codes, ordered by (distance, row).

    Metrics do not need it (see `histogram`); grids of pictures, search and the order-dependent conventional AP do.

    Args:
        query: packed codes (q, ceil(L / 8)).
        database: packed codes (G, ceil(L / 8)).
        bits: code length L, 1 to 1024.
        k: length of the list, at most G are given; None for the whole database.
        backend: `faiss` (on a GPU where FAISS sees one); `numba`, `numpy` or `torch` (a stable sort of distances); or
            `auto`: FAISS where installed, else NumPy.

    Raises:
        ValueError: wrong shapes or types, k below 1, an empty database, an unknown backend.
        ImportError: `backend="faiss"` without FAISS, or `backend="numba"` without numba.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    if not len(right):
        raise ValueError("database is empty; retrieval needs at least one database code")
    if k is not None and k < 1:
        raise ValueError(f"k is {k}; ask for at least one neighbour, or None for the whole database")
    k = len(right) if k is None else min(k, len(right))
    chosen = on_the_cpu() if backend == "auto" else choose_backend(backend)
    if chosen == "faiss":
        from razh.retrieval.backends import faiss

        return faiss.rank(left, right, bits, k)
    return _rank_sort(left, right, bits, k, load(chosen))


def nearest(
    query: ArrayLike, database: ArrayLike, bits: int, k: int, *, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64]]:
    """Return distance and row (q, k) of the k nearest codes, and how many of all tie with the last of them.

    As `rank`, ordered by (distance, row), for short lists: distances are looked at once, in parts that stay in the
    cache, and never kept. FAISS's kernel is used where it is installed and so many pairs pay for its start.

    Args:
        query: packed codes (q, ceil(L / 8)).
        database: packed codes (G, ceil(L / 8)).
        bits: code length L, 1 to 1024.
        k: length of the list, at most G are given.
        mask: which database rows there are to be found (G,); None: all. The list has at most so many.

    Returns:
        Distances (q, k), rows (q, k), and for each query the number of database items at its last distance (q,).

    Raises:
        ValueError: wrong shapes or types, k below 1, an empty database.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    if not len(right):
        raise ValueError("database is empty; retrieval needs at least one database code")
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one neighbour")
    k = min(k, len(right) if mask is None else int(np.count_nonzero(mask)))
    lists = [_Nearest(k, bits) for _ in range(len(left))]
    kernel, left = _kernel(len(left) * len(right)), widen(left)
    for first in range(0, len(right) if k else 0, WIDENED):  # a part at a time: the database may be larger than memory
        part = widen(right[first : first + WIDENED])
        for start in range(0, len(left), QUERY_BLOCK):
            rows = left[start : start + QUERY_BLOCK]
            for columns, fill, block in filled_parts(kernel, part, len(rows)):
                fill(rows)
                if mask is not None:
                    block[:, ~mask[first : first + WIDENED][columns]] = bits + 2  # farther than any limit
                for one, found in zip(lists[start : start + QUERY_BLOCK], block, strict=True):
                    one.add(found, first + columns.start)
    near = np.array([one.near for one in lists], dtype=np.uint16).reshape(len(left), k)
    places = np.array([one.rows for one in lists], dtype=np.int64).reshape(len(left), k)
    return near, places, np.array([one.equal for one in lists], dtype=np.int64)


def _kernel(pairs: int) -> Kernel:
    if pairs >= FAISS_PAIRS and find_spec("faiss"):
        from razh.retrieval.backends import faiss

        return faiss.kernel
    from razh.retrieval.backends import numpy

    return numpy.kernel


class _Nearest:
    """The k nearest of what was seen so far, rows ascending among equals, and how many of all tie with the last."""

    def __init__(self, k: int, bits: int) -> None:
        self.k, self.limit, self.equal = k, bits + 1, 0  # limit: the last distance of a full list
        self.near, self.rows = np.empty(0, np.uint16), np.empty(0, np.int64)

    def add(self, distances: NDArray[np.int32], start: int) -> None:
        """Take the distances (g,) of database rows from `start` on; rows that come later lose against equals."""
        self.equal += int(np.count_nonzero(distances == self.limit))
        closer = np.flatnonzero(distances < self.limit)
        if not len(closer):
            return
        near = np.concatenate([self.near, distances[closer].astype(np.uint16)])
        rows = np.concatenate([self.rows, closer + start])
        order = np.argsort(near, kind="stable")[: self.k]  # of 16 bits: a radix sort
        self.near, self.rows = near[order], rows[order]
        if len(order) == self.k and self.near[-1] < self.limit:
            # All that is as near as the new limit was nearer than the old one, so it is here.
            self.limit = int(self.near[-1])
            self.equal = int(np.count_nonzero(near == self.limit))


def _rank_sort(
    left: Packed, right: Packed, bits: int, k: int, backend: Backend
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    near = np.empty((len(left), k), dtype=np.int32)
    rows = np.empty((len(left), k), dtype=np.int64)
    for start in range(0, len(left), QUERY_BLOCK):
        some = left[start : start + QUERY_BLOCK]
        block = np.empty((len(some), len(right)), dtype=np.uint16)
        backend.write_distances(some, right, bits, block)
        order = np.argsort(block, axis=1, kind="stable")[:, :k]
        rows[start : start + QUERY_BLOCK] = order
        near[start : start + QUERY_BLOCK] = np.take_along_axis(block, order, axis=1)
    return near, rows
