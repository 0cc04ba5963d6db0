"""Decoding and geometry of images: uint8 tensors (3, H, W), RGB, never normalised."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

__all__ = [
    "TRANSFORM",
    "evaluation_view",
    "list_images",
    "list_images_below",
    "read_image",
    "resized_shape",
    "training_view",
]

TRANSFORM = "shorter side to size, bilinear antialias, centre crop, uint8; version 1"
"""Says what `evaluation_view` does; part of a feature cache's key."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

_SCALE = (0.35, 1.0)  # area share of a training crop
_RATIO = (3 / 4, 4 / 3)  # width : height of a training crop


def read_image(path: Path) -> Tensor:
    """Decode one image file to uint8 RGB (3, H, W); torchvision first, Pillow for formats that it lacks.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file is cut short or is not an image; the message names it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no image file {path}; run `make data` again, or remove it from the list") from None
    try:
        image: Tensor = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode=ImageReadMode.RGB)
        return image
    except (RuntimeError, ValueError):  # ValueError: an empty file has no buffer
        try:
            with Image.open(io.BytesIO(content)) as picture:
                return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
        except (OSError, ValueError, SyntaxError) as error:
            raise OSError(
                f"image file {path} ({len(content)} bytes) is cut short or not an image; "
                f"fetch it again or delete it ({error})"
            ) from error


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
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def list_images_below(folder: Path) -> list[str]:
    """Return the paths, relative to `folder` and with slashes, of the image files anywhere below it, sorted."""
    below = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path.relative_to(folder).as_posix() for path in below)
