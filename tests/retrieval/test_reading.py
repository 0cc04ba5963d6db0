import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from razh.retrieval.packing import pack, unpack
from razh.retrieval.reading import binary_codes, class_list, read_array, read_codes

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "published_results" / "cvprw15_cifar10_48bit"
BITS = np.random.default_rng(0).random((12, 16)) < 0.5
QUERY, DATABASE = BITS[:4], BITS[4:]
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])


def write(tmp_path, codes, labels, names=("query", "database")):
    paths = {}
    for name, code, label in zip(names, codes, labels, strict=True):
        np.save(tmp_path / f"{name}.npy", code)
        np.save(tmp_path / f"{name}_labels.npy", label)
        paths |= {
            f"{name}_codes": str(tmp_path / f"{name}.npy"),
            f"{name}_labels": str(tmp_path / f"{name}_labels.npy"),
        }
    return paths


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bits: bits, "bits 0/1"),
        (lambda bits: bits.astype(np.uint8), "bits 0/1"),
        (lambda bits: bits.astype(np.float32), "bits 0/1"),
        (lambda bits: bits * 2 - 1, "signs −1/\\+1"),
        (lambda bits: bits * 2.0 - 1, "signs −1/\\+1"),
        (lambda bits: (bits - 0.5) * 3.7, "real numbers, 1 where ≥ 0"),
        (pack, "packed bytes"),
    ],
)
def test_every_form_of_codes_is_detected(change, said):
    query, database, length, note = binary_codes(change(QUERY), change(DATABASE))
    assert length == 16
    np.testing.assert_array_equal(unpack(query, 16), QUERY)
    np.testing.assert_array_equal(unpack(database, 16), DATABASE)
    assert said.replace("\\", "") in note


def test_the_zero_of_a_sign_function_is_a_one_and_probabilities_need_a_threshold():
    query, _, _, note = binary_codes(np.array([[0, 1, -1]]), np.array([[1, 1, -1]]))
    assert unpack(query, 3).tolist() == [[True, True, False]]
    assert "real numbers" in note
    query, _, _, _ = binary_codes(np.array([[0.2, 0.7]]), np.array([[0.5, 0.4]]), threshold=0.5)
    assert unpack(query, 2).tolist() == [[False, True]]


def test_packed_codes_may_be_shorter_than_their_bytes():
    codes = pack(np.ones((3, 12), dtype=bool))
    assert binary_codes(codes, codes, bits=12)[2] == 12
    with pytest.raises(ValueError, match="padding bits"):
        binary_codes(codes, codes, bits=11)


@pytest.mark.parametrize(
    ("query", "database", "options", "message"),
    [
        (np.array([[np.nan, 1.0]]), np.ones((1, 2)), {}, "hold 1 NaN"),
        (np.array([[np.inf, 1.0]]), np.ones((1, 2)), {}, "query codes hold infinite numbers"),
        (np.ones((1, 2)), np.array([[1j, 1]]), {}, "database codes have shape .* dtype complex128; pass real numbers"),
        (np.ones((1, 2)), np.array([["a", "b"]]), {}, "pass real numbers"),
        (np.ones((1, 2)), np.ones((1, 2), dtype="m8[s]"), {}, "pass real numbers"),
        (np.ones((1, 2)), np.zeros((1, 2), dtype=[("a", float)]), {}, "pass real numbers"),
        (np.ones((1, 3)), np.ones((1, 2)), {}, "3 columns but database codes 2"),
        (np.ones(3), np.ones((1, 3)), {}, "query codes have shape"),
        (np.array([[3, 400]]), np.array([[1, 2]]), {}, "say what they are with --form"),
        (np.array([[3, 1]]), np.array([[1, 1]]), {"form": "bits"}, "other values than 0 and 1"),
        (np.array([[-3, 1]]), np.array([[1, 1]]), {"form": "packed"}, "hold no bytes"),
        (np.array([[0, 1]]), np.array([[1, 1]]), {"bits": 3}, "bits is 3 but the codes have 2 columns"),
        (np.array([[0, 1]]), np.array([[1, 1]]), {"form": "hex"}, "form is 'hex'"),
    ],
)
def test_codes_that_make_no_sense_are_refused(query, database, options, message):
    with pytest.raises(ValueError, match=message):
        binary_codes(query, database, **options)


