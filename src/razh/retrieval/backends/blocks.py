"""Counting a kernel's distances, one block of queries at a time, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from razh.retrieval.backends import Counts, Integers, Labelled, Packed, kernels
from razh.retrieval.backends.kernels import QUERY_BLOCK, Kernel, as_words, widen
from razh.retrieval.backends.torch import HOST_PAIRS, exact_product

__all__ = ["class_order", "count", "in_parallel"]

LONG_SLICE = 256  # mean number of relevant items from which a class slice is counted by itself
SLICE_PAIRS = 1 << 18  # pairs of short slices counted together


def count(kernel: Kernel, queries: Labelled, database: Labelled, levels: int = 2) -> Counts:
    """Return the histogram (Q, L + 1, S) of the distances that a kernel computes; see `Backend`."""
    sides = (queries.codes, database.codes, queries.labels, database.labels, queries.bits)
    return _count_single(kernel, *sides) if queries.labels.ndim == 1 else _count_multi(kernel, *sides, levels)


def in_parallel(work: Callable[[range], None], starts: range) -> None:
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
    kernel: Kernel, left: Packed, right: Packed, left_labels: Integers, right_labels: Integers, bits: int
) -> Counts:
    """Histogram for class ids: the database sorted by class, so that the relevant items are one slice.

    Counts everything, counts the slice, and takes the difference. Up to 255 bits several queries share one `bincount`
    over bytes: query number i of a group adds i (L + 1) to its distances, as long as the sum fits into a byte, so that
    the overhead of the call is paid once a group.
    """
    order = class_order(right_labels)
    database, classes = _take(widen(right), order), right_labels[order]
    queries = class_order(left_labels)  # neighbours share a class, hence a slice
    query, labels = _take(widen(left), queries), left_labels[queries]
    first, last = (np.searchsorted(classes, labels, side=side) for side in ("left", "right"))
    size = bits + 1
    by_run = int((last - first).sum()) >= LONG_SLICE * len(query)
    every = np.zeros((len(query), size), dtype=np.int64)
    same = np.zeros_like(every) if by_run else _count_slices(query, database, first, last, size)
    block_rows = QUERY_BLOCK if len(database) > kernels.DATABASE_CHUNK else 2 * QUERY_BLOCK
    lanes = min(block_rows, 256 // size, len(query)) if bits < 256 else 1
    groups = min(block_rows // lanes, -(-len(query) // lanes))

    def work(starts: range) -> None:
        block = _ByteBlock(kernel, database, bits, lanes, groups)
        for start in starts:
            rows = slice(start, min(start + lanes * groups, len(query)))
            every[rows] = block.count(query[rows])
            for begin, end in _runs(first[rows], last[rows]) if by_run else ():
                some = slice(start + begin, start + end)
                same[some] = block.count_slice(begin, end, int(first[start + begin]), int(last[start + begin]))

    in_parallel(work, range(0, len(query), lanes * groups))
    counts = np.empty((*every.shape, 2), dtype=np.int64)
    counts[queries, :, 0] = every - same
    counts[queries, :, 1] = same
    return counts


def class_order(labels: Integers) -> NDArray[np.intp]:
    """Return the stable order by class; a radix sort where the ids fit into 16 bits."""
    if len(labels) and labels.min() >= 0 and labels.max() < 1 << 16:
        labels = labels.astype(np.uint16)
    return np.argsort(labels, kind="stable")


def _take(words: Packed, order: NDArray[np.intp]) -> Packed:
    """Return rows of widened codes in another order, copied word by word."""
    taken: Packed = as_words(words)[order].view(np.uint8)
    return taken


class _ByteBlock:
    """Buffers that hold the distances of `lanes` · `groups` queries to the whole database, and count them.

    Row number i of a group of `lanes` queries is stored as distance + i (L + 1), so that one `bincount` serves the
    group; up to 255 bits a key is one byte.
    """

    def __init__(self, kernel: Kernel, database: Packed, bits: int, lanes: int, groups: int) -> None:
        self.size, self.lanes, queries = bits + 1, lanes, lanes * groups
        dtype = torch.uint8 if bits < 256 else torch.int32
        self.keys = torch.empty((queries, len(database)), dtype=dtype)
        self.groups = list(self.keys.view(groups, -1))
        row = torch.arange(queries, dtype=torch.int32).unsqueeze(1)
        self.offset = (row % lanes * self.size).to(dtype)
        self.group_offset = row // lanes * (lanes * self.size)
        self.parts = [
            (fill, torch.from_numpy(out), self.keys[:, columns])
            for columns, fill, out in kernels.filled_parts(kernel, database, queries)
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
        keys = self.keys[begin:end, first:last].to(torch.int32, copy=True).contiguous()  # long codes have int32 keys
        keys.add_(self.group_offset[begin:end])
        counted = torch.bincount(keys.view(-1), minlength=end * self.size).view(-1, self.size)
        result: Counts = counted[begin:].numpy()
        return result


def _count_slices(query: Packed, database: Packed, first: Counts, last: Counts, size: int) -> Counts:
    """Count the distances (Q, L + 1) of every query to its own database slice; quick for many short slices."""
    left, right = as_words(query), as_words(database)
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
    kernel: Kernel,
    left: Packed,
    right: Packed,
    left_labels: Integers,
    right_labels: Integers,
    bits: int,
    levels: int,
) -> Counts:
    """Histogram for multi-hot labels: the number of shared labels is a second digit of the key."""
    query, database, size = widen(left), widen(right), bits + 1
    query_hot = torch.from_numpy(left_labels.astype(np.float32))
    database_hot = torch.from_numpy(right_labels.astype(np.float32))
    block_rows = max(1, min(QUERY_BLOCK, HOST_PAIRS // len(database)))
    counts = np.zeros((len(query), size, levels), dtype=np.int64)

    def work(starts: range) -> None:
        block = _ByteBlock(kernel, database, bits, 1, block_rows)
        for start in starts:
            rows = slice(start, min(start + block_rows, len(query)))
            keys = block.fill(query[rows]).to(torch.int32)
            level = exact_product(query_hot[rows], database_hot).clamp_(max=levels - 1).to(torch.int32)
            offset = torch.arange(len(keys), dtype=torch.int32).unsqueeze(1) * (size * levels)
            keys.mul_(levels).add_(level).add_(offset)
            counted = torch.bincount(keys.view(-1), minlength=len(keys) * size * levels)
            counts[rows] = counted.view(len(keys), size, levels).numpy()

    in_parallel(work, range(0, len(query), block_rows))
    return counts
