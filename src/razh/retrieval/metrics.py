"""Retrieval metrics as pure functions of histograms over (distance, relevance), exact in the presence of ties.

A histogram (Q, L + 1, S) comes from `razh.retrieval.hamming.histogram`: column 0 counts irrelevant items, the others
relevant ones (for graded relevance, column s counts items of grade s). Every function returns one value a query, and
the value of a query depends on nothing but its own row, to the last digit.

Codes of L bits have L + 1 distances, so most items of a ranking are tied, and the order within a tie is arbitrary.
`ties` says what to do: `expected` averages over all orders (a closed form, no sampling), `worst` and `best` are the
extremes over all orders.

For a bucket of n tied items, r of them relevant, behind N items of which P are relevant, the first m of its places
contribute to the sum of precisions at relevant ranks, in expectation over orders,

    (r / n) · [(P + 1) · D + (r − 1) / (n − 1) · (m − (N + 1) · D)],   D = H(N + m) − H(N),  H the harmonic numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from razh.retrieval.buckets import (
    Buckets,
    Counts,
    Floats,
    PrefixSums,
    buckets_of,
    check_name,
    check_rank,
    checked,
    discount_table,
    harmonic_numbers,
    in_blocks,
    ratio,
    table_size,
)

__all__ = [
    "Denominator",
    "Ties",
    "average_precision",
    "average_precision_ranked",
    "chance",
    "chance_precision",
    "curve_ranks",
    "expected_hits",
    "hits_at",
    "ndcg_at",
    "precision_at",
    "precision_ceiling",
    "precision_recall_curve",
    "precision_within",
    "recall_at",
    "recall_ceiling",
    "recall_within",
    "relevant_total",
    "success_within",
]

Ties: TypeAlias = Literal["expected", "worst", "best"]
Denominator: TypeAlias = Literal["hits", "all"]

MIXTURE_CELLS = 1 << 20  # (query, hits) pairs of a cut bucket looked at together


# ----------------------------------------------------------------------------------------------- average precision


def _expected_sum(
    harmonic: PrefixSums,
    items: Counts,
    relevant: Counts,
    places: Counts,
    items_before: Counts,
    relevant_before: Counts,
) -> Floats:
    """Return the expected sum of precisions at the relevant ranks among the first `places` of a bucket."""
    delta = harmonic.between(items_before, items_before + places)
    pairs = ratio(relevant - 1, items - 1) * (places - (items_before + 1) * delta)
    return ratio(relevant, items) * ((relevant_before + 1) * delta + pairs)


def _run_sum(harmonic: PrefixSums, hits: Counts, items_before: Counts, relevant_before: Counts) -> Floats:
    """Return the sum of precisions of `hits` relevant items in a row."""
    delta = harmonic.between(items_before, items_before + hits)
    return hits - (items_before - relevant_before) * delta


def _bucket_sum(
    harmonic: PrefixSums,
    ties: Ties,
    items: Counts,
    hits: Counts,
    items_before: Counts,
    relevant_before: Counts,
) -> Floats:
    """Return the sum of precisions of a bucket of `items`, `hits` of them relevant, that lies wholly above the cut."""
    if ties == "expected":
        return _expected_sum(harmonic, items, hits, items, items_before, relevant_before)
    start = items_before if ties == "best" else items_before + items - hits
    return _run_sum(harmonic, hits, start, relevant_before)


def average_precision(
    hist: ArrayLike, cutoff: int | None = None, denominator: Denominator = "hits", ties: Ties = "expected"
) -> Floats:
    """Return AP@R for every query (Q,): Σ_{r ≤ R} precision(r) · relevant(r) / denominator; 0 without a hit.

    Args:
        hist: counts (Q, L + 1, 2) of irrelevant and relevant items by distance.
        cutoff: R; None for the whole ranking, where both denominators agree.
        denominator: `hits`, the number of relevant items within R (the convention of the hashing literature; it rewards
            finding fewer), or `all`, min(R, number of relevant items).
        ties: `expected` over all orders of tied items, or the `worst` or `best` value that some order has. With a
            cut-off the expectation runs over the hypergeometric number of hits in the bucket that R cuts. Ties in
            database order (`row`) need ranked lists: `average_precision_ranked`.

    Raises:
        ValueError: `hist` is no histogram, the cut-off is below 1, or a name is unknown.
    """
    check_name("denominator", denominator, ("hits", "all"))
    check_name("ties", ties, ("expected", "worst", "best"))
    if cutoff is not None:
        check_rank("cutoff", cutoff)
    return in_blocks(hist, lambda block: _average_precision(block, cutoff, denominator, ties))


def _sums_of(harmonic: PrefixSums, ties: Ties, buckets: Buckets, marked: NDArray[np.bool_]) -> Floats:
    """Return the sum of precisions of every query (Q,) over whole buckets, those that are marked (Q, L + 1).

    Most buckets have no relevant item and contribute 0: leave them unmarked.
    """
    sums = np.zeros(marked.shape)
    at = np.flatnonzero(marked)
    parts = (buckets.items, buckets.relevant, buckets.items_before, buckets.relevant_before)
    sums.reshape(-1)[at] = _bucket_sum(harmonic, ties, *(part.reshape(-1).take(at) for part in parts))
    total: Floats = sums.sum(axis=1)
    return total


def _average_precision(hist: Counts, cutoff: int | None, denominator: Denominator, ties: Ties) -> Floats:
    buckets = buckets_of(hist)
    total = buckets.items.sum(axis=1)
    harmonic = harmonic_numbers(int(total.max(initial=0)))
    every, holds_any = buckets.relevant.sum(axis=1), buckets.relevant > 0
    if cutoff is None:
        return ratio(_sums_of(harmonic, ties, buckets, holds_any), every)
    places = np.clip(cutoff - buckets.items_before, 0, buckets.items)
    whole = places == buckets.items
    sums = _sums_of(harmonic, ties, buckets, whole & holds_any)
    hits = np.where(whole, buckets.relevant, 0).sum(axis=1)
    result = ratio(sums, hits if denominator == "hits" else np.minimum(every, cutoff))
    rows, columns = np.nonzero((places > 0) & ~whole)  # at most one bucket a query
    for part in _parts(np.minimum(places, buckets.relevant)[rows, columns]):
        at = rows[part], columns[part]
        cut = _Cut(
            buckets.items[at], buckets.relevant[at], places[at], buckets.items_before[at], buckets.relevant_before[at]
        )
        below = None if denominator == "hits" else np.minimum(every[at[0]], cutoff)
        result[at[0]] = _cut_value(harmonic, ties, cut, sums[at[0]], below)
    return result


@dataclass(frozen=True)
class _Cut:
    """The bucket that a cut-off cuts, one a query; all arrays (q,)."""

    items: Counts  # n
    relevant: Counts  # r
    places: Counts  # m: how many of the n items lie above the cut
    items_before: Counts  # N
    relevant_before: Counts  # P


def _parts(widths: Counts) -> Iterator[slice]:
    """Yield slices of queries for which a (query, hits) table stays small."""
    if not len(widths):
        return
    step = max(1, MIXTURE_CELLS // (int(widths.max()) + 1))
    for start in range(0, len(widths), step):
        yield slice(start, start + step)


def _cut_value(harmonic: PrefixSums, ties: Ties, cut: _Cut, sums: Floats, below: Counts | None) -> Floats:
    """Return AP (q,) with the cut bucket, given the sums of the whole buckets; `below` None divides by the hits."""
    if ties == "expected" and below is not None:  # linear in the sum: no mixture needed
        bucket = _expected_sum(harmonic, cut.items, cut.relevant, cut.places, cut.items_before, cut.relevant_before)
        return ratio(sums + bucket, below)
    fewest = np.maximum(0, cut.places - (cut.items - cut.relevant))
    most = np.minimum(cut.places, cut.relevant)
    hits = fewest[:, None] + np.arange(int((most - fewest).max()) + 1)  # (q, J)
    possible = hits <= most[:, None]
    hits = np.where(possible, hits, most[:, None])
    before = cut.items_before[:, None], cut.relevant_before[:, None]
    bucket = _bucket_sum(harmonic, ties, np.broadcast_to(cut.places[:, None], hits.shape), hits, *before)
    divisor = before[1] + hits if below is None else np.broadcast_to(below[:, None], hits.shape)
    value = ratio(sums[:, None] + bucket, divisor)
    if ties == "worst":
        return np.asarray(np.where(possible, value, np.inf).min(axis=1))
    if ties == "best":
        return np.asarray(np.where(possible, value, -np.inf).max(axis=1))
    weight = _hypergeometric(cut, hits, possible)
    return np.cumsum(weight * value, axis=1)[:, -1]


def _hypergeometric(cut: _Cut, hits: Counts, possible: NDArray[np.bool_]) -> Floats:
    """Return the probability (q, J) of each number of hits among the places: draws without replacement.

    By the ratio of neighbouring probabilities, in logarithms. Sums run in order (`cumsum`), so that the width of the
    table, which depends on the other queries, cannot change a digit.
    """
    items, relevant, places = cut.items[:, None], cut.relevant[:, None], cut.places[:, None]
    h = hits[:, :-1].astype(np.float64)
    up = (relevant - h) * (places - h)
    down = (h + 1) * (items - relevant - places + h + 1)
    step = np.log(np.divide(up, down, out=np.ones_like(h), where=possible[:, 1:]))
    log = np.concatenate([np.zeros((len(hits), 1)), np.cumsum(step, axis=1)], axis=1)
    log = np.where(possible, log, -np.inf)
    weight = np.exp(log - log.max(axis=1, keepdims=True))
    normalised: Floats = weight / np.cumsum(weight, axis=1)[:, -1:]
    return normalised


def chance(hist: ArrayLike, cutoff: int | None = None, denominator: Denominator = "hits") -> Floats:
    """Return the expected AP@R (Q,) of a random ranking of the same items: that of a code which is constant.

    With n items of which r are relevant and without a cut-off it is [H(n) + (r − 1)/(n − 1) · (n − H(n))] / n, a little
    above the share of relevant items r / n.

    Raises:
        ValueError: as in `average_precision`.
    """
    counts = checked(hist)
    relevant = counts[:, :, 1:].sum(axis=(1, 2))
    one_bucket = np.stack([counts[:, :, 0].sum(axis=1), relevant], axis=1)
    different, inverse = np.unique(one_bucket, axis=0, return_inverse=True)
    return average_precision(different[:, None], cutoff, denominator, "expected")[inverse.ravel()]


def average_precision_ranked(
    relevant: ArrayLike,
    total: ArrayLike | None = None,
    cutoff: int | None = None,
    denominator: Denominator = "hits",
) -> Floats:
    """Return the conventional AP@R (Q,) of ranked lists, with ties in whatever order the lists have (`ties="row"`).

    The figure depends on the order of the database; it is here to compare with older papers.

    Args:
        relevant: bool (Q, K), relevance of the ranked items, nearest first; see `razh.retrieval.hamming.rank`.
        total: number of relevant items in the whole database (Q,), for `denominator="all"`; None: those in the list.
        cutoff: R, at most K; None for the whole list.
        denominator: as in `average_precision`.

    Raises:
        ValueError: the cut-off is not in 1..K, shapes do not fit, or the name is unknown.
    """
    check_name("denominator", denominator, ("hits", "all"))
    ranked = np.asarray(relevant, dtype=np.bool_)
    limit = ranked.shape[1] if cutoff is None else cutoff
    if ranked.ndim != 2 or not 1 <= limit <= ranked.shape[1]:
        raise ValueError(f"cutoff is {cutoff} for lists of shape {ranked.shape}; rank at least that many items")
    every = ranked.sum(axis=1) if total is None else np.asarray(total)
    ranked = ranked[:, :limit]
    hits = np.cumsum(ranked, axis=1)
    sums = np.cumsum(np.where(ranked, hits / np.arange(1, limit + 1), 0.0), axis=1)[:, -1]
    return ratio(sums, hits[:, -1] if denominator == "hits" else np.minimum(every, limit))


# ------------------------------------------------------------------------------------- precision, recall and curves


def relevant_total(hist: ArrayLike) -> Counts:
    """Return the number of relevant items of every query (Q,)."""
    return np.asarray(checked(hist)[:, :, 1:].sum(axis=(1, 2)))


def expected_hits(hist: ArrayLike, ranks: ArrayLike) -> Floats:
    """Return the expected number of relevant items among the first k (Q, K), for every rank k of `ranks` (K,).

    A rank k inside a bucket of n tied items, r of them relevant, behind N items of which P are relevant, has
    P + (k − N) · r / n expected hits; a rank beyond the last item has all of them.

    Raises:
        ValueError: `hist` is no histogram, or a rank is below 1.
    """
    places = np.asarray(ranks, dtype=np.int64)
    for k in places:
        check_rank("k", int(k))
    return in_blocks(hist, lambda block: _expected_hits(block, places))


def _expected_hits(counts: Counts, ranks: Counts) -> Floats:
    buckets = buckets_of(counts)
    last = np.cumsum(buckets.items, axis=1)  # the rank at which each bucket ends
    within = np.minimum(ranks, last[:, -1:])
    # One search for all queries: those of query q lie between q · stride and (q + 1) · stride.
    shift = np.arange(len(counts))[:, None] * (int(last.max(initial=0)) + 1)
    at = np.searchsorted((last + shift).ravel(), (within + shift).ravel()).reshape(within.shape)
    items, relevant, items_before, relevant_before = (
        part.ravel()[at] for part in (buckets.items, buckets.relevant, buckets.items_before, buckets.relevant_before)
    )
    return relevant_before + ratio((within - items_before) * relevant, items)


def hits_at(hist: ArrayLike, k: int, ties: Ties = "expected") -> Floats:
    """Return the number of relevant items among the first k (Q,): expected, fewest or most over orders of ties.

    Raises:
        ValueError: `hist` is no histogram, k is below 1, or `ties` is unknown.
    """
    check_name("ties", ties, ("expected", "worst", "best"))
    if ties == "expected":
        return expected_hits(hist, [k])[:, 0]
    check_rank("k", k)
    buckets = buckets_of(hist)
    places = np.clip(k - buckets.items_before, 0, buckets.items)
    if ties == "worst":
        hits = np.maximum(0, places - (buckets.items - buckets.relevant))
    else:
        hits = np.minimum(places, buckets.relevant)
    return np.asarray(hits.sum(axis=1), dtype=np.float64)


def precision_at(hist: ArrayLike, k: int, ties: Ties = "expected") -> Floats:
    """Return precision@k (Q,): hits among the first k, divided by k (also where the database is smaller).

    Raises:
        ValueError: as in `hits_at`.
    """
    return hits_at(hist, k, ties) / k


def recall_at(hist: ArrayLike, k: int, ties: Ties = "expected") -> Floats:
    """Return recall@k (Q,): hits among the first k, divided by all relevant items; 0 where there are none.

    Raises:
        ValueError: as in `hits_at`.
    """
    return ratio(hits_at(hist, k, ties), relevant_total(hist))


def precision_ceiling(hist: ArrayLike, k: int) -> Floats:
    """Return the highest precision@k that any ranking has (Q,): min(1, number of relevant items / k).

    Raises:
        ValueError: `hist` is no histogram, or k is below 1.
    """
    check_rank("k", k)
    return np.minimum(1.0, relevant_total(hist) / k)


def recall_ceiling(hist: ArrayLike, k: int) -> Floats:
    """Return the highest recall@k that any ranking has (Q,): min(1, k / number of relevant items), 0 without any.

    Raises:
        ValueError: `hist` is no histogram, or k is below 1.
    """
    check_rank("k", k)
    relevant = relevant_total(hist)
    return ratio(np.minimum(relevant, k), relevant)


def chance_precision(hist: ArrayLike, k: int = 1) -> Floats:
    """Return the expected precision@k of a random ranking (Q,): (r / n) · min(k, n) / k, of n items r relevant.

    Raises:
        ValueError: `hist` is no histogram, or k is below 1.
    """
    check_rank("k", k)
    total = checked(hist).sum(axis=(1, 2))
    return ratio(relevant_total(hist) * np.minimum(k, total), total * k)


def curve_ranks(items: int, points: int = 100) -> Counts:
    """Return the ranks of a precision–recall curve (K,), K ≤ `points`: 1 … `items`, in even steps of the logarithm."""
    return np.unique(np.geomspace(1, max(1, items), points).round().astype(np.int64))


def precision_recall_curve(hits: ArrayLike, ranks: ArrayLike, relevant: ArrayLike) -> tuple[Floats, Floats]:
    """Return the mean precision and the mean recall (K,) over queries at every rank k.

    precision(k) = mean over queries of hits(k) / k, and recall(k) = mean over queries of hits(k) / relevant; a query
    without relevant items has recall 0.

    Args:
        hits: number of relevant items among the first k of every query (Q, K); see `expected_hits`.
        ranks: the ranks k (K,).
        relevant: number of relevant items of every query (Q,).
    """
    found, places, every = np.asarray(hits), np.asarray(ranks), np.asarray(relevant)
    recall = ratio(found, np.broadcast_to(every[:, None], found.shape))
    return found.mean(axis=0) / places, recall.mean(axis=0)


def _within(hist: ArrayLike, radius: int) -> tuple[Counts, Counts]:
    counts = checked(hist)
    if radius < 0:
        raise ValueError(f"radius is {radius}; a Hamming radius is 0 or more")
    ball = counts[:, : radius + 1].sum(axis=1)
    hits = ball[:, 1:].sum(axis=1)
    return hits, ball[:, 0] + hits


def precision_within(hist: ArrayLike, radius: int) -> Floats:
    """Return the share of relevant items within a Hamming radius (Q,); an empty ball counts 0.

    That is the convention of published tables (precision@H ≤ 2). The mean over queries whose ball holds anything is the
    mean of this, divided by that of `success_within`.

    Raises:
        ValueError: `hist` is no histogram or the radius is negative.
    """
    return ratio(*_within(hist, radius))


def success_within(hist: ArrayLike, radius: int) -> Floats:
    """Return 1 for queries that have any item within a Hamming radius, 0 for those whose ball is empty (Q,).

    Raises:
        ValueError: `hist` is no histogram or the radius is negative.
    """
    return (_within(hist, radius)[1] > 0).astype(np.float64)


def recall_within(hist: ArrayLike, radius: int) -> Floats:
    """Return the share of all relevant items that lie within a Hamming radius (Q,); 0 where there are none.

    Raises:
        ValueError: `hist` is no histogram or the radius is negative.
    """
    return ratio(_within(hist, radius)[0], relevant_total(hist))


# ------------------------------------------------------------------------------------------------------------ NDCG


def ndcg_at(hist: ArrayLike, k: int | None = None, gain: Literal["exponential", "linear"] = "exponential") -> Floats:
    """Return NDCG@k (Q,) with ties in expectation: every item of a bucket has the bucket's mean gain.

    The grade of an item is its histogram column: 0 and 1, or the number of shared labels (`graded=True`).

    Args:
        hist: counts (Q, L + 1, S + 1) by distance and grade.
        k: cut-off; None for the whole ranking.
        gain: 2^grade − 1 (`exponential`) or the grade (`linear`).

    Raises:
        ValueError: `hist` is no histogram, k is below 1, or `gain` is unknown.
    """
    check_name("gain", gain, ("exponential", "linear"))
    if k is not None:
        check_rank("k", k)
    return in_blocks(hist, lambda block: _ndcg_at(block, k, gain))


def _ndcg_at(counts: Counts, k: int | None, gain: str) -> Floats:
    items = counts.sum(axis=2)
    largest = int(items.sum(axis=1).max(initial=0))
    limit = largest if k is None else k
    grades = np.arange(counts.shape[2], dtype=np.float64)
    gains = np.exp2(grades) - 1 if gain == "exponential" else grades
    discounts = discount_table(table_size(largest))
    mean_gain = ratio(np.cumsum(counts * gains, axis=2)[:, :, -1], items)
    found = mean_gain * _discounted(discounts, items, limit)
    ideal = gains[::-1] * _discounted(discounts, counts.sum(axis=1)[:, ::-1], limit)
    return ratio(np.cumsum(found, axis=1)[:, -1], np.cumsum(ideal, axis=1)[:, -1])


def _discounted(discounts: PrefixSums, items: Counts, limit: int) -> Floats:
    """Return the sum of discounts (Q, B) over the places that each of consecutive groups of items takes within k."""
    last = np.minimum(np.cumsum(items, axis=1), limit)
    first = np.minimum(np.cumsum(items, axis=1) - items, limit)
    return discounts.between(first, last)
