"""Why a hit was found, drawn."""

import numpy as np
import pytest
from matplotlib.patches import Circle

from razh.figures.why import DARKEST, SIDE, Reason, WhyRow, lit, why_figure

GREY = np.full((SIDE, SIDE, 3), 200, np.uint8)


def place(row, column, value=1.0):
    places = np.zeros((4, 4), np.float32)
    places[row, column] = value
    return places


def test_an_image_is_dark_but_for_where_the_attribute_was_read():
    shown = lit(GREY, place(0, 3) - place(3, 0))
    cell = SIDE // 4
    assert shown[cell // 2, -cell // 2, 0] > 190
    assert np.abs(shown[-cell // 2, cell // 2].astype(int) - 200 * DARKEST).max() < 12  # what speaks against is nothing
    assert (lit(GREY, np.zeros((4, 4), np.float32)) == int(200 * DARKEST)).all()


def test_both_images_have_a_ring_and_the_words_say_what_is_shared():
    reason = Reason(GREY, "b.jpg", 3, "has_crown_color::red", (1.25, 0.5), (place(1, 2), place(3, 0)))
    figure = why_figure([WhyRow(GREY, "a.jpg", [reason, Reason(GREY, "c.jpg", 5)])], "title")
    words = "\n".join(text.get_text() for text in figure.axes[0].texts)
    for part in ("crown color: red", "1.2 · 0.5", "3 bits", "b.jpg", "strong in both", "5 bits", "a.jpg"):
        assert part in words
    centres = {circle.center for circle in figure.axes[0].patches if isinstance(circle, Circle)}
    assert len(centres) == 2
    (left, top), (right, bottom) = sorted(centres, key=lambda at: at[1])
    assert left - right == pytest.approx(SIDE / 2)  # columns 2 and 0 of 4
    assert bottom - top == pytest.approx(SIDE + 2 + SIDE / 2)  # rows 1 and 3 of 4


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="rows is empty"):
        why_figure([])
