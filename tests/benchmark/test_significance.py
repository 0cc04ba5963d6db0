import numpy as np
import pytest

from razh.benchmark.significance import against, holm, query_values
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate


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
    rows = []
    for method in ("itq", "ce"):
        for seed in (0, 1):
            folder = tmp_path / method / str(seed)
            leave_result(folder, method, 16, seed)
            rows.append({"label": method, "folder": f"{method}/{seed}"})
    values = query_values(tmp_path, rows, "test/unseen/map")
    for method in ("itq", "ce"):
        of_seeds = [evaluate(Codes.load(tmp_path / method / str(s) / "codes.npz")).metrics for s in (0, 1)]
        assert values[method].mean() == pytest.approx(np.mean([m["test/unseen/map"] for m in of_seeds]))
    at_10 = query_values(tmp_path, rows[:1], "test/unseen/map@10")["itq"]
    assert at_10.shape == values["itq"].shape
    assert query_values(tmp_path, rows, "codes/entropy") == {}


def test_other_queries_are_refused(tmp_path, leave_result):
    for name, fingerprint in (("a", "f"), ("b", "g")):
        leave_result(tmp_path / name, "itq", 16, 0, fingerprint)
    with pytest.raises(ValueError, match="split fingerprints differ"):
        query_values(tmp_path, [{"label": n, "folder": n} for n in "ab"], "test/unseen/map")
