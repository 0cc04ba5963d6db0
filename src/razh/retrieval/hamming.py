"""Hamming distances, their histograms and ranked lists; three routes, one result.

Exact retrieval metrics need no ranked list: the number of relevant and irrelevant database items at each of the L + 1
distances says everything (`razh.retrieval.metrics`). `histogram` counts them in blocks of queries, so that memory stays
one block. Routes:

* `faiss`: `faiss.hammings` (xor and popcount in C++), counted on the CPU;
* `numpy`: xor and `np.bitwise_count`, counted on the CPU;
* `torch`: inner products of ±1 codes on a CUDA device (or the CPU), which are exact integers, counted there.

All count integers, so they agree to the last digit whatever the block size and the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from razh.retrieval.packing import check_packed, unpack

__all__ = ["Route", "choose_route", "distances", "grades", "histogram", "import_faiss", "rank"]

Route: TypeAlias = Literal["auto", "numpy", "faiss", "torch"]
Packed: TypeAlias = NDArray[np.uint8]
Integers: TypeAlias = NDArray[np.integer[Any]]
Counts: TypeAlias = NDArray[np.int64]
Fill: TypeAlias = Callable[[Packed], None]

ROUTES = ("auto", "numpy", "faiss", "torch")
QUERY_BLOCK = 12  # queries whose distances are held at once: 12 bytes a database item; twice that for small databases
DATABASE_CHUNK = 16_384  # database items a kernel call: its int32 distances stay in the cache
DEVICE_PAIRS = 1 << 26  # pairs a block on a CUDA device
DEVICE_BINS = 1 << 24  # counters of such a block
HOST_PAIRS = 1 << 22  # pairs a block of the torch route on the CPU, and of multi-label counting
LONG_SLICE = 256  # mean number of relevant items from which a class slice is counted by itself
SLICE_PAIRS = 1 << 18  # pairs of short slices counted together
RANK_BYTES = 64 << 20  # working memory of a ranked search
FAISS_GPU_NEIGHBOURS = 2048  # longest list that FAISS selects on a GPU


def import_faiss() -> Any:
    """Return the `faiss` module.

    Raises:
        ModuleNotFoundError: FAISS is not installed; the message names the extras that bring it.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "FAISS is not installed; run `pip install razh[faiss-cpu]` or `razh[faiss-gpu]`"
        ) from error
    return faiss


def choose_route(route: str = "auto") -> str:
    """Return the route that `auto` stands for here: torch with a CUDA device, else FAISS where installed, else NumPy.

    Raises:
        ValueError: `route` is unknown.
        ModuleNotFoundError: `route="faiss"` without FAISS.
    """
    if route not in ROUTES:
        raise ValueError(f"route is {route!r}; choose one of {', '.join(ROUTES)}")
    if route == "faiss":
        import_faiss()
    if route != "auto":
        return route
    if torch.cuda.is_available():
        return "torch"
    try:
        import_faiss()
    except ModuleNotFoundError:
        return "numpy"
    return "faiss"


# ------------------------------------------------------------------------------------------------------- distances


