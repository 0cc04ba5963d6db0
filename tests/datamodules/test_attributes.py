import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from razh.datamodules.attributes import attribute_vectors, named_groups, vectors_from_classes
from razh.datamodules.files.tables import read_array, read_class_table, read_lines, read_mat, read_matrix

NAMES = ("has_bill::long", "furry", "blue")
ROWS = np.random.default_rng(0).uniform(size=(6, 3)).astype(np.float32)
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4) + 1


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    np.savez(tmp_path / "one.npz", v=VECTORS)
    np.savez(tmp_path / "two.npz", v=VECTORS, w=VECTORS[:2])
    np.savetxt(tmp_path / "v.txt", VECTORS)
    np.savetxt(tmp_path / "v.csv", VECTORS, delimiter=",")
    named = [",".join([NAMES[m], *map(str, VECTORS[m])]) for m in (2, 0, 1)]
    (tmp_path / "named.csv").write_text("\n".join(named))
    return tmp_path


@pytest.mark.parametrize("name", ["v.npy", "one.npz", "one.npz:v", "two.npz:v", "v.txt", "v.csv", "named.csv"])
def test_every_file_gives_the_vectors(files, name):
    vectors = attribute_vectors(str(files / name), NAMES, ROWS)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, VECTORS)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("two.npz", r"holds v, w: pass .*two.npz:KEY"),
        ("two.npz:x", "holds v, w"),
        ("two.npz:w", r"shape \(2, 4\), but there are 3 attributes"),
    ],
)
def test_wrong_files(files, name, fault):
    with pytest.raises(ValueError, match=fault):
        attribute_vectors(str(files / name), NAMES, ROWS)


def test_vectors_of_a_spreadsheet(files):
    rows = [f"{NAMES[m]};" + ";".join(str(v).replace(".", ",") for v in VECTORS[m]) for m in (1, 2, 0)]
    (files / "excel.txt").write_bytes("\r\n".join(rows).encode("utf-16"))
    np.testing.assert_array_equal(attribute_vectors(str(files / "excel.txt"), NAMES, ROWS), VECTORS)
    (files / "ragged.csv").write_text("1,2\n3\n5,6\n")
    with pytest.raises(ValueError, match="no table of numbers: its rows have 1 or 2 columns"):
        attribute_vectors(str(files / "ragged.csv"), NAMES, ROWS)


def test_wrong_content(files):
    broken = VECTORS.copy()
    broken[1, 2] = np.nan
    np.save(files / "nan.npy", broken)
    with pytest.raises(ValueError, match=r"row 1 \('furry'\) is not finite"):
        attribute_vectors(str(files / "nan.npy"), NAMES, ROWS)
    (files / "word.txt").write_text("1 2\n3 x\n5 6\n")
    with pytest.raises(ValueError, match="no table of numbers"):
        attribute_vectors(str(files / "word.txt"), NAMES, ROWS)
    (files / "lacks.csv").write_text("furry,1,2\nblue,3,4\nred,5,6\n")
    with pytest.raises(ValueError, match=r"no row for 1 attributes \('has_bill::long'\)"):
        attribute_vectors(str(files / "lacks.csv"), NAMES, ROWS)
    (files / "not.npy").write_text("no array")
    with pytest.raises(ValueError, match="cannot be read"):
        attribute_vectors(str(files / "not.npy"), NAMES, ROWS)
    for name in ("absent.npy", "absent.txt"):
        with pytest.raises(FileNotFoundError, match=f"attribute_vectors_file is .*{name}"):
            attribute_vectors(str(files / name), NAMES, ROWS)


