import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images import (
    _crop,
    content_signature,
    evaluation_view,
    list_images,
    list_images_below,
    read_image,
    training_view,
)
from tests.fake import write_image


def test_lossless_file_comes_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


@pytest.mark.parametrize("name", ["a.bmp", "a.tif", "a.gif", "grey.jpg", "grey.png", "alpha.png"])
def test_other_formats_become_rgb(tmp_path, name):
    mode = {"grey": "L", "alpha": "RGBA"}.get(name.split(".")[0], "RGB")
    Image.new("RGB", (6, 4), (200, 100, 50)).convert(mode).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.shape == (3, 4, 6)
    if mode != "L":
        assert (image[:, 1, 1].int() - torch.tensor([200, 100, 50])).abs().max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_down(tmp_path, name):
    pixels = np.linspace(0, 0xFFFF, 24, dtype=np.uint16).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 6)
    assert torch.equal(image, torch.from_numpy(np.rint(pixels / 257).astype(np.uint8)).expand(3, 4, 6))


def test_pixels_without_a_known_range_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "real.tif")
    Image.fromarray(np.full((4, 6), 1 << 20, np.int32)).save(tmp_path / "deep.tif")
    Image.fromarray(np.full((4, 6), 200, np.int32)).save(tmp_path / "unclear.tif")  # of 255, of 65,535, of 2³¹?
    for name in ("real.tif", "deep.tif", "unclear.tif"):
        with pytest.raises(OSError, match=f"{name} has pixels that are no 8 or 16 bits"):
            read_image(tmp_path / name)


def test_an_animation_is_its_first_picture(tmp_path):
    first, *others = (Image.new("RGB", (6, 4), colour) for colour in ("red", "blue", "green"))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    image = read_image(tmp_path / "a.gif")
    assert image.shape == (3, 4, 6)
    assert (image[:, 1, 1].int() - torch.tensor([255, 0, 0])).abs().max() <= 3


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_photos_stand_upright(tmp_path, name):
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 40:] = 255  # the right half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise: right becomes below
    Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    image = read_image(tmp_path / name)
    assert image.shape == (3, 80, 40)
    assert image[:, :35].max() < 50
    assert image[:, 45:].min() > 200
    if name != "a.tif":
        assert read_image(tmp_path / name, upright=False).shape == (3, 40, 80)


def test_content_is_told_apart_where_sizes_are_not(tmp_path):
    for number, colour in enumerate((10, 20)):
        Image.new("RGB", (60, 40), (colour,) * 3).save(tmp_path / f"{number}.bmp")
    one, two = (content_signature(tmp_path / f"{number}.bmp") for number in range(2))
    assert one.split("\t")[0] == two.split("\t")[0]
    assert one != two
    assert content_signature(tmp_path / "0.bmp") == one
    assert content_signature(tmp_path / "absent.bmp") == "missing"


def test_damaged_files_are_named(tmp_path):
    write_image(tmp_path / "cut.jpg", 0, 64, 64)
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name in ("cut.jpg", "text.jpg", "empty.jpg"):
        with pytest.raises(OSError, match=f"{name}.*is cut short or not an image"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no image file .*absent.jpg"):
        read_image(tmp_path / "absent.jpg")


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 31), (31, 50), (33, 400), (8, 9)])
def test_evaluation_view_is_the_centre(height, width):
    column = torch.linspace(0, 255, width).to(torch.uint8).expand(3, height, width)
    view = evaluation_view(column, 32)
    assert view.shape == (3, 32, 32)
    assert abs(float(view[0, 16].float().mean()) - 127) < 6  # the middle stays in the middle
    assert torch.equal(view, evaluation_view(column, 32))


def test_evaluation_view_of_fitting_image_is_the_image():
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    assert torch.equal(evaluation_view(image, 24), image)
    assert torch.equal(evaluation_view(image[:, :, :], 24), image)


def test_training_view_is_a_function_of_the_draw():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    assert training_view(image, 32, 5).shape == (3, 32, 32)
    assert torch.equal(training_view(image, 32, 5), training_view(image, 32, 5))
    assert len({training_view(image, 32, draw).float().mean().item() for draw in range(20)}) > 15


@pytest.mark.parametrize(("height", "width"), [(40, 60), (7, 7), (1, 300), (300, 2)])
def test_crops_lie_inside_and_vary(height, width):
    crops = [_crop(height, width, draw) for draw in range(200)]
    for top, left, h, w, _ in crops:
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert h > 0 < w
    assert 60 < sum(mirrored for *_, mirrored in crops) < 140
    if height == 40:
        shares = [h * w / (height * width) for _, _, h, w, _ in crops]
        assert 0.33 < min(shares) < 0.45 < 0.85 < max(shares) <= 1


def test_listings(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "b/notes.txt", "b/._1.png", "a/c/3.jpeg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path / "b") == ["1.png", "2.JPG"]
    assert list_images(tmp_path / "absent") == []
    assert list_images_below(tmp_path) == ["a/c/3.jpeg", "b/1.png", "b/2.JPG"]
