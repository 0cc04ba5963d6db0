"""Images without torch: the same pixels are decoded, and views differ by a level of grey here and there."""

import numpy as np
import pytest
from PIL import Image

from razh.datamodules.images import evaluation_view, read_image
from razh.datamodules.pictures import picture_view, read_picture


def photo(seed, height, width):
    """Return smooth blots with grain, uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    blots = Image.fromarray(random.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return (smooth + random.normal(0, 10, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_files_are_decoded_to_the_same_pixels(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo(orientation, 30, 50)).save(tmp_path / f"a{suffix}", exif=exif)
    wanted = read_image(tmp_path / f"a{suffix}").permute(1, 2, 0).numpy()
    found = read_picture(tmp_path / f"a{suffix}")
    assert found.shape == ((50, 30, 3) if orientation > 4 else (30, 50, 3))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(90, 131, 64), (131, 90, 64), (64, 64, 64), (40, 51, 64), (500, 333, 64), (7, 900, 32), (65, 64, 64)],
)
def test_views_differ_by_two_levels_at_most(height, width, size):
    import torch

    image = photo(height, height, width)
    wanted = evaluation_view(torch.from_numpy(image).permute(2, 0, 1), size).numpy().astype(int)
    found = picture_view(image, size)
    assert found.shape == (3, size, size)
    assert found.flags.c_contiguous
    difference = np.abs(found - wanted)
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_what_cannot_be_read_is_refused_alike(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    Image.fromarray(photo(0, 30, 50)).save(tmp_path / "large.png")
    for path, most in ((tmp_path / "a.jpg", 1.0), (tmp_path / "large.png", 0.001), (tmp_path / "no.png", 1.0)):
        said = []
        for read in (read_image, read_picture):
            with pytest.raises(OSError, match=path.name) as caught:
                read(path, max_megapixels=most)
            said.append(str(caught.value))
        assert said[0] == said[1]
