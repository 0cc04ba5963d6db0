import numpy as np
import pytest
import torch
from PIL import Image

from razh.datamodules.cub import CUBDataModule
from razh.datamodules.images import evaluation_view
from razh.datamodules.points import evaluation_points
from tests.fake import write_cub, write_lines


@pytest.mark.parametrize(("height", "width", "size"), [(60, 111, 32), (111, 60, 32), (33, 47, 24), (40, 40, 64)])
def test_points_land_where_their_pixels_do(height, width, size):
    """A white square is drawn around the point; its centre of mass in the evaluation view is where the point goes."""
    for x, y in [(width / 2, height / 2), (width / 2 - 9, height / 2 + 6), (width / 2 + 8, height / 2 - 7)]:
        x, y = int(x), int(y)
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        image[:, y - 3 : y + 3, x - 3 : x + 3] = 255  # its middle is the corner (x, y) between four pixels
        view = evaluation_view(image, size)[0].double()
        axis = torch.arange(size) + 0.5
        centre = [float((view.sum(0) * axis).sum() / view.sum()), float((view.sum(1) * axis).sum() / view.sum())]
        (found,) = evaluation_points(np.array([[x, y, 1]], dtype=np.float32), height, width, size)
        np.testing.assert_allclose(found[:2], centre, atol=0.15)
        assert found[2] == 1


def test_points_that_are_hidden_or_cut_off():
    points = np.array([[5, 20, 1], [50, 20, 1], [50, 20, 0], [95, 20, 1], [30, 0, 1]], dtype=np.float32)
    assert evaluation_points(points, 40, 100, 20)[:, 2].tolist() == [0, 1, 0, 0, 1]  # columns 30 … 70 remain


def test_parts_of_cub(tmp_path):
    folder = write_cub(tmp_path)
    first = folder / "images" / "001.Bird_1" / "Bird_0000_0.jpg"
    Image.new("RGB", (80, 32)).save(first)
    lines = (folder / "parts" / "part_locs.txt").read_text().splitlines()
    write_lines(folder / "parts" / "part_locs.txt", ["1 1 40.0 8.0 1", "1 2 3.0 8.0 1", *lines[2:]])
    data = CUBDataModule(str(tmp_path), image_size=16, num_workers=0)
    assert data.part_points(0).tolist() == [[8, 4, 1], [-10.5, 4, 0]]  # the second lies left of the cut
    assert data.part_points(6).tolist()[1][2] == 0  # not visible
    assert data.part_masks(0) is None
    (folder / "parts" / "part_locs.txt").unlink()
    assert CUBDataModule(str(tmp_path), image_size=16).part_points(0) is None
