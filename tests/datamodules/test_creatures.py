import hashlib

import numpy as np
import pytest

from razh.datamodules.synthetic import shapes
from razh.datamodules.synthetic.creatures import COLOURS, PARTS, PATTERNS, SHAPES, TRAITS, render, trait_values

PLAIN = np.zeros((len(PARTS), len(TRAITS)), dtype=np.int64)


def seeded(*key):
    return np.random.default_rng(key)


def look(**traits):
    """Return a creature; `head=("red", "plain", "round")` sets a part."""
    creature = PLAIN.copy()
    for part, values in traits.items():
        creature[PARTS.index(part)] = [
            trait_values(part, t).index(value) for t, value in zip(TRAITS, values, strict=True)
        ]
    return creature


def test_every_part_has_its_traits():
    assert len(PARTS) == 6
    assert set(SHAPES) == set(shapes.SHAPES_OF) == set(PARTS)
    assert [len(shapes.SHAPES_OF[part]) for part in PARTS] == [len(SHAPES[part]) for part in PARTS]
    assert trait_values("wing", "pattern") == PATTERNS
    assert trait_values("tail", "colour") == tuple(COLOURS)
    assert "forked" in trait_values("tail", "shape")


@pytest.mark.parametrize("size", [16, 64, 101])
def test_an_image_is_a_function_of_its_arguments(size):
    image, mask = render(PLAIN, seeded(3), size)
    assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((3, size, size), np.uint8, (size, size), np.uint8)
    assert mask.max() <= len(PARTS)
    again, mask_again = render(PLAIN, seeded(3), size)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert (render(PLAIN, seeded(4), size)[0] != image).mean() > 0.5


def test_the_creature_does_not_consume_randomness():
    """Same seed, other creature: same background, so only the look differs."""
    other = look(tail=("blue", "striped", "bushy"), head=("green", "checked", "square"))
    (first, mask), (second, other_mask) = render(PLAIN, seeded(8), 96), render(other, seeded(8), 96)
    untouched = (mask == 0) & (other_mask == 0)
    differing = (first != second).any(axis=0) & untouched
    assert untouched.mean() > 0.5
    assert differing.mean() < 0.03  # soft edges only


def test_the_smaller_image_shows_the_same_scene():
    """Masks drawn at 48 and 96 pixels agree after shrinking, so nothing depends on the pixel grid."""
    small, large = render(PLAIN, seeded(5), 48)[1], render(PLAIN, seeded(5), 96)[1]
    assert (small == large[::2, ::2]).mean() > 0.93


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("colour", ["red", "blue", "white"])
def test_a_part_has_its_colour_where_the_mask_says(part, colour):
    """Median hue over many images: light and tint differ, but channels keep their order."""
    creature = look(**{p: ("green", "plain", SHAPES[p][0]) for p in PARTS})
    creature[PARTS.index(part), 0] = list(COLOURS).index(colour)
    pixels = []
    for seed in range(12):
        image, mask = render(creature, seeded(seed), 64)
        pixels.append(image[:, mask == PARTS.index(part) + 1])
    seen = np.median(np.concatenate(pixels, axis=1), axis=1)
    true = np.array(COLOURS[colour])
    cosine = seen @ true / np.linalg.norm(seen) / np.linalg.norm(true)
    others = [seen @ np.array(c) / np.linalg.norm(seen) / np.linalg.norm(c) for c in COLOURS.values()]
    assert cosine == max(others)


def test_patterns_put_more_and_more_ink_on_their_part():
    """Ink on the wing: none but the outline, then spots, then stripes and checks."""

    def dark_share(pattern):
        creature = look(wing=("white", pattern, "round"), body=("white", "plain", "round"))
        shares = []
        for seed in range(15):
            image, mask = render(creature, seeded(1, seed), 96)
            wing = image[:, mask == PARTS.index("wing") + 1].mean(axis=0)
            if wing.size > 200:
                shares.append((wing < 0.55 * np.percentile(wing, 90)).mean())
        return np.mean(shares)

    plain, striped, spotted, checked = (dark_share(pattern) for pattern in PATTERNS)
    assert plain + 0.05 < spotted < min(striped, checked) - 0.05
    assert max(striped, checked) < 0.75


