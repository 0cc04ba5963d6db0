"""Counting and ranking by FAISS: `faiss.hammings`, xor and popcount in C++; ranked lists on a GPU where it sees one."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.backends import Counts, Labelled, Packed, kernels, numpy
from razh.retrieval.backends.kernels import Fill

__all__ = ["count", "kernel", "rank", "write_distances"]

faiss: Any = importlib.import_module("faiss")  # its stubs lack what is used here

RANK_BYTES = 64 << 20  # working memory of a ranked search
GPU_NEIGHBOURS = 2048  # longest list that FAISS selects on a GPU


def kernel(database: Packed, out: NDArray[np.int32]) -> Fill:
    """Distances by FAISS's xor and popcount kernels."""
    right, target, (items, width) = faiss.swig_ptr(database), faiss.swig_ptr(out), database.shape

    def fill(query: Packed) -> None:
        faiss.hammings(faiss.swig_ptr(query), right, len(query), items, width, target)

    return fill


def count(queries: Labelled, database: Labelled, levels: int = 2) -> Counts:
    """Return the histogram (Q, L + 1, S); see `Backend`."""
    from razh.retrieval.backends import blocks  # needs torch, which searches do without

    return blocks.count(kernel, queries, database, levels)


def write_distances(queries: Packed, database: Packed, bits: int, result: NDArray[Any]) -> None:
    """Write distances to `result` (q, G); see `Backend`."""
    kernels.write_distances(kernel, queries, database, result)


def rank(left: Packed, right: Packed, bits: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return distance and database row (q, k) of the k nearest codes, ordered by (distance, row)."""
    index = faiss.IndexBinaryFlat(right.shape[1] * 8)
    gpu = k <= GPU_NEIGHBOURS and getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    if gpu:
        index = faiss.GpuIndexBinaryFlat(faiss.StandardGpuResources(), index)
    else:
        index.use_heap = False  # counting sort: the same list, several times faster
        index.query_batch_size = max(1, min(32, RANK_BYTES // (8 * k * (8 * right.shape[1] + 1))))
    index.add(right)
    near, rows = index.search(left, k)
    if gpu:
        _settle_ties(near, rows, left, right, bits)
    return near, rows


def _settle_ties(near: NDArray[np.int32], rows: NDArray[np.int64], left: Packed, right: Packed, bits: int) -> None:
    """Bring a list whose distances are right into the order (distance, row), in place.

    A GPU selects any of the items at the last distance; the lowest rows are put in their place.
    """
    for query, (distance, row) in enumerate(zip(near, rows, strict=True)):
        row[:] = row[np.lexsort((row, distance))]
        distance.sort()
        cut = int(np.searchsorted(distance, distance[-1]))
        every = np.empty((1, len(right)), dtype=np.uint16)
        numpy.write_distances(left[query : query + 1], right, bits, every)
        row[cut:] = np.flatnonzero(every[0] == distance[-1])[: len(row) - cut]
