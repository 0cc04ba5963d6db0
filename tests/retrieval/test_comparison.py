from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from razh.retrieval.codes import Codes
from razh.retrieval.comparison import aligned, check_same_queries, paired_difference


def test_means_and_difference_are_exact_and_seeded():
    rng = np.random.default_rng(0)
    first, second = rng.random(40), rng.random(40)
    found = paired_difference(first, second, samples=500, seed=3)
    assert found == paired_difference(first, second, samples=500, seed=3)
    assert found.difference == pytest.approx(second.mean() - first.mean())
    assert found.low < found.difference < found.high
    assert found.units == 40


def test_the_p_value_is_that_of_all_sign_flips():
    difference = np.array([0.3, 0.1, -0.05, 0.2, 0.15, -0.02, 0.12])
    flips = [abs(np.dot(signs, difference)) >= difference.sum() - 1e-12 for signs in product((-1, 1), repeat=7)]
    found = paired_difference(np.zeros(7), difference, samples=20_000)
    assert found.p_value == pytest.approx(np.mean(flips), abs=0.01)


def test_equal_methods_do_not_differ_and_opposite_ones_do():
    values = np.random.default_rng(1).random(30)
    same = paired_difference(values, values, samples=200)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    better = paired_difference(values, values + 0.1, samples=999)
    assert better.p_value == pytest.approx(1 / 1000)
    assert better.low == pytest.approx(0.1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(200):
        difference = rng.normal(0.5, 1.0, 60)
        found = paired_difference(np.zeros(60), difference, samples=300, confidence=0.9, seed=seed)
        covered += found.low <= 0.5 <= found.high
    assert 0.8 < covered / 200 < 0.97


def test_whole_classes_are_the_unit_on_demand():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(5), 20)
    shift = rng.normal(0, 1, 5)[groups]  # queries of a class move together
    by_query = paired_difference(np.zeros(100), shift, samples=500)
    by_class = paired_difference(np.zeros(100), shift, groups, samples=500)
    assert by_class.units == 5
    assert by_class.difference == pytest.approx(by_query.difference)
    assert by_class.high - by_class.low > 1.5 * (by_query.high - by_query.low)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"second": np.zeros(2)}, "first has shape"),
        ({"first": np.zeros(0), "second": np.zeros(0)}, "first has shape"),
        ({"samples": 0}, "samples is 0"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"groups": np.zeros(2)}, "groups has shape"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(**({"first": np.zeros(3), "second": np.zeros(3)} | arguments))


def test_different_queries_databases_or_splits_are_refused():
    code = np.zeros((3, 1), np.uint8)
    same = {"query_codes": code, "database_codes": code, "query_labels": np.arange(3), "database_labels": np.arange(3)}
    base = Codes(**same, bits=8)
    check_same_queries(base, Codes(**same, bits=7))
    for change, message in (
        ({"fingerprint": "x"}, "split fingerprints differ"),
        ({"unseen_classes": (1,)}, "unseen_classes differ"),
        ({"query_labels": np.arange(3)[::-1]}, "query_labels differs"),
        ({"query_index": np.arange(3), "database_index": np.arange(3)}, "query_index differs"),
        ({"database_labels": np.array([0, 1, 1])}, "database_labels differs"),
    ):
        with pytest.raises(ValueError, match=message):
            check_same_queries(base, Codes(**(same | change), bits=8))
    groups = [Codes(**same, bits=8, unseen_classes=(0,), validation_classes=held) for held in ((1,), (2,), None)]
    with pytest.raises(ValueError, match="validation_classes differ"):
        check_same_queries(*groups[:2])
    check_same_queries(*groups[1:])  # one file does not say


@pytest.fixture
def shuffled():
    """A codes file without queries of seen classes, and the same with its database in another order."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 4, 40)
    queries = {"query_codes": rng.integers(0, 256, (10, 1), dtype=np.uint8), "query_labels": np.repeat([2, 3], 5)}
    database = {
        "database_codes": rng.integers(0, 256, (40, 1), dtype=np.uint8),
        "database_labels": labels,
        "database_index": np.arange(100, 140),
    }
    common = {**queries, "query_index": np.arange(10), "bits": 8, "unseen_classes": (2, 3)}
    order = rng.permutation(40)
    return Codes(**common, **database), Codes(**common, **{name: array[order] for name, array in database.items()})


def test_another_order_of_the_database_pairs_the_same_items(shuffled):
    first, second = shuffled
    assert not np.array_equal(first.database_codes, second.database_codes)
    moved = aligned(first, second)
    for name in ("database_codes", "database_labels", "database_index"):
        assert np.array_equal(getattr(moved, name), getattr(first, name)), name
    assert aligned(first, first) is first


def test_another_order_without_an_index_is_refused_where_rows_are_queries(shuffled):
    first, second = (replace(codes, query_index=None, database_index=None) for codes in shuffled)
    with pytest.raises(ValueError, match="store database_index in both files, or one order"):
        aligned(first, second)
    queries = {"query_codes": np.zeros((1, 1), np.uint8), "query_labels": np.zeros(1, np.int64)}  # of a seen class
    first, second = (replace(codes, **queries) for codes in (first, second))
    assert aligned(first, second) is second
