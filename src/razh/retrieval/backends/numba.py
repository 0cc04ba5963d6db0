"""Counting by numba: distances are counted while they are computed, and never stored.

The queries go over the database in tiles that stay in the L2 cache. A count is a load, an addition and a store at the
same place: neighbouring items mostly have one of a few distances, so each adds to one of four histograms in turn, and
none waits for the store before it.

Importing this module needs numba. The first call of a function compiles it, which takes seconds; the machine code is
kept on disk where some folder for it can be written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
from numba.extending import intrinsic
from numpy.typing import NDArray

from razh.retrieval.backends import Counts, Integers, Labelled, Packed
from razh.retrieval.backends.blocks import class_order, in_parallel

__all__ = ["count", "write_distances"]

Words: TypeAlias = NDArray[np.uint64]
F = TypeVar("F", bound=Callable[..., Any])

TILE_WORDS = 16_384  # words of the database that all queries of a block meet before the next: 128 KiB
CHUNK = 1024  # distances of longer codes that are held before they are counted: 2 KiB
BLOCK_ROWS = 256  # queries a call
LANE_BINS = 4096  # more bins are hit less often in a row, and four histograms would cost more than they save


def _compiled(function: F) -> F:
    """Compile a function on its first call; keep the machine code on disk if that is possible here."""
    try:
        return cast("F", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # neither this folder nor the user's cache can be written
        return cast("F", numba.njit(nogil=True)(function))


def _popcount_instruction(typing_context: Any, word: Any) -> Any:
    """Tell numba to use the processor's instruction."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.types.uint64(numba.types.uint64), build


_popcount: Callable[[np.uint64], np.uint64] = intrinsic(_popcount_instruction)


# ------------------------------------------------------------------------------ kernels; unsigned indices need no check


@_compiled
def _tally_words(code: np.uint64, words: Words, lanes: NDArray[np.uint32]) -> None:
    """Add the distances of one word to many (n,) to four histograms (4, L + 1)."""
    first, second, third, fourth = lanes[0], lanes[1], lanes[2], lanes[3]
    one, position, end = np.uint32(1), np.uint64(0), np.uint64(len(words))
    whole = end - end % np.uint64(8)
    while position < whole:
        a = _popcount(code ^ words[position])
        b = _popcount(code ^ words[position + np.uint64(1)])
        c = _popcount(code ^ words[position + np.uint64(2)])
        d = _popcount(code ^ words[position + np.uint64(3)])
        e = _popcount(code ^ words[position + np.uint64(4)])
        f = _popcount(code ^ words[position + np.uint64(5)])
        g = _popcount(code ^ words[position + np.uint64(6)])
        h = _popcount(code ^ words[position + np.uint64(7)])
        first[a] += one
        second[b] += one
        third[c] += one
        fourth[d] += one
        first[e] += one
        second[f] += one
        third[g] += one
        fourth[h] += one
        position += np.uint64(8)
    while position < end:
        first[_popcount(code ^ words[position])] += one
        position += np.uint64(1)


@_compiled
def _tally(keys: NDArray[Any], lanes: NDArray[np.uint32]) -> None:
    """Add keys (n,) to four histograms (4, bins)."""
    first, second, third, fourth = lanes[0], lanes[1], lanes[2], lanes[3]
    one, position, end = np.uint32(1), np.uint64(0), np.uint64(len(keys))
    whole = end - end % np.uint64(4)
    while position < whole:
        a, b = keys[position], keys[position + np.uint64(1)]
        c, d = keys[position + np.uint64(2)], keys[position + np.uint64(3)]
        first[a] += one
        second[b] += one
        third[c] += one
        fourth[d] += one
        position += np.uint64(4)
    while position < end:
        first[keys[position]] += one
        position += np.uint64(1)


@_compiled
def _flush(lanes: NDArray[np.uint32], counts: Counts) -> None:
    """Add four histograms (4, bins) to counts (bins,), and empty them."""
    first, second, third, fourth = lanes[0], lanes[1], lanes[2], lanes[3]
    for key in range(len(counts)):
        counts[key] += first[key] + second[key] + third[key] + fourth[key]
        first[key] = second[key] = third[key] = fourth[key] = np.uint32(0)


@_compiled
def _fill(codes: Words, words: Words, begin: int, keys: NDArray[Any]) -> None:
    """Write the distances of one code (W,) to database items begin … begin + n − 1 of (W, G) to keys (n,)."""
    items = len(keys)
    row, code = words[0][begin : begin + items], codes[0]
    for item in range(items):
        keys[item] = _popcount(code ^ row[item])
    for position in range(1, len(codes)):
        row, code = words[position][begin : begin + items], codes[position]
        for item in range(items):
            keys[item] += _popcount(code ^ row[item])


@_compiled
def _shared(labels: Words, words: Words, begin: int, shared: NDArray[np.uint32]) -> None:
    """Write the number of labels that one query (V,) shares with database items of (V, G) to shared (n,)."""
    items = len(shared)
    shared[:] = 0
    for position in range(len(labels)):
        row, own = words[position][begin : begin + items], labels[position]
        for item in range(items):
            shared[item] += _popcount(own & row[item])


