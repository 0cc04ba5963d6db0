"""Queries and their nearest database images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from razh.figures.canvas import INK, MUTED, RIGHT, WRONG, Canvas
from razh.figures.names import folded, readable, wrapped

__all__ = ["Group", "Neighbour", "RetrievalRow", "retrieval_figure"]

SIDE, GAP, BELOW = 96, 12, 56  # pixels: of a picture, between pictures, for the words under one
LEFT, TOP, EDGE = 164, 84, 14
LINE = 17  # characters that fit under a picture
LEGEND, SHORT_LEGEND, LETTER = 1200, 560, 12  # pixels: of the line above the pictures, of a letter of the title
HELD_OUT = "(v) "  # before the name of a validation class
MEANINGS = {
    "seen": "italics: seen class",
    "trained": "italics: trained class",
    "validation": f"{HELD_OUT}validation class (held out)",
}
Group: TypeAlias = Literal["unseen", "validation", "trained", "seen"]
DASHES = (0, (2.2, 1.4))


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A retrieved image: pixels (S, S, 3) uint8, class name, Hamming distance, whether the class is the query's.

    `group` says whether the class was trained on or held out for validation, or just `seen` where that is not known.
    Where classes are not known, `right` is None, and the name is the path of the image.
    """

    image: NDArray[np.uint8]
    name: str
    distance: float
    right: bool | None = None
    group: Group = "unseen"


@dataclass(frozen=True, eq=False)
class RetrievalRow:
    """A query: pixels (S, S, 3) uint8, class name, average precision if known, and its neighbours, nearest first."""

    image: NDArray[np.uint8]
    name: str
    ap: float | None
    neighbours: Sequence[Neighbour]


def retrieval_figure(rows: Sequence[RetrievalRow], title: str = "") -> Figure:
    """Draw one row a query: the query, then its nearest images, right and wrong ones told apart by frame and mark.

    Args:
        rows: the queries.
        title: above the grid.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("rows is empty; choose at least one query")
    columns = max(len(row.neighbours) for row in rows)
    step = SIDE + GAP
    classes = any(neighbour.right is not None for row in rows for neighbour in row.neighbours)
    wanted = max(LEGEND if classes else SHORT_LEGEND, 2 * EDGE + LETTER * len(title))
    width = max(LEFT + SIDE + 2 * GAP + columns * step + EDGE, wanted)
    canvas = Canvas(width, TOP + len(rows) * (SIDE + BELOW))
    _legend(canvas, title, classes, {neighbour.group for row in rows for neighbour in row.neighbours})
    for number, row in enumerate(rows):
        y = TOP + number * (SIDE + BELOW)
        name = wrapped(readable(row.name), 16, 5) if classes else folded(row.name, 16, 5)
        canvas.text(EDGE, y, name, 6.5, weight="bold")
        if row.ap is not None:
            canvas.text(EDGE, y + SIDE - 14, f"AP {row.ap:.2f}", 7, color=MUTED)
        canvas.image(LEFT, y, row.image, SIDE)
        canvas.frame(LEFT, y, SIDE, INK, 1.0)
        for place, neighbour in enumerate(row.neighbours):
            _draw(canvas, LEFT + SIDE + 3 * GAP + place * step, y, neighbour)
    return canvas.figure


def _draw(canvas: Canvas, x: float, y: float, neighbour: Neighbour) -> None:
    colour = INK if neighbour.right is None else RIGHT if neighbour.right else WRONG
    canvas.image(x, y, neighbour.image, SIDE)
    if neighbour.right is not None:
        _mark(canvas, x, y, SIDE, neighbour.right)
    canvas.text(x + SIDE / 2, y + SIDE + 6, str(neighbour.distance), 6.5, ha="center", color=colour, weight="bold")
    if not neighbour.right:
        style = "normal" if neighbour.group == "unseen" else "italic"
        held_out = HELD_OUT if neighbour.group == "validation" else ""
        known = neighbour.right is not None
        name = wrapped(held_out + readable(neighbour.name), LINE, 2) if known else folded(neighbour.name, LINE, 2)
        canvas.text(x + SIDE / 2, y + SIDE + 22, name, 5, ha="center", color=INK, style=style)


def _mark(canvas: Canvas, x: float, y: float, side: float, right: bool) -> None:
    """Frame a square and put a tick or a cross on its corner."""
    colour = RIGHT if right else WRONG
    canvas.frame(x, y, side, colour, 2.2, "solid" if right else DASHES)
    box = {"boxstyle": "circle,pad=0.18", "facecolor": colour, "edgecolor": "white", "linewidth": 0.7}
    canvas.badge(x + side - 3, y + 3, "✓" if right else "✗", 6.5, box, color="white", weight="bold")


def _legend(canvas: Canvas, title: str, classes: bool, groups: set[Group]) -> None:
    canvas.text(EDGE, 14, title, 9, weight="bold")
    y = 46
    canvas.text(LEFT + SIDE / 2, y + 6, "query", 7, ha="center", color=MUTED)
    x = LEFT + SIDE + 3 * GAP
    if not classes:
        canvas.text(x, y + 6, "number: Hamming distance", 7, color=MUTED)
        return
    for right, words in ((True, "same class"), (False, "other class")):
        _mark(canvas, x, y, 24, right)
        canvas.text(x + 40, y + 6, words, 7, color=MUTED)
        x += 150
    meanings = "".join(f"    {words}" for group, words in MEANINGS.items() if group in groups)
    canvas.text(x, y + 6, f"number: Hamming distance{meanings}", 7, color=MUTED)
