"""Decoding and geometry of images: uint8 tensors (3, H, W), RGB, never normalised."""

from __future__ import annotations

import hashlib
import io
import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

__all__ = [
    "TRANSFORM",
    "content_signature",
    "evaluation_view",
    "list_images",
    "list_images_below",
    "read_image",
    "resized_shape",
    "training_view",
]

TRANSFORM = "shorter side to size, bilinear antialias, centre crop, uint8; version 2"
"""Says what `read_image` and `evaluation_view` do; part of a feature cache's key."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

_SCALE = (0.35, 1.0)  # area share of a training crop
_RATIO = (3 / 4, 4 / 3)  # width : height of a training crop


UNCOMPRESSED = frozenset({".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
_BLOCK = 4096  # bytes


def read_image(path: Path, upright: bool = True) -> Tensor:
    """Decode one image file to uint8 RGB (3, H, W); torchvision first, Pillow for formats that it lacks.

    It comes as viewers show it: turned as its EXIF orientation says, the first picture of an animation, 16 bits scaled
    down to 8.

    Args:
        path: Of the file.
        upright: False leaves it as it is stored, for data whose places are those of the stored picture (TIFFs are
            turned by Pillow in any case).

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file is cut short, is not an image, or has pixels of more than 16 bits; the message names it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no image file {path}; run `make data` again, or remove it from the list") from None
    try:
        if upright and content[8:12] == b"WEBP" and b"EXIF" in content:
            raise ValueError("torchvision turns JPEG and PNG alone")
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        image: Tensor = decode_image(data, mode=ImageReadMode.RGB, apply_exif_orientation=upright)
    except (RuntimeError, ValueError):  # ValueError: an empty file has no buffer
        try:
            with Image.open(io.BytesIO(content)) as picture:
                known = picture.mode != "F" and _bits(picture) <= 16
                turned = ImageOps.exif_transpose(picture) if upright else picture
                deep = turned.mode == "F" or turned.mode.startswith("I")
                pixels = np.array(turned if deep else turned.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise OSError(
                f"image file {path} ({len(content)} bytes) is cut short or not an image; "
                f"fetch it again or delete it ({error})"
            ) from error
        if not deep:
            return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        if not known or pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise OSError(f"image file {path} has pixels that are no 8 or 16 bits; save it as such") from None
        image = torch.from_numpy(pixels.astype(np.int32)).expand(3, -1, -1)
    if image.ndim == 4:
        image = image[0]
    if image.dtype != torch.uint8:
        image = ((image.int() * 0xFF + 0x7FFF) // 0xFFFF).to(torch.uint8)
    return image.contiguous()


def _bits(picture: Image.Image) -> int:
    """Return how many bits a TIFF has for a value; Pillow has one mode for 16 and for 32 of them. Of others 16."""
    found = picture.tag_v2.get(258, 16) if picture.format == "TIFF" else 16  # type: ignore[attr-defined]
    return int(max(found)) if isinstance(found, tuple) else int(found)


def content_signature(path: Path) -> str:
    """Return what changes when a file's content does: its size, and where that says nothing, some of its bytes.

    Pictures of one size that are stored uncompressed are files of one size.
    """
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if path.suffix.lower() not in UNCOMPRESSED:
        return str(size)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in (0, max(size // 2 - _BLOCK // 2, 0), max(size - _BLOCK, 0)):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return f"{size}\t{digest.hexdigest()}"


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Return height and width of an image whose shorter side became `size`."""
    scale = size / min(height, width)
    return max(size, round(height * scale)), max(size, round(width * scale))


def evaluation_view(image: Tensor, size: int) -> Tensor:
    """Return (3, size, size) of uint8 (3, H, W): shorter side resized to `size`, centre cut out. Deterministic."""
    height, width = image.shape[-2:]
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


def list_images(folder: Path) -> list[str]:
    """Return the names of the image files directly in `folder`, sorted; none if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _is_image(path))


def list_images_below(folder: Path) -> list[str]:
    """Return the paths, relative to `folder` and with slashes, of the image files anywhere below it, sorted."""
    below = (path for path in folder.rglob("*") if _is_image(path))
    return sorted(path.relative_to(folder).as_posix() for path in below)


def _is_image(path: Path) -> bool:
    """Whether a file has the name of an image; hidden ones, which systems put beside others, do not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
