from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from razh.retrieval import buckets, metrics
from razh.retrieval.hamming import histogram, rank
from razh.retrieval.packing import pack

TIES = ("expected", "worst", "best")


def slow_ap(relevant, cutoff, denominator):
    """AP of one ranked list by the definition."""
    limit = len(relevant) if cutoff is None else cutoff
    total, hits = 0.0, 0
    for place, good in enumerate(relevant[:limit], start=1):
        if good:
            hits += 1
            total += hits / place
    below = hits if denominator == "hits" else min(limit, sum(relevant))
    return total / below if hits else 0.0


def slow_ndcg(grades, k):
    gains = [2**grade - 1 for grade in grades]
    k = len(gains) if k is None else k

    def dcg(values):
        return sum(gain / np.log2(place + 1) for place, gain in enumerate(values[:k], start=1))

    return dcg(gains) / dcg(sorted(gains, reverse=True)) if any(gains) else 0.0


def orders(buckets):
    """Every order of the items of consecutive buckets; buckets are lists of grades."""
    if not buckets:
        yield []
        return
    for head in permutations(buckets[0]):
        for tail in orders(buckets[1:]):
            yield [*head, *tail]


def as_histogram(buckets, levels=2):
    counts = np.zeros((1, len(buckets), levels), dtype=np.int64)
    for distance, grades in enumerate(buckets):
        for grade in grades:
            counts[0, distance, grade] += 1
    return counts


def random_buckets(rng, items, levels=2):
    buckets = [[] for _ in range(int(rng.integers(1, 5)))]
    for _ in range(items):
        buckets[rng.integers(len(buckets))].append(int(rng.integers(levels)))
    return buckets


def tie_free(rng, queries, items):
    """Distances without ties: ranks, as histograms (Q, items, 2) and ranked relevance."""
    ranked = rng.random((queries, items)) < 0.3
    counts = np.stack([~ranked, ranked], axis=2).astype(np.int64)
    return counts, ranked


@pytest.mark.parametrize("items", range(1, 8))
def test_average_precision_equals_the_enumeration_of_all_orders(items):
    rng = np.random.default_rng(items)
    for _ in range(12 if items < 7 else 3):
        buckets = random_buckets(rng, items)
        hist = as_histogram(buckets)
        everything = list(orders(buckets))
        for cutoff in (None, *range(1, items + 2)):
            for denominator in ("hits", "all"):
                values = [slow_ap(order, cutoff, denominator) for order in everything]
                expected = {"expected": np.mean(values), "worst": min(values), "best": max(values)}
                for ties in TIES:
                    found = metrics.average_precision(hist, cutoff, denominator, ties)[0]
                    assert found == pytest.approx(expected[ties], abs=1e-12), (buckets, cutoff, denominator, ties)


@pytest.mark.parametrize("items", range(1, 7))
def test_precision_recall_and_ndcg_equal_the_enumeration_of_all_orders(items):
    rng = np.random.default_rng(items)
    for _ in range(8):
        buckets = random_buckets(rng, items, levels=4)
        hist, everything = as_histogram(buckets, 4), list(orders(buckets))
        total = sum(grade > 0 for bucket in buckets for grade in bucket)
        for k in range(1, items + 2):
            hits = [sum(grade > 0 for grade in order[:k]) for order in everything]
            for ties, value in zip(TIES, (np.mean(hits), min(hits), max(hits)), strict=True):
                assert metrics.precision_at(hist, k, ties)[0] == pytest.approx(value / k, abs=1e-12)
                assert metrics.recall_at(hist, k, ties)[0] == pytest.approx(value / total if total else 0, abs=1e-12)
        for k in (None, 1, items):
            ndcg = np.mean([slow_ndcg(order, k) for order in everything])
            assert metrics.ndcg_at(hist, k)[0] == pytest.approx(ndcg, abs=1e-12)


