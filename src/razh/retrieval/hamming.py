"""Hamming distances, their histograms and ranked lists; four routes, one result.

Exact retrieval metrics need no ranked list: the number of relevant and irrelevant database items at each of the L + 1
distances says everything (`razh.retrieval.metrics`). `histogram` counts them in blocks of queries, so that memory stays
one block. Routes:

* `numba`: compiled xor, popcount and count in one loop (`razh.retrieval.compiled`), on the CPU;
* `faiss`: `faiss.hammings` (xor and popcount in C++), counted on the CPU;
* `numpy`: xor and `np.bitwise_count`, counted on the CPU;
* `torch`: inner products of ±1 codes on a CUDA device (or the CPU), which are exact integers, counted there.

All count integers, so they agree to the last digit whatever the block size and the number of threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from razh.retrieval.counting import count_device, count_multi, count_single
from razh.retrieval.kernels import (
    HOST_PAIRS,
    QUERY_BLOCK,
    ROUTES,
    Counts,
    Integers,
    Packed,
    Route,
    choose_route,
    device_here,
    filled_parts,
    import_compiled,
    import_faiss,
    inner_distances,
    signs_of,
    widen,
)
from razh.retrieval.packing import check_packed

__all__ = ["ROUTES", "Route", "choose_route", "distances", "grades", "histogram", "import_faiss", "rank"]

RANK_BYTES = 64 << 20  # working memory of a ranked search
FAISS_GPU_NEIGHBOURS = 2048  # longest list that FAISS selects on a GPU


def distances(
    query: ArrayLike, database: ArrayLike, bits: int, *, route: Route = "auto"
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return Hamming distances (q, G) of packed codes; uint8 up to 255 bits, uint16 beyond.

    Args:
        query: packed codes (q, ceil(L / 8)).
        database: packed codes (G, ceil(L / 8)).
        bits: code length L, 1 to 1024.
        route: `numba`, `faiss`, `numpy`, `torch`, or `auto` for the best one here.

    Raises:
        ValueError: wrong shapes or types, or an unknown route.
        ImportError: `route="faiss"` without FAISS, or `route="numba"` without numba.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    result = np.empty((len(left), len(right)), dtype=np.uint8 if bits < 256 else np.uint16)
    chosen = choose_route(route)
    if chosen == "torch":
        device = device_here()
        signs = signs_of(right, bits, device)
        for start in range(0, len(left), step := max(1, HOST_PAIRS // max(1, len(right)))):
            near = inner_distances(signs_of(left[start : start + step], bits, device), signs)
            result[start : start + step] = near.cpu().numpy()
        return result
    if chosen == "numba":
        import_compiled().write_distances(left, right, result)
        return result
    left, right = widen(left), widen(right)
    for columns, fill, block in filled_parts(chosen, right, min(len(left), QUERY_BLOCK)):
        for start in range(0, len(left), QUERY_BLOCK):
            rows = left[start : start + QUERY_BLOCK]
            fill(rows)
            result[start : start + QUERY_BLOCK, columns] = block[: len(rows)]
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
    route: Route = "auto",
) -> Counts:
    """Count the database by distance and relevance for every query: int64 (Q, L + 1, 2).

    `[q, d, 0]` is the number of irrelevant items at distance d of query q, `[q, d, 1]` that of relevant ones (sharing a
    label). The result depends neither on the route, nor on the order of the database, nor on threads, and the row of a
    query does not depend on the other queries, so shares of them can be counted apart and concatenated.

    Args:
        query: packed codes (Q, ceil(L / 8)).
        database: packed codes (G, ceil(L / 8)).
        query_labels: class ids (Q,) or multi-hot labels (Q, C).
        database_labels: class ids (G,) or multi-hot labels (G, C).
        bits: code length L, 1 to 1024.
        exclude: for each query the database row that is the query itself and is left out, −1 for none; (Q,).
        graded: count by the number of shared labels instead: (Q, L + 1, S + 1), S the most labels a database item has.
        route: `numba`, `faiss`, `numpy`, `torch`, or `auto` for the best one here.

    Raises:
        ValueError: lengths, shapes or types that do not fit, an empty database, `exclude` out of range.
        ImportError: `route="faiss"` without FAISS, or `route="numba"` without numba.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    left_labels, right_labels = _check_labels(query_labels, database_labels)
    _check_lengths(left, right, left_labels, right_labels)
    levels = 2
    if graded and right_labels.ndim == 2:
        levels = 1 + int(right_labels.sum(axis=1, dtype=np.int64).max())
    chosen = choose_route(route, len(left) * len(right))
    if chosen == "torch" and len(left):
        counts = count_device(left, right, left_labels, right_labels, bits, levels)
    elif not len(left):
        counts = np.zeros((0, bits + 1, levels), dtype=np.int64)
    elif chosen == "numba":
        counts = _count_compiled(left, right, left_labels, right_labels, bits, levels)
    elif left_labels.ndim == 1:
        counts = count_single(left, right, left_labels, right_labels, bits, chosen)
    else:
        counts = count_multi(left, right, left_labels, right_labels, bits, levels, chosen)
    if exclude is not None:
        _leave_out(counts, np.asarray(exclude), left, right, left_labels, right_labels)
    return counts


