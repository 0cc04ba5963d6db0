"""Asymmetric distances: the real-valued logits of a query against stored bits, of which each counts by how sure it is.

A bit that differs from the sign of the query's logit z counts |z| / mean |z| in the place of 1, in whole parts of
1 / `ONE`: sums are exact, so the order depends neither on blocks nor on threads. With logits of one size it is the
Hamming distance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from razh.retrieval import metrics
from razh.retrieval.hamming import grades
from razh.retrieval.packing import check_packed, code_bytes

__all__ = ["ONE", "average_precision", "distances", "nearest"]

ONE = 256  # what a bit of the mean size counts
BLOCK = 1 << 16  # database rows that are looked at together


def _tables(logits: NDArray[np.float32], bits: int) -> NDArray[np.int32]:
    """Return what every value of every byte of a code costs (q, ceil(L / 8), 256)."""
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != bits or not np.isfinite(values).all():
        raise ValueError(f"logits has shape {values.shape}; pass finite ones (q, {bits})")
    size = np.abs(values)
    mean = size.mean(axis=1, keepdims=True)
    weights = np.rint(ONE * np.divide(size, mean, out=np.ones_like(size), where=mean > 0)).astype(np.int32)
    padded = np.zeros((2, len(values), 8 * code_bytes(bits)), np.int32)
    padded[0, :, :bits], padded[1, :, :bits] = np.where(values < 0, weights, 0), np.where(values < 0, 0, weights)
    set_, clear = padded.reshape(
        2, len(values), code_bytes(bits), 8
    )  # what a bit costs where it is 1, and where it is 0
    ones = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.int32)
    costs: NDArray[np.int32] = set_ @ ones.T + clear @ (1 - ones).T
    return costs


def _sums(table: NDArray[np.int32], codes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the distances (g,) of codes (g, ceil(L / 8)) by the table (ceil(L / 8), 256) of a query."""
    total: NDArray[np.int32] = table[0].take(codes[:, 0])
    for costs, column in zip(table[1:], codes.T[1:], strict=True):
        total += costs.take(column)
    return total


def distances(logits: NDArray[np.float32], database: ArrayLike, bits: int) -> NDArray[np.int32]:
    """Return the distances (q, G) of logits (q, L) to packed codes (G, ceil(L / 8)), in parts of 1 / `ONE` of a bit.

    Raises:
        ValueError: wrong shapes or types, or logits that are not finite.
    """
    codes = check_packed(database, bits, "database")
    return np.array([_sums(table, codes) for table in _tables(logits, bits)], np.int32).reshape(-1, len(codes))


def nearest(
    logits: NDArray[np.float32], database: ArrayLike, bits: int, k: int, *, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Return distance and row (q, k) of the k nearest codes, and how many of all tie with the last of them (q,).

    As `razh.retrieval.hamming.nearest`, ordered by (distance, row); every code is looked at.

    Args:
        logits: of queries (q, L).
        database: packed codes (G, ceil(L / 8)).
        bits: code length L.
        k: length of the list, at most G are given.
        mask: which database rows there are to be found (G,); None: all.

    Raises:
        ValueError: wrong shapes or types, k below 1, or logits that are not finite.
    """
    codes = check_packed(database, bits, "database")
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one neighbour")
    k = min(k, len(codes) if mask is None else int(np.count_nonzero(mask)))
    found = [_nearest(table, codes, k, mask) for table in _tables(logits, bits)]
    near = np.array([one for one, _, _ in found], np.int32).reshape(len(found), k)
    rows = np.array([one for _, one, _ in found], np.int64).reshape(len(found), k)
    return near, rows, np.array([equal for _, _, equal in found], np.int64)


def _nearest(
    table: NDArray[np.int32], codes: NDArray[np.uint8], k: int, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int32], NDArray[np.int64], int]:
    near, rows, limit = np.empty(0, np.int32), np.empty(0, np.int64), np.iinfo(np.int32).max
    for start in range(0, len(codes) if k else 0, BLOCK):
        part = _sums(table, codes[start : start + BLOCK])
        kept = part <= limit if mask is None else (part <= limit) & mask[start : start + BLOCK]
        chosen = np.flatnonzero(kept)
        near, rows = np.concatenate([near, part[chosen]]), np.concatenate([rows, chosen + start])
        if len(near) > k:
            limit = int(np.partition(near, k - 1)[k - 1])
            near, rows = near[near <= limit], rows[near <= limit]  # with all that tie with the last: they are counted
    order = np.argsort(near, kind="stable")[:k]
    return near[order], rows[order], int(np.count_nonzero(near == near[order[-1]])) if k else 0


def average_precision(
    logits: NDArray[np.float32],
    database: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    bits: int,
    exclude: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the average precision (q,) of each query's ranking, expected over the orders of equals.

    Args:
        logits: of queries (q, L).
        database: packed codes (G, ceil(L / 8)).
        query_labels: class ids (q,) or multi-hot labels (q, C).
        database_labels: of the database.
        bits: code length L.
        exclude: database row of each query itself, −1 for none (q,).

    Raises:
        ValueError: wrong shapes or types, or logits that are not finite.
    """
    codes, labels = check_packed(database, bits, "database"), np.asarray(database_labels)
    values = np.zeros(len(exclude))
    for query, table in enumerate(_tables(logits, bits)):
        relevant = grades(np.asarray(query_labels)[query : query + 1], labels)[0] > 0
        _, place = np.unique(_sums(table, codes), return_inverse=True)
        hist = np.zeros((1, int(place.max()) + 1, 2), np.int64)
        np.add.at(hist[0], (place, relevant.astype(np.int64)), 1)
        if (own := exclude[query]) >= 0:
            hist[0, place[own], int(relevant[own])] -= 1
        values[query] = metrics.average_precision(hist)[0]
    return values
