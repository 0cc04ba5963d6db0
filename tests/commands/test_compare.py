import json
from dataclasses import replace

import numpy as np
import pytest

from razh.commands.compare import main
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import evaluate
from razh.retrieval.packing import pack


@pytest.fixture
def files(tmp_path):
    """Methods on the same images: two that differ by chance alone, and one that is almost noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, 8, 60), rng.integers(0, 8, 200)
    prototypes = rng.random((8, 24)) < 0.5
    query, database = (prototypes[one] ^ (rng.random((len(one), 24)) < 0.2) for one in labels)
    other = prototypes[labels[0]] ^ (rng.random((60, 24)) < 0.2)
    even = (np.arange(60) % 2 == 0)[:, None]
    noise = [rng.random(part.shape) < 0.4 for part in (query, database)]
    methods = {
        "good": (np.where(even, query, other), database),
        "alike": (np.where(even, other, query), database),
        "bad": (query ^ noise[0], database ^ noise[1]),
    }
    for name, codes in methods.items():
        made = Codes(pack(codes[0]), pack(codes[1]), *labels, 24, unseen_classes=(4, 5, 6, 7), fingerprint="f")
        made.save(tmp_path / f"{name}.npz")
    return tmp_path


def run(files, *arguments):
    assert (
        main([str(files / arguments[0]), str(files / arguments[1]), *arguments[2:], "--json", str(files / "c.json")])
        == 0
    )
    content = json.loads((files / "c.json").read_text())
    return {row["task"]: row for row in content["results"]}


def test_a_clear_difference_is_significant_and_beyond_ties(files, capsys):
    found = run(files, "bad.npz", "good.npz", "--samples", "500")
    unseen = found["unseen"]
    assert set(found) == {"unseen", "zsl", "seen"}
    expected = [evaluate(Codes.load(files / f"{name}.npz")).metrics["test/unseen/map"] for name in ("bad", "good")]
    assert [unseen["first"], unseen["second"]] == pytest.approx(expected)
    assert unseen["difference"] == pytest.approx(expected[1] - expected[0])
    assert unseen["low"] > 0
    assert unseen["p_value"] == pytest.approx(1 / 501)
    assert unseen["exceeds_ties"] is True
    assert "beyond ties" in capsys.readouterr().out


def test_groups_of_seen_queries_are_compared_where_one_file_knows_them(files, capsys):
    codes = Codes.load(files / "good.npz")
    replace(codes, validation_classes=(0, 1)).save(files / "knows.npz")
    found = run(files, "bad.npz", "knows.npz", "--samples", "50")
    assert list(found) == ["unseen", "zsl", "validation", "trained"]
    expected = evaluate(replace(codes, validation_classes=(0, 1)), prefix="").metrics
    for name in ("validation", "trained"):
        assert found[name]["second"] == pytest.approx(expected[f"{name}/map"])
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_methods_alike_are_within_chance_and_ties(files):
    unseen = run(files, "good.npz", "alike.npz", "--samples", "500")["unseen"]
    assert unseen["low"] < 0 < unseen["high"]
    assert unseen["p_value"] > 0.01
    assert unseen["exceeds_ties"] is False


@pytest.mark.parametrize("metric", ["map@20", "map@20/all", "precision@7", "precision@radius3", "ndcg@5", "recall@9"])
def test_other_metrics_are_those_of_the_evaluation(files, metric):
    found = run(files, "bad.npz", "good.npz", "--metric", metric, "--samples", "50")
    codes = Codes.load(files / "good.npz")
    expected = evaluate(codes, cutoffs=(20,), precision_ks=(7, 5, 9), radius=3, prefix="").metrics[f"unseen/{metric}"]
    assert found["unseen"]["second"] == pytest.approx(expected)


def test_classes_can_be_the_unit(files):
    found = run(files, "bad.npz", "good.npz", "--by", "class", "--samples", "50")
    assert found["unseen"]["units"] == 4


def test_what_cannot_be_compared_is_refused(files):
    codes = Codes.load(files / "good.npz")
    Codes(codes.query_codes, codes.database_codes, codes.query_labels, codes.database_labels, 24).save(
        files / "other.npz"
    )
    with pytest.raises(ValueError, match="split fingerprints differ"):
        main([str(files / "good.npz"), str(files / "other.npz")])
    with pytest.raises(ValueError, match="no task of these files has it"):
        main([str(files / "good.npz"), str(files / "bad.npz"), "--metric", "mop"])
    with pytest.raises(ValueError, match="R below 200, the size of the database"):
        main([str(files / "good.npz"), str(files / "bad.npz"), "--metric", "map@200"])
    with pytest.raises(ValueError, match="metric is 'map@x'"):
        main([str(files / "good.npz"), str(files / "bad.npz"), "--metric", "map@x"])
    with pytest.raises(FileNotFoundError, match="no codes file"):
        main([str(files / "none.npz"), str(files / "bad.npz")])


def test_classes_of_multi_hot_labels_are_no_unit(tmp_path):
    hot = np.ones((3, 2), int)
    Codes(np.zeros((3, 1), np.uint8), np.zeros((3, 1), np.uint8), hot, hot, 8).save(tmp_path / "m.npz")
    with pytest.raises(ValueError, match="compare by query"):
        main([str(tmp_path / "m.npz"), str(tmp_path / "m.npz"), "--by", "class"])