def _count_compiled(
    left: Packed, right: Packed, left_labels: Integers, right_labels: Integers, bits: int, levels: int
) -> Counts:
    compiled = import_compiled()
    counts: Counts
    if left_labels.ndim == 1:
        counts = compiled.count_single(left, right, left_labels, right_labels, bits)
    else:
        counts = compiled.count_multi(left, right, left_labels, right_labels, bits, levels)
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
    query: ArrayLike, database: ArrayLike, bits: int, k: int | None = None, *, route: Route = "auto"
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return distance and database row (q, k) of the k nearest codes, ordered by (distance, row).

    Metrics do not need it (see `histogram`); grids of pictures, search and the order-dependent conventional AP do.

    Args:
        query: packed codes (q, ceil(L / 8)).
        database: packed codes (G, ceil(L / 8)).
        bits: code length L, 1 to 1024.
        k: length of the list, at most G are given; None for the whole database.
        route: `faiss` (on a GPU where FAISS sees one); `numba`, `numpy` or `torch` (a stable sort of distances); or
            `auto`: FAISS where installed, else NumPy.

    Raises:
        ValueError: wrong shapes or types, k below 1, an empty database, an unknown route.
        ImportError: `route="faiss"` without FAISS, or `route="numba"` without numba.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    if not len(right):
        raise ValueError("database is empty; retrieval needs at least one database code")
    if k is not None and k < 1:
        raise ValueError(f"k is {k}; ask for at least one neighbour, or None for the whole database")
    k = len(right) if k is None else min(k, len(right))
    if route == "auto":
        try:
            import_faiss()
        except ModuleNotFoundError:
            route = "numpy"
        else:
            route = "faiss"
    if choose_route(route) == "faiss":
        return _rank_faiss(left, right, bits, k)
    return _rank_sort(left, right, bits, k, route)


def _rank_sort(
    left: Packed, right: Packed, bits: int, k: int, route: Route
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    near = np.empty((len(left), k), dtype=np.int32)
    rows = np.empty((len(left), k), dtype=np.int64)
    for start in range(0, len(left), QUERY_BLOCK):
        block = distances(left[start : start + QUERY_BLOCK], right, bits, route=route)
        order = np.argsort(block, axis=1, kind="stable")[:, :k]
        rows[start : start + QUERY_BLOCK] = order
        near[start : start + QUERY_BLOCK] = np.take_along_axis(block, order, axis=1)
    return near, rows


def _rank_faiss(left: Packed, right: Packed, bits: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    faiss = import_faiss()
    index = faiss.IndexBinaryFlat(right.shape[1] * 8)
    gpu = k <= FAISS_GPU_NEIGHBOURS and getattr(faiss, "get_num_gpus", lambda: 0)() > 0
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
        every = distances(left[query : query + 1], right, bits, route="numpy")[0]
        row[cut:] = np.flatnonzero(every == distance[-1])[: len(row) - cut]
