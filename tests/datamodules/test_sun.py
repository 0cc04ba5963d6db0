import numpy as np
import pytest
from scipy.io import loadmat, savemat

from razh.datamodules.sun import SUNDataModule
from tests.fake import cells, write_att_splits, write_sun


def sun(root, **arguments):
    return SUNDataModule(str(root), **{"image_size": 16, "num_workers": 0, **arguments})


def test_released_files(tmp_path):
    data = sun(write_sun(tmp_path))
    assert data.class_names[:2] == ("scene00", "scene01_indoor")
    assert data.attribute_names[0] == "trait 0/ more"
    assert data.labels.tolist() == np.repeat(np.arange(12), 3).tolist()
    votes = loadmat(tmp_path / "SUNAttributeDB" / "attributeLabels_continuous.mat")["labels_cv"]
    for c in range(12):
        np.testing.assert_allclose(data.class_attributes[c], votes[3 * c : 3 * c + 3].mean(axis=0), rtol=1e-6)
    assert data.split.unseen_classes == (3, 10)
    assert data.load_image(4).shape == (3, 32, 40)


def test_text_files_say_the_same(tmp_path):
    released, text = sun(write_sun(tmp_path / "a")), sun(write_sun(tmp_path / "b", text=True))
    assert released.class_names == text.class_names
    assert released.attribute_names == text.attribute_names
    assert released.annotations.image_paths == text.annotations.image_paths
    np.testing.assert_allclose(released.class_attributes, text.class_attributes, atol=1e-5)
    assert released.split.fingerprint == text.split.fingerprint


def test_published_lists(tmp_path):
    write_sun(tmp_path / "sun")
    asked = [*range(10, 13), *range(31, 34)]  # classes 3 and 10, rows counted from 1
    seen = [row for row in range(1, 37) if row not in asked]
    write_att_splits(tmp_path / "xlsa17/data/SUN/att_splits.mat", seen[::2], seen[1::2], asked)
    assert sun(tmp_path / "sun").split.query.tolist() == [10, 31]


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no SUN images at"):
        _ = sun(tmp_path).annotations
    write_sun(tmp_path)
    released = tmp_path / "SUNAttributeDB"
    savemat(released / "attributeLabels_continuous.mat", {"labels_cv": np.zeros((36, 3))})
    with pytest.raises(ValueError, match=r"labels of shape \(36, 3\), but there are 36 images and 4 attributes"):
        _ = sun(tmp_path).annotations
    savemat(released / "attributeLabels_continuous.mat", {"labels": np.zeros((36, 4))})
    with pytest.raises(ValueError, match="no variable 'labels_cv'"):
        _ = sun(tmp_path).annotations
    (released / "attributes.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"attributes\.mat"):
        _ = sun(tmp_path).annotations


def test_images_of_a_class_that_the_text_lacks(tmp_path):
    write_sun(tmp_path, text=True)
    classes = tmp_path / "classes.txt"
    classes.write_text(classes.read_text().replace("scene02", "elsewhere"))
    with pytest.raises(ValueError, match="has images of class 'scene02'"):
        _ = sun(tmp_path).annotations


def test_windows_paths_in_the_released_files(tmp_path):
    wanted = SUNDataModule(str(write_sun(tmp_path / "sun"))).annotations
    file = tmp_path / "sun" / "SUNAttributeDB" / "images.mat"
    listed = cells([path.removeprefix("images/").replace("/", "\\") for path in wanted.image_paths])
    savemat(file, {"images": listed})
    assert SUNDataModule(str(tmp_path / "sun")).annotations.image_paths == wanted.image_paths
