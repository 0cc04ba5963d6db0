import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from razh.retrieval import backends, hamming
from razh.retrieval.backends import blocks, choose_backend, faiss, kernels
from razh.retrieval.hamming import distances, grades, histogram, rank
from razh.retrieval.packing import pack

LENGTHS = (1, 7, 8, 12, 64, 65, 1024)
BACKENDS = ("numpy", "numba", "faiss", "torch")


def random_codes(rng, rows, bits):
    return pack(rng.random((rows, bits)) < 0.5)


def slow_distances(query, database):
    return np.array([[sum(int(a ^ b).bit_count() for a, b in zip(q, d, strict=True)) for d in database] for q in query])


def slow_histogram(query, database, query_labels, database_labels, bits, levels=2, exclude=None):
    counts = np.zeros((len(query), bits + 1, levels), dtype=np.int64)
    for q, code in enumerate(query):
        for g, other in enumerate(database):
            if exclude is not None and exclude[q] == g:
                continue
            distance = sum(int(a ^ b).bit_count() for a, b in zip(code, other, strict=True))
            if query_labels.ndim == 1:
                level = int(query_labels[q] == database_labels[g])
            else:
                level = sum(1 for a, b in zip(query_labels[q], database_labels[g], strict=True) if a and b)
            counts[q, distance, min(level, levels - 1)] += 1
    return counts


@pytest.mark.parametrize("bits", LENGTHS)
def test_distances_agree_with_a_double_loop_on_every_backend(bits):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 5, bits), random_codes(rng, 17, bits)
    expected = slow_distances(query, database)
    for backend in BACKENDS:
        result = distances(query, database, bits, backend=backend)
        assert result.dtype == (np.uint8 if bits < 256 else np.uint16)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("bits", LENGTHS)
def test_histograms_agree_with_a_double_loop_on_every_backend(bits):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 14, bits), random_codes(rng, 23, bits)
    labels = rng.integers(-1, 4, 14), rng.integers(0, 6, 23)
    exclude = rng.integers(-1, 23, 14)
    expected = slow_histogram(query, database, *labels, bits, exclude=exclude)
    for backend in BACKENDS:
        counts = histogram(query, database, *labels, bits, exclude=exclude, backend=backend)
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("bits", [7, 64, 300])
def test_multi_label_histograms_agree_with_a_double_loop_on_every_backend(bits, graded):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 14, bits), random_codes(rng, 23, bits)
    labels = (rng.random((14, 6)) < 0.4).astype(np.uint8), (rng.random((23, 6)) < 0.4).astype(np.uint8)
    exclude = rng.integers(-1, 23, 14)
    levels = 1 + int(labels[1].sum(axis=1).max()) if graded else 2
    expected = slow_histogram(query, database, *labels, bits, levels, exclude)
    for backend in BACKENDS:
        counts = histogram(query, database, *labels, bits, exclude=exclude, graded=graded, backend=backend)
        np.testing.assert_array_equal(counts, expected)


def test_a_surrounding_autocast_changes_nothing():
    rng = np.random.default_rng(11)
    query, database = random_codes(rng, 5, 1024), random_codes(rng, 40, 1024)
    labels = np.ones((5, 400), np.uint8), (rng.random((40, 400)) < 0.9).astype(np.uint8)
    expected = histogram(query, database, *labels, 1024, graded=True, backend="numpy")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for backend in BACKENDS:
            counts = histogram(query, database, *labels, 1024, graded=True, backend=backend)
            np.testing.assert_array_equal(counts, expected)
    assert expected[:, :, 257:].sum() == 200


def test_one_hot_labels_give_the_histogram_of_class_ids():
    rng = np.random.default_rng(3)
    query, database = random_codes(rng, 9, 16), random_codes(rng, 40, 16)
    left, right = rng.integers(0, 5, 9), rng.integers(0, 5, 40)
    eye = np.eye(5, dtype=np.uint8)
    expected = histogram(query, database, left, right, 16)
    np.testing.assert_array_equal(histogram(query, database, eye[left], eye[right], 16), expected)
    np.testing.assert_array_equal(grades(eye[left], eye[right]), grades(left, right))


