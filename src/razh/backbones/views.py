"""Views of an image that are functions of the image alone: what a method may average over when it encodes."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class View:
    """How an image is shown.

    Attributes:
        share: of its sides that is cut out of the middle.
        mirrored: from right to left.
        enlarged: to the size that views have; else it keeps its own.
    """

    share: float = 1.0
    mirrored: bool = False
    enlarged: bool = True


VIEWS = (View(), View(0.7, mirrored=True), View(0.55), View(mirrored=True, enlarged=False))
"""Objects at four sizes, two of them mirrored: chosen on validation classes of birds (docs/experiments.md)."""

VIEWS_KEY = hashlib.sha256(repr(VIEWS).encode()).hexdigest()[:8]
"""Changes with `VIEWS`; part of the name of a cache of them."""


def view_side(number: int, image_size: int, size: int) -> int:
    """Return the side in pixels of view `number` of `VIEWS` of an image, where enlarged ones have `size`."""
    return size if VIEWS[number].enlarged else image_size


def view(images: Tensor, number: int, size: int | None = None) -> Tensor:
    """Return view `number` of `VIEWS` of uint8 images (B, 3, S, S); enlarged ones have sides of `size`, None: of S."""
    how, side = VIEWS[number], images.shape[-1]
    shown = _resized(images, how.share, view_side(number, side, size or side))
    return shown.flip(-1) if how.mirrored else shown


def _resized(images: Tensor, share: float, size: int) -> Tensor:
    """Cut out the middle `share` of the sides, and show it with sides of `size` pixels."""
    side = max(round(share * images.shape[-1]), 1)
    if side == images.shape[-1] == size:
        return images
    start = (images.shape[-1] - side) // 2
    middle = images[..., start : start + side, start : start + side].float()
    shown = F.interpolate(middle, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return shown.round().clamp(0, 255).to(torch.uint8)
