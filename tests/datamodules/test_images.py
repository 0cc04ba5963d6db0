import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from razh.datamodules import images
from razh.datamodules.files.walk import formats
from razh.datamodules.images import (
    _crop,
    evaluation_view,
    image_problem,
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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_those_of_pillow(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as picture:
        expected = np.array(ImageOps.exif_transpose(picture))
    assert np.array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0), expected)


def test_damaged_metadata_are_no_reason_to_refuse_pixels(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").shape == (3, 8, 8)
    assert image_problem(tmp_path / "a.jpg") is None


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparency_is_on_white(tmp_path, mode):
    colours = Image.new("RGB", (6, 4), (200, 30, 30))
    picture = colours.quantize(4) if mode == "P" else colours.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(0)
        picture.save(tmp_path / "a.png")
    else:
        picture.save(tmp_path / "a.png", transparency=picture.getpixel((0, 0)))
    assert read_image(tmp_path / "a.png").min() == 255
    half = colours.convert("RGBA")
    half.putalpha(128)
    half.save(tmp_path / "half.webp", lossless=True)
    assert read_image(tmp_path / "half.webp")[:, 1, 1].tolist() == pytest.approx([227, 142, 142], abs=1)


def test_transparent_grey_of_sixteen_bits_is_white(tmp_path):
    Image.fromarray(np.array([[7, 9]], np.uint16)).save(tmp_path / "a.png", transparency=7)
    assert read_image(tmp_path / "a.png")[0].tolist() == [[255, 0]]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.tif", "a.webp", "a.bmp", "a.ico"])
def test_size_is_limited_before_pixels_are_decoded(tmp_path, name):
    Image.new("RGB", (200, 100)).save(tmp_path / name)
    if name == "a.ico":  # an icon of 16 × 16, by its own header
        Image.new("RGB", (200, 100)).save(tmp_path / "inside.png")
        content = (tmp_path / "inside.png").read_bytes()
        header = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22)
        (tmp_path / name).write_bytes(header + content)
    told = f"{name} has more (pixels|bytes .*) than max_megapixels=0.01 allows; make it smaller or raise the limit"
    with pytest.raises(OSError, match=told):
        read_image(tmp_path / name, max_megapixels=0.01)
    assert "than max_megapixels=0.01 allows" in str(image_problem(tmp_path / name, max_megapixels=0.01))
    assert read_image(tmp_path / name, max_megapixels=0.02).shape == (3, 100, 200)


def test_the_tiles_of_a_tiff_are_limited_too(tmp_path):
    tags = (
        (256, 20),
        (257, 10),
        (258, 8),
        (259, 5),
        (262, 1),
        (277, 1),
        (322, 65520),
        (323, 65520),
        (324, 8),
        (325, 9),
    )
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4))
    with pytest.raises(OSError, match=r"a\.tif has more pixels"):
        read_image(tmp_path / "a.tif")


def test_a_file_of_many_bytes_is_not_read(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)  # on disk it takes nothing
    with pytest.raises(OSError, match=r"a\.jpg has more bytes"):
        read_image(tmp_path / "a.jpg")


def test_what_is_no_regular_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("pipe.jpg", "zero.jpg", "folder.jpg"):
        with pytest.raises(OSError, match=f"image file .*{name} is no regular file"):
            read_image(tmp_path / name)
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    with pytest.raises(OSError, match=r"circle\.jpg cannot be read"):
        read_image(tmp_path / "circle.jpg")


def test_the_content_counts_and_drawings_are_not_run(tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "right.png")
    (tmp_path / "right.png").rename(tmp_path / "no_suffix")
    assert read_image(tmp_path / "no_suffix").shape == (3, 4, 6)
    Image.new("RGB", (6, 4), "red").save(tmp_path / "drawing.eps")
    (tmp_path / "drawing.eps").rename(tmp_path / "a.jpg")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    assert "a.jpg" in str(image_problem(tmp_path / "a.jpg"))
    assert "no known format" in str(image_problem(tmp_path / "a.jpg"))
    if "HEIF" not in formats():
        assert "install pillow-heif" in str(image_problem(tmp_path / "phone.heic"))
    assert " at 0x" not in str(image_problem(tmp_path / "phone.heic"))


@pytest.mark.parametrize(("height", "width"), [(1, 200_000), (200_000, 1), (3, 1_000), (1, 1)])
def test_a_view_of_a_very_long_image_takes_little_memory(height, width, monkeypatch):
    resized = []
    resize = images.F.resize
    monkeypatch.setattr(
        images.F, "resize", lambda image, size, **how: resized.append(size) or resize(image, size, **how)
    )
    line = torch.linspace(0, 255, max(height, width)).to(torch.uint8)
    image = (line if width > height else line[:, None]).expand(3, height, width)
    view = evaluation_view(image, 32)
    assert view.shape == (3, 32, 32)
    assert resized[0][0] * resized[0][1] <= 65 * 32 * 32
    assert height == width or abs(float(view.float().mean()) - 127) < 2


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
