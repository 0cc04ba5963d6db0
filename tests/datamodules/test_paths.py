import pytest

from razh.datamodules.cub import CUBDataModule
from razh.datamodules.files.paths import expanded
from razh.datamodules.folder import FolderDataModule


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = FolderDataModule("~/birds", attributes_file="~/a.csv", attribute_vectors_file="~/v.npy")
    assert (data.root, data.attributes_file) == (tmp_path / "birds", tmp_path / "a.csv")
    assert data.attribute_vectors_file == str(tmp_path / "v.npy")
    assert CUBDataModule("~/cub", split_file="~/s.mat").split_file == str(tmp_path / "s.mat")
    assert expanded("text:model", "x") == "text:model"
    assert expanded(None, "x") is None


def test_an_empty_path_is_an_unset_variable():
    with pytest.raises(ValueError, match="root is empty; is a variable not set"):
        FolderDataModule("")
    with pytest.raises(ValueError, match="attributes_file is empty"):
        FolderDataModule("birds", attributes_file="")
