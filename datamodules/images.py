"""Decoding and geometry of images: uint8 tensors (3, H, W), RGB, never normalised."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional as F

from razh.datamodules.files.walk import MAX_MEGAPIXELS
from razh.datamodules.pictures import (
    LONGEST,
    TRANSFORM,
    Pixels,
    opened,
    orientation,
    picture_array,
    resized_shape,
    stored_pixels,
    turned,
)

__all__ = [
    "MAX_MEGAPIXELS",
    "TRANSFORM",
    "evaluation_view",
    "image_problem",
    "picture_pixels",
    "read_image",
    "resized_shape",
    "tensor_of",
    "training_view",
]

_SCALE = (0.35, 1.0)  # area share of a training crop
_RATIO = (3 / 4, 4 / 3)  # width : height of a training crop


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
    with opened(path, max_megapixels) as (file, picture):
        image = _decoded_jpeg(file) if picture.format in ("JPEG", "MPO") else None
        if image is None:
            image = stored_pixels(picture)
        return tensor_of(turned(image, orientation(picture) if upright else 1))


def image_problem(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> str | None:
    """Return why `read_image` cannot decode a file, in one line that names it; None if it can.

    All of the file is read, but a JPEG is decoded at an eighth of its size, which takes a third of the time for a large
    photo and about as long for a small one.

    Args:
        path: Of the file.
        max_megapixels: See `read_image`.
    """
    try:
        with opened(path, max_megapixels) as (_, picture):
            picture.draft(None, (1, 1))
            stored_pixels(picture)
    except OSError as error:
        return str(error)
    return None


def _decoded_jpeg(file: BinaryIO) -> Pixels | None:
    """Return uint8 (H, W, 3) as it is stored; None for what Pillow has to decode or refuse."""
    file.seek(0)
    try:
        image: Tensor = decode_jpeg(torch.from_numpy(np.fromfile(file, dtype=np.uint8)), mode=ImageReadMode.RGB)
    except RuntimeError:
        return None
    pixels: Pixels = image.permute(1, 2, 0).numpy()
    return pixels


def tensor_of(image: Pixels) -> Tensor:
    """Return an image (H, W, 3) as (3, H, W), in memory of its own where torch cannot share it."""
    if not image.flags.writeable or any(stride < 0 for stride in image.strides):
        image = image.copy()
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()


def picture_pixels(picture: Image.Image) -> Tensor:
    """Return uint8 RGB (3, H, W) of a picture in memory, see `razh.datamodules.pictures.picture_array`.

    Raises:
        ValueError: It has more than 8 bits a pixel, whose scale nobody knows.
    """
    return torch.from_numpy(picture_array(picture)).permute(2, 0, 1)


def evaluation_view(image: Tensor, size: int) -> Tensor:
    """Return (3, size, size) of uint8 (3, H, W): shorter side resized to `size`, centre cut out. Deterministic."""
    # What is far from the centre is cut off first, as much on both sides: resized it could take any amount of memory.
    longest = LONGEST * min(image.shape[-2:])
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
