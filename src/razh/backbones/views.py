"""Views of an image that are functions of the image alone: what a method may average over when it encodes."""

import torch
from torch import Tensor
from torch.nn import functional as F

VIEWS = ("image", "mirror image", "zoom", "mirror image of the zoom")
ZOOM = 0.7  # share of the side that the zoom cuts out of the middle


def view(images: Tensor, number: int, size: int | None = None) -> Tensor:
    """Return view `number` of `VIEWS` of uint8 images (B, 3, S, S), with sides of `size` pixels; None: as they are."""
    share = ZOOM if number >= 2 else 1.0
    shown = _resized(images, share, size or images.shape[-1])
    return shown.flip(-1) if number % 2 else shown


def _resized(images: Tensor, share: float, size: int) -> Tensor:
    """Cut out the middle `share` of the sides, and show it with sides of `size` pixels."""
    side = max(round(share * images.shape[-1]), 1)
    if side == images.shape[-1] == size:
        return images
    start = (images.shape[-1] - side) // 2
    middle = images[..., start : start + side, start : start + side].float()
    shown = F.interpolate(middle, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return shown.round().clamp(0, 255).to(torch.uint8)
