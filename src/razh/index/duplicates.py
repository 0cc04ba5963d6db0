"""Near duplicates of a collection: groups of images whose codes differ in a few bits, found without all pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from razh.index.gallery import Gallery
from razh.retrieval.packing import unpack

__all__ = ["groups"]

MOST_PAIRS = 2_000_000_000  # that are compared; a minute or two


def groups(gallery: Gallery, within: int) -> list[list[int]]:
    """Return rows of images that are within some distance of another one of their group, each group ascending.

    Codes that differ in at most r bits agree in one of r + 1 parts of theirs: only those are compared.

    Args:
        gallery: what is searched.
        within: the distance r.

    Raises:
        ValueError: too many pairs agree in a part, since r is large for this code length.
    """
    rows = np.arange(len(gallery.codes)) if gallery.mask is None else np.flatnonzero(gallery.mask)
    codes, number = np.unique(gallery.codes[rows], axis=0, return_inverse=True)
    group = number.ravel()
    if within:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = np.concatenate([np.empty((0, 2), np.int64), *_pairs(codes, gallery.bits, within)])
        ones = np.ones(len(pairs), np.uint8)
        graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(codes), len(codes)))
        group = connected_components(graph, directed=False)[1][group]
    order = np.argsort(group, kind="stable")
    found = np.split(rows[order], np.flatnonzero(np.diff(group[order])) + 1) if len(rows) else []
    return sorted((some.tolist() for some in found if len(some) > 1), key=lambda some: some[0])


def _pairs(codes: NDArray[np.uint8], bits: int, within: int) -> Iterator[NDArray[np.int64]]:
    """Yield pairs (n, 2) of different codes that are within a distance."""
    parts = [part for part in np.array_split(np.arange(bits), within + 1) if len(part)]
    keys = [np.unique(np.packbits(unpack(codes, bits)[:, part], axis=1), axis=0, return_inverse=True)[1].ravel()
            for part in parts]  # fmt: skip
    count = sum(int((sizes * (sizes - 1) // 2).sum()) for sizes in (np.bincount(key).astype(np.int64) for key in keys))
    if within >= bits or count > MOST_PAIRS:
        raise ValueError(f"--within={within} is too far for duplicates among {len(codes):,} codes of {bits} bits "
                         f"({count:,} pairs to compare); lower it")  # fmt: skip
    for key in keys:
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        first = np.arange(len(order))
        shift = 1
        while len(first := first[: np.searchsorted(first, len(order) - shift)]):
            first = first[ordered[first] == ordered[first + shift]]  # with the next one, the one after it, …
            left, right = order[first], order[first + shift]
            near = np.bitwise_count(codes[left] ^ codes[right]).sum(axis=1, dtype=np.int64) <= within
            yield np.stack([left[near], right[near]], axis=1)
            shift += 1
