import numpy as np
import pytest

from razh.retrieval.codes import Codes
from razh.retrieval.packing import pack


def make(bits=12, queries=4, items=9, **changes):
    rng = np.random.default_rng(bits)
    arguments = {
        "query_codes": pack(rng.random((queries, bits)) < 0.5),
        "database_codes": pack(rng.random((items, bits)) < 0.5),
        "query_labels": rng.integers(0, 3, queries),
        "database_labels": rng.integers(0, 3, items),
        "bits": bits,
    }
    return Codes(**(arguments | changes))


def test_a_file_gives_back_what_was_saved(tmp_path):
    codes = make(
        query_index=np.array([7, 3, 100, 5]),
        database_index=np.arange(9),
        unseen_classes=(1, 2),
        validation_classes=(0,),
        class_names=("auk", "bee-eater", "crow"),
        fingerprint="ab" * 32,
        protocol="ps",
    )
    path = tmp_path / "deep" / "codes.npz"
    codes.save(path)
    loaded = Codes.load(path)
    for name in ("query_codes", "database_codes", "query_labels", "database_labels", "query_index", "database_index"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(codes, name))
    for name in ("bits", "unseen_classes", "validation_classes", "class_names", "fingerprint", "protocol"):
        assert getattr(loaded, name) == getattr(codes, name)
    assert [file.name for file in path.parent.iterdir()] == ["codes.npz"]


def test_what_is_unknown_stays_unknown(tmp_path):
    make().save(tmp_path / "a.npz")
    loaded = Codes.load(tmp_path / "a.npz")
    assert loaded.query_index is None
    assert loaded.unseen_classes is None
    assert (loaded.class_names, loaded.fingerprint, loaded.protocol) == ((), "", "")
    make(unseen_classes=()).save(tmp_path / "b.npz")
    assert Codes.load(tmp_path / "b.npz").unseen_classes == ()
    assert Codes.load(tmp_path / "b.npz").validation_classes is None
    make(unseen_classes=(2,), validation_classes=()).save(tmp_path / "c.npz")
    assert Codes.load(tmp_path / "c.npz").validation_classes == ()


@pytest.mark.parametrize(
    ("unseen", "message"),
    [((1, 2), "validation_classes holds 2, which is one of unseen"), (None, "needs unseen_classes")],
)
def test_validation_classes_are_seen_ones(unseen, message):
    with pytest.raises(ValueError, match=message) as error:
        make(unseen_classes=unseen, validation_classes=(0, 2))
    assert "\n" not in str(error.value)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "codes.npz"
    make().save(path)
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        make(bits=16).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_own_rows_are_found_by_index():
    codes = make(query_index=np.array([7, 3, 100, 5]), database_index=np.array([5, 9, 7, 0, 1, 2, 4, 6, 8]))
    assert codes.own_rows().tolist() == [2, -1, -1, 0]
    assert make().own_rows().tolist() == [-1] * 4


def test_arrays_cannot_be_changed():
    codes = make()
    with pytest.raises(ValueError, match="read-only"):
        codes.query_codes[0, 0] = 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 17}, "query_codes has shape"),
        ({"bits": 9}, "has padding bits that are 1"),
        ({"query_labels": np.zeros(3, int)}, "query_labels has 3 rows but query_codes 4"),
        ({"query_labels": np.zeros(4)}, "query_labels has shape"),
        ({"query_labels": np.full(4, -1)}, "class ids begin at 0"),
        ({"query_labels": np.zeros(4, "m8[s]")}, "query_labels has shape"),
        ({"query_index": np.arange(4) + 0j, "database_index": np.arange(9)}, "query_index has shape"),
        ({"query_labels": np.zeros((4, 2), int)}, "both must be class ids"),
        ({"query_index": np.arange(4)}, "database_index is missing"),
        ({"query_index": np.zeros(4, int), "database_index": np.arange(9)}, "remove the duplicates"),
        ({"query_index": np.arange(3), "database_index": np.arange(9)}, "query_index has shape"),
        (
            {"database_codes": np.zeros((0, 2), np.uint8), "database_labels": np.zeros(0, int)},
            "database_codes is empty",
        ),
        (
            {
                "query_labels": np.zeros((4, 2), int),
                "database_labels": np.zeros((9, 2), int),
                "unseen_classes": (1,),
            },
            "unseen_classes needs class ids",
        ),
        ({"query_labels": np.full((4, 2), 3), "database_labels": np.zeros((9, 2), int)}, "multi-hot labels are 0 or 1"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    arguments = {
        name: getattr(make(), name) for name in ("query_codes", "database_codes", "query_labels", "database_labels")
    }
    with pytest.raises(ValueError, match=message) as error:
        Codes(**(arguments | {"bits": 12} | changes))
    assert "\n" not in str(error.value)


def test_a_missing_damaged_or_foreign_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no codes file"):
        Codes.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match="cannot be read"):
        Codes.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "unlabelled.npz", codes=np.zeros(3))
    with pytest.raises(ValueError, match="codes but no labels"):
        Codes.load(tmp_path / "unlabelled.npz")
    np.savez(tmp_path / "other.npz", features=np.zeros(3))
    with pytest.raises(ValueError, match="lacks query_codes"):
        Codes.load(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", query_codes=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="plain arrays"):
        Codes.load(tmp_path / "objects.npz")
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match=r"it is no .npz.*name arrays of other files one by one"):
        Codes.load(tmp_path / "array.npz")


def test_arrays_of_different_lengths_are_refused_before_they_are_read(tmp_path, monkeypatch):
    arrays = {"query_codes": np.zeros((9, 2), np.uint8), "query_labels": np.zeros(4, int), "bits": np.array(12)}
    np.savez(tmp_path / "a.npz", **arrays, database_codes=arrays["query_codes"], database_labels=np.zeros(9, int))
    monkeypatch.setattr("razh.support.files.ArrayFile.read", lambda *_: pytest.fail("was read"))
    with pytest.raises(ValueError, match="query_codes has 9 rows, query_labels has 4 rows"):
        Codes.load(tmp_path / "a.npz")


def test_one_set_of_codes_is_searched_in_itself(tmp_path):
    rng = np.random.default_rng(5)
    packed = pack(rng.random((9, 12)) > 0.5)
    np.savez(tmp_path / "set.npz", codes=packed, labels=np.arange(9) % 3, bits=12)
    codes = Codes.load(tmp_path / "set.npz")
    assert np.array_equal(codes.query_codes, packed)
    assert np.array_equal(codes.database_codes, packed)
    assert codes.own_rows().tolist() == list(range(9))
