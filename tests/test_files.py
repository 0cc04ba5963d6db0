"""Files are the old one or the whole new one."""

import os

import numpy as np
import pytest

from razh.files import replacing, write_arrays, write_text


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")

    def interrupted():
        with replacing(path) as part:
            part.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_write_makes_its_folder_and_replaces_what_is_there(tmp_path):
    path = tmp_path / "deep" / "one.npz"
    for value in (1, 2):
        write_arrays(path, {"codes": np.full(3, value)})
    with np.load(path, allow_pickle=False) as file:
        assert file["codes"].tolist() == [2, 2, 2]
    assert os.listdir(path.parent) == ["one.npz"]


def test_arrays_of_objects_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"pickle|Object"):
        write_arrays(tmp_path / "one.npz", {"names": np.array([object()], dtype=object)})
    assert not os.listdir(tmp_path)
