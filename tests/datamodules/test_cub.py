import numpy as np
import pytest
from scipy.io import savemat

from razh.datamodules.cub import CUBDataModule
from tests.fake import cells, write_att_splits, write_cub

ROWS = {
    "trainval": [r for r in range(1, 49) if (r - 1) // 4 not in (3, 11) and r % 4],
    "test_unseen": [13, 14, 15, 16, 45, 46, 47, 48],
}
ROWS["test_seen"] = [r for r in range(1, 49) if r not in ROWS["trainval"] and r not in ROWS["test_unseen"]]


@pytest.fixture
def folder(tmp_path):
    return write_cub(tmp_path / "cub")


def cub(root, **arguments):
    return CUBDataModule(str(root), **{"image_size": 16, "num_workers": 0, **arguments})


def zero_based(rows):
    return [row - 1 for row in sorted(rows)]


def test_root_may_be_the_folder_or_its_parent(folder):
    for root in (folder, folder.parent):
        data = cub(root)
        assert data.labels.tolist() == np.repeat(np.arange(12), 4).tolist()
        assert data.class_names[0] == "001.Bird_1"
        assert data.attribute_names[1] == "has_shape::kind_1"  # the archive has attributes.txt beside the folder
        percent = np.loadtxt(folder / "attributes" / "class_attribute_labels_continuous.txt")
        np.testing.assert_allclose(data.class_attributes, percent / 100, rtol=1e-6)
        assert data.load_image(5).shape == (3, 32, 40)
        assert data.split.unseen_classes == (3, 11)
        assert "80/20" in data.split.notes
    assert cub(folder).fingerprint == cub(folder.parent).fingerprint


@pytest.mark.parametrize(
    "place",
    [
        "att_splits.mat",
        "../att_splits.mat",
        "../xlsa17/data/CUB/att_splits.mat",
        "../../xlsa17/data/CUB/att_splits.mat",
    ],
)
def test_finds_the_published_lists(folder, place):
    write_att_splits(folder / place, **ROWS)
    data = cub(folder.parent)
    assert {k: sorted(v.tolist()) for k, v in data.annotations.official.items()} == {
        k: zero_based(v) for k, v in ROWS.items()
    }
    assert data.split.notes == ""
    assert data.split.query.tolist() == [13, 15, 45, 47]


def test_split_file_may_be_a_folder_of_ids_or_a_mat(folder, tmp_path):
    for name, rows in ROWS.items():
        (tmp_path / f"{name}_image_ids.txt").write_text("\n".join(map(str, rows)))
    write_att_splits(tmp_path / "other" / "mine.mat", **ROWS)
    first, second = (cub(folder, split_file=str(path)) for path in (tmp_path, tmp_path / "other" / "mine.mat"))
    assert first.split.fingerprint == second.split.fingerprint
    assert first.split.notes == ""
    with pytest.raises(FileNotFoundError, match="split_file is"):
        _ = cub(folder, split_file=str(tmp_path / "absent")).split
    (tmp_path / "test_seen_image_ids.txt").write_text("1\nx\n")
    with pytest.raises(ValueError, match="no image id"):
        _ = cub(folder, split_file=str(tmp_path)).split


def test_row_order_of_res101_wins(folder):
    """Rows in reverse order, with the paths that its authors had, name the same images."""
    paths = [line.split()[1] for line in (folder / "images.txt").read_text().splitlines()]
    backwards = {name: [49 - row for row in rows] for name, rows in ROWS.items()}
    write_att_splits(folder / "att_splits.mat", **backwards)
    savemat(
        folder / "res101.mat",
        {"image_files": cells([f"/BS/x/CUB_200_2011/images/{p}" for p in paths[::-1]]), "features": np.eye(2)},
    )
    assert {k: sorted(v.tolist()) for k, v in cub(folder).annotations.official.items()} == {
        k: zero_based(v) for k, v in ROWS.items()
    }


def test_wrong_row_order_is_refused(folder):
    write_att_splits(folder / "att_splits.mat", **{name: [49 - row for row in rows] for name, rows in ROWS.items()})
    with pytest.raises(ValueError, match="mix seen and unseen classes"):
        _ = cub(folder).split


def test_parts_and_boxes(folder):
    data = cub(folder)
    assert data.part_names == ("back", "left eye")
    located = data.part_locations()
    assert located.shape == (48, 2, 3)
    assert located[6].tolist() == [[7.5, 4.0, 1.0], [0.0, 0.0, 0.0]]
    assert data.bounding_boxes()[6].tolist() == [7.0, 2.0, 20.0, 10.0]
    (folder / "bounding_boxes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"bounding_boxes\.txt"):
        data.bounding_boxes()


def remove_classes(folder, labels):
    """Remove the images of these classes, but leave every annotation."""
    for path in (folder / "images").iterdir():
        if int(path.name[:3]) - 1 in labels:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()


def test_partial_tree(folder, caplog):
    remove_classes(folder, (0, 1, 11))
    write_att_splits(folder / "att_splits.mat", **ROWS)
    with pytest.raises(
        ValueError, match=r"3 of 12 classes have no images at .*\(001.Bird_1, 002.Bird_2, 012.Bird_12\)"
    ):
        _ = cub(folder).split
    data = cub(folder, allow_partial=True)
    assert data.class_names[0] == "003.Bird_3"
    assert data.annotations.class_ids == (2, 3, 4, 5, 6, 7, 8, 9, 10)
    assert data.split.unseen_classes == (1,)
    assert "3 of 12 classes have no images" in caplog.text
    assert data.split.query.tolist() == [5, 7]
    assert data.labels.tolist() == np.repeat(np.arange(9), 4).tolist()
    assert data.part_locations()[0, 0, 0] == 9.5  # image 9 of the complete list
    assert data.image_path(0).name == "Bird_0000_2.jpg"


def test_partial_list_with_official_ids(folder):
    """Images 1 to 8 are not even listed; the published lists go by id, not by row."""
    for name in ("images.txt", "image_class_labels.txt"):
        path = folder / name
        path.write_text("\n".join(path.read_text().splitlines()[8:]))
    write_att_splits(folder / "att_splits.mat", **ROWS)
    with pytest.raises(ValueError, match="lists 8 images not among the 40"):
        _ = cub(folder).split
    data = cub(folder, allow_partial=True)
    assert data.split.query.tolist() == [5, 7, 37, 39]
    assert data.part_locations()[0, 0, 0] == 9.5  # still image 9


@pytest.mark.parametrize(
    "name", ["images.txt", "classes.txt", "image_class_labels.txt", "attributes/class_attribute_labels_continuous.txt"]
)
def test_missing_annotation_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no annotation file .*{name}"):
        _ = cub(folder).annotations


def test_missing_attribute_names(folder):
    (folder.parent / "attributes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"attributes.txt"):
        _ = cub(folder).annotations


def test_damaged_annotation_files(folder):
    values = folder / "attributes" / "class_attribute_labels_continuous.txt"
    text = values.read_text()
    values.write_text("\n".join(line + " 1.0" for line in text.splitlines()))
    with pytest.raises(ValueError, match="has 12 rows of 6 columns, but 12 of 5 belong there"):
        _ = cub(folder).annotations
    values.write_text(text)
    labels = folder / "image_class_labels.txt"
    labels.write_text("\n".join(labels.read_text().splitlines()[:-1]))
    with pytest.raises(ValueError, match="no label of image 48"):
        _ = cub(folder).annotations
    labels.write_text("a b\n")
    with pytest.raises(ValueError, match="does not start with a number"):
        _ = cub(folder).annotations


def test_a_label_without_a_class(folder):
    labels = folder / "image_class_labels.txt"
    labels.write_text(labels.read_text().replace("48 12", "48 13"))
    with pytest.raises(
        ValueError, match=r"image_class_labels.txt gives image 48 the class 13, which .*classes.txt lacks"
    ):
        _ = cub(folder).annotations


def test_protocols(folder):
    for name in ("last10", "comae", "comae-legacy"):
        with pytest.raises(ValueError, match="leaves no unseen class among the 12"):
            _ = cub(folder, protocol=name).split
    with pytest.raises(ValueError, match="has ps, comae, comae-legacy, last10, unseen-K%"):
        _ = cub(folder, protocol="cifar-8-2").split
    assert len(cub(folder, protocol="unseen-50%").split.unseen_classes) == 6


def test_damaged_image_is_named_when_it_is_loaded(folder):
    data = cub(folder)
    path = data.image_path(3)
    path.write_bytes(path.read_bytes()[:200])
    assert data.split.counts()["database"] > 0
    with pytest.raises(OSError, match=path.name):
        data.evaluation_image(3)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        data.load_image(3)


def notepad(path, change=lambda text: text):
    """Save a text file again as Windows does: with a byte order mark, carriage returns and blanks at line ends."""
    lines = change(path.read_text()).splitlines()
    path.write_bytes(("\ufeff" + "".join(f"{line} \r\n" for line in lines)).encode())


def test_files_that_windows_has_saved(folder, tmp_path):
    wanted = cub(folder).annotations
    first = folder / "images" / "001.Bird_1"
    (first / "Bird_0000_0.jpg").rename(first / "Bird 0000 0.jpg")
    for path in (*folder.rglob("*.txt"), folder.parent / "attributes.txt"):
        notepad(path)
    notepad(folder / "images.txt", lambda text: text.replace("/", "\\").replace("Bird_0000_0", "Bird 0000 0"))
    for name, rows in ROWS.items():
        (tmp_path / f"{name}_image_ids.txt").write_bytes(("\ufeff" + "\r".join(map(str, rows))).encode())
    data = cub(folder, split_file=str(tmp_path))
    assert data.annotations.class_names == wanted.class_names
    assert data.annotations.image_paths[0] == "images/001.Bird_1/Bird 0000 0.jpg"
    assert data.annotations.image_paths[1:] == wanted.image_paths[1:]
    assert data.load_image(0).shape == (3, 32, 40)
    assert data.part_locations().shape == (48, 2, 3)
    assert data.bounding_boxes().shape == (48, 4)
    assert data.split.query.tolist() == [13, 15, 45, 47]


def test_windows_paths_in_res101(folder):
    paths = [line.split()[1] for line in (folder / "images.txt").read_text().splitlines()]
    backwards = {name: [49 - row for row in rows] for name, rows in ROWS.items()}
    write_att_splits(folder / "att_splits.mat", **backwards)
    listed = [f"D:\\data\\CUB\\images\\{path}".replace("/", "\\") for path in reversed(paths)]
    savemat(folder / "res101.mat", {"image_files": cells([*listed[:47], ""])})
    with pytest.raises(ValueError, match=r"lists 1 images not among the 48 .*first: number 48"):
        _ = cub(folder).annotations
    savemat(folder / "res101.mat", {"image_files": cells(listed)})
    assert cub(folder).split.query.tolist() == [13, 15, 45, 47]


def test_numbers_from_zero_are_refused_also_in_a_partial_tree(folder, tmp_path):
    for name, rows in ROWS.items():
        (tmp_path / f"{name}_image_ids.txt").write_text("\n".join(str(row - 1) for row in rows))
    with pytest.raises(ValueError, match="lists images from number 0 on, but they count from 1; add 1"):
        _ = cub(folder, split_file=str(tmp_path), allow_partial=True).annotations
    labels = folder / "image_class_labels.txt"
    labels.write_text("\n".join(f"{i + 1} {i // 4}" for i in range(48)))
    with pytest.raises(ValueError, match=r"gives image 1 the class 0, which .* lacks \(its numbers begin at 1"):
        _ = cub(folder).annotations
    parts = folder / "parts" / "part_locs.txt"
    parts.write_text(parts.read_text().replace(" 1 ", " 0 ", 1))
    labels.write_text("\n".join(f"{i + 1} {i // 4 + 1}" for i in range(48)))
    with pytest.raises(ValueError, match=r"names parts 0 … 2, but they count from 1 to 2"):
        cub(folder).part_locations()
