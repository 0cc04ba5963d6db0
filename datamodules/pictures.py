"""Decoding and geometry of images by Pillow and NumPy alone: uint8 arrays (H, W, 3), RGB, never normalised.

What `razh.datamodules.images` does for training with torch, for those who have an exported network and no torch: the
same files are refused, and views differ from its views by a level of grey here and there, see `picture_view`.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from razh.datamodules.files.walk import HEIF, MAX_MEGAPIXELS, formats, printable

__all__ = [
    "LONGEST",
    "TRANSFORM",
    "opened",
    "orientation",
    "picture_array",
    "picture_view",
    "read_picture",
    "resized_shape",
    "stored_pixels",
    "turned",
]

Pixels = NDArray[np.uint8]

TRANSFORM = "shorter side to size, bilinear antialias, centre crop, uint8, transparency on white; version 3"
"""Says what `read_image` and `evaluation_view` of `razh.datamodules.images` do; part of a feature cache's key."""

_FILE_BYTES = 8  # of a file for each pixel that is allowed: 16-bit RGBA, uncompressed
LONGEST = 64  # a longer side is resized up to so many times the shorter one; what is further out is in no centre

_ORIENTATION, _BITS, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 258, 322, 323  # tags of EXIF and TIFF
_TRANSPOSED = frozenset({5, 6, 7, 8})  # EXIF orientations
_FLIPPED = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}  # axes of (H, W, 3)

# What Pillow warns of (odd metadata, a size near its limit) no user can act on without the name of a file.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_picture(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Pixels:
    """Decode one image file to uint8 RGB (H, W, 3), see `razh.datamodules.images.read_image`; Pillow decodes all.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file is damaged, is not an image, has more than `max_megapixels`, or pixels of more than 16 bits.
    """
    with opened(path, max_megapixels) as (_, picture):
        return np.ascontiguousarray(turned(stored_pixels(picture), orientation(picture)))


class _Refused(Exception):
    """What is wrong with a file, and the way out."""


@contextmanager
def opened(path: Path, max_megapixels: float) -> Iterator[tuple[BinaryIO, ImageFile]]:
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


def stored_pixels(picture: ImageFile) -> Pixels:
    """Return uint8 (H, W, 3) of an opened file as it is stored."""
    picture.load()
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _scaled_down(picture)
    return np.array(_on_white(picture))


def _on_white(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, what is transparent on white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    colours = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(colours, mask=colours)
    return white


def picture_array(picture: Image.Image) -> Pixels:
    """Return uint8 RGB (H, W, 3) of a picture in memory, as viewers show it: upright, what is transparent on white.

    Raises:
        ValueError: It has more than 8 bits a pixel, whose scale nobody knows.
    """
    if picture.mode == "F" or picture.mode.startswith("I"):
        raise ValueError(f"the picture has mode {picture.mode}; convert it to RGB, scaled as you mean it")
    upright = ImageOps.exif_transpose(picture)
    return np.array(_on_white(upright))


def _scaled_down(picture: ImageFile) -> Pixels:
    """Return uint8 (H, W, 3) of grey values of up to 16 bits.

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
    scaled: Pixels = ((values.astype(np.int32) * 0xFF + largest // 2) // largest).astype(np.uint8)
    scaled[values == picture.info.get("transparency")] = 0xFF
    return np.repeat(scaled[..., None], 3, axis=-1)


def orientation(picture: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where the file tells none."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata are no reason to refuse good pixels, and raise anything
        return 1


def turned(image: Pixels, orientation: int) -> Pixels:
    """Return an image (H, W, 3) as it is shown, (W, H, 3) if it lies on its side; a view of its pixels."""
    if orientation in _TRANSPOSED:
        image = image.swapaxes(0, 1)
    return np.flip(image, _FLIPPED[orientation]) if orientation in _FLIPPED else image


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Return height and width of an image whose shorter side became `size`."""
    scale = size / min(height, width)
    return max(size, round(height * scale)), max(size, round(width * scale))


def picture_view(image: Pixels, size: int) -> Pixels:
    """Return (3, size, size) of uint8 (H, W, 3): what `razh.datamodules.images.evaluation_view` shows, by Pillow."""
    height, width = image.shape[:2]
    longest = LONGEST * min(height, width)
    image = _centre(image, *(min(side, longest + (side - longest) % 2) for side in (height, width)))
    rows, columns = resized_shape(image.shape[0], image.shape[1], size)
    if (rows, columns) != image.shape[:2]:
        picture = Image.fromarray(np.ascontiguousarray(image))
        image = np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(_centre(image, size, size).transpose(2, 0, 1))


def _centre(image: Pixels, height: int, width: int) -> Pixels:
    """Cut out the middle (height, width) of an image (H, W, 3), as torchvision's `center_crop` does."""
    top, left = (round((old - new) / 2.0) for old, new in zip(image.shape[:2], (height, width), strict=True))
    return image[top : top + height, left : left + width]