def test_arrays_are_read_from_every_kind_of_file(tmp_path):
    table = np.arange(6).reshape(3, 2)
    np.save(tmp_path / "a.npy", table)
    np.savez(tmp_path / "a.npz", one=table, two=table + 1)
    savemat(tmp_path / "a.mat", {"one": table, "two": table + 1})
    (tmp_path / "a.csv").write_text("left,right\n0,1\n2,3\n4,5\n")
    (tmp_path / "a.txt").write_text("0 1\n2 3\n\n4 5\n")
    with gzip.open(tmp_path / "a.tsv.gz", "wt") as file:
        file.write("0\t1\n2\t3\n4\t5\n")
    for name in ("a.npy", "a.npz:one", "a.mat:one", "a.csv", "a.txt", "a.tsv.gz"):
        np.testing.assert_array_equal(read_array(str(tmp_path / name)), table)
    (tmp_path / "names.txt").write_text("auk.jpg\ncrow.jpg\n")
    assert read_array(str(tmp_path / "names.txt")).tolist() == ["auk.jpg", "crow.jpg"]
    (tmp_path / "real.csv").write_text("0.5\n-1.25\n")
    assert read_array(str(tmp_path / "real.csv")).tolist() == [0.5, -1.25]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("text", ["left;right\r\n0,5;-1\r\n1,25;2\r\n", "0.5 -1\r1.25 2\r", "sep=|\n0.5|-1\n1.25|2\n"])
def test_tables_of_every_program_are_read(tmp_path, text, encoding):
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert read_array(str(tmp_path / "a.csv")).tolist() == [[0.5, -1], [1.25, 2]]


def test_labels_that_are_no_numbers_do_not_become_names(tmp_path):
    (tmp_path / "a.txt").write_text("3\nnan\n4\n")
    with pytest.raises(ValueError, match=r"words among numbers \('nan' in row 2, 1 such\)"):
        read_array(str(tmp_path / "a.txt"))


@pytest.mark.shared
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="../shared absent")
@pytest.mark.parametrize(("name", "twin"), [("binary-test.mat", "query_codes"), ("binary-train.mat", "database_codes")])
def test_published_codes_are_the_same_from_matlab_7_3(name, twin):
    pytest.importorskip("h5py")
    found = read_array(str(PUBLISHED / name))
    np.testing.assert_array_equal(found.T, np.load(PUBLISHED / f"{twin}.npy"))  # MATLAB has one code a column


def test_files_that_memory_has_no_room_for_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    savemat(tmp_path / "a.mat", {"one": np.zeros((100, 100)), "two": np.zeros(2)}, do_compression=True)
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("0," * 10_000)
    monkeypatch.setattr("razh.retrieval.reading.free_memory", lambda: 79_999)
    assert read_array(str(tmp_path / "a.mat:two")).shape == (1, 2)
    for name, message in (("a.mat:one", r"one takes up to 0\.0 GB of memory"), ("a.csv.gz", "longer than")):
        with pytest.raises(ValueError, match=message):
            read_array(str(tmp_path / name))


def test_files_that_cannot_be_read_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.zeros(2), two=np.zeros(2))
    (tmp_path / "empty.csv").write_text("\n")
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "words.csv").write_text("1,2\n3,x\n")
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    (tmp_path / "bad.mat").write_bytes(b"nothing" * 40)
    for name, message in (
        ("a.npz", "holds several arrays; name one of one, two"),
        ("a.npz:three", "lacks 'three'"),
        ("empty.csv", "is empty"),
        ("ragged.csv", "rows of 1 to 2 columns"),
        ("words.csv", "words among numbers"),
        ("bad.npy", "bad.npy"),
        ("bad.mat", "bad.mat"),
    ):
        with pytest.raises(ValueError, match=message):
            read_array(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_array(str(tmp_path / "none.npy"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: labels, "class ids, 3 classes"),
        (lambda labels: labels.astype(float)[:, None], "class ids, 3 classes"),
        (lambda labels: np.eye(3)[labels], "one-hot over 3 classes"),
        (lambda labels: np.array(["auk", "bee", "crow"])[labels], "3 class names"),
    ],
)
def test_every_form_of_labels_is_detected(tmp_path, change, said):
    found = read_codes(**write(tmp_path, (QUERY, DATABASE), (change(LABELS[:4]), change(LABELS[4:]))))
    assert any(said in note for note in found.notes)
    np.testing.assert_array_equal(found.codes.query_labels, LABELS[:4])
    np.testing.assert_array_equal(found.codes.database_labels, LABELS[4:])


