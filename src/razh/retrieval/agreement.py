"""Whether a network gives the same images the codes that another gave: bits that differ, mAP before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.hamming import histogram
from razh.retrieval.metrics import average_precision

__all__ = ["Check", "compared"]

Packed = NDArray[np.uint8]


@dataclass(frozen=True)
class Check:
    """Codes of the same images before and after.

    Attributes:
        images: how many.
        source: of the images.
        bits_differ: share of all bits.
        codes_differ: share of images with a bit that differs.
        map_before: mean average precision of each image against all others, where they have classes.
        map_after: the same of the codes after.
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


def compared(before: Packed, after: Packed, bits: int, source: str, classes: Sequence[str] = ()) -> Check:
    """Compare packed codes (n, ceil(L / 8)) of the same images.

    Args:
        before: by the one network, such as a checkpoint.
        after: by the other, such as what was exported of it.
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


def _map(codes: Packed, labels: NDArray[np.int64], bits: int) -> float:
    """Return the mean average precision of each code (n, ceil(L / 8)) against all others, ties in the mean."""
    hist = histogram(codes, codes, labels, labels, bits, exclude=np.arange(len(codes)), backend="numpy")
    return float(average_precision(hist).mean())