def test_pickled_arrays_are_refused(files):
    np.save(files / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        read_array(str(files / "objects.npy"), "class_attributes_file")


def test_zero_rows_get_a_direction(files, caplog):
    zeroed = VECTORS.copy()
    zeroed[1] = 0
    np.save(files / "zero.npy", zeroed)
    with caplog.at_level(logging.WARNING):
        vectors = attribute_vectors(str(files / "zero.npy"), NAMES, ROWS)
    assert "rows [1] are all zero" in caplog.text
    np.testing.assert_array_equal(vectors[[0, 2]], VECTORS[[0, 2]])
    np.testing.assert_allclose(np.linalg.norm(vectors[1]), np.linalg.norm(VECTORS[[0, 2]], axis=1).mean(), rtol=1e-5)
    np.testing.assert_array_equal(vectors, attribute_vectors(str(files / "zero.npy"), NAMES, ROWS))


def test_text_encoder(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"pip install .sentence-transformers>=3\.0"):
        attribute_vectors("text:mini", NAMES, ROWS)
    encoder = SimpleNamespace(encode=lambda names: np.array([[len(name), 1.0] for name in names]))
    fake = SimpleNamespace(SentenceTransformer=lambda model: encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    assert attribute_vectors("text:mini", NAMES, ROWS)[:, 0].tolist() == [len("has bill long"), 5, 4]


def test_default_vectors_keep_the_geometry_of_columns():
    """Inner products of the vectors are those of the standardised columns, as long as nothing was cut off."""
    rows = np.random.default_rng(1).uniform(size=(7, 5))
    columns = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    vectors = vectors_from_classes(rows.astype(np.float32))
    assert vectors.shape == (5, 5)
    np.testing.assert_allclose(vectors @ vectors.T, columns.T @ columns, atol=1e-4)


def test_default_vectors_are_cut_to_the_dims_and_have_fixed_signs():
    rows = np.random.default_rng(2).uniform(size=(90, 100)).astype(np.float32)
    vectors = vectors_from_classes(rows)
    assert vectors.shape == (100, 64)
    assert (np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0) > 0).all()


def test_constant_attribute_still_gets_a_vector(caplog):
    rows = ROWS.copy()
    rows[:, 1] = 0.5
    with caplog.at_level(logging.INFO):
        vectors = attribute_vectors(None, NAMES, rows)
    assert np.isfinite(vectors).all()
    assert (np.linalg.norm(vectors, axis=1) > 0).all()
    assert "all zero" in caplog.text
    assert (np.linalg.norm(attribute_vectors(None, NAMES, np.ones((4, 3), np.float32)), axis=1) > 0).all()


def test_class_table(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('class,furry,has wings\ncat , 1, 0\n\n"big, bird",0.25,1\n', encoding="utf-8-sig")
    classes, attributes, values = read_class_table(file)
    assert (classes, attributes) == (("cat", "big, bird"), ("furry", "has wings"))
    assert values.tolist() == [[1, 0], [0.25, 1]]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "holds no table"),
        ("class,a\n", "holds no table"),
        ("class,a,b\ncat,1\n", "class 'cat' has no value for 'b'; fill the empty cell"),
        ("class,a\ncat,1,2\n", "class 'cat' has 2 values, but the header names 1"),
        ("class,a\ncat,often\n", "'often' in row 'cat', column 'a' is not a number"),
        ("class,a\ncat,nan\n", "'nan' in row 'cat'"),
        ("class,a\ncat,1\ncat,2\n", "class 'cat' comes twice"),
        ("class,a,a\ncat,1,2\n", "attribute 'a' comes twice"),
    ],
)
def test_wrong_class_tables(tmp_path, text, fault):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=fault):
        read_class_table(tmp_path / "a.csv")


def test_matrix_and_lines(tmp_path):
    file = tmp_path / "m.txt"
    file.write_text(" 1  2\n\n3 4 \n")
    assert read_matrix(file, 2, 2).tolist() == [[1, 2], [3, 4]]
    assert read_lines(file) == ["1  2", "3 4"]
    with pytest.raises(ValueError, match="has 2 rows of 2 columns, but 2 of 3 belong there"):
        read_matrix(file, 2, 3)
    file.write_text("1 x\n")
    with pytest.raises(ValueError, match="holds no matrix of numbers"):
        read_matrix(file, 1, 2)
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        read_matrix(tmp_path / "absent.txt", 1, 1)
    with pytest.raises(FileNotFoundError, match="no table"):
        read_class_table(tmp_path / "absent.csv")


def test_mat_files(tmp_path):
    (tmp_path / "a.mat").write_text("no MATLAB")
    with pytest.raises(ValueError, match="cannot be read as a MATLAB file"):
        read_mat(tmp_path / "a.mat", "x")
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        read_mat(tmp_path / "absent.mat", "x")


@pytest.mark.parametrize(
    ("names", "groups", "parts"),
    [
        (["has_bill_shape::hooked", "has_bill_color::red", "has_size::small"], [0, 0, 1], ("bill", "size")),
        (["head colour: red", "tail shape: forked", "head shape: round"], [0, 1, 0], ("head", "tail")),
        (["upper tail length=long", "crown color=red"], [0, 1], ("upper tail", "crown")),
        (["black", "white", "furry"], None, None),
        (["head colour: red", "furry"], None, None),
        (["head colour: red", "head shape: round"], None, None),  # one part tells nothing apart
        (["head colour:", "tail colour: red"], None, None),
    ],
)
def test_names_say_which_part_an_attribute_belongs_to(names, groups, parts):
    found = named_groups(names)
    if groups is None:
        assert found is None
    else:
        assert (found[0].tolist(), found[1]) == (groups, parts)
