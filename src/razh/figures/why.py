"""Why images were found: an attribute that a query and its hit share, where it was read in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from razh.figures.canvas import INK, MUTED, Canvas, resized
from razh.figures.names import folded, readable, wrapped

__all__ = ["Reason", "WhyRow", "lit", "why_figure"]

SIDE, GAP, EDGE, TOP, LEFT = 104, 12, 14, 84, 150  # pixels
BELOW = 92  # for the words under a pair of pictures
RING = 8  # pixels: radius
LINE = 18  # characters that fit under a picture
DARKEST = 0.4  # share of its light that is left to a place where nothing was read


@dataclass(frozen=True, eq=False)
class Reason:
    """A hit, and the attribute that is strongest in both images.

    Attributes:
        image: of the hit, pixels (S, S, 3) uint8.
        name: path of the hit.
        distance: of the codes, in bits.
        attribute: its name; None: no attribute is strong in both.
        strengths: in the query and in the hit.
        maps: (h, w) what each patch adds to the strength, in the query and in the hit.
    """

    image: NDArray[np.uint8]
    name: str
    distance: float
    attribute: str | None = None
    strengths: tuple[float, float] = (0.0, 0.0)
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None


@dataclass(frozen=True, eq=False)
class WhyRow:
    """A query: pixels (S, S, 3) uint8, its path, and its hits, nearest first."""

    image: NDArray[np.uint8]
    name: str
    hits: Sequence[Reason]


def lit(image: NDArray[np.uint8], places: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image (S, S, 3), dark but for where an attribute was read.

    Args:
        image: pixels.
        places: (h, w) what each patch adds to the strength; negative counts as nothing.
    """
    share = np.sqrt(np.maximum(places, 0) / max(float(places.max()), 1e-9)).astype(np.float32)
    side = image.shape[0]
    smooth = np.asarray(Image.fromarray(share).resize((side, side), Image.Resampling.BICUBIC))
    light = DARKEST + (1 - DARKEST) * smooth.clip(0, 1)
    return (image * light[..., None]).astype(np.uint8)


def why_figure(rows: Sequence[WhyRow], title: str = "") -> Figure:
    """Draw one row a query, and in it each hit below the query, both lit where their shared attribute was read.

    Args:
        rows: the queries.
        title: above the grid.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("rows is empty; choose at least one query")
    columns = max(len(row.hits) for row in rows)
    canvas = Canvas(LEFT + max(columns, 5) * (SIDE + GAP) + EDGE, TOP + len(rows) * (2 * SIDE + BELOW))
    canvas.text(EDGE, 14, title, 9, weight="bold")
    words = "bright, most in the ring: where the attribute below was read; numbers: its strength in query and hit"
    canvas.text(EDGE, 50, words, 7, color=MUTED)
    for number, row in enumerate(rows):
        y = TOP + number * (2 * SIDE + BELOW)
        canvas.text(EDGE, y, f"query\n{folded(row.name, 16, 4)}", 6.5, weight="bold")
        canvas.text(EDGE, y + SIDE + 4, "hits", 6.5, weight="bold")
        for place, hit in enumerate(row.hits):
            _draw(canvas, LEFT + place * (SIDE + GAP), y, row.image, hit)
    return canvas.figure


def _draw(canvas: Canvas, x: float, y: float, query: NDArray[np.uint8], hit: Reason) -> None:
    images = [resized(query, SIDE), resized(hit.image, SIDE)]
    if hit.maps is not None:
        images = [lit(image, places) for image, places in zip(images, hit.maps, strict=True)]
    for below, image in enumerate(images):
        top = y + below * (SIDE + 2)
        canvas.image(x, top, image, SIDE)
        if hit.maps is not None:
            rows, columns = hit.maps[below].shape
            row, column = np.unravel_index(int(hit.maps[below].argmax()), (rows, columns))
            canvas.ring(x + SIDE * (int(column) + 0.5) / columns, top + SIDE * (int(row) + 0.5) / rows, RING)
    middle, under = x + SIDE / 2, y + 2 * SIDE + 8
    if hit.attribute is None:
        canvas.text(middle, under, "no attribute is\nstrong in both", 5.5, ha="center", color=MUTED)
    else:
        strengths = " · ".join(f"{strength:.1f}" for strength in hit.strengths)
        told = f"{wrapped(readable(hit.attribute), LINE, 2)}\n{strengths}"
        canvas.text(middle, under, told, 5.5, ha="center", color=INK, weight="bold")
    canvas.text(middle, under + 42, f"{hit.distance:g} bits", 5.5, ha="center", color=MUTED)
    canvas.text(middle, under + 55, folded(hit.name, 20, 1), 4.5, ha="center", color=MUTED)
