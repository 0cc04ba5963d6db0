"""Paths of a gallery, as they are read from an array of strings."""

import numpy as np
import pytest

from razh.index import gallery
from razh.index.gallery import Gallery


def write(path, names):
    codes = np.zeros((len(names), 1), dtype=np.uint8)
    np.savez_compressed(path, codes=codes, paths=np.array(names), bits=np.array(8))
    return Gallery.read(path).paths


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("names", [["a.jpg", "long/name of/b.jpg", "", "c"], ["ä.jpg", "鳥/b.jpg", "a.jpg"]])
def test_paths_are_those_that_were_written(names, order, tmp_path):
    array = np.array(names)
    paths = write(tmp_path / "c.npz", array.astype(array.dtype.newbyteorder(order)))
    assert [paths[row] for row in range(len(paths))] == names


@pytest.mark.parametrize("many", [1, gallery.FEW, gallery.FEW + 1, 60])
def test_few_and_many_names_are_found_in_every_block(many, monkeypatch, tmp_path):
    monkeypatch.setattr(gallery, "BLOCK_BYTES", 50)  # a few paths each
    names = [f"{row}/image.jpg" for row in range(100)]  # `1/image.jpg` is the end of `11/image.jpg`
    paths = write(tmp_path / "c.npz", names)
    wanted = names[-many:]
    assert paths.rows_of([*wanted, "image.jpg", "100/image.jpg"]) == {name: names.index(name) for name in wanted}
    assert paths.rows_of(["1/image.jpg"]) == {"1/image.jpg": 1}
