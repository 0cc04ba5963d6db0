"""Draws creatures of six parts, each with a colour, a pattern and a shape, in front of clutter of the same colours.

A pure renderer in numpy: `render(creature, rng, size)` depends on nothing but its arguments. Every object, part of a
creature or not, is a signed distance on a window of the pixel grid; a smoothed step of that distance is its coverage,
so edges are anti-aliased without supersampling. Coordinates: x to the right, y down, the image is [-1, 1]².
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.synthetic.shapes import CLUTTER, SHAPES_OF, Distance, Floats

PARTS = ("tail", "legs", "body", "wing", "ears", "head")  # painted in this order; part k has mask value k + 1
TRAITS = ("colour", "pattern", "shape")
COLOURS = {
    "red": (0.86, 0.20, 0.18),
    "orange": (0.95, 0.55, 0.13),
    "yellow": (0.96, 0.86, 0.25),
    "green": (0.30, 0.68, 0.30),
    "blue": (0.22, 0.45, 0.85),
    "purple": (0.57, 0.32, 0.72),
    "pink": (0.96, 0.58, 0.74),
    "white": (0.95, 0.94, 0.91),
}
PATTERNS = ("plain", "striped", "spotted", "checked")
SHAPES = {
    "tail": ("bushy", "thin", "forked"),
    "legs": ("long", "short", "webbed"),
    "body": ("round", "long", "square"),
    "wing": ("round", "pointed", "feathered"),
    "ears": ("round", "pointed", "long"),
    "head": ("round", "pointed", "square"),
}

_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_INK = np.array((0.13, 0.11, 0.17), dtype=np.float32)  # outlines, patterns and the pupil
_OUTLINE = 0.04
_PATTERN_PERIOD = 0.24
# Where a part is attached to the creature, and the largest distance of its pixels from there.
_ANCHORS = {
    "tail": (-0.50, 0.05),
    "legs": (0.00, 0.55),
    "body": (0.00, 0.15),
    "wing": (-0.10, 0.08),
    "ears": (0.50, -0.66),
    "head": (0.52, -0.36),
}
_REACHES = {"tail": 0.90, "legs": 0.75, "body": 0.85, "wing": 0.62, "ears": 0.62, "head": 0.60}


def trait_values(part: str, trait: str) -> tuple[str, ...]:
    """Return the readable values that a trait of a part can take, in index order (also of parts that share them)."""
    if trait == "shape":
        return SHAPES[part]
    return tuple(COLOURS) if trait == "colour" else PATTERNS


def render(
    creature: NDArray[np.integer], rng: np.random.Generator, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one photo of a creature: pose, clutter, occlusion, light and noise come from `rng`, the look does not.

    Args:
        creature: (6, 3) indexes of colour, pattern and shape of every part, in the order of `PARTS` and `TRAITS`.
        rng: Source of everything that is not an attribute.
        size: Side S of the image in pixels.

    Returns:
        Image uint8 (3, S, S), and mask uint8 (S, S): 0 where no part is visible, else 1 + index of the visible part.
    """
    canvas = _Canvas(size)
    canvas.background(rng)
    for _ in range(rng.integers(5, 10)):
        _paint_clutter(canvas, rng, centre=rng.uniform(-1.1, 1.1, 2), reach=rng.uniform(0.12, 0.32))
    pose = _random_pose(rng)
    anchors = []
    for k, part in enumerate(PARTS):
        frame = pose @ _jitter(part, rng)
        colour, pattern, shape = (int(i) for i in creature[k])
        canvas.paint(SHAPES_OF[part][shape], frame, _REACHES[part], colour, pattern, rng, mask_value=k + 1)
        anchors.append(frame[:2, 2])
        if part == "head":
            _paint_eye(canvas, frame)
    for _ in range(rng.choice(3, p=(0.35, 0.45, 0.2))):
        target = anchors[rng.integers(len(anchors))] + rng.uniform(-0.2, 0.2, 2)
        _paint_clutter(canvas, rng, centre=target, reach=rng.uniform(0.16, 0.28))
    return canvas.develop(rng), canvas.mask


