"""Whether an exported network gives the codes of its checkpoint: bits that differ, and mAP before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.hamming import histogram
from razh.retrieval.metrics import average_precision

__all__ = ["Check", "compared", "drawn_images"]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Check:
    """Codes of the same images before and after.

    Attributes:
        images: how many.
        source: of the images.
        bits_differ: share of all bits.
        codes_differ: share of images with a bit that differs.
        map_before: mean average precision of each image against all others, where they have classes.
        map_after: the same of the exported network's codes.
    """

    images: int
    source: str
    bits_differ: float
    codes_differ: float
    map_before: float | None = None
    map_after: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return plain values; what is not known is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def rows(self) -> list[tuple[str, str]]:
        """Return what was measured, and the figures, in words."""
        found = [
            ("images", f"{self.images:,} ({self.source})"),
            ("bits that differ", f"{self.bits_differ:.4%}"),
            ("codes with such a bit", f"{self.codes_differ:.2%}"),
        ]
        if self.map_before is not None and self.map_after is not None:
            found.append(("mAP before, after", f"{self.map_before:.4f}, {self.map_after:.4f}"))
        return found


def compared(before: Pixels, after: Pixels, bits: int, source: str, classes: Sequence[str] = ()) -> Check:
    """Compare packed codes (n, ceil(L / 8)) of the same images.

    Args:
        before: by the checkpoint.
        after: by the exported network.
        bits: code length L.
        source: of the images, in words.
        classes: of the images, if they have any; one alone, or none with two images, has no mAP.
    """
    differ = np.bitwise_count(before ^ after).sum(axis=1, dtype=np.int64)
    maps: tuple[float | None, float | None] = (None, None)
    if all(classes) and len(set(classes)) > 1:
        labels = np.unique(classes, return_inverse=True)[1].astype(np.int64)
        maps = _map(before, labels, bits), _map(after, labels, bits)
    return Check(len(before), source, float(differ.sum() / (len(before) * bits)), float((differ > 0).mean()), *maps)


def _map(codes: Pixels, labels: NDArray[np.int64], bits: int) -> float:
    """Return the mean average precision of each code (n, ceil(L / 8)) against all others, ties in the mean."""
    hist = histogram(codes, codes, labels, labels, bits, exclude=np.arange(len(codes)), backend="numpy")
    return float(average_precision(hist).mean())


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
