"""One contract for every engine: exact lists, ties, filters, removal, any code length."""

import importlib.util
import os
import uuid

import numpy as np
import pytest

from razh.index.engines import ordered
from razh.index.engines.flat import Flat
from razh.index.engines.ivf import IVF
from razh.retrieval.packing import pack

URI = os.environ.get("RAZH_MILVUS_URI", "")
needs_faiss = pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="FAISS is not installed")
needs_milvus = pytest.mark.skipif(
    not (URI and importlib.util.find_spec("pymilvus")),
    reason="needs pymilvus, and a server named by RAZH_MILVUS_URI=http://localhost:19530",
)


@pytest.fixture(params=[pytest.param("flat", marks=needs_faiss), pytest.param("ivf", marks=needs_faiss),
                        pytest.param("milvus", marks=needs_milvus)])  # fmt: skip
def make(request):
    """Return a factory of engines; what servers keep is removed at the end."""
    made = []

    def engine(bits):
        if request.param == "milvus":
            from razh.index.engines.milvus import Milvus

            made.append(Milvus(bits, URI, f"razh_test_{uuid.uuid4().hex}"))
            return made[-1]
        return Flat(bits) if request.param == "flat" else IVF(bits, min_recall=1)

    yield engine
    for one in made:
        one.drop()


def clustered(count, bits, seed=0):
    """Codes of twelve clusters, of which many are equal."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).random((12, bits)) < 0.5
    flips = rng.random((count, bits)) < 0.05
    return pack(centres[rng.integers(0, 12, count)] ^ flips)


def expected(queries, rows, codes, k):
    near = np.bitwise_count(queries[:, None] ^ codes[None]).sum(axis=2, dtype=np.int64)
    order = np.argsort(near, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(near, order, 1), rows[order]


def agree(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 64, 65, 200, 1024])
def test_lists_are_exact_and_equals_come_by_row(make, bits):
    engine, codes, rows = make(bits), clustered(600, bits), np.arange(0, 1200, 2)
    engine.add(rows, codes)
    queries = np.concatenate([codes[:3], clustered(3, bits, seed=5)])
    for k in (1, 10, 45):
        agree(engine.search(queries, k), expected(queries, rows, codes, k))


def test_rows_come_and_go(make):
    engine, codes, rows = make(16), clustered(400, 16), np.arange(400)
    engine.add(rows[:300], codes[:300])
    engine.remove(np.array([0, 5, 299, 1000]))
    engine.add(rows[300:], codes[300:])
    left = np.setdiff1d(rows, [0, 5, 299])
    assert len(engine) == len(left)
    agree(engine.search(codes[:4], 30), expected(codes[:4], left, codes[left], 30))
    engine.remove(rows)
    assert len(engine) == 0
    assert engine.search(codes[:2], 3)[1].shape == (2, 0)
    engine.add(rows + 400, codes)
    agree(engine.search(codes[:4], 5), expected(codes[:4], rows + 400, codes, 5))


def test_filters_are_exact(make):
    engine, codes, rows = make(12), clustered(500, 12), np.arange(500)
    engine.add(rows, codes)
    engine.remove(rows[::7])
    alive = rows % 7 != 0
    few = np.zeros(500, dtype=bool)
    few[[3, 4, 7, 401]] = True  # 7 is not there any more
    for where in (rows % 3 == 0, few, np.arange(500) >= 490):
        left = rows[where & alive]
        agree(engine.search(codes[:3], 40, where), expected(codes[:3], left, codes[left], 40))
    assert engine.search(codes[:3], 40, np.zeros(500, dtype=bool))[1].shape == (3, 0)


def test_lists_are_as_long_as_there_are_rows(make):
    engine, codes = make(12), clustered(5, 12)
    engine.add(np.arange(5), codes)
    agree(engine.search(codes[:1], 100), expected(codes[:1], np.arange(5), codes, 5))


def test_what_cannot_be_meant_is_refused(make):
    engine, codes = make(12), clustered(5, 12)
    engine.add(np.arange(5), codes)
    with pytest.raises(ValueError, match="rows do not ascend from above 4"):
        engine.add(np.arange(4, 9), codes)
    with pytest.raises(ValueError, match="rows has 2 numbers, codes 5"):
        engine.add(np.arange(5, 7), codes)
    with pytest.raises(ValueError, match="12 bits need uint8"):
        engine.add(np.arange(5, 10), np.zeros((5, 3), np.uint8))
    with pytest.raises(ValueError, match="12 bits need uint8"):
        engine.search(np.zeros((1, 3), np.uint8), 1)
    with pytest.raises(ValueError, match="k is 0"):
        engine.search(codes, 0)


@needs_faiss
def test_ivf_is_refused_where_it_does_not_find_the_nearest():
    codes = np.random.default_rng(0).integers(0, 256, (9000, 16), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"engine ivf finds 0\.\d+ of the nearest codes, less than --min-recall=0.99"):
        IVF(128).add(np.arange(9000), codes)
    engine = IVF(128, min_recall=0.1)
    engine.add(np.arange(9000), codes)
    assert 0.1 < engine.recall < 0.99


@needs_faiss
def test_ivf_is_saved_and_read(tmp_path):
    codes, rows = clustered(900, 32), np.arange(900)
    engine = IVF(32, min_recall=1)
    engine.add(rows[:800], codes[:800])
    engine.save(tmp_path / "ivf")
    left = np.delete(rows, 1)
    again = IVF.load(tmp_path / "ivf", 32, left, codes[left], first_new=800)
    assert len(again) == 899
    agree(again.search(codes[:5], 9), expected(codes[:5], left, codes[left], 9))


def test_lists_of_any_order_are_ordered():
    lists = [(np.array([3, 1, 1], np.int32), np.array([0, 9, 2])), (np.array([2], np.int32), np.array([5]))]
    near, rows = ordered(lists, 2)
    assert (near.tolist(), rows.tolist()) == ([[1, 1], [2, -1]], [[2, 9], [5, -1]])
