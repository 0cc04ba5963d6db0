import json
import pickle

import numpy as np
import pytest

from razh.retrieval import evaluation, metrics
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Settings, combine, evaluate, measure, retrieval_tasks, summarise
from razh.retrieval.hamming import distances, histogram
from razh.retrieval.packing import pack
from razh.retrieval.report import comparison_table, table
from razh.retrieval.tasks import retrieval_task

UNSEEN = (3, 4)


def make(bits=10, queries=17, items=60, query_classes=UNSEEN, overlap=0, **changes):
    """Codes around class prototypes; queries of unseen classes, database of all five."""
    rng = np.random.default_rng(0)
    prototypes = rng.random((5, bits)) < 0.5
    query_labels, database_labels = rng.choice(query_classes, queries), rng.integers(0, 5, items)
    noise = [rng.random((len(labels), bits)) < 0.2 for labels in (query_labels, database_labels)]
    query, database = prototypes[query_labels] ^ noise[0], prototypes[database_labels] ^ noise[1]
    index = np.arange(queries + items)
    query_index, database_index = index[:queries].copy(), index[queries:].copy()
    for q in range(overlap):  # some queries are database images
        row = int(np.flatnonzero(database_labels == query_labels[q])[q])
        query[q], query_index[q] = database[row], database_index[row]
    arguments = {
        "query_codes": pack(query),
        "database_codes": pack(database),
        "query_labels": query_labels,
        "database_labels": database_labels,
        "bits": bits,
        "query_index": query_index,
        "database_index": database_index,
        "unseen_classes": UNSEEN,
    }
    return Codes(**(arguments | changes))


def slow_expected_map(query, query_labels, database, database_labels, own):
    """Leave one out by deleting the row, then the closed form on a histogram of Python ints."""
    values = []
    for code, label, row in zip(query, query_labels, own, strict=True):
        kept = [g for g in range(len(database)) if g != row]
        hist = histogram(code[None], database[kept], np.array([label]), database_labels[kept], 10, backend="numpy")
        values.append(metrics.average_precision(hist)[0])
    return float(np.mean(values))


def test_the_keys_that_are_logged():
    found = evaluate(make(), cutoffs=(20, 5000)).metrics
    needed = {
        "test/unseen/map",
        "test/unseen/map_worst",
        "test/unseen/map_best",
        "test/seen/map",
        "test/harmonic/map",
        "test/zsl/map",
        "test/unseen/map@20",
        "test/unseen/map@20/all",
        "test/unseen/precision@1",
        "test/unseen/precision@10",
        "test/unseen/precision@100",
        "test/unseen/precision@100_ceiling",
        "test/unseen/precision@100_chance",
        "test/unseen/success@radius2",
        "test/unseen/precision@radius2",
        "test/unseen/chance",
        "codes/bit_balance",
        "codes/unique_fraction",
        "codes/d_prime",
    }
    assert needed <= set(found)
    assert all(isinstance(value, float) for value in found.values())
    assert found["test/unseen/map_worst"] <= found["test/unseen/map"] <= found["test/unseen/map_best"]
    assert not [key for key in found if "5000" in key]  # the database has 60 items: map says it


def test_trained_and_validation_classes_are_told_apart():
    plain = make(overlap=3)
    found = evaluate(make(overlap=3, validation_classes=(1,)), prefix="")
    everything = plain.database_codes, plain.database_labels
    for name, classes in (("validation", (1,)), ("trained", (0, 2))):
        rows = np.flatnonzero(np.isin(plain.database_labels, classes))
        own = plain.database_codes[rows], plain.database_labels[rows]
        value = slow_expected_map(*own, *everything, rows)
        assert found.metrics[f"{name}/map"] == pytest.approx(value, abs=1e-12)
        assert found.metrics[f"{name}/queries"] == len(rows)
        assert set(found.tasks[name].class_map) == set(classes)
    before = evaluate(plain, prefix="")
    shared = {key: value for key, value in found.metrics.items() if not key.startswith(("validation/", "trained/"))}
    assert shared == before.metrics  # seen, unseen and harmonic are what they are without the groups
    np.testing.assert_array_equal(found.tasks["seen"].values["map"], before.tasks["seen"].values["map"])
    np.testing.assert_array_equal(found.tasks["seen"].counts, before.tasks["seen"].counts)
    np.testing.assert_array_equal(found.tasks["seen"].precision, before.tasks["seen"].precision)


