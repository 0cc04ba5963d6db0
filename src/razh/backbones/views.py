"""Views of an image that are functions of the image alone: what a method may average over when it encodes."""

import torch
from torch import Tensor
from torch.nn import functional as F

VIEWS = ("image", "mirror image", "zoom", "mirror image of the zoom")
ZOOM = 0.7  # share of the side that the zoom cuts out of the middle


def view(images: Tensor, number: int) -> Tensor:
    """Return view `number` of `VIEWS` of uint8 images (B, 3, S, S), of the same size."""
    if number >= 2:
        images = _zoom(images)
    return images.flip(-1) if number % 2 else images


def _zoom(images: Tensor) -> Tensor:
    size = images.shape[-1]
    side = max(round(ZOOM * size), 1)
    start = (size - side) // 2
    middle = images[..., start : start + side, start : start + side].float()
    grown = F.interpolate(middle, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return grown.round().clamp(0, 255).to(torch.uint8)
