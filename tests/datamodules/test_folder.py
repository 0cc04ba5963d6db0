import shutil

import numpy as np
import pytest

from razh.datamodules.folder import FolderDataModule
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
    with pytest.raises(ValueError, match=r"unseen_classes names 'kind 9'.*, but the classes are kind 0, kind 1"):
        _ = folder(root, unseen_classes=["kind 9"]).split


def test_unseen_classes_with_commas_between_them_or_as_numbers(root):
    assert folder(root, unseen_classes="kind 4, kind 1").split.unseen_classes == (1, 4)
    for number in range(5):
        (root / f"kind {number}").rename(root / str(number))
    table = root / "attributes.csv"
    table.write_text(table.read_text().replace("kind ", ""))
    assert folder(root, unseen_classes=[4, 1]).split.unseen_classes == (1, 4)


def test_names_match_however_a_system_writes_their_letters(root):
    composed, apart = "K\u00e4fer", "Ka\u0308fer"
    (root / "kind 2").rename(root / apart)
    table = root / "attributes.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("kind 2", composed), encoding="utf-8")
    data = folder(root, unseen_classes=[apart])
    assert data.class_names[2] == composed
    assert data.split.unseen_classes == (2,)
    assert data.image_path(int(data.split.query[0])).is_file()
    try:
        shutil.copytree(root / apart, root / composed)
    except FileExistsError:  # to this file system they are one name
        return
    with pytest.raises(ValueError, match="with accents written in two ways; join them"):
        _ = folder(root).annotations


def test_a_table_in_another_encoding_is_named(root):
    (root / "attributes.csv").write_bytes("class,a\nKäfer,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"attributes.csv is not UTF-8 \(byte 0xe4 in line 2\); save it as UTF-8"):
        _ = folder(root).annotations


def test_unseen_classes_from_a_file_and_in_another_case(root, tmp_path):
    (tmp_path / "unseen.txt").write_text("kind 4\r\n\r\nKIND 1\r\n", encoding="utf-8-sig")
    assert folder(root, unseen_classes=str(tmp_path / "unseen.txt")).split.unseen_classes == (1, 4)


def test_all_problems_are_in_one_line(root):
    lines = (root / "attributes.csv").read_text().splitlines()
    lines[1], lines[2], lines[3] = "kind 0,0.5,often,0.1", "kind 1,,0.2,0.3", "Kind two,1,0,1"
    (root / "attributes.csv").write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=r"has 4 problems: .*'often' in row .*no value for 'trait 0'.*and 1 more"
    ) as told:
        _ = folder(root).annotations
    assert "\n" not in str(told.value)
    assert str(told.value).endswith(f"`razh check {root}` lists them all")


def test_file_names_that_are_not_utf8_have_a_fingerprint(root):
    strange = root / "kind 2" / "\udce9.png"
    try:
        (root / "kind 2" / "0.png").rename(strange)
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    assert len(folder(root).fingerprint) == 64


def test_other_pixels_have_another_fingerprint_where_files_are_of_one_size(root):
    picture = root / "kind 2" / "0.bmp"
    write_image(picture, 0)
    before, size = folder(root).fingerprint, picture.stat().st_size
    write_image(picture, 1)
    assert picture.stat().st_size == size
    assert folder(root).fingerprint != before


def test_nothing_to_ask_is_refused_before_training(root):
    for number in range(5):
        for file in sorted((root / f"kind {number}").iterdir())[1:]:
            file.unlink()
    with pytest.raises(ValueError, match="none of its 1 unseen classes has two images"):
        _ = folder(root).split


def test_values_beyond_one_are_scaled(root):
    (root / "attributes.csv").write_text(
        "class,a,b\n" + "".join(f"kind {c},{c * 10},{c / 10 - 0.1}\n" for c in range(5))
    )
    data = folder(root)
    assert data.class_attributes[:, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert data.class_attributes[0, 1] == 0
    np.testing.assert_allclose(data.annotations.attribute_limits, [[0, -0.1], [40, 1]], rtol=1e-6)


def test_class_without_folder(root):
    shutil.rmtree(root / "kind 2")
    with pytest.raises(ValueError, match=r"class 'kind 2' of .*attributes.csv has no folder in .*; add its images"):
        _ = folder(root).annotations
    assert folder(root, allow_partial=True).class_names == ("kind 0", "kind 1", "kind 3", "kind 4")


def test_empty_folder(root):
    for file in (root / "kind 2").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"folder 'kind 2' in .* holds no images"):
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
    with pytest.raises(FileNotFoundError, match=r"no class/image folders at .*--data_root"):
        _ = folder(tmp_path / "absent").annotations
    with pytest.raises(ValueError, match=r"no table .*other\.csv"):
        _ = folder(root, attributes_file=str(root / "other.csv")).annotations
