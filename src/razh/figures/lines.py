"""Curves of several runs in one chart, as a picture that is part of a page and takes its colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from razh.figures.plots import COLOURS

__all__ = ["OTHERS", "Line", "Style", "chart", "style_of"]

DASHES = ("", "6 2", "1.5 2", "6 2 1.5 2")  # in points; a colour and dashes come together again after 28 lines
GREY = "#8c8c8c"  # seen on white and on black
WIDTH, HEIGHT = 4.6, 2.9  # inches
MOST_TICKS = 8  # of places that all have a tick
# What is not wanted: addresses, a style sheet that would hold for the whole page, fonts; and decimals that nobody sees.
_STRAY = re.compile(
    r"<metadata>.*?</metadata>|<style.*?</style>| xmlns(:\w+)?=\"[^\"]*\"| ?font-family: [^;\"]*;", re.DOTALL
)
_TAG, _DECIMALS = re.compile(r"<[^>]+>"), re.compile(r"(?<=\.\d\d)\d+")


@dataclass(frozen=True)
class Style:
    """How a line looks, in the chart and in the legend beside it: a colour, and dashes as SVG has them."""

    colour: str
    dashes: str


OTHERS = Style(GREY, "")


def style_of(place: int) -> Style:
    """Return the style of the line at a place: neighbours differ in colour and in dashes."""
    colour = COLOURS[place % len(COLOURS)]
    return Style("currentColor" if colour == "#000000" else colour, DASHES[place % len(DASHES)])


@dataclass(frozen=True, eq=False)
class Line:
    """A curve: x and y (n,), and where it stands for several runs their lowest and highest y (n,)."""

    style: Style
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


def chart(
    lines: Sequence[Line], x: str, y: str, about: str, *, ranks: bool = False, chance: float | None = None
) -> str:
    """Return an SVG element without a legend; the same lines give the same text.

    Axes and words have the colour of the text around, so that the chart is read on light and on dark ground. It has no
    address of anything outside, and no name (`id`) that another chart of the page has.

    Args:
        lines: of the runs, the most important last.
        x: name of the axis.
        y: name of the axis.
        about: what it shows, for those who do not see it.
        ranks: whether x counts ranks, and is drawn in steps of the logarithm.
        chance: value of a random ranking, a dashed line; None for no such line.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    for line in lines:
        colour = "black" if line.style.colour == "currentColor" else line.style.colour
        dashes = (0, tuple(float(part) for part in line.style.dashes.split())) if line.style.dashes else "-"
        alone = len(line.x) == 1  # a line needs two points
        marker = {"marker": "o", "markersize": 4} if alone or len(line.x) <= 8 else {}
        axes.plot(line.x, line.y, color=colour, linestyle=dashes, linewidth=1.6, **marker)  # type: ignore[arg-type]
        if line.low is not None and line.high is not None and not alone:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
    if chance is not None:
        axes.axhline(chance, color=GREY, linestyle=(0, (2, 2)), linewidth=1.2)
    axes.set_xlabel(x, fontsize=10.5)
    axes.set_ylabel(y, fontsize=10.5)
    axes.tick_params(labelsize=10)
    axes.grid(alpha=0.18, linewidth=0.6, color=GREY)
    axes.spines[["top", "right"]].set_visible(False)
    if ranks:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda rank, _: f"{rank:,.0f}")
    elif len(places := sorted({float(place) for line in lines for place in line.x})) <= MOST_TICKS:
        axes.set_xticks(places, [f"{place:g}" for place in places])
    elif all(np.equal(np.mod(line.x, 1), 0).all() for line in lines):
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    return _as_element(figure, about)


def _as_element(figure: Figure, about: str) -> str:
    text = io.StringIO()
    # Text stays text: the page's own font, and a tenth of the size. The salt makes names of clips and markers.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": about}):
        figure.patch.set_visible(False)
        for axes in figure.axes:
            axes.patch.set_visible(False)
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})  # type: ignore[no-untyped-call]
    picture = _TAG.sub(lambda tag: _DECIMALS.sub("", tag[0]), _STRAY.sub("", text.getvalue()))
    picture = picture[picture.index("<svg") :]
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", picture))
    kept = {name for pair in used for name in pair if name}
    picture = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in kept else "", picture)
    picture = picture.replace("#000000", "currentColor")
    shape = re.search(r'viewBox="[^"]*"', picture)
    assert shape is not None
    words = about.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg class="chart" role="img" aria-label="{words}" {shape[0]}>{picture[picture.index(">") + 1 :].strip()}'