@pytest.mark.parametrize("bits", [20, 300])
@pytest.mark.parametrize("classes", [2, 700])
def test_long_and_short_class_slices_and_many_database_parts(classes, bits, monkeypatch):
    """Large databases: counted by slices, by runs, in parts; against a plain NumPy histogram."""
    rng = np.random.default_rng(0)
    query, database = random_codes(rng, 31, bits), random_codes(rng, 9000, bits)
    left, right = rng.integers(0, classes, 31), rng.integers(0, classes, 9000)
    near = distances(query, database, bits, backend="torch")
    expected = np.zeros((31, bits + 1, 2), dtype=np.int64)
    for row in range(31):
        expected[row, :, 1] = np.bincount(near[row][right == left[row]], minlength=bits + 1)
        expected[row, :, 0] = np.bincount(near[row][right != left[row]], minlength=bits + 1)
    monkeypatch.setattr(kernels, "DATABASE_CHUNK", 4000)
    monkeypatch.setattr(blocks, "SLICE_PAIRS", 100)
    for backend in BACKENDS:
        np.testing.assert_array_equal(histogram(query, database, left, right, bits, backend=backend), expected)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        np.testing.assert_array_equal(histogram(query, database, left, right, bits, backend="numpy"), expected)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(1, 70),
    queries=st.integers(0, 15),
    items=st.integers(1, 40),
    classes=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_backends_agree_and_every_item_is_counted_once(bits, queries, items, classes, seed):
    rng = np.random.default_rng(seed)
    query, database = random_codes(rng, queries, bits), random_codes(rng, items, bits)
    labels = rng.integers(0, classes, queries), rng.integers(0, classes, items)
    first, *others = (histogram(query, database, *labels, bits, backend=backend) for backend in BACKENDS)
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert (first.sum(axis=(1, 2)) == items).all()
    np.testing.assert_array_equal(first[:, :, 1].sum(axis=1), (labels[0][:, None] == labels[1]).sum(axis=1))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_bit_order_bit_flips_and_database_order_change_nothing(bits, seed):
    rng = np.random.default_rng(seed)
    query, database = rng.random((6, bits)) < 0.5, rng.random((30, bits)) < 0.5
    left, right = rng.integers(0, 4, 6), rng.integers(0, 4, 30)
    expected = histogram(pack(query), pack(database), left, right, bits)
    order, flip, rows = rng.permutation(bits), rng.random(bits) < 0.5, rng.permutation(30)
    changed = histogram(pack(query[:, order] ^ flip), pack(database[:, order] ^ flip)[rows], left, right[rows], bits)
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize("world", [2, 3, 20])
def test_shares_of_queries_concatenate_to_the_whole(world):
    rng = np.random.default_rng(1)
    query, database = random_codes(rng, 13, 24), random_codes(rng, 50, 24)
    left, right = rng.integers(0, 4, 13), rng.integers(0, 4, 50)
    whole = histogram(query, database, left, right, 24)
    for share in range(world):
        part = histogram(query[share::world], database, left[share::world], right, 24)
        np.testing.assert_array_equal(part, whole[share::world])


@pytest.mark.parametrize("bits", LENGTHS)
@pytest.mark.parametrize("k", [1, 5, None, 99])
def test_ranked_lists_are_in_the_order_of_distance_and_row(bits, k):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 6, bits), random_codes(rng, 30, bits)
    near = slow_distances(query, database)
    expected = [sorted(range(30), key=lambda g, q=q: (near[q][g], g))[:k] for q in range(6)]
    for backend in BACKENDS:
        found, rows = rank(query, database, bits, k, backend=backend)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(found, np.take_along_axis(near, np.array(expected), axis=1))


def test_ties_at_the_end_of_a_gpu_list_are_settled_by_row():
    """A GPU may select any items at the last distance; the lowest rows must take their place."""
    rng = np.random.default_rng(5)
    query, database = random_codes(rng, 4, 5), random_codes(rng, 60, 5)
    expected_near, expected_rows = rank(query, database, 5, 12, backend="numpy")
    every = distances(query, database, 5)
    near, rows = expected_near.copy(), expected_rows.copy()
    for q in range(4):
        tied = np.flatnonzero(every[q] == near[q, -1])
        cut = int((near[q] < near[q, -1]).sum())
        rows[q, cut:] = tied[::-1][: 12 - cut]
        shuffle = rng.permutation(12)
        near[q], rows[q] = near[q, shuffle], rows[q, shuffle]
    faiss._settle_ties(near, rows, query, database, 5)
    np.testing.assert_array_equal(near, expected_near)
    np.testing.assert_array_equal(rows, expected_rows)


