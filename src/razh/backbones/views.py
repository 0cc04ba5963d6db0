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


Views = tuple[View, ...]

SIZES: Views = (View(), View(0.7, mirrored=True), View(0.55), View(mirrored=True, enlarged=False))
"""Objects at four sizes, two of them mirrored: for frozen networks (docs/explanation/findings.md)."""

MIRRORED: Views = (View(), View(mirrored=True), View(0.7), View(0.7, mirrored=True))
"""Objects at two sizes, and their mirror images: for networks that learn from these views."""

NAMED = {"sizes": SIZES, "mirrored": MIRRORED}


def chosen_views(name: str, freeze: str) -> Views:
    """Return the views of this name; `auto` chooses by what of a network is frozen.

    Raises:
        ValueError: views of no such name.
    """
    if name not in ("none", "auto", *NAMED):
        raise ValueError(f"views={name!r} must be one of none, auto, {', '.join(NAMED)}")
    if name == "auto":
        name = "sizes" if freeze == "all" else "mirrored"
    return NAMED.get(name, ())


def views_key(views: Views) -> str:
    """Return a name of these views, for what is cached of them."""
    return hashlib.sha256(repr(views).encode()).hexdigest()[:8]


def view_side(view: View, image_size: int, size: int) -> int:
    """Return the side in pixels of a view of an image, where enlarged ones have `size`."""
    return size if view.enlarged else image_size


def show(images: Tensor, view: View, size: int | None = None) -> Tensor:
    """Return a view of uint8 images (B, 3, S, S); an enlarged one has sides of `size`, None: of S."""
    side = images.shape[-1]
    shown = _resized(images, view.share, view_side(view, side, size or side))
    return shown.flip(-1) if view.mirrored else shown


def _resized(images: Tensor, share: float, size: int) -> Tensor:
    """Cut out the middle `share` of the sides, and show it with sides of `size` pixels."""
    side = max(round(share * images.shape[-1]), 1)
    if side == images.shape[-1] == size:
        return images
    start = (images.shape[-1] - side) // 2
    middle = images[..., start : start + side, start : start + side].float()
    shown = F.interpolate(middle, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return shown.round().clamp(0, 255).to(torch.uint8)
