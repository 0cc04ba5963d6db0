"""Images to check an exported network on where nobody gave any."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["drawn_images"]

Pixels = NDArray[np.uint8]


def drawn_images(count: int, side: int) -> list[Pixels]:
    """Return images (H, W, 3) of coloured blots and grain, larger than what a network sees; the same at each call."""
    from PIL import Image

    random, images = np.random.default_rng(0), []
    for _ in range(count):
        shape = (int(side * random.uniform(1, 2)), int(side * random.uniform(1, 2)))
        blots = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(blots).resize(shape[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
        images.append((smooth + random.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8))
    return images
