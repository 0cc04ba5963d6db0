import pickle

import numpy as np
import pytest

from razh.datamodules.items import CachedRows


@pytest.fixture
def rows(tmp_path):
    """Five rows in two files; the second view of image 2 is not there, images 0 and 3 share a row."""
    values = np.arange(10, dtype=np.float16).reshape(5, 2)
    for name, part in (("a", values[:2]), ("b", values[2:])):
        np.save(tmp_path / f"{name}.npy", part)
    where = np.array([[4, 0, 1, 4], [3, 2, -1, 3]])
    return values, where, CachedRows([tmp_path / "a.npy", tmp_path / "b.npy"], where)


def test_rows_of_several_files_are_one_array(rows):
    values, where, cached = rows
    views, indices = np.array([0, 1, 0, 0, 1, 0]), np.array([3, 1, 2, 0, 0, 1])
    assert cached.shape == (2, 4, 2)
    assert np.array_equal(cached[views, indices], values[where[views, indices]])
    assert cached[views[:0], indices[:0]].shape == (0, 2)


def test_a_row_that_is_not_there_is_an_error(rows):
    with pytest.raises(IndexError, match="image 2 is not in the cache"):
        rows[2][np.array([0, 1]), np.array([0, 2])]


def test_a_copy_opens_the_files_again(rows):
    values, where, cached = rows
    content = pickle.dumps(cached)
    assert values.tobytes() not in content
    again = pickle.loads(content)
    assert np.array_equal(again[np.zeros(4, int), np.arange(4)], values[where[0]])
    assert all(isinstance(array, np.memmap) for array in again._arrays)
