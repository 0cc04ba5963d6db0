import numpy as np
import pytest
from scipy.io import savemat

from razh.datamodules.awa2 import AwA2DataModule
from tests.fake import cells, write_att_splits, write_awa2


@pytest.fixture
def folder(tmp_path):
    return write_awa2(tmp_path / "awa2")


def awa2(root, **arguments):
    return AwA2DataModule(str(root), **{"image_size": 16, "num_workers": 0, **arguments})


def test_official_layout(folder):
    for root in (folder, folder.parent):
        data = awa2(root)
        assert data.class_names[:3] == ("animal+a", "animal+h", "animal+e")  # as in classes.txt
        assert data.attribute_names == tuple(f"trait{m}" for m in range(6))
        folders = [path.split("/")[1] for path in data.annotations.image_paths]
        assert folders == sorted(folders)  # rows in the proposed split's order
        assert [data.class_names[c] for c in data.labels] == folders
        assert data.split.unseen_classes == (6, 8)
        assert data.load_image(7).shape == (3, 32, 40)


def test_attributes(folder):
    continuous, binary = awa2(folder).class_attributes, awa2(folder, binary_attributes=True).class_attributes
    written = np.loadtxt(folder / "predicate-matrix-continuous.txt")
    assert written[0, 0] == -1
    assert continuous[0, 0] == 0  # missing
    np.testing.assert_allclose(continuous.flatten()[1:], written.flatten()[1:] / 100, rtol=1e-5)
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_array_equal(binary, written > 50)


def rows_of(data):
    """Return valid published rows, counted from 1, in the order of the data module."""
    asked = np.isin(data.labels, (6, 8))
    seen = np.flatnonzero(~asked) + 1
    return {
        "trainval": seen[::2].tolist(),
        "test_seen": seen[1::2].tolist(),
        "test_unseen": (np.flatnonzero(asked) + 1).tolist(),
    }


def test_published_lists(folder):
    rows = rows_of(awa2(folder))
    write_att_splits(folder.parent / "xlsa17/data/AWA2/att_splits.mat", **rows)
    data = awa2(folder.parent)
    assert data.split.notes == ""
    assert (data.annotations.official["test_seen"] + 1).tolist() == rows["test_seen"]


def remove_first_folder(folder):
    for file in (folder / "JPEGImages" / "animal+a").iterdir():
        file.unlink()


def test_partial_tree_does_not_trust_row_numbers(folder, caplog):
    """Without res101.mat, rows cannot be known once images are missing."""
    write_att_splits(folder / "att_splits.mat", **rows_of(awa2(folder)))
    remove_first_folder(folder)
    with pytest.raises(ValueError, match="lists 5 images not among the 45"):
        _ = awa2(folder).split
    data = awa2(folder, allow_partial=True)
    assert "80/20" in data.split.notes
    assert "lists another number of images than the 45 found" in caplog.text
    assert data.class_names[0] == "animal+h"


def test_partial_tree_with_file_names(folder):
    complete = awa2(folder)
    rows = rows_of(complete)
    write_att_splits(folder / "att_splits.mat", **rows)
    savemat(
        folder / "res101.mat", {"image_files": cells([f"/BS/a//{path}" for path in complete.annotations.image_paths])}
    )
    asked = [complete.annotations.image_paths[i] for i in complete.split.query]
    remove_first_folder(folder)
    data = awa2(folder, allow_partial=True)
    assert data.split.notes == ""
    assert [data.annotations.image_paths[i] for i in data.split.query] == asked


@pytest.mark.parametrize("name", ["classes.txt", "predicates.txt", "predicate-matrix-continuous.txt"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        _ = awa2(folder).annotations


def test_wrong_number_of_columns_and_missing_root(folder, tmp_path):
    with (folder / "predicates.txt").open("a") as file:
        file.write("     7\tlate\n")
    with pytest.raises(ValueError, match="has 10 rows of 6 columns, but 10 of 7 belong there"):
        _ = awa2(folder).annotations
    with pytest.raises(FileNotFoundError, match=r"no AwA2 images at .*`razh data awa2`"):
        _ = awa2(tmp_path).annotations