def test_multi_hot_labels_stay_and_turned_arrays_are_turned(tmp_path):
    hot = np.array([[1, 1, 0]] * 12)
    found = read_codes(**write(tmp_path, (QUERY.T, DATABASE.T), (hot[:4], hot[4:])))
    assert found.codes.multi_label
    assert any("turned" in note for note in found.notes)
    np.testing.assert_array_equal(unpack(found.codes.query_codes, 16), QUERY)


def test_indices_may_be_names_and_wrong_labels_are_noticed(tmp_path):
    paths = write(tmp_path, (QUERY, DATABASE), (LABELS[:4], LABELS[4:]))
    (tmp_path / "q.txt").write_text("\n".join(f"{i}.jpg" for i in (4, 5, 100, 7)))
    (tmp_path / "d.txt").write_text("\n".join(f"{i}.jpg" for i in range(4, 12)))
    found = read_codes(**paths, query_index=str(tmp_path / "q.txt"), database_index=str(tmp_path / "d.txt"))
    assert found.codes.own_rows().tolist() == [0, 1, -1, 3]
    assert any("3 of 4 queries are in the database" in line for line in found.warnings)
    assert any("another label" in line for line in found.warnings)
    with pytest.raises(ValueError, match="give both or neither"):
        read_codes(**paths, query_index=str(tmp_path / "q.txt"))


def test_constant_bits_are_noticed(tmp_path):
    codes = (np.abs(QUERY + 0.1), np.abs(DATABASE + 0.1))
    found = read_codes(**write(tmp_path, codes, (LABELS[:4], LABELS[4:])))
    assert any("16 of 16 bits are the same" in line for line in found.warnings)


@pytest.mark.parametrize(
    ("query", "database", "message"),
    [
        (LABELS[:3], LABELS[4:], "there are 4 codes"),
        (np.array([0.5, 1, 2, 0]), LABELS[4:], "not whole"),
        (np.array([np.nan, 1, 2, 0]), LABELS[4:], "hold 1 NaN; leave out the rows without a label"),
        (np.array([np.inf, 1, 2, 0]), LABELS[4:], "hold infinite numbers"),
        (np.array([1e30, 1, 2, 0]), LABELS[4:], "not whole|fit"),
        (np.array([-1, 1, 2, 0]), LABELS[4:], "class ids begin at 0"),
        (LABELS[:4] + 0j, LABELS[4:], "pass real numbers"),
        (LABELS[:4].astype("m8[s]"), LABELS[4:], "pass real numbers"),
        (np.eye(3)[LABELS[:4]], LABELS[4:], "use one kind"),
        (np.eye(4)[LABELS[:4]], np.eye(3)[LABELS[4:]], "multi-hot labels are 0/1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, query, database, message):
    with pytest.raises(ValueError, match=message):
        read_codes(**write(tmp_path, (QUERY, DATABASE), (query, database)))


def test_unseen_classes_come_from_ranges_or_files(tmp_path):
    assert class_list("3-5,9") == (3, 4, 5, 9)
    assert class_list("gull, auk", ("auk", "crow", "gull")) == (0, 2)
    many = [f"a bird with a rather long name {number}" for number in range(50)]
    assert class_list(",".join(many[7:]), many) == tuple(range(7, 50))  # longer than a file's name can be
    (tmp_path / "unseen.txt").write_text("gull\n")
    assert class_list(str(tmp_path / "unseen.txt"), ("auk", "crow", "gull")) == (2,)
    (tmp_path / "unseen.txt").write_text("4\n2\n2\n")
    assert class_list(str(tmp_path / "unseen.txt")) == (2, 4)
    for text in ("a-b", "1,,2", "9-5", "1-2-3"):
        with pytest.raises(ValueError, match="unseen-classes is"):
            class_list(text)
    (tmp_path / "names.txt").write_text("auk\n")
    with pytest.raises(ValueError, match="holds no class ids"):
        class_list(str(tmp_path / "names.txt"))
    with pytest.raises(ValueError, match="class names here: auk, crow"):
        class_list("owl", ("auk", "crow"))


def test_a_path_may_have_colons(tmp_path):
    folder = tmp_path / "2024-01-01T12:00:00"
    folder.mkdir()
    np.savez(folder / "c.npz", q=np.arange(3), r=np.arange(2))
    assert read_array(f"{folder}/c.npz:q").tolist() == [0, 1, 2]