def without(monkeypatch, package):
    monkeypatch.delitem(sys.modules, f"razh.retrieval.backends.{package}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)


def test_auto_takes_the_gpu_then_numba_for_much_then_faiss_then_numpy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_backend(pairs=10**12) == "torch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delitem(sys.modules, "razh.retrieval.backends.numba", raising=False)
    assert choose_backend(pairs=35_000_000) == "faiss"  # starting numba would take longer
    assert "razh.retrieval.backends.numba" not in sys.modules
    assert choose_backend(pairs=backends.NUMBA_PAIRS) == "numba"
    assert choose_backend(pairs=35_000_000) == "numba"  # it is loaded now
    assert choose_backend() == "faiss"
    without(monkeypatch, "numba")
    assert choose_backend(pairs=10**12) == "faiss"
    without(monkeypatch, "faiss")
    assert choose_backend() == "numpy"
    rng = np.random.default_rng(0)
    codes = random_codes(rng, 9, 12)
    assert rank(codes, codes, 12, 3)[1][:, 0].tolist() == rank(codes, codes, 12, 3, backend="numpy")[1][:, 0].tolist()
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"faiss-cpu>="):
        choose_backend("faiss")


def test_without_numba_its_backend_is_refused_by_name_and_auto_does_without(monkeypatch):
    without(monkeypatch, "numba")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    codes = np.zeros((2, 1), np.uint8)
    with pytest.raises(ModuleNotFoundError, match=r"numba is not installed; pip install \"numba>="):
        histogram(codes, codes, np.zeros(2, int), np.zeros(2, int), 8, backend="numba")
    with pytest.raises(ModuleNotFoundError, match="numba is not installed"):
        distances(codes, codes, 8, backend="numba")
    assert choose_backend(pairs=10**12) == "faiss"


def test_a_numba_that_does_not_fit_is_named_in_one_line(monkeypatch):
    real = importlib.import_module

    def fail(name):
        if name.endswith(".numba"):
            raise ImportError("Numba needs NumPy 2.0 or less")
        return real(name)

    monkeypatch.setattr(backends.importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"Numba needs NumPy 2.0 or less.*pip install --upgrade \"numba>="):
        choose_backend("numba")
    assert choose_backend(pairs=10**12) in ("faiss", "torch")


def test_numba_compiles_without_a_folder_for_machine_code(monkeypatch):
    """An installation that nobody can write to, and a home without a cache: compiled in memory, the same counts."""
    numba = pytest.importorskip("numba")
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    compiled = backends.load("numba")
    double = compiled._compiled(lambda value: value * 2)
    assert double(21) == 42
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(lambda value: value)


@pytest.mark.parametrize("bits", [64, 65, 1024])
def test_numba_counts_across_tiles_chunks_and_blocks_of_queries(bits, monkeypatch):
    """More items than a tile, more queries than a block, runs that cross the seams, two threads."""
    compiled = backends.load("numba")
    monkeypatch.setattr(compiled, "BLOCK_ROWS", 7)
    monkeypatch.setattr(compiled, "TILE_WORDS", 1)  # one chunk a tile
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 20, bits), random_codes(rng, 2 * 1024 + 13, bits)
    labels = rng.integers(0, 3, 20), rng.integers(0, 3, len(database))
    hot = (rng.random((20, 70)) < 0.1).astype(np.uint8), (rng.random((len(database), 70)) < 0.1).astype(np.uint8)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for left, right in (labels, hot):
            for graded in (False, True):
                made, expected = (
                    histogram(query, database, left, right, bits, graded=graded, backend=backend)
                    for backend in ("numba", "numpy")
                )
                np.testing.assert_array_equal(made, expected)
    finally:
        torch.set_num_threads(threads)


