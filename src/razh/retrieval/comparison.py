"""Two methods on the same queries: is the difference of their means more than chance?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from razh.retrieval.codes import Codes
from razh.retrieval.tasks import seen_rows_are_queries

__all__ = ["Comparison", "aligned", "check_same_queries", "paired_difference"]

CELLS = 1 << 22  # (sample, unit) pairs drawn together


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of per-query values.

    Attributes:
        first: mean of the first method.
        second: mean of the second method.
        difference: second − first.
        low: lower end of the bootstrap interval of the difference.
        high: upper end.
        confidence: of the interval.
        p_value: two-sided, by random swaps of the two methods.
        units: number of queries, or of classes, that were resampled.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    confidence: float
    p_value: float
    units: int


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two methods by their values on the same queries.

    The interval is a percentile bootstrap over queries. The p-value is that of a permutation test: under the null
    hypothesis the two values of a query may be swapped, so signs of differences are flipped at random;
    p = (1 + number of flips at least as extreme) / (1 + samples).

    Args:
        first: per-query values (Q,) of one method.
        second: per-query values (Q,) of the other, same order.
        groups: class ids (Q,); given, whole classes are resampled and swapped instead of queries. The honest unit where
            the claim is about new classes, since queries of one class succeed or fail together.
        samples: number of bootstrap samples and of permutations.
        confidence: of the interval, e.g. 0.95.
        seed: of the random numbers.

    Raises:
        ValueError: lengths differ, no queries, or a setting is out of range.
    """
    left, right = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if left.ndim != 1 or left.shape != right.shape or not len(left):
        raise ValueError(f"first has shape {left.shape} and second {right.shape}; pass the same, one value a query")
    if samples < 1:
        raise ValueError(f"samples is {samples}; draw at least one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it lies between 0 and 1")
    sums, counts = _units(right - left, groups)
    observed = float(sums.sum() / counts.sum())
    rng = np.random.default_rng(seed)
    drawn, flipped = [], 0
    tolerance = 1e-12 * max(1.0, float(np.abs(sums).sum()))
    step = max(1, CELLS // len(sums))
    for start in range(0, samples, step):
        shape = (min(step, samples - start), len(sums))
        chosen = rng.integers(len(sums), size=shape)
        drawn.append(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1))
        signs = rng.integers(2, size=shape, dtype=np.int8) * 2 - 1
        flipped += int((np.abs(signs @ sums) >= abs(sums.sum()) - tolerance).sum())
    edges = np.quantile(np.concatenate(drawn), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Comparison(
        first=float(left.mean()),
        second=float(right.mean()),
        difference=observed,
        low=float(edges[0]),
        high=float(edges[1]),
        confidence=confidence,
        p_value=(1 + flipped) / (1 + samples),
        units=len(sums),
    )


def _units(difference: NDArray[np.float64], groups: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the sum of differences and the number of queries of every unit."""
    if groups is None:
        return difference, np.ones(len(difference), dtype=np.int64)
    ids = np.asarray(groups)
    if ids.shape != difference.shape:
        raise ValueError(f"groups has shape {ids.shape}; pass one class id a query, ({len(difference)},)")
    _, inverse, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return np.bincount(inverse, weights=difference, minlength=len(counts)).astype(np.float64), counts


def check_same_queries(first: Codes, second: Codes) -> None:
    """Demand that two codes files hold the same queries, in the same order, and the same database items.

    Raises:
        ValueError: the split fingerprints, the queries or the databases differ.
    """
    if first.fingerprint != second.fingerprint:
        prints = f"{first.fingerprint[:12] or 'unknown'} and {second.fingerprint[:12] or 'unknown'}"
        raise ValueError(f"split fingerprints differ ({prints}); compare two methods on the same split")
    if first.unseen_classes != second.unseen_classes:
        raise ValueError("unseen_classes differ; compare two methods on the same split")
    held_out = {codes.validation_classes for codes in (first, second)} - {None}
    if len(held_out) > 1:
        raise ValueError("validation_classes differ; compare two methods on the same split")
    for name in ("query_labels", "query_index"):
        left, right = getattr(first, name), getattr(second, name)
        if (left is None) != (right is None) or (left is not None and not np.array_equal(left, right)):
            raise ValueError(
                f"{name} differs between the files; a paired comparison needs the same queries in one order"
            )
    name = _item_name(first)
    left, right = getattr(first, name), getattr(second, name)
    if not np.array_equal(np.sort(left, axis=0), np.sort(right, axis=0)):
        raise ValueError(f"{name} differs between the files; a paired comparison needs the same database")


def aligned(first: Codes, second: Codes) -> Codes:
    """Return the second codes file with its database in the order of the first: its seen rows may be queries, too.

    Raises:
        ValueError: see `check_same_queries`; or such rows have other orders, and no index says which is which.
    """
    check_same_queries(first, second)
    name = _item_name(first)
    left, right = getattr(first, name), getattr(second, name)
    if np.array_equal(left, right) or not seen_rows_are_queries(first):
        return second
    if first.database_index is None:
        raise ValueError(
            f"{name} has another order in the second file, and rows of the database are the queries of seen classes; "
            "store database_index in both files, or one order"
        )
    rows = np.empty_like(left)
    rows[np.argsort(left, kind="stable")] = np.argsort(right, kind="stable")
    moved = {name: getattr(second, name)[rows] for name in ("database_codes", "database_labels", "database_index")}
    return replace(second, **moved)


def _item_name(codes: Codes) -> str:
    """Return the array that tells database items apart as well as the file allows."""
    return "database_labels" if codes.database_index is None else "database_index"