def _words(packed: Packed) -> Packed:
    """Widen rows with zero bytes to 4, 8, 16, 24, … bytes: the widths with a fast kernel."""
    width = packed.shape[1]
    target = 4 if width <= 4 else -(-width // 8) * 8
    if width == target:
        return np.ascontiguousarray(packed)
    wide = np.zeros((len(packed), target), dtype=np.uint8)
    wide[:, :width] = packed
    return wide


def _as_words(packed: Packed) -> NDArray[Any]:
    """View widened rows as machine words (n, W)."""
    return packed.view(np.dtype(np.uint32 if packed.shape[1] == 4 else np.uint64))


def _xor_popcount(database: Packed, out: NDArray[np.int32]) -> Fill:
    """Distances by xor and `np.bitwise_count`, one machine word at a time."""
    right = np.ascontiguousarray(_as_words(database).T)  # (W, g)
    scratch = np.empty(right.shape[1], dtype=right.dtype)

    def fill(query: Packed) -> None:
        for row, codes in enumerate(_as_words(query)):
            for position, code in enumerate(codes):
                np.bitwise_xor(right[position], code, out=scratch)
                if position:
                    out[row] += np.bitwise_count(scratch)
                else:
                    np.bitwise_count(scratch, out=out[row], casting="unsafe")

    return fill


def _faiss_hammings(database: Packed, out: NDArray[np.int32]) -> Fill:
    """Distances by FAISS's xor and popcount kernels."""
    faiss = import_faiss()
    right, target, (items, width) = faiss.swig_ptr(database), faiss.swig_ptr(out), database.shape

    def fill(query: Packed) -> None:
        faiss.hammings(faiss.swig_ptr(query), right, len(query), items, width, target)

    return fill


def _signs(packed: Packed, bits: int, device: torch.device) -> torch.Tensor:
    """Return ±1 codes (n, L); fp16 on CUDA, where sums up to 1024 are exact, else fp32."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return torch.from_numpy(unpack(packed, bits)).to(device).to(dtype).mul_(2).sub_(1)


def _inner_distances(query: torch.Tensor, database: torch.Tensor) -> torch.Tensor:
    """Return int32 distances (q, g) of ±1 codes: (L − inner product) / 2."""
    product = (query @ database.T).to(torch.int32)
    return product.neg_().add_(query.shape[1]).div_(2, rounding_mode="floor")


def _kernels(route: str, database: Packed, queries: int) -> Iterator[tuple[slice, Fill, NDArray[np.int32]]]:
    """Yield, for each part of the database, a function that writes distances of `queries` codes and where it does.

    The buffer (queries, g) is one and the same memory for all parts, small enough to stay in the cache: read it before
    the next part is filled; rows beyond the codes of a call keep older distances. The functions refer to it and to
    `database` by address: keep both alive.
    """
    memory = np.zeros(queries * min(DATABASE_CHUNK, len(database)), dtype=np.int32)
    kernel = _faiss_hammings if route == "faiss" else _xor_popcount
    for start in range(0, len(database), DATABASE_CHUNK):
        part = database[start : start + DATABASE_CHUNK]
        out = memory[: queries * len(part)].reshape(queries, len(part))
        yield slice(start, start + len(part)), kernel(part, out), out


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def distances(
    query: ArrayLike, database: ArrayLike, bits: int, *, route: Route = "auto"
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return Hamming distances (q, G) of packed codes; uint8 up to 255 bits, uint16 beyond.

    Args:
        query: packed codes (q, ceil(L / 8)).
        database: packed codes (G, ceil(L / 8)).
        bits: code length L, 1 to 1024.
        route: `numpy`, `faiss`, `torch`, or `auto` for the best one here.

    Raises:
        ValueError: wrong shapes or types, or an unknown route.
        ModuleNotFoundError: `route="faiss"` without FAISS.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    result = np.empty((len(left), len(right)), dtype=np.uint8 if bits < 256 else np.uint16)
    chosen = choose_route(route)
    if chosen == "torch":
        device = _device()
        signs = _signs(right, bits, device)
        for start in range(0, len(left), step := max(1, HOST_PAIRS // max(1, len(right)))):
            near = _inner_distances(_signs(left[start : start + step], bits, device), signs)
            result[start : start + step] = near.cpu().numpy()
        return result
    left, right = _words(left), _words(right)
    for columns, fill, block in _kernels(chosen, right, min(len(left), QUERY_BLOCK)):
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
        route: `numpy`, `faiss`, `torch`, or `auto` for the best one here.

    Raises:
        ValueError: lengths, shapes or types that do not fit, an empty database, `exclude` out of range.
        ModuleNotFoundError: `route="faiss"` without FAISS.
    """
    left, right = check_packed(query, bits, "query"), check_packed(database, bits, "database")
    left_labels, right_labels = _check_labels(query_labels, database_labels)
    _check_lengths(left, right, left_labels, right_labels)
    levels = 2
    if graded and right_labels.ndim == 2:
        levels = 1 + int(right_labels.sum(axis=1, dtype=np.int64).max())
    chosen = choose_route(route)
    if chosen == "torch" and len(left):
        counts = _count_device(left, right, left_labels, right_labels, bits, levels)
    elif not len(left):
        counts = np.zeros((0, bits + 1, levels), dtype=np.int64)
    elif left_labels.ndim == 1:
        counts = _count_single(left, right, left_labels, right_labels, bits, chosen)
    else:
        counts = _count_multi(left, right, left_labels, right_labels, bits, levels, chosen)
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


def _parallel(work: Callable[[range], None], starts: range) -> None:
    """Deal the blocks of queries to as many threads as torch may use, each pinned to one core."""
    threads = torch.get_num_threads()
    workers = min(threads, len(starts))
    if workers <= 1:
        work(starts)
        return
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, [starts[worker::workers] for worker in range(workers)]))
    finally:
        torch.set_num_threads(threads)


