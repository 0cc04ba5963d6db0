import numpy as np
import pytest

from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.retrieval.significance import against, holm, query_values


def test_holm_by_hand():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"b": 0.03, "c": 0.06, "a": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_a_clear_difference_is_found_and_an_equal_method_is_not():
    rng = np.random.default_rng(0)
    base = rng.random(100)
    values = {"best": base, "worse": base - 0.2 + 0.1 * rng.random(100), "alike": base + 0.05 * rng.normal(size=100)}
    found = against("best", values)
    assert set(found) == {"worse", "alike"}
    assert found["worse"].p_value < 0.01
    assert found["worse"].high < 0
    assert found["alike"].p_value > 0.05
    assert found["worse"].difference == pytest.approx((values["worse"] - base).mean())


def test_classes_are_a_harder_unit_than_queries():
    labels = np.repeat([0, 1, 2], 40)
    base = np.random.default_rng(0).random(120)
    values = {"best": base, "worse": base - 0.1}
    assert against("best", values)["worse"].p_value < 0.001
    assert against("best", values, labels)["worse"].p_value > 0.2  # of 2³ swaps, two are as extreme


def test_query_values_are_means_over_seeds_of_the_cells_own_figures(tmp_path, leave_result):
    runs, metrics = {}, {}
    for method in ("itq", "ce"):
        runs[method] = [tmp_path / method / str(seed) for seed in (0, 1)]
        for seed, folder in enumerate(runs[method]):
            leave_result(folder, method, 16, seed)
        metrics[method] = [evaluate(Codes.load(folder / "codes.npz")).metrics for folder in runs[method]]
    for name in ("test/unseen/map", "test/seen/map"):
        values = query_values(runs, name)
        for method, of_seeds in metrics.items():
            assert values[method].mean() == pytest.approx(np.mean([found[name] for found in of_seeds]))
    values = query_values(runs, "test/unseen/map")["itq"]
    assert query_values({"itq": runs["itq"][:1]}, "test/unseen/map@10")["itq"].shape == values.shape
    of_all = query_values(runs, "test/unseen/map@100000")["itq"]  # of such a small database: map
    np.testing.assert_array_equal(of_all, values)
    assert query_values(runs, "codes/entropy") == {}


def test_other_queries_are_refused(tmp_path, leave_result):
    for name, fingerprint in (("a", "f"), ("b", "g")):
        leave_result(tmp_path / name, "itq", 16, 0, fingerprint)
    with pytest.raises(ValueError, match="split fingerprints differ"):
        query_values({name: [tmp_path / name] for name in "ab"}, "test/unseen/map")