@_compiled
def _count_classes(query: Words, database: Words, first: Counts, last: Counts, tile: int, counts: Counts) -> None:
    """Add to counts (q, 2, L + 1): items outside the slice first … last − 1 of every query, and those within."""
    items = database.shape[1]
    other, same = np.zeros((4, counts.shape[2]), np.uint32), np.zeros((4, counts.shape[2]), np.uint32)
    memory = np.empty(CHUNK, np.uint16)
    for start in range(0, items, tile):
        stop = min(start + tile, items)
        for row in range(len(query)):
            begin, end = min(max(first[row], start), stop), min(max(last[row], start), stop)
            if query.shape[1] == 1:
                code, words = query[row, 0], database[0]
                _tally_words(code, words[start:begin], other)
                _tally_words(code, words[begin:end], same)
                _tally_words(code, words[end:stop], other)
            else:
                for at in range(start, stop, CHUNK):
                    keys = memory[: min(CHUNK, stop - at)]
                    _fill(query[row], database, at, keys)
                    left, right = min(max(begin - at, 0), len(keys)), min(max(end - at, 0), len(keys))
                    _tally(keys[:left], other)
                    _tally(keys[left:right], same)
                    _tally(keys[right:], other)
            _flush(other, counts[row, 0])
            if end > begin:
                _flush(same, counts[row, 1])


@_compiled
def _count_shared(
    query: Words, database: Words, labels: Words, database_labels: Words, levels: int, tile: int, counts: Counts
) -> None:
    """Add to counts (q, (L + 1) S): key is distance · S + number of shared labels, at most S − 1."""
    items, bins = database.shape[1], counts.shape[1]
    spread = bins > LANE_BINS
    lanes = np.zeros((4, 1 if spread else bins), np.uint32)
    key_memory, shared_memory = np.empty(CHUNK, np.uint32), np.empty(CHUNK, np.uint32)
    width, most = np.uint32(levels), np.uint32(levels - 1)
    for start in range(0, items, tile):
        stop = min(start + tile, items)
        for row in range(len(query)):
            for at in range(start, stop, CHUNK):
                keys, shared = key_memory[: min(CHUNK, stop - at)], shared_memory[: min(CHUNK, stop - at)]
                _fill(query[row], database, at, keys)
                _shared(labels[row], database_labels, at, shared)
                for item in range(len(keys)):
                    keys[item] = keys[item] * width + min(shared[item], most)
                if spread:
                    for key in keys:
                        counts[row, key] += 1
                else:
                    _tally(keys, lanes)
            if not spread:
                _flush(lanes, counts[row])


@_compiled
def _write_distances(query: Words, database: Words, result: NDArray[Any]) -> None:
    for row in range(len(query)):
        _fill(query[row], database, 0, result[row])


# ------------------------------------------------------------------------------------------------------- entry points


def _words(rows: Packed) -> Words:
    """Return packed rows (n, bytes) as 64-bit words (n, W); bytes that are added are 0 and never count."""
    wide = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), dtype=np.uint8)
    wide[:, : rows.shape[1]] = rows
    return wide.view(np.uint64)


def _planes(words: Words) -> Words:
    return np.ascontiguousarray(words.T)


def _tile(words: int) -> int:
    """Return the items of a tile, whole chunks of them."""
    return max(1, TILE_WORDS // (words * CHUNK)) * CHUNK


def count(queries: Labelled, database: Labelled, levels: int = 2) -> Counts:
    """Return the histogram (Q, L + 1, S); see `Backend`."""
    sides = (queries.codes, database.codes, queries.labels, database.labels, queries.bits)
    return _count_single(*sides) if queries.labels.ndim == 1 else _count_multi(*sides, levels)


def _count_single(left: Packed, right: Packed, left_labels: Integers, right_labels: Integers, bits: int) -> Counts:
    """Histogram (Q, L + 1, 2) for class ids: the database sorted by class, so that the relevant items are one slice."""
    order = class_order(right_labels)
    query, database, classes = _words(left), _planes(_words(right)[order]), right_labels[order]
    first, last = (np.searchsorted(classes, left_labels, side=side) for side in ("left", "right"))
    counts = np.zeros((len(query), 2, bits + 1), dtype=np.int64)
    tile = _tile(len(database))

    def work(starts: range) -> None:
        for start in starts:
            rows = slice(start, start + BLOCK_ROWS)
            _count_classes(query[rows], database, first[rows], last[rows], tile, counts[rows])

    in_parallel(work, range(0, len(query), BLOCK_ROWS))
    return counts.transpose(0, 2, 1)  # a view: metrics take it apart again


def _count_multi(
    left: Packed, right: Packed, left_labels: Integers, right_labels: Integers, bits: int, levels: int
) -> Counts:
    """Histogram (Q, L + 1, S) for multi-hot labels, which are packed like codes: shared labels are an `and`."""
    query, database = _words(left), _planes(_words(right))
    labels, database_labels = (_words(np.packbits(hot != 0, axis=1)) for hot in (left_labels, right_labels))
    planes = _planes(database_labels)
    counts = np.zeros((len(query), (bits + 1) * levels), dtype=np.int64)
    tile = _tile(len(database) + len(planes))

    def work(starts: range) -> None:
        for start in starts:
            rows = slice(start, start + BLOCK_ROWS)
            _count_shared(query[rows], database, labels[rows], planes, levels, tile, counts[rows])

    in_parallel(work, range(0, len(query), BLOCK_ROWS))
    return counts.reshape(len(query), bits + 1, levels)


def write_distances(queries: Packed, database: Packed, bits: int, result: NDArray[Any]) -> None:
    """Write distances to `result` (q, G); see `Backend`."""
    _write_distances(_words(queries), _planes(_words(database)), result)