def test_without_validation_classes_all_seen_ones_are_trained():
    found = evaluate(make(validation_classes=()), prefix="").metrics
    assert found["trained/map"] == found["seen/map"]
    assert not any(key.startswith("validation/") for key in found)


def test_groups_of_seen_queries_that_the_file_has_itself():
    codes = make(query_classes=(0, 1, 3, 4), validation_classes=(1,))
    tasks = {task.name: task for task in retrieval_tasks(codes)}
    assert list(tasks) == ["unseen", "zsl", "validation", "trained"]
    assert set(tasks["validation"].query_labels) == {1}
    assert set(tasks["trained"].query_labels) == {0}
    assert retrieval_task(codes, "seen").query_labels.tolist() == [c for c in codes.query_labels if c < 3]
    assert retrieval_task(codes, "") is None


def test_the_curve_starts_at_precision_at_1():
    found = evaluate(make(validation_classes=(1,)), prefix="")
    for name, task in found.tasks.items():
        assert task.precision[0] == pytest.approx(found.metrics[f"{name}/precision@1"])
        assert task.recall[-1] == pytest.approx(1.0)


def test_the_tasks_equal_a_slow_evaluation_of_their_subsets():
    codes = make(overlap=3)
    found = evaluate(codes, prefix="").metrics
    own = codes.own_rows()
    assert (own >= 0).sum() == 3
    everything = codes.query_codes, codes.query_labels, codes.database_codes, codes.database_labels
    assert found["unseen/map"] == pytest.approx(slow_expected_map(*everything, own), abs=1e-12)
    unseen = np.isin(codes.database_labels, UNSEEN)
    place = np.cumsum(unseen) - 1
    own_unseen = [int(place[row]) if row >= 0 else -1 for row in own]
    subset = *everything[:2], codes.database_codes[unseen], codes.database_labels[unseen]
    assert found["zsl/map"] == pytest.approx(slow_expected_map(*subset, own_unseen), abs=1e-12)
    seen = np.flatnonzero(~unseen)
    leave = codes.database_codes[seen], codes.database_labels[seen], *everything[2:]
    assert found["seen/map"] == pytest.approx(slow_expected_map(*leave, seen), abs=1e-12)
    assert found["seen/self_matches"] == len(seen)
    assert found["unseen/self_matches"] == 3
    a, b = found["seen/map"], found["unseen/map"]
    assert found["harmonic/map"] == pytest.approx(2 * a * b / (a + b))
    assert found["unseen/database_share"] == pytest.approx(unseen.mean())


def test_a_query_that_is_in_the_database_does_not_retrieve_itself():
    codes = make(overlap=4)
    blind = make(overlap=4, query_index=None, database_index=None)
    assert evaluate(codes).metrics["test/unseen/map"] < evaluate(blind).metrics["test/unseen/map"]


def test_seen_queries_of_the_file_are_used_where_it_has_them():
    codes = make(query_classes=(0, 1, 3, 4))
    tasks = {task.name: task for task in retrieval_tasks(codes)}
    assert len(tasks["seen"]) == int((~np.isin(codes.query_labels, UNSEEN)).sum())
    assert len(tasks["unseen"]) + len(tasks["seen"]) == 17
    assert (tasks["seen"].exclude == -1).all()