def _count_single(
    left: Packed, right: Packed, left_labels: Integers, right_labels: Integers, bits: int, route: str
) -> Counts:
    """Histogram for class ids: the database sorted by class, so that the relevant items are one slice.

    Counts everything, counts the slice, and takes the difference. Up to 255 bits several queries share one `bincount`
    over bytes: query number i of a group adds i (L + 1) to its distances, as long as the sum fits into a byte, so that
    the overhead of the call is paid once a group.
    """
    order = _class_order(right_labels)
    database, classes = _take(_words(right), order), right_labels[order]
    queries = _class_order(left_labels)  # neighbours share a class, hence a slice
    query, labels = _take(_words(left), queries), left_labels[queries]
    first, last = (np.searchsorted(classes, labels, side=side) for side in ("left", "right"))
    size = bits + 1
    by_run = int((last - first).sum()) >= LONG_SLICE * len(query)
    every = np.zeros((len(query), size), dtype=np.int64)
    same = np.zeros_like(every) if by_run else _count_slices(query, database, first, last, size)
    block_rows = QUERY_BLOCK if len(database) > DATABASE_CHUNK else 2 * QUERY_BLOCK
    lanes = min(block_rows, 256 // size, len(query)) if bits < 256 else 1
    groups = min(block_rows // lanes, -(-len(query) // lanes))

    def work(starts: range) -> None:
        block = _ByteBlock(database, bits, lanes, groups, route)
        for start in starts:
            rows = slice(start, min(start + lanes * groups, len(query)))
            every[rows] = block.count(query[rows])
            for begin, end in _runs(first[rows], last[rows]) if by_run else ():
                some = slice(start + begin, start + end)
                same[some] = block.count_slice(begin, end, int(first[start + begin]), int(last[start + begin]))

    _parallel(work, range(0, len(query), lanes * groups))
    counts = np.empty((*every.shape, 2), dtype=np.int64)
    counts[queries, :, 0] = every - same
    counts[queries, :, 1] = same
    return counts


def _class_order(labels: Integers) -> NDArray[np.intp]:
    """Return the stable order by class; a radix sort where the ids fit into 16 bits."""
    if len(labels) and labels.min() >= 0 and labels.max() < 1 << 16:
        labels = labels.astype(np.uint16)
    return np.argsort(labels, kind="stable")


def _take(words: Packed, order: NDArray[np.intp]) -> Packed:
    """Return rows of widened codes in another order, copied word by word."""
    taken: Packed = _as_words(words)[order].view(np.uint8)
    return taken


class _ByteBlock:
    """Buffers that hold the distances of `lanes` · `groups` queries to the whole database, and count them.

    Row number i of a group of `lanes` queries is stored as distance + i (L + 1), so that one `bincount` serves the
    group; up to 255 bits a key is one byte.
    """

    def __init__(self, database: Packed, bits: int, lanes: int, groups: int, route: str) -> None:
        self.size, self.lanes, queries = bits + 1, lanes, lanes * groups
        dtype = torch.uint8 if bits < 256 else torch.int32
        self.keys = torch.empty((queries, len(database)), dtype=dtype)
        self.groups = list(self.keys.view(groups, -1))
        row = torch.arange(queries, dtype=torch.int32).unsqueeze(1)
        self.offset = (row % lanes * self.size).to(dtype)
        self.group_offset = row // lanes * (lanes * self.size)
        self.parts = [
            (fill, torch.from_numpy(out), self.keys[:, columns])
            for columns, fill, out in _kernels(route, database, queries)
        ]

    def fill(self, query: Packed) -> torch.Tensor:
        """Return the keys (q, G) of a block of queries; plain distances with one lane. The buffer is used again."""
        for fill, out, keys in self.parts:
            fill(query)
            keys.copy_(out).add_(self.offset)
        return self.keys[: len(query)]

    def count(self, query: Packed) -> Counts:
        """Return counts (q, L + 1) over the whole database; keeps the keys for `count_slice`."""
        rows = len(self.fill(query))
        used = self.groups[: -(-rows // self.lanes)]
        counted = torch.stack([torch.bincount(keys, minlength=self.lanes * self.size) for keys in used])
        result: Counts = counted.view(-1, self.size)[:rows].numpy()
        return result

    def count_slice(self, begin: int, end: int, first: int, last: int) -> Counts:
        """Return counts (end − begin, L + 1) of these queries over database rows first … last − 1."""
        keys = self.keys[begin:end, first:last].to(torch.int32).add_(self.group_offset[begin:end])
        counted = torch.bincount(keys.view(-1), minlength=end * self.size).view(-1, self.size)
        result: Counts = counted[begin:].numpy()
        return result


def _count_slices(query: Packed, database: Packed, first: Counts, last: Counts, size: int) -> Counts:
    """Count the distances (Q, L + 1) of every query to its own database slice; quick for many short slices."""
    left, right = _as_words(query), _as_words(database)
    counts = np.zeros((len(query), size), dtype=np.int64)
    length = last - first
    step = max(1, SLICE_PAIRS // max(1, int(length.max(initial=0)) * left.shape[1]))
    for start in range(0, len(query), step):
        some = length[start : start + step]
        row = np.repeat(np.arange(len(some)), some)
        item = np.arange(len(row)) + np.repeat(first[start : start + step] - (np.cumsum(some) - some), some)
        differ = left[start : start + step][row] ^ right[item]
        distance = np.bitwise_count(differ).sum(axis=1, dtype=np.int64)
        binned = np.bincount(row * size + distance, minlength=len(some) * size)
        counts[start : start + step] = binned.reshape(len(some), size)
    return counts


def _runs(first: Counts, last: Counts) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of consecutive queries that share a database slice which is not empty."""
    begin = 0
    for end in range(1, len(first) + 1):
        if end == len(first) or first[end] != first[begin]:
            if last[begin] > first[begin]:
                yield begin, end
            begin = end


def _count_multi(
    left: Packed, right: Packed, left_labels: Integers, right_labels: Integers, bits: int, levels: int, route: str
) -> Counts:
    """Histogram for multi-hot labels: the number of shared labels is a second digit of the key."""
    query, database, size = _words(left), _words(right), bits + 1
    query_hot = torch.from_numpy(left_labels.astype(np.float32))
    database_hot = torch.from_numpy(right_labels.astype(np.float32)).T
    block_rows = max(1, min(QUERY_BLOCK, HOST_PAIRS // len(database)))
    counts = np.zeros((len(query), size, levels), dtype=np.int64)

    def work(starts: range) -> None:
        block = _ByteBlock(database, bits, 1, block_rows, route)
        for start in starts:
            rows = slice(start, min(start + block_rows, len(query)))
            keys = block.fill(query[rows]).to(torch.int32)
            level = (query_hot[rows] @ database_hot).clamp_(max=levels - 1).to(torch.int32)
            offset = torch.arange(len(keys), dtype=torch.int32).unsqueeze(1) * (size * levels)
            keys.mul_(levels).add_(level).add_(offset)
            counted = torch.bincount(keys.view(-1), minlength=len(keys) * size * levels)
            counts[rows] = counted.view(len(keys), size, levels).numpy()

    _parallel(work, range(0, len(query), block_rows))
    return counts


def _count_device(
    left: Packed, right: Packed, left_labels: Integers, right_labels: Integers, bits: int, levels: int
) -> Counts:
    """Histogram by torch on a CUDA device, or on the CPU where there is none; integer counts only."""
    device, size = _device(), bits + 1
    database = _signs(right, bits, device)
    labels = torch.from_numpy(right_labels.astype(np.int64 if right_labels.ndim == 1 else np.float32)).to(device)
    pairs = DEVICE_PAIRS if device.type == "cuda" else HOST_PAIRS
    block_rows = max(1, min(pairs // len(right), DEVICE_BINS // (size * levels)))
    counts = np.zeros((len(left), size, levels), dtype=np.int64)
    for start in range(0, len(left), block_rows):
        rows = slice(start, start + block_rows)
        keys = _inner_distances(_signs(left[rows], bits, device), database)
        own = torch.from_numpy(left_labels[rows].astype(np.int64 if left_labels.ndim == 1 else np.float32)).to(device)
        level = own[:, None] == labels if own.ndim == 1 else (own @ labels.T).clamp_(max=levels - 1)
        offset = torch.arange(len(keys), dtype=torch.int32, device=device).unsqueeze(1) * (size * levels)
        keys.mul_(levels).add_(level.to(torch.int32)).add_(offset)
        counted = torch.bincount(keys.view(-1), minlength=len(keys) * size * levels)
        counts[rows] = counted.cpu().numpy().reshape(len(keys), size, levels)
    return counts


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
        route: `faiss` (on a GPU where FAISS sees one), `numpy` or `torch` (a stable sort), or `auto`.

    Raises:
        ValueError: wrong shapes or types, k below 1, an empty database, an unknown route.
        ModuleNotFoundError: `route="faiss"` without FAISS.
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
