import shutil

import pytest

from datamodules.folder import FolderDataModule
from tests.fake import write_folder, write_image


def folder(root, **arguments):
    return FolderDataModule(str(root), **{"image_size": 16, "num_workers": 0, **arguments})


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "mine")


def test_table_and_tree(root):
    data = folder(root)
    assert data.class_names == tuple(f"kind {c}" for c in range(5))
    assert data.attribute_names == ("trait 0", "trait 1", "trait 2")
    assert data.annotations.image_paths[4] == "kind 1/0.png"
    assert (data.split.protocol, len(data.split.unseen_classes)) == ("unseen-20%", 1)


def test_listed_unseen_classes(root):
    data = folder(root, unseen_classes=["kind 4", "kind 1"])
    assert (data.split.protocol, data.split.unseen_classes) == ("listed", (1, 4))
    with pytest.raises(ValueError, match="unseen_classes names 'kind 9', but the classes are kind 0, kind 1"):
        _ = folder(root, unseen_classes=["kind 9"]).split


def test_values_beyond_one_are_scaled(root):
    (root / "attributes.csv").write_text(
        "class,a,b\n" + "".join(f"kind {c},{c * 10},{c / 10 - 0.1}\n" for c in range(5))
    )
    values = folder(root).class_attributes
    assert values[:, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert values[0, 1] == 0


def test_class_without_folder(root):
    shutil.rmtree(root / "kind 2")
    with pytest.raises(ValueError, match=r"class 'kind 2' of .*attributes.csv has no folder in .*\(1 such\)"):
        _ = folder(root).annotations
    assert folder(root, allow_partial=True).class_names == ("kind 0", "kind 1", "kind 3", "kind 4")


def test_empty_folder(root):
    for file in (root / "kind 2").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"1 of 5 classes have no images at .*\(kind 2\)"):
        _ = folder(root).annotations


def test_folder_without_row(root):
    write_image(root / "stranger" / "0.png", 0)
    with pytest.raises(ValueError, match=r"folder 'stranger' in .* has no row in .*attributes.csv"):
        _ = folder(root).annotations


def test_cell_that_is_no_number(root):
    text = (root / "attributes.csv").read_text().splitlines()
    text[3] = "kind 2,0.5,often,0.1"
    (root / "attributes.csv").write_text("\n".join(text))
    with pytest.raises(ValueError, match="'often' in row 'kind 2', column 'trait 1' is not a number"):
        _ = folder(root).annotations


def test_missing(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no class/image folders at .*DATA_ROOT"):
        _ = folder(tmp_path / "absent").annotations
    with pytest.raises(FileNotFoundError, match=r"no table .*other\.csv"):
        _ = folder(root, attributes_file=str(root / "other.csv")).annotations