@pytest.mark.parametrize("world", [1, 2, 3, 40])
def test_any_number_of_devices_gives_the_same_figures_to_the_last_digit(world):
    codes = make(overlap=2, validation_classes=(1,))
    whole = evaluate(codes, cutoffs=(7, 5000), row_order=True)
    settings = Settings(cutoffs=(7, 5000), row_order=True)
    shares = []
    for device in range(world):
        tasks = retrieval_tasks(codes)
        share = [measure(task, settings, np.arange(len(task))[device::world]) for task in tasks]
        shares.append(pickle.loads(pickle.dumps(share)))
    found = summarise(codes, [combine(parts) for parts in zip(*reversed(shares), strict=True)])
    assert found.metrics == whole.metrics
    for name, task in whole.tasks.items():
        for key, values in task.values.items():
            np.testing.assert_array_equal(found.tasks[name].values[key], values)
        np.testing.assert_array_equal(found.tasks[name].counts, task.counts)


def test_query_blocks_do_not_matter(monkeypatch):
    codes = make()
    whole = evaluate(codes, row_order=True)
    monkeypatch.setattr(evaluation, "CELLS", 70)
    assert evaluate(codes, row_order=True).metrics == whole.metrics


@pytest.mark.parametrize("backend", ["numpy", "numba", "faiss", "torch"])
def test_backends_give_the_same_figures_to_the_last_digit(backend):
    codes = make(bits=65)
    assert evaluate(codes, backend=backend).metrics == evaluate(codes).metrics


def test_a_metric_is_one_function_and_one_entry(monkeypatch):
    def first_relevant(hist, settings, size):
        """The distance of the nearest relevant item of each query."""
        return {"first_relevant": (hist[:, :, 1:].sum(axis=2) > 0).argmax(axis=1).astype(float)}

    monkeypatch.setattr(evaluation, "MEASURES", (*evaluation.MEASURES, first_relevant))
    found = evaluate(make())
    task = next(task for task in retrieval_tasks(make()) if task.name == "unseen")
    near = distances(task.query_codes, task.database_codes, 10)
    relevant = task.query_labels[:, None] == task.database_labels
    expected = np.where(relevant, near, 99).min(axis=1).mean()
    assert found.metrics["test/unseen/first_relevant"] == pytest.approx(expected)
    named = {f"test/{group}/first_relevant" for group in ("unseen", "zsl")}
    assert named <= found.metrics.keys()
    assert named <= set(table(found.metrics, "").columns[0].cells)
    assert named <= set(comparison_table({"CE": found}, "").columns[0].cells)


def test_the_order_of_the_database_moves_only_the_conventional_value():
    codes = make()
    order = np.argsort(codes.database_labels)
    turned = make(
        database_codes=codes.database_codes[order],
        database_labels=codes.database_labels[order],
        database_index=codes.database_index[order],
    )
    left, right = (evaluate(one, row_order=True).metrics for one in (codes, turned))
    assert left.pop("test/unseen/map_row") != right.pop("test/unseen/map_row")
    assert left.keys() == right.keys()
    assert left == pytest.approx(right, abs=1e-12)


def test_row_order_leaves_the_query_out_whether_all_some_or_no_queries_are_in_the_database():
    codes = make(overlap=3)
    task = retrieval_tasks(codes)[0]
    mixed = measure(task, Settings(row_order=True)).values["map_row"]
    alone = measure(task, Settings(row_order=True), np.arange(3)).values["map_row"]
    none = measure(task, Settings(row_order=True), np.arange(3, 17)).values["map_row"]
    np.testing.assert_array_equal(mixed, np.concatenate([alone, none]))


def test_queries_without_relevant_items_count_zero_and_are_counted():
    codes = make()
    kept = codes.database_labels != 3
    fewer = make(
        database_codes=codes.database_codes[kept],
        database_labels=codes.database_labels[kept],
        database_index=codes.database_index[kept],
    )
    found = evaluate(fewer)
    lost = int((codes.query_labels == 3).sum())
    assert found.tasks["unseen"].without_relevant == lost
    assert found.metrics["test/unseen/without_relevant"] == lost
    assert (found.tasks["unseen"].values["map"] == 0).sum() == lost
    assert found.tasks["unseen"].class_map[3] == 0.0


