"""Shapes as signed distances: negative inside, positive outside, exact or close to it near the edge.

Every function takes the local coordinates (x to the right, y down) of the pixels as float32 arrays of one shape and
returns an array of that shape. A creature looks to the right; `creatures` places its parts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Distance = Callable[[Floats, Floats], Floats]


def ellipse(x: Floats, y: Floats, a: float, b: float) -> Floats:
    """Return an ellipse with half axes `a` (along x) and `b`."""
    return np.asarray((np.hypot(x / np.float32(a), y / np.float32(b)) - 1) * np.float32(min(a, b)))


def box(x: Floats, y: Floats, a: float, b: float, corner: float) -> Floats:
    """Return a rectangle with half sides `a` and `b` and rounded corners."""
    dx, dy = np.abs(x) - np.float32(a - corner), np.abs(y) - np.float32(b - corner)
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return np.asarray(outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(corner))


def capsule(x: Floats, y: Floats, end: tuple[float, float], radius: float) -> Floats:
    """Return the distance to a segment from the origin to `end`, thickened by `radius`."""
    ex, ey = np.float32(end[0]), np.float32(end[1])
    along = np.minimum(np.maximum((x * ex + y * ey) / (ex * ex + ey * ey), np.float32(0)), np.float32(1))
    return np.asarray(np.hypot(x - along * ex, y - along * ey) - np.float32(radius))


def wedge(x: Floats, y: Floats, length: float, half: float) -> Floats:
    """Return an isosceles triangle: base of 2·half on the y axis, tip at (length, 0)."""
    slant = float(np.hypot(length, half))
    side = (np.abs(y) * np.float32(length) + x * np.float32(half) - np.float32(length * half)) / np.float32(slant)
    return np.asarray(np.maximum(side, -x))


def tail_bushy(x: Floats, y: Floats) -> Floats:
    """Return a bushy tail, attached at the origin and pointing back (to negative x)."""
    return ellipse(x + np.float32(0.26), y + np.float32(0.06), 0.34, 0.19)


def tail_thin(x: Floats, y: Floats) -> Floats:
    """Return a thin tail, attached at the origin and pointing back (to negative x)."""
    return capsule(x, y, (-0.70, -0.26), 0.085)


def tail_forked(x: Floats, y: Floats) -> Floats:
    """Return a forked tail, attached at the origin and pointing back (to negative x)."""
    return np.minimum(capsule(x, y, (-0.46, -0.34), 0.095), capsule(x, y, (-0.46, 0.22), 0.095))


def legs_long(x: Floats, y: Floats) -> Floats:
    """Return a long pair of legs, attached at the body's lower edge."""
    return capsule(np.abs(x) - np.float32(0.24), y + np.float32(0.15), (0.05, 0.66), 0.085)


def legs_short(x: Floats, y: Floats) -> Floats:
    """Return a short pair of legs, attached at the body's lower edge."""
    return box(np.abs(x) - np.float32(0.24), y - np.float32(0.02), 0.15, 0.24, 0.08)


def legs_webbed(x: Floats, y: Floats) -> Floats:
    """Return a webbed pair of legs, attached at the body's lower edge."""
    side = np.abs(x) - np.float32(0.26)
    foot = wedge(np.float32(0.42) - y, side, 0.36, 0.24)
    return np.minimum(capsule(side, y + np.float32(0.15), (0.0, 0.45), 0.07), foot)


def body_round(x: Floats, y: Floats) -> Floats:
    """Return a round body around the origin."""
    return ellipse(x, y, 0.49, 0.44)


def body_long(x: Floats, y: Floats) -> Floats:
    """Return a long body around the origin."""
    return ellipse(x, y, 0.72, 0.31)


def body_square(x: Floats, y: Floats) -> Floats:
    """Return a square body around the origin."""
    return box(x, y, 0.52, 0.38, 0.08)


def wing_round(x: Floats, y: Floats) -> Floats:
    """Return a round wing around its joint."""
    return ellipse(x, y, 0.33, 0.24)


def wing_pointed(x: Floats, y: Floats) -> Floats:
    """Return a pointed wing around its joint."""
    return wedge(np.float32(0.22) - x, y, 0.74, 0.24)


def wing_feathered(x: Floats, y: Floats) -> Floats:
    """Return a feathered wing around its joint."""
    u, v = x - np.float32(0.18), y + np.float32(0.08)
    tips = [capsule(u, v, end, 0.10) for end in ((-0.58, -0.06), (-0.48, 0.18), (-0.28, 0.34))]
    return np.minimum(np.minimum(tips[0], tips[1]), tips[2])


def ears_round(x: Floats, y: Floats) -> Floats:
    """Return a round pair of ears on top of the head, symmetric about the y axis."""
    return ellipse(np.abs(x) - np.float32(0.21), y + np.float32(0.02), 0.17, 0.17)


def ears_pointed(x: Floats, y: Floats) -> Floats:
    """Return a pointed pair of ears on top of the head, symmetric about the y axis."""
    return wedge(np.float32(0.12) - y, np.abs(x) - np.float32(0.18), 0.44, 0.16)


def ears_long(x: Floats, y: Floats) -> Floats:
    """Return a long pair of ears on top of the head, symmetric about the y axis."""
    return capsule(np.abs(x) - np.float32(0.10), y - np.float32(0.10), (0.10, -0.46), 0.095)


def head_round(x: Floats, y: Floats) -> Floats:
    """Return a round head that looks to the right."""
    return ellipse(x, y, 0.31, 0.30)


def head_pointed(x: Floats, y: Floats) -> Floats:
    """Return a pointed head that looks to the right."""
    return np.minimum(ellipse(x, y, 0.25, 0.27), wedge(x, y - np.float32(0.02), 0.54, 0.25))


def head_square(x: Floats, y: Floats) -> Floats:
    """Return a square head that looks to the right."""
    return box(x, y, 0.30, 0.27, 0.05)


def clutter_leaf(x: Floats, y: Floats) -> Floats:
    """Return a leaf, a thing that is no part of a creature."""
    return ellipse(x, y, 0.55, 0.30)


def clutter_ball(x: Floats, y: Floats) -> Floats:
    """Return a ball, a thing that is no part of a creature."""
    return ellipse(x, y, 0.48, 0.48)


def clutter_brick(x: Floats, y: Floats) -> Floats:
    """Return a brick, a thing that is no part of a creature."""
    return box(x, y, 0.50, 0.34, 0.06)


def clutter_thorn(x: Floats, y: Floats) -> Floats:
    """Return a thorn, a thing that is no part of a creature."""
    return wedge(x + np.float32(0.40), y, 0.95, 0.40)


def clutter_twig(x: Floats, y: Floats) -> Floats:
    """Return a twig, a thing that is no part of a creature."""
    return capsule(x + np.float32(0.50), y, (1.0, 0.0), 0.14)


SHAPES_OF: dict[str, tuple[Distance, ...]] = {
    "tail": (tail_bushy, tail_thin, tail_forked),
    "legs": (legs_long, legs_short, legs_webbed),
    "body": (body_round, body_long, body_square),
    "wing": (wing_round, wing_pointed, wing_feathered),
    "ears": (ears_round, ears_pointed, ears_long),
    "head": (head_round, head_pointed, head_square),
}
CLUTTER: tuple[Distance, ...] = (clutter_leaf, clutter_ball, clutter_brick, clutter_thorn, clutter_twig)
