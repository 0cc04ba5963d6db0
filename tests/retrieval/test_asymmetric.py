"""Asymmetric distances beside sums one by one, their order, and the average precision that they give."""

from dataclasses import replace

import numpy as np
import pytest

from razh.retrieval import asymmetric, hamming
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.retrieval.metrics import average_precision_ranked
from razh.retrieval.packing import pack


@pytest.mark.parametrize("bits", [1, 13, 64])
def test_a_bit_counts_by_how_sure_the_query_is_of_it(bits):
    rng = np.random.default_rng(bits)
    logits, codes = rng.normal(size=(4, bits)).astype(np.float32), rng.random((50, bits)) < 0.5
    found = asymmetric.distances(logits, pack(codes), bits) / asymmetric.ONE
    weights = np.abs(logits) / np.abs(logits).mean(axis=1, keepdims=True)
    wanted = ((codes[None] != (logits >= 0)[:, None]) * weights[:, None]).sum(axis=2)
    np.testing.assert_allclose(found, wanted, atol=bits / asymmetric.ONE)
    even = np.where(logits < 0, -2.0, 2.0).astype(np.float32)
    near = hamming.distances(pack(even >= 0), pack(codes), bits)
    np.testing.assert_array_equal(asymmetric.distances(even, pack(codes), bits), near.astype(int) * asymmetric.ONE)


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_the_nearest_are_those_of_all_distances(block, monkeypatch):
    monkeypatch.setattr(asymmetric, "BLOCK", block)
    rng = np.random.default_rng(0)
    logits = rng.integers(-2, 3, (3, 6)).astype(np.float32)  # many equals
    logits[2] = 0
    codes, mask = pack(rng.random((90, 6)) < 0.5), rng.random(90) < 0.7
    every = asymmetric.distances(logits, codes, 6)
    for where in (None, mask):
        rows = np.arange(90) if where is None else np.flatnonzero(where)
        for k in (1, 10, 99):
            near, places, equal = asymmetric.nearest(logits, codes, 6, k, mask=where)
            for query in range(3):
                order = rows[np.lexsort((rows, every[query, rows]))][:k]
                assert places[query].tolist() == order.tolist()
                assert near[query].tolist() == every[query, order].tolist()
                assert equal[query] == (every[query, rows] == near[query, -1]).sum()
    assert asymmetric.nearest(logits, codes, 6, 3, mask=np.zeros(90, bool))[0].shape == (3, 0)


def test_logits_of_another_length_are_refused():
    codes = pack(np.ones((3, 8), bool))
    for wrong in (np.zeros((1, 7)), np.zeros(8), np.full((1, 8), np.nan)):
        with pytest.raises(ValueError, match="logits has shape"):
            asymmetric.nearest(wrong, codes, 8, 1)
    with pytest.raises(ValueError, match="k is 0"):
        asymmetric.nearest(np.zeros((1, 8)), codes, 8, 0)


def test_an_evaluation_ranks_by_the_logits_where_there_are_any(tmp_path):
    rng = np.random.default_rng(0)
    logits, database = rng.normal(size=(6, 32)).astype(np.float32), rng.random((40, 32)) < 0.5
    labels = rng.integers(0, 4, 40)
    codes = Codes(pack(logits >= 0), pack(database), rng.integers(0, 4, 6), labels, 32, unseen_classes=(0, 1, 2, 3))
    assert "test/unseen/asymmetric/map" not in evaluate(codes).metrics
    asked = replace(codes, query_logits=logits)
    asked.save(tmp_path / "codes.npz")
    found = evaluate(Codes.load(tmp_path / "codes.npz")).metrics
    order = np.argsort(asymmetric.distances(logits, codes.database_codes, 32), axis=1, kind="stable")
    relevant = labels[order] == codes.query_labels[:, None]
    assert found["test/unseen/asymmetric/map"] == pytest.approx(average_precision_ranked(relevant).mean(), abs=0.02)
    assert found["test/unseen/map"] == evaluate(codes).metrics["test/unseen/map"]
    with pytest.raises(ValueError, match="query_logits has shape"):
        replace(codes, query_logits=logits[:3])


def test_a_query_does_not_find_itself():
    logits = np.ones((1, 4), np.float32)
    codes = pack(np.array([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]], bool))
    labels = np.array([0, 1, 0])
    found = asymmetric.average_precision(logits, codes, labels[:1], labels, 4, np.array([0]))
    assert found.tolist() == [0.5]
