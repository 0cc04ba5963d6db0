"""Decoding and geometry of images: uint8 tensors (3, H, W), RGB, never normalised."""

from __future__ import annotations

import math
import random
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from razh.datamodules.files.walk import HEIF, MAX_MEGAPIXELS, formats, printable

__all__ = [
    "MAX_MEGAPIXELS",
    "TRANSFORM",
    "evaluation_view",
    "image_problem",
    "picture_pixels",
    "read_image",
    "resized_shape",
    "training_view",
]

TRANSFORM = "shorter side to size, bilinear antialias, centre crop, uint8, transparency on white; version 3"
"""Says what `read_image` and `evaluation_view` do; part of a feature cache's key."""

_FILE_BYTES = 8  # of a file for each pixel that is allowed: 16-bit RGBA, uncompressed
_LONGEST = 64  # a longer side is resized up to so many times the shorter one; what is further out is in no centre

_SCALE = (0.35, 1.0)  # area share of a training crop
_RATIO = (3 / 4, 4 / 3)  # width : height of a training crop

_ORIENTATION, _BITS, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 258, 322, 323  # tags of EXIF and TIFF
_TRANSPOSED = frozenset({5, 6, 7, 8})  # EXIF orientations
_FLIPPED = {2: (-1,), 3: (-2, -1), 4: (-2,), 6: (-1,), 7: (-2, -1), 8: (-2,)}

# What Pillow warns of (odd metadata, a size near its limit) no user can act on without the name of a file.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: Path, upright: bool = True, max_megapixels: float = MAX_MEGAPIXELS) -> Tensor:
    """Decode one image file to uint8 RGB (3, H, W).

    It comes as viewers show it: turned as its EXIF orientation says, transparency on white, the first picture of an
    animation, 16 bits scaled down to 8. A suffix tells nothing, the content does. JPEG is decoded by torchvision, which
    is up to three times as fast, everything else by Pillow: torchvision's decoders of other formats crash on damaged
    files.

    Beside the file, decoding takes up to 25 bytes a pixel (measured: JPEG 2000 25, WebP 22, AVIF 17, JPEG 10,
    others 15): 2.5 GB at the default limit. A file has at most 8 bytes for each pixel of the limit.

    Args:
        path: Of the file.
        upright: False leaves it as it is stored, for data whose places are those of the stored picture (TIFFs are
            turned by Pillow in any case).
        max_megapixels: Most pixels, in millions. The size is read from the header, before pixels are decoded.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file is damaged, is not an image, has more than `max_megapixels`, or pixels of more than 16 bits.
            The message is one line and names the file, whatever the decoder raised.
    """
    with _opened(path, max_megapixels) as (file, picture):
        image = _decoded_jpeg(file) if picture.format in ("JPEG", "MPO") else None
        if image is None:
            image = _pixels(picture)
        return _turned(image, _orientation(picture) if upright else 1).contiguous()


def image_problem(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> str | None:
    """Return why `read_image` cannot decode a file, in one line that names it; None if it can.

    All of the file is read, but a JPEG is decoded at an eighth of its size, which takes a third of the time for a large
    photo and about as long for a small one.

    Args:
        path: Of the file.
        max_megapixels: See `read_image`.
    """
    try:
        with _opened(path, max_megapixels) as (_, picture):
            picture.draft(None, (1, 1))
            _pixels(picture)
    except OSError as error:
        return str(error)
    return None


class _Refused(Exception):
    """What is wrong with a file, and the way out."""


@contextmanager
def _opened(path: Path, max_megapixels: float) -> Iterator[tuple[BinaryIO, ImageFile]]:
    """Open a file and read its header; whatever decoders raise about its bytes becomes one `OSError` that names it."""
    name, size, most = printable(path), 0, round(max_megapixels * 1e6)
    limit = f"than max_megapixels={max_megapixels:g} allows; make it smaller or raise the limit"
    try:
        state = path.stat()
        size = state.st_size
        if not stat.S_ISREG(state.st_mode):  # reading a pipe or a device might never end
            raise _Refused("is no regular file; leave it out")
        if size > _FILE_BYTES * most:
            raise _Refused(f"has more bytes ({size}) {limit}")
        own = Image.EXTENSION.get(path.suffix.lower())
        # Without a signature, which the second function tests, anything may look like the format.
        known = [found for found in formats() if Image.OPEN[found][1] is not None or found == own]
        # Also for pictures inside of others, such as those of an icon. It stays set: threads share it.
        Image.MAX_IMAGE_PIXELS = most // 2  # Pillow warns beyond this, and refuses beyond twice as many
        with path.open("rb") as file, Image.open(file, formats=known) as picture:
            if _tile_pixels(picture) > most:
                raise _Refused(f"has more pixels {limit}")
            yield file, picture
    except FileNotFoundError:
        raise FileNotFoundError(f"no image file {name}; fetch the data again, or remove it from the list") from None
    except _Refused as refusal:
        raise OSError(f"image file {name} {refusal}") from None
    except Image.DecompressionBombError:
        raise OSError(f"image file {name} has more pixels {limit}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(f"image file {name} cannot be read ({error.strerror})") from None
        raise OSError(
            f"image file {name} ({size} bytes) is cut short or not an image; "
            f"fetch it again or delete it ({_reason(error, path)})"
        ) from error


def _reason(error: Exception, path: Path) -> str:
    """Return what a decoder says, in one line; Pillow's word for bytes that it does not know shows an address."""
    if isinstance(error, UnidentifiedImageError):
        heif = path.suffix.lower() in HEIF and "HEIF" not in formats()
        return "install pillow-heif to read it" if heif else "no known format"
    return printable((str(error).splitlines() or [""])[0] or type(error).__name__)


def _tile_pixels(picture: ImageFile) -> int:
    """Return the pixels of a TIFF's tile, which may be larger than its picture; 0 of others."""
    if picture.format != "TIFF":
        return 0
    tags = picture.tag_v2  # type: ignore[attr-defined]
    return int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))