def test_a_faiss_gpu_index_is_used_where_there_is_one(monkeypatch):
    """A stand-in for FAISS's GPU classes that answers from the CPU in a scrambled order."""
    real = faiss.faiss
    used = []

    class GpuIndexBinaryFlat:
        def __init__(self, resources, index):
            self.index = index

        def add(self, codes):
            self.index.add(codes)

        def search(self, query, k):
            used.append(k)
            near, rows = self.index.search(query, k)
            return near[:, ::-1].copy(), rows[:, ::-1].copy()

    fake = SimpleNamespace(
        IndexBinaryFlat=real.IndexBinaryFlat,
        GpuIndexBinaryFlat=GpuIndexBinaryFlat,
        StandardGpuResources=object,
        get_num_gpus=lambda: 1,
    )
    rng = np.random.default_rng(2)
    query, database = random_codes(rng, 3, 12), random_codes(rng, 50, 12)
    expected = rank(query, database, 12, 7, backend="numpy")
    monkeypatch.setattr(faiss, "faiss", fake)
    found = rank(query, database, 12, 7, backend="faiss")
    monkeypatch.undo()
    assert used == [7]
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": np.zeros((0, 1), np.uint8), "database_labels": np.zeros(0, int)}, "database is empty"),
        ({"query_labels": np.zeros(3, int)}, "query_labels has 3 rows but query 2"),
        ({"database_labels": np.zeros(3, int)}, "database_labels has 3 rows but database 4"),
        ({"query_labels": np.zeros(2)}, "query_labels has shape"),
        ({"query_labels": np.zeros((2, 3), int)}, "both must be ids"),
        ({"query_labels": np.full((2, 3), 2), "database_labels": np.zeros((4, 3), int)}, "multi-hot labels are 0 or 1"),
        ({"query": np.zeros((2, 2), np.uint8)}, "query has shape"),
        ({"backend": "gpu"}, "backend is 'gpu'"),
        ({"exclude": np.array([0, 4])}, "exclude has shape"),
        ({"exclude": np.array([0])}, "exclude has shape"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, message):
    arguments = {
        "query": np.zeros((2, 1), np.uint8),
        "database": np.zeros((4, 1), np.uint8),
        "query_labels": np.zeros(2, int),
        "database_labels": np.zeros(4, int),
        "bits": 8,
    }
    with pytest.raises(ValueError, match=message) as error:
        histogram(**(arguments | change))
    assert "\n" not in str(error.value)


def test_rank_refuses_no_neighbours_and_an_empty_database():
    codes = np.zeros((2, 1), np.uint8)
    with pytest.raises(ValueError, match="k is 0"):
        rank(codes, codes, 8, 0)
    with pytest.raises(ValueError, match="database is empty"):
        rank(codes, codes[:0], 8, 1)


@pytest.mark.parametrize("bits", [12, 64, 300])
@pytest.mark.parametrize("many_equals", [False, True])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_the_nearest_are_those_of_the_ranking_and_ties_are_counted(bits, many_equals, k, monkeypatch):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 15, bits), random_codes(rng, 400, bits)
    if many_equals:
        database = database[rng.integers(0, 3, 400)]
    monkeypatch.setattr(kernels, "DATABASE_CHUNK", 64)
    every = distances(query, database, bits, backend="numpy")
    order = np.argsort(every, axis=1, kind="stable")[:, :k]
    for pairs in (0, 10**9):  # FAISS, NumPy
        monkeypatch.setattr(hamming, "FAISS_PAIRS", pairs)
        near, rows, equal = hamming.nearest(query, database, bits, k)
        np.testing.assert_array_equal(rows, order)
        np.testing.assert_array_equal(near, np.take_along_axis(every, order, axis=1))
        np.testing.assert_array_equal(equal, (every == near[:, -1:]).sum(axis=1))


def test_the_nearest_of_nothing_and_to_nothing():
    codes = np.zeros((3, 1), np.uint8)
    assert [part.shape for part in hamming.nearest(codes[:0], codes, 8, 2)] == [(0, 2), (0, 2), (0,)]
    with pytest.raises(ValueError, match="database is empty"):
        hamming.nearest(codes, codes[:0], 8, 2)
    with pytest.raises(ValueError, match="k is 0"):
        hamming.nearest(codes, codes, 8, 0)
