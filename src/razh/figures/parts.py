"""Part maps over images, each part with the attribute that it is matched with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

from razh.figures.canvas import INK, MUTED, Canvas, resized
from razh.figures.names import readable, shortened, wrapped

__all__ = ["PALETTE", "SIDE", "PartPicture", "merge_by_attribute", "overlay", "part_map", "parts_figure"]

# Okabe and Ito's colours and a grey, then four of Tol's; every region also has a number.
PALETTE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999",
    "#882255", "#44AA99", "#661100", "#332288",
)  # fmt: skip
TRUE_PALETTE = ("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00")
SIDE, GAP, EDGE, TOP, LEGEND = 176, 10, 14, 80, 262  # pixels
ROW = SIDE + 34
NO_PHOTO = 228  # grey of a place whose image is not shown
LINE = 14  # height of a line of the legend

Map = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PartPicture:
    """An image with its parts.

    Attributes:
        image: pixels (S, S, 3) uint8.
        name: of the class.
        seen: whether the class was trained on.
        parts: part at every place (R, R), −1 for the background; of any resolution.
        attributes: name of the matched attribute by part; empty where parts are not matched.
        truth: true part at every place (R, R), 0 for the background; None if not known.
    """

    image: NDArray[np.uint8]
    name: str
    seen: bool
    parts: Map
    attributes: dict[int, str] = field(default_factory=dict)
    truth: NDArray[np.uint8] | None = None


def part_map(assignment: ArrayLike, grid: tuple[int, int], side: int, background_from: float = 0.5) -> Map:
    """Return the part of every pixel (side, side): the weights are scaled up smoothly, and the part of most wins.

    Args:
        assignment: weights (N, K + 1) of the patches; the last column is the background, −1 in the map.
        grid: rows and columns of the patches.
        side: of the image in pixels.
        background_from: a pixel is background where that has more weight.
    """
    weights = torch.as_tensor(np.asarray(assignment, dtype=np.float32))
    slots = weights.shape[1]
    maps = F.interpolate(weights.T.reshape(1, slots, *grid), (side, side), mode="bicubic", align_corners=False)
    winner: Map = maps[0, :-1].argmax(dim=0).numpy()
    return np.where(maps[0, -1].numpy() > background_from, -1, winner)


def merge_by_attribute(
    assignment: ArrayLike, attributes: Sequence[int], most: int
) -> tuple[NDArray[np.float32], list[int]]:
    """Merge parts that share an attribute, for more parts than there are colours; keep the `most` heaviest.

    Args:
        assignment: weights (N, K + 1), background last.
        attributes: id of the attribute of each of the K parts.
        most: number of merged parts to keep; the weight of the others goes to the background.

    Returns:
        weights (N, J + 1), and the attribute ids of the J merged parts.
    """
    weights, ids = np.asarray(assignment, dtype=np.float32), np.asarray(attributes)
    distinct = np.unique(ids)
    merged = np.stack([weights[:, :-1][:, ids == a].sum(axis=1) for a in distinct], axis=1)
    order = np.argsort(-merged.sum(axis=0), kind="stable")
    kept, rest = np.sort(order[:most]), order[most:]
    background = weights[:, -1] + merged[:, rest].sum(axis=1)
    return np.concatenate([merged[:, kept], background[:, None]], axis=1), [int(a) for a in distinct[kept]]


def overlay(
    image: NDArray[np.uint8], regions: Map, palette: Sequence[str], strength: float = 0.62
) -> NDArray[np.uint8]:
    """Return the image (S, S, 3) as (R, R, 3) with regions (R, R) in the palette's colours; −1 stays as it is.

    Under a colour the image is grey, so that its own colours are not taken for parts.
    """
    image = resized(image, len(regions))
    grey = image.mean(axis=2, keepdims=True)
    colours = 255 * np.array([to_rgb(colour) for colour in palette])
    painted = (1 - strength) * grey + strength * colours[regions % len(palette)]
    painted[_borders(regions)] = 255
    return np.where(regions[..., None] < 0, image, painted).round().astype(np.uint8)


def _borders(regions: Map) -> NDArray[np.bool_]:
    edge = np.zeros(regions.shape, dtype=bool)
    edge[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    edge[1:] |= regions[1:] != regions[:-1]
    return edge


def parts_figure(
    pictures: Sequence[PartPicture], title: str = "", true_names: Sequence[str] = (), photos: bool = True
) -> Figure:
    """Draw images, their true parts where they are known, the parts that were found, and which attribute each has.

    Args:
        pictures: images of trained classes come left, those of unseen classes right.
        title: above the figure.
        true_names: names of the true parts 1, 2, ….
        photos: False shows nothing of the images: parts are painted on grey.

    Raises:
        ValueError: there are no pictures.
    """
    sides = [[p for p in pictures if p.seen], [p for p in pictures if not p.seen]]
    sides = [side for side in sides if side]
    if not sides:
        raise ValueError("pictures is empty; give at least one image")
    with_truth = any(p.truth is not None for p in pictures)
    columns = [*(["image"] if photos else []), *(["true parts"] if with_truth else []), "found parts"]
    width = len(columns) * (SIDE + GAP) + LEGEND
    height = TOP + max(map(len, sides)) * ROW + (30 if with_truth else 0)
    canvas = Canvas(2 * EDGE + len(sides) * width, height)
    canvas.text(EDGE, 14, title, 9, weight="bold")
    for column, side in enumerate(sides):
        x = EDGE + column * width
        _headings(canvas, x, "trained classes" if side[0].seen else "unseen classes", columns)
        for row, picture in enumerate(side):
            _draw(canvas, x, TOP + row * ROW, picture, columns)
    if with_truth:
        _true_legend(canvas, height - 26, true_names)
    return canvas.figure


def _headings(canvas: Canvas, x: float, group: str, columns: Sequence[str]) -> None:
    with_image = columns[0] == "image"
    canvas.text(x, TOP - (22 if with_image else 40), group, 7, weight="bold")
    for place, name in enumerate([*columns, "attribute of the part"]):
        if name != "image":
            canvas.text(x + place * (SIDE + GAP), TOP - 22, name, 7, color=MUTED)


def _draw(canvas: Canvas, x: float, y: float, picture: PartPicture, columns: Sequence[str]) -> None:
    canvas.text(x, y + SIDE + 5, wrapped(readable(picture.name), 36, 1), 6, color=MUTED)
    photo = picture.image if "image" in columns else np.full_like(picture.image, NO_PHOTO)
    if "image" in columns:
        canvas.image(x, y, photo, SIDE)
        x += SIDE + GAP
    if "true parts" in columns:
        if picture.truth is not None:
            nearest = (np.arange(SIDE) * len(picture.truth)) // SIDE
            truth = picture.truth[np.ix_(nearest, nearest)].astype(np.int64) - 1
            canvas.image(x, y, overlay(photo, truth, TRUE_PALETTE, 0.8), SIDE)
        x += SIDE + GAP
    canvas.image(x, y, overlay(photo, picture.parts, PALETTE), SIDE)
    scale = SIDE / len(picture.parts)
    parts = [int(part) for part in np.unique(picture.parts) if part >= 0]
    for line, part in enumerate(parts):
        row, column = _middle(picture.parts == part)
        box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        canvas.badge(x + scale * (column + 0.5), y + scale * (row + 0.5), str(part + 1), 6, box, weight="bold")
        _entry(canvas, x + SIDE + GAP, y + line * LINE, part, picture.attributes.get(part, ""))


def _entry(canvas: Canvas, x: float, y: float, part: int, attribute: str) -> None:
    canvas.swatch(x, y + 1, 11, PALETTE[part % len(PALETTE)])
    canvas.text(x + 17, y + 1, f"{part + 1}", 6, weight="bold")
    words = readable(attribute) if attribute else "(not matched)"
    canvas.text(x + 34, y + 1, shortened(words, 38), 6, color=INK if attribute else MUTED)


def _middle(region: NDArray[np.bool_]) -> tuple[int, int]:
    """Return row and column of the pixel that lies deepest in a region."""
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column)


def _true_legend(canvas: Canvas, y: float, names: Sequence[str]) -> None:
    x = float(EDGE)
    canvas.text(x, y + 1, "true parts:", 7, color=MUTED)
    x += 84
    for number, name in enumerate(names):
        canvas.swatch(x, y + 1, 13, TRUE_PALETTE[number % len(TRUE_PALETTE)])
        canvas.text(x + 19, y + 1, name, 7, color=MUTED)
        x += 40 + 9 * len(name)