def test_class_values_average_to_the_map():
    found = evaluate(make()).tasks["unseen"]
    counts = {label: int((found.labels == label).sum()) for label in found.class_map}
    mean = sum(found.class_map[label] * counts[label] for label in counts) / len(found.labels)
    assert mean == pytest.approx(found.values["map"].mean())


def test_without_unseen_classes_the_keys_are_plain():
    found = evaluate(make(unseen_classes=None), prefix="")
    assert {"map", "map_worst", "map_best", "chance", "precision@10"} <= set(found.metrics)
    assert not any(key.startswith(("unseen", "seen", "zsl")) for key in found.metrics)


def test_multi_label_codes_are_graded():
    rng = np.random.default_rng(3)
    labels = (rng.random((17, 4)) < 0.5).astype(int), (rng.random((60, 4)) < 0.5).astype(int)
    labels[0][:, 0] = 1
    codes = make(query_labels=labels[0], database_labels=labels[1], unseen_classes=None)
    found = evaluate(codes, prefix="", precision_ks=(10,))
    hist = histogram(codes.query_codes, codes.database_codes, *labels, 10, graded=True)
    assert hist.shape[2] > 2
    assert found.metrics["ndcg@10"] == metrics.ndcg_at(hist, 10).mean()
    assert found.metrics["map"] == metrics.average_precision(hist).mean()
    assert set(found.tasks[""].class_map) == {0, 1, 2, 3}
    assert found.tasks[""].class_map[0] == pytest.approx(found.metrics["map"])


def test_a_perfect_code_scores_one_and_chance_is_the_constant_code():
    labels = np.repeat(np.arange(5), 4)
    one_hot = np.eye(5, dtype=bool)[labels]
    perfect = Codes(pack(one_hot), pack(one_hot), labels, labels, 5)
    assert evaluate(perfect, prefix="").metrics["map"] == 1.0
    constant = Codes(pack(np.ones((20, 5), bool)), pack(np.ones((20, 5), bool)), labels, labels, 5)
    found = evaluate(constant, prefix="").metrics
    assert found["map"] == pytest.approx(found["chance"])


def test_the_result_is_plain_json():
    codes = make()
    content = json.loads(
        json.dumps(evaluate(codes).as_dict(("a", "b", "c", "d", "e"), per_query=True), allow_nan=False)
    )
    assert content["bits"] == 10
    assert set(content["tasks"]["unseen"]["class_map"]) == {"d", "e"}
    assert len(content["tasks"]["unseen"]["query_ap"]) == 17
    curve = content["tasks"]["unseen"]["curve"]
    assert len(curve["ranks"]) == len(curve["precision"]) == len(curve["recall"]) > 11
    distances = content["tasks"]["unseen"]["distances"]
    assert len(distances["same_class"]) == len(distances["other_class"]) == 11
    pairs = sum(distances["same_class"]) + sum(distances["other_class"])
    assert pairs == len(codes.query_codes) * len(codes.database_codes)


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(ValueError, match="query_codes is empty"):
        evaluate(make(queries=0))
    codes = make(query_classes=(3,))
    with pytest.raises(ValueError, match="no query has a relevant"):
        evaluate(make(query_labels=codes.query_labels + 90, unseen_classes=None))
    with pytest.raises(ValueError, match="cutoffs is"):
        evaluate(codes, cutoffs=(0,))
    with pytest.raises(ValueError, match="radius is -1"):
        evaluate(codes, radius=-1)
    first, *rest = (measure(task) for task in retrieval_tasks(codes))
    with pytest.raises(ValueError, match="gaps or repetitions"):
        combine([first, first])
    with pytest.raises(ValueError, match="one task at a time"):
        combine([first, rest[0]])
    with pytest.raises(ValueError, match="do not cover"):
        summarise(codes, [first])