# ---------------------------------------------------------------------------------------------------------------- pose


def _affine(x: float, y: float, angle: float, scale: float, mirror: bool = False) -> NDArray[np.float64]:
    """Return the (3, 3) matrix that takes local coordinates to those of the parent."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    sign = -1.0 if mirror else 1.0
    return np.array([[sign * cosine, -sine, x], [sign * sine, cosine, y], [0.0, 0.0, 1.0]])


def _random_pose(rng: np.random.Generator) -> NDArray[np.float64]:
    x, y = rng.uniform(-0.15, 0.15, 2)
    return _affine(x, y, rng.uniform(-0.35, 0.35), rng.uniform(0.64, 0.88), mirror=bool(rng.random() < 0.5))


def _jitter(part: str, rng: np.random.Generator) -> NDArray[np.float64]:
    x, y = _ANCHORS[part] + rng.uniform(-0.05, 0.05, 2)
    swing = 0.4 if part in ("tail", "wing") else 0.2
    return _affine(x, y, rng.uniform(-swing, swing), rng.uniform(0.88, 1.14))


# -------------------------------------------------------------------------------------------------------------- canvas


class _Canvas:
    """Pixels (3, S, S) float32 and part mask (S, S), painted back to front."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pixels: Floats = np.empty((3, size, size), dtype=np.float32)
        self.mask: NDArray[np.uint8] = np.zeros((size, size), dtype=np.uint8)
        self.axis: Floats = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)

    def background(self, rng: np.random.Generator) -> None:
        """Fill with a soft gradient between two muted colours of the palette, and waves over it."""
        first, second = 0.5 * _PALETTE[rng.integers(len(_PALETTE), size=2)] + 0.5 * rng.uniform(0.3, 0.7)
        ramp = (0.5 + 0.5 * self._plane(rng.uniform(0, 2 * np.pi))).clip(0, 1)
        waves = 0.05 * np.sin(self._plane(rng.uniform(0, 2 * np.pi)) * rng.uniform(4, 16) + rng.uniform(0, 6))
        self.pixels[:] = first[:, None, None] + (second - first)[:, None, None] * ramp + waves

    def paint(
        self,
        distance: Distance,
        frame: NDArray[np.float64],
        reach: float,
        colour: int,
        pattern: int,
        rng: np.random.Generator,
        mask_value: int = 0,
    ) -> None:
        """Paint one object whose local coordinates `frame` takes to the image, no pixel farther than `reach`."""
        phases = rng.uniform(0, 2 * np.pi, 2)
        window = self._window(frame, reach)
        if window is None:
            return
        x, y, pixel = self._local(frame, window)
        depth = distance(x, y)
        coverage = _step(-depth, pixel)
        ink = _step(depth + _OUTLINE, pixel)
        if pattern:
            ink = np.maximum(ink, _pattern_ink(PATTERNS[pattern], x, y, phases, pixel))
        shade = np.float32(1.0) - np.float32(0.20 / reach) * y  # lit from above
        tone = _PALETTE[colour][:, None, None] * shade
        tone += ink * (_INK[:, None, None] - tone)
        view = self.pixels[(slice(None), *window)]
        view += coverage * (tone - view)
        self.mask[window][coverage > 0.5] = mask_value

    def dot(self, frame: NDArray[np.float64], x: float, y: float, radius: float, tone: Floats) -> None:
        """Paint a plain disc at local position (x, y) without touching the mask."""
        centre = frame @ np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])
        window = self._window(centre, radius)
        if window is not None:
            u, v, pixel = self._local(centre, window)
            view = self.pixels[(slice(None), *window)]
            view += _step(np.asarray(np.float32(radius) - np.hypot(u, v)), pixel) * (tone[:, None, None] - view)

    def develop(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Return uint8 (3, S, S) after a random light (brightness, tint, side) and sensor noise."""
        side = 1.0 + rng.uniform(0.0, 0.3) * self._plane(rng.uniform(0, 2 * np.pi))
        tint = rng.uniform(0.72, 1.12) * rng.uniform(0.9, 1.1, 3)
        lit = self.pixels * (tint.astype(np.float32)[:, None, None] * side)
        lit += rng.uniform(0.01, 0.04) * rng.standard_normal(lit.shape, dtype=np.float32)
        return np.asarray((255.0 * lit.clip(0, 1) + 0.5).astype(np.uint8))

    def _plane(self, angle: float) -> Floats:
        return np.asarray(np.float32(np.cos(angle)) * self.axis + np.float32(np.sin(angle)) * self.axis[:, None])

    def _window(self, frame: NDArray[np.float64], reach: float) -> tuple[slice, slice] | None:
        """Return the rows and columns that can lie within `reach` of the frame's origin; None if there are none."""
        (a, _, x), (c, _, y), _ = frame.tolist()
        radius, half = reach * math.hypot(a, c), self.size / 2
        columns = slice(max(math.floor((x - radius + 1) * half), 0), min(math.ceil((x + radius + 1) * half), self.size))
        rows = slice(max(math.floor((y - radius + 1) * half), 0), min(math.ceil((y + radius + 1) * half), self.size))
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None

    def _local(self, frame: NDArray[np.float64], window: tuple[slice, slice]) -> tuple[Floats, Floats, float]:
        """Return local x and y of the window's pixels, and the side of a pixel in local units."""
        (a, b, x0), (c, d, y0), _ = frame.tolist()
        determinant = a * d - b * c
        columns = self.axis[window[1]] - np.float32(x0)
        rows = self.axis[window[0], None] - np.float32(y0)
        x = np.float32(d / determinant) * columns - np.float32(b / determinant) * rows
        y = np.float32(a / determinant) * rows - np.float32(c / determinant) * columns
        return x, y, 2 / (self.size * math.hypot(a, c))


def _step(inside: Floats, pixel: float) -> Floats:
    """Return 0 outside, 1 inside and a ramp of one pixel between, for a signed distance counted positive inside."""
    ramp = inside * np.float32(1 / pixel) + np.float32(0.5)
    return np.asarray(np.minimum(np.maximum(ramp, np.float32(0)), np.float32(1)))


def _pattern_ink(name: str, x: Floats, y: Floats, phases: NDArray[np.float64], pixel: float) -> Floats:
    """Return how much ink (0 to 1) a pattern puts on every pixel."""
    rate = np.float32(2 * np.pi / _PATTERN_PERIOD)
    u = rate * x + np.float32(phases[0])
    slope = float(rate) * pixel  # change of the phase over one pixel
    if name == "striped":
        return _step(np.sin(u) - np.float32(0.1), slope)
    v = rate * y + np.float32(phases[1])
    if name == "spotted":
        return _step(np.cos(u) + np.cos(v) - np.float32(0.75), slope)
    return _step(np.sin(0.85 * u) * np.sin(0.85 * v), 0.85 * slope)


def _paint_clutter(canvas: _Canvas, rng: np.random.Generator, centre: NDArray[np.float64], reach: float) -> None:
    """Paint an object that is no part of a creature but has the same colours, patterns and outline."""
    kind, colour, pattern = rng.integers((len(CLUTTER), len(_PALETTE), len(PATTERNS))).tolist()
    frame = _affine(centre[0], centre[1], rng.uniform(0, 2 * np.pi), reach / 0.55)
    canvas.paint(CLUTTER[kind], frame, 0.75, colour, pattern, rng)


def _paint_eye(canvas: _Canvas, frame: NDArray[np.float64]) -> None:
    canvas.dot(frame, 0.07, -0.05, 0.085, np.ones(3, dtype=np.float32))
    canvas.dot(frame, 0.09, -0.05, 0.045, _INK)