def test_parts_are_visible_and_sometimes_hidden():
    areas = np.array(
        [np.bincount(render(PLAIN, seeded(2, i), 64)[1].ravel(), minlength=7)[1:] for i in range(120)], dtype=float
    )
    assert (np.median(areas, axis=0) > 20).all()  # every part is big enough to be seen
    assert (areas.min(axis=0) < 0.7 * np.median(areas, axis=0)).all()  # and every part is covered in some image
    assert 0.08 < areas.sum(axis=1).mean() / 64**2 < 0.45


def test_shapes_of_a_part_differ():
    def silhouettes(part, shape):
        creature = look(**{part: ("red", "plain", shape)})
        return np.stack([render(creature, seeded(6, i), 64)[1] == PARTS.index(part) + 1 for i in range(4)])

    for part in PARTS:
        drawn = [silhouettes(part, shape) for shape in SHAPES[part]]
        for i in range(len(drawn)):
            for j in range(i):
                union, common = (drawn[i] | drawn[j]).sum(), (drawn[i] & drawn[j]).sum()
                assert common / union < 0.85, (part, SHAPES[part][i], SHAPES[part][j])


def box_distance_slowly(x, y, a, b, corner):
    """Distance to a rounded rectangle by the closest of many points on its edge, negative inside."""
    angle = np.linspace(0, np.pi / 2, 400)
    arc = np.stack([a - corner + corner * np.cos(angle), b - corner + corner * np.sin(angle)])
    sides = np.concatenate(
        [arc, [np.linspace(0, a - corner, 400), np.full(400, b)], [np.full(400, a), np.linspace(0, b - corner, 400)]],
        axis=1,
    )
    distance = np.hypot(sides[0] - abs(x), sides[1] - abs(y)).min()
    inner = abs(x) <= a and abs(y) <= b
    if inner and abs(x) > a - corner and abs(y) > b - corner:
        inner = np.hypot(abs(x) - a + corner, abs(y) - b + corner) <= corner
    return -distance if inner else distance


def test_primitives_against_slow_distances():
    rng = seeded(9)
    points = rng.uniform(-1, 1, (60, 2)).astype(np.float32)
    x, y = points.T
    slow = [box_distance_slowly(px, py, 0.5, 0.3, 0.1) for px, py in points]
    np.testing.assert_allclose(shapes.box(x, y, 0.5, 0.3, 0.1), slow, atol=4e-3)
    along = np.linspace(0, 1, 2000)
    slow = [np.hypot(px + 0.6 * along, py - 0.3 * along).min() - 0.1 for px, py in points]
    np.testing.assert_allclose(shapes.capsule(x, y, (-0.6, 0.3), 0.1), slow, atol=1e-3)
    np.testing.assert_array_equal(shapes.ellipse(x, y, 0.6, 0.3) < 0, (x / 0.6) ** 2 + (y / 0.3) ** 2 < 1)
    inside = (x > 0) & (np.abs(y) < 0.25 * (1 - x / 0.7))
    np.testing.assert_array_equal(shapes.wedge(x, y, 0.7, 0.25) < 0, inside)


def test_every_shape_stays_within_its_window():
    """No part is cut off by the window that it is painted in."""
    from razh.datamodules.synthetic.creatures import _REACHES

    axis = np.linspace(-2, 2, 401, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    reaches = [(part, shape, _REACHES[part]) for part in PARTS for shape in shapes.SHAPES_OF[part]]
    reaches += [("clutter", shape, 0.75) for shape in shapes.CLUTTER]
    for name, shape, reach in reaches:
        inside = shape(x, y) < 0
        assert inside.any()
        assert np.hypot(x, y)[inside].max() <= reach, (name, shape.__name__)


def test_images_do_not_repeat():
    digests = {hashlib.sha256(render(PLAIN, seeded(0, i), 32)[0].tobytes()).hexdigest() for i in range(50)}
    assert len(digests) == 50