def test_average_precision_at_a_cutoff_agrees_with_monte_carlo():
    rng = np.random.default_rng(0)
    hist = rng.integers(0, 9, (1, 9, 2))
    buckets = [[0] * a + [1] * b for a, b in hist[0]]
    cutoff = int(hist[0, :4].sum() + hist[0, 4].sum() // 2)
    draws = {"hits": [], "all": []}
    for _ in range(4000):
        order = [int(item) for bucket in buckets for item in rng.permutation(bucket)]
        for denominator, values in draws.items():
            values.append(slow_ap(order, cutoff, denominator))
    for denominator, values in draws.items():
        found = metrics.average_precision(hist, cutoff, denominator)[0]
        assert abs(found - np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_large_buckets_keep_their_precision():
    """Against exact fractions summed term by term, a million items in front of the bucket."""
    hist = np.zeros((1, 2, 2), dtype=np.int64)
    hist[0] = [[990_000, 10_000], [15, 5]]
    harmonic = np.sum(1.0 / np.arange(1_000_001, 1_000_021, dtype=np.longdouble))
    n, r, ahead, hits = 20, 5, 1_000_000, 10_000
    bucket = r / n * ((hits + 1) * harmonic + (r - 1) / (n - 1) * (n - (ahead + 1) * harmonic))
    first = metrics.average_precision(hist[:, :1])[0] * hits
    assert metrics.average_precision(hist)[0] * (hits + r) - first == pytest.approx(float(bucket), abs=1e-9)
    table = buckets.harmonic_numbers(2_000_000)
    exact = np.sum(1.0 / np.arange(1_999_999, 2_000_001, dtype=np.longdouble))
    assert table.between(np.array([1_999_998]), np.array([2_000_000]))[0] == pytest.approx(float(exact), rel=1e-14)


def test_the_hypergeometric_weights_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    cut = metrics._Cut(*(np.array(v) for v in ([900, 40], [300, 3], [450, 39], [0, 0], [0, 0])))
    hits = np.arange(301)[None].repeat(2, axis=0)
    hits[1] += 2
    possible = hits <= np.array([[300], [3]])
    weight = metrics._hypergeometric(cut, np.minimum(hits, [[300], [3]]), possible)
    np.testing.assert_allclose(weight[0], stats.hypergeom(900, 300, 450).pmf(np.arange(301)), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(weight[1, :2], stats.hypergeom(40, 3, 39).pmf([2, 3]), rtol=1e-12)
    assert (weight[1, 2:] == 0).all()


@pytest.mark.parametrize("cutoff", [None, 3, 10])
def test_tie_free_rankings_equal_the_conventional_value_in_every_tie_order(cutoff):
    hist, ranked = tie_free(np.random.default_rng(1), 20, 25)
    for denominator in ("hits", "all"):
        slow = [slow_ap(list(row), cutoff, denominator) for row in ranked]
        conventional = metrics.average_precision_ranked(ranked, cutoff=cutoff, denominator=denominator)
        np.testing.assert_allclose(conventional, slow, atol=1e-12)
        for ties in TIES:
            np.testing.assert_allclose(metrics.average_precision(hist, cutoff, denominator, ties), slow, atol=1e-12)


def test_other_libraries_agree_on_tie_free_data():
    ranking = pytest.importorskip("sklearn.metrics")
    torch = pytest.importorskip("torch")
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    hist, ranked = tie_free(np.random.default_rng(2), 12, 30)
    ranked[:, 3] = True  # scikit-learn warns without a relevant item
    hist = np.stack([~ranked, ranked], axis=2).astype(np.int64)
    scores = np.arange(30, 0, -1.0)  # positive: torchmetrics drops scores that are not
    ap, at_10 = metrics.average_precision(hist), metrics.average_precision(hist, 10)
    precision, recall = metrics.precision_at(hist, 5), metrics.recall_at(hist, 5)
    ndcg = metrics.ndcg_at(hist, 8)
    for row, relevant in enumerate(ranked):
        assert ap[row] == pytest.approx(ranking.average_precision_score(relevant, scores))
        assert ndcg[row] == pytest.approx(ranking.ndcg_score([relevant], [scores], k=8))
        preds, target = torch.tensor(scores), torch.tensor(relevant)
        assert ap[row] == pytest.approx(retrieval.retrieval_average_precision(preds, target).item(), abs=1e-6)
        value = retrieval.retrieval_average_precision(preds, target, top_k=10).item()
        assert at_10[row] == pytest.approx(value, abs=1e-6)
        assert precision[row] == pytest.approx(retrieval.retrieval_precision(preds, target, top_k=5).item(), abs=1e-6)
        assert recall[row] == pytest.approx(retrieval.retrieval_recall(preds, target, top_k=5).item(), abs=1e-6)


def test_scikit_learn_averages_ndcg_over_ties_as_we_do():
    ranking = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    grades, scores = rng.integers(0, 4, 40), rng.integers(0, 6, 40)
    hist = np.zeros((1, 6, 4), dtype=np.int64)
    np.add.at(hist, (0, 5 - scores, grades), 1)
    for k in (3, 17, None):
        expected = ranking.ndcg_score([grades], [scores], k=k)
        assert metrics.ndcg_at(hist, k, gain="linear")[0] == pytest.approx(expected)


def test_pytorch_metric_learning_agrees_on_tie_free_codes():
    accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    database = np.tri(31, 30, -1, dtype=bool)  # code g has g ones: 31 different distances to code 0
    query = np.zeros((3, 30), dtype=bool)
    left, right = np.arange(3), rng.integers(0, 3, 31)
    ours = metrics.average_precision(histogram(pack(query), pack(database), left, right, 30)).mean()
    calculator = accuracy.AccuracyCalculator(include=("mean_average_precision",), k=31)
    theirs = calculator.get_accuracy(
        torch.tensor(query, dtype=torch.float32),
        torch.tensor(left),
        torch.tensor(database, dtype=torch.float32),
        torch.tensor(right),
    )["mean_average_precision"]
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_the_conventional_value_of_ranked_codes_lies_between_worst_and_best():
    rng = np.random.default_rng(7)
    query, database = pack(rng.random((10, 6)) < 0.5), pack(rng.random((80, 6)) < 0.5)
    left, right = rng.integers(0, 3, 10), rng.integers(0, 3, 80)
    hist = histogram(query, database, left, right, 6)
    _, rows = rank(query, database, 6)
    for cutoff in (None, 10, 33):
        value = metrics.average_precision_ranked(right[rows] == left[:, None], cutoff=cutoff)
        assert (metrics.average_precision(hist, cutoff, ties="worst") <= value + 1e-12).all()
        assert (metrics.average_precision(hist, cutoff, ties="best") >= value - 1e-12).all()


histograms = st.builds(
    lambda seed, queries, buckets, most: np.random.default_rng(seed).integers(0, most + 1, (queries, buckets, 2)),
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(1, 60),
)


@settings(max_examples=60, deadline=None)
@given(histograms, st.one_of(st.none(), st.integers(1, 200)), st.sampled_from(("hits", "all")))
def test_worst_expected_and_best_are_ordered_and_shares_agree_to_the_last_digit(hist, cutoff, denominator):
    worst, expected, best = (
        metrics.average_precision(hist, cutoff, denominator, ties) for ties in ("worst", "expected", "best")
    )
    assert (worst >= -1e-12).all()
    assert (best <= 1 + 1e-9).all()
    assert (worst <= expected + 1e-9).all()
    assert (expected <= best + 1e-9).all()
    for row in range(len(hist)):
        single = metrics.average_precision(hist[row : row + 1], cutoff, denominator)
        assert single[0] == expected[row]
        assert metrics.ndcg_at(hist[row : row + 1], cutoff)[0] == metrics.ndcg_at(hist, cutoff)[row]


@settings(max_examples=40, deadline=None)
@given(histograms, st.integers(1, 100))
def test_a_far_irrelevant_item_changes_nothing_within_the_cutoff(hist, cutoff):
    longer = np.concatenate([hist, np.zeros_like(hist[:, :1])], axis=1)
    before, after = longer.copy(), longer.copy()
    after[:, -1, 0] += 1
    full = hist.sum(axis=(1, 2)) >= cutoff
    for ties in TIES:
        for denominator in ("hits", "all"):
            left = metrics.average_precision(before, cutoff, denominator, ties)[full]
            np.testing.assert_allclose(
                metrics.average_precision(after, cutoff, denominator, ties)[full], left, atol=1e-12
            )
    np.testing.assert_allclose(metrics.average_precision(after), metrics.average_precision(before), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(histograms)
def test_a_cutoff_beyond_the_database_is_none_at_all(hist):
    size = int(hist.sum(axis=(1, 2)).max()) + 1
    for ties in TIES:
        expected = metrics.average_precision(hist, ties=ties)
        for denominator in ("hits", "all"):
            np.testing.assert_allclose(metrics.average_precision(hist, size, denominator, ties), expected, rtol=1e-12)


def test_a_perfect_code_scores_one_and_the_worst_ranking_is_known():
    hist = np.array([[[0, 5], [20, 0]], [[20, 0], [0, 5]]])
    for ties in TIES:
        value = metrics.average_precision(hist, ties=ties)
        assert value[0] == 1.0
        assert value[1] == pytest.approx(np.mean([(i + 1) / (21 + i) for i in range(5)]))
    assert metrics.ndcg_at(hist)[0] == pytest.approx(1.0)


def test_hits_as_denominator_reward_finding_fewer():
    """[+ − +] scores 5/6 and [+ − −] scores 1 with `hits`; with `all` finding more is never worse."""
    more = np.array([[[0, 1], [1, 0], [0, 1], [3, 0]]])
    fewer = np.array([[[0, 1], [1, 0], [1, 0], [2, 1]]])
    assert metrics.average_precision(more, 3)[0] == pytest.approx(5 / 6)
    assert metrics.average_precision(fewer, 3)[0] == pytest.approx(1.0)
    assert metrics.average_precision(more, 3, "all")[0] == pytest.approx(5 / 6)
    assert metrics.average_precision(fewer, 3, "all")[0] == pytest.approx(1 / 2)


def test_chance_is_the_average_precision_of_a_random_ranking():
    rng = np.random.default_rng(8)
    hist = np.array([[[9, 2], [8, 1]]])
    items = np.array([1] * 3 + [0] * 17)
    draws = [slow_ap(list(rng.permutation(items)), None, "hits") for _ in range(4000)]
    value = metrics.chance(hist)[0]
    n, r = 20, 3
    harmonic = sum(1 / i for i in range(1, n + 1))
    assert value == pytest.approx((harmonic + (r - 1) / (n - 1) * (n - harmonic)) / n)
    assert abs(value - np.mean(draws)) < 4 * np.std(draws) / np.sqrt(4000)
    assert value > r / n


def test_queries_without_relevant_items_and_empty_balls_count_zero():
    hist = np.array([[[0, 0], [5, 0]], [[0, 0], [0, 4]]])
    for ties in TIES:
        assert metrics.average_precision(hist, ties=ties).tolist() == [0.0, 1.0]
        assert metrics.average_precision(hist, 2, "all", ties).tolist() == [0.0, 1.0]
    assert metrics.precision_within(hist, 0).tolist() == [0.0, 0.0]
    assert metrics.recall_within(hist, 1).tolist() == [0.0, 1.0]
    assert metrics.recall_at(hist, 3).tolist() == [0.0, 0.75]
    assert metrics.ndcg_at(hist).tolist() == [0.0, 1.0]


def test_hits_at_every_rank_are_the_shares_of_the_buckets():
    rng = np.random.default_rng(9)
    hist = rng.integers(0, 5, (700, 9, 2))  # more queries than a block
    hist[3] = 0
    ranks = np.arange(1, int(hist.sum(axis=(1, 2)).max()) + 3)
    items, relevant = hist.sum(axis=2), hist[:, :, 1]
    found = metrics.expected_hits(hist, ranks)
    for k in ranks:
        places = np.clip(k - (np.cumsum(items, axis=1) - items), 0, items)
        np.testing.assert_allclose(found[:, k - 1], (relevant * places / np.maximum(items, 1)).sum(axis=1), atol=1e-12)
    alone = np.concatenate([metrics.expected_hits(hist[q : q + 1], ranks) for q in range(700)])
    np.testing.assert_array_equal(found, alone)  # no query depends on the others


def test_the_curve_begins_at_the_first_rank_and_ends_with_everything():
    """One relevant item nearest, one somewhere in a bucket of four; the other query finds nothing at all."""
    hist = np.array([[[0, 1], [0, 0], [3, 1]], [[5, 0], [0, 0], [0, 0]]])
    ranks = metrics.curve_ranks(5)
    assert ranks.tolist() == [1, 2, 3, 4, 5]
    hits = metrics.expected_hits(hist, ranks)
    np.testing.assert_allclose(hits, [[1, 1.25, 1.5, 1.75, 2], [0] * 5])
    precision, recall = metrics.precision_recall_curve(hits, ranks, metrics.relevant_total(hist))
    np.testing.assert_allclose(precision, np.array([1, 1.25 / 2, 0.5, 1.75 / 4, 0.4]) / 2)
    np.testing.assert_allclose(recall, np.array([0.5, 0.625, 0.75, 0.875, 1.0]) / 2)


def test_ranks_of_a_curve_are_few_different_and_reach_the_last_item():
    for items in (1, 7, 12_345, 10**6):
        ranks = metrics.curve_ranks(items)
        assert (ranks[0], ranks[-1]) == (1, items)
        assert len(ranks) == min(items, len(set(ranks.tolist()))) <= 100


def test_no_ranking_beats_the_ceiling_and_a_perfect_one_reaches_it():
    perfect = np.array([[[0, 3], [9, 0]], [[0, 20], [9, 0]], [[0, 0], [9, 0]]])
    assert metrics.precision_ceiling(perfect, 10).tolist() == [0.3, 1.0, 0.0]
    assert metrics.recall_ceiling(perfect, 10).tolist() == [1.0, 0.5, 0.0]
    for k in (1, 2, 10, 50):
        np.testing.assert_array_equal(metrics.precision_at(perfect, k), metrics.precision_ceiling(perfect, k))
        np.testing.assert_array_equal(metrics.recall_at(perfect, k), metrics.recall_ceiling(perfect, k))
        reversed_ = perfect[:, ::-1]
        assert (metrics.precision_at(reversed_, k) <= metrics.precision_ceiling(reversed_, k)).all()


def test_the_precision_of_chance_is_that_of_a_constant_code():
    constant = np.array([[[15, 5]], [[6, 0]], [[0, 0]]])
    for k in (1, 7, 40):
        np.testing.assert_allclose(metrics.chance_precision(constant, k), metrics.precision_at(constant, k), atol=1e-15)


def test_empty_balls_are_counted():
    hist = np.array([[[0, 0], [0, 0], [4, 1]], [[0, 0], [1, 1], [4, 1]]])
    success = metrics.success_within(hist, 1)
    assert success.tolist() == [0.0, 1.0]
    assert metrics.precision_within(hist, 1).mean() / success.mean() == 0.5  # the mean over balls that hold anything


def test_no_queries_give_no_values():
    hist = np.zeros((0, 9, 2), dtype=np.int64)
    assert metrics.average_precision(hist, 5).shape == (0,)
    assert metrics.ndcg_at(hist, 5).shape == (0,)
    assert metrics.chance(hist).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: metrics.average_precision(h, 0), "cutoff is 0"),
        (lambda h: metrics.average_precision(h, 1, "some"), "denominator is 'some'"),
        (lambda h: metrics.average_precision(h, ties="row"), "ties is 'row'"),
        (lambda h: metrics.average_precision(h[0]), "hist has shape"),
        (lambda h: metrics.average_precision(h / 2), "hist has shape"),
        (lambda h: metrics.precision_at(h, 0), "k is 0"),
        (lambda h: metrics.expected_hits(h, [3, 0]), "k is 0"),
        (lambda h: metrics.precision_ceiling(h, 0), "k is 0"),
        (lambda h: metrics.precision_within(h, -1), "radius is -1"),
        (lambda h: metrics.ndcg_at(h, gain="cubic"), "gain is 'cubic'"),
        (lambda h: metrics.average_precision_ranked(h[0] > 0, cutoff=3), "cutoff is 3"),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((1, 3, 2), dtype=np.int64))