def _decoded_jpeg(file: BinaryIO) -> Tensor | None:
    """Return uint8 (3, H, W) as it is stored; None for what Pillow has to decode or refuse."""
    file.seek(0)
    try:
        image: Tensor = decode_jpeg(torch.from_numpy(np.fromfile(file, dtype=np.uint8)), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    return image


def _pixels(picture: ImageFile) -> Tensor:
    """Return uint8 (3, H, W) as it is stored."""
    picture.load()
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _scaled_down(picture)
    return torch.from_numpy(np.array(_on_white(picture))).permute(2, 0, 1)


def _on_white(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, what is transparent on white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    colours = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(colours, mask=colours)
    return white


def picture_pixels(picture: Image.Image) -> Tensor:
    """Return uint8 RGB (3, H, W) of a picture in memory, as viewers show it: upright, what is transparent on white.

    Raises:
        ValueError: It has more than 8 bits a pixel, whose scale nobody knows.
    """
    if picture.mode == "F" or picture.mode.startswith("I"):
        raise ValueError(f"the picture has mode {picture.mode}; convert it to RGB, scaled as you mean it")
    upright = ImageOps.exif_transpose(picture)
    return torch.from_numpy(np.array(_on_white(upright))).permute(2, 0, 1)


def _scaled_down(picture: ImageFile) -> Tensor:
    """Return uint8 (3, H, W) of grey values of up to 16 bits.

    Raises:
        _Refused: They have more, or are no whole numbers.
    """
    # Pillow has one mode for 16 and for 32 bits of a TIFF.
    bits = picture.tag_v2.get(_BITS, 16) if picture.format == "TIFF" else 16  # type: ignore[attr-defined]
    bits = max(bits) if isinstance(bits, tuple) else bits
    values = np.array(picture)
    if picture.mode == "F" or bits > 16 or values.min() < 0 or values.max() >= 1 << bits:
        raise _Refused("has pixels that are no 8 or 16 bits; save it as such")
    largest = (1 << bits) - 1
    scaled = ((values.astype(np.int32) * 0xFF + largest // 2) // largest).astype(np.uint8)
    scaled[values == picture.info.get("transparency")] = 0xFF
    return torch.from_numpy(scaled).expand(3, -1, -1)


def _orientation(picture: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where the file tells none."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata are no reason to refuse good pixels, and raise anything
        return 1


def _turned(image: Tensor, orientation: int) -> Tensor:
    """Return an image (3, H, W) as it is shown, (3, W, H) if it lies on its side."""
    if orientation in _TRANSPOSED:
        image = image.mT
    return image.flip(_FLIPPED[orientation]) if orientation in _FLIPPED else image


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Return height and width of an image whose shorter side became `size`."""
    scale = size / min(height, width)
    return max(size, round(height * scale)), max(size, round(width * scale))


def evaluation_view(image: Tensor, size: int) -> Tensor:
    """Return (3, size, size) of uint8 (3, H, W): shorter side resized to `size`, centre cut out. Deterministic."""
    # What is far from the centre is cut off first, as much on both sides: resized it could take any amount of memory.
    longest = _LONGEST * min(image.shape[-2:])
    height, width = (min(side, longest + (side - longest) % 2) for side in image.shape[-2:])
    image = F.center_crop(image, [height, width])
    resized = resized_shape(height, width, size)
    if resized != (height, width):
        image = F.resize(image, list(resized), antialias=True)
    view: Tensor = F.center_crop(image, [size, size])
    return view.contiguous()


def training_view(image: Tensor, size: int, draw: int) -> Tensor:
    """Return a random crop (3, size, size), mirrored half of the time, of uint8 (3, H, W): a function of `draw`."""
    top, left, height, width, mirrored = _crop(image.shape[-2], image.shape[-1], draw)
    view: Tensor = F.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return view.flip(-1) if mirrored else view


def _crop(height: int, width: int, draw: int) -> tuple[int, int, int, int, bool]:
    """Return top, left, height and width of the crop and whether to mirror it (Szegedy et al., CVPR 2015)."""
    choose = random.Random(draw)
    mirrored = choose.random() < 0.5
    for _ in range(10):
        area = height * width * choose.uniform(*_SCALE)
        ratio = math.exp(choose.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return choose.randint(0, height - h), choose.randint(0, width - w), h, w, mirrored
    side = min(height, width)  # a very long or flat image: the middle square
    return (height - side) // 2, (width - side) // 2, side, side, mirrored
