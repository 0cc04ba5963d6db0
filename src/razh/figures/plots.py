"""Figures of an evaluation: precision–recall curves and distance histograms. Drawn without a display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import PurePath
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

__all__ = ["Curves", "distance_figure", "in_format", "precision_recall_figure"]

Curves: TypeAlias = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""By name, mean precision (K,) and mean recall (K,) at the same ranks."""

# Okabe and Ito's palette: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes


def precision_recall_figure(curves: Curves, title: str = "") -> Figure:
    """Draw precision over recall, one point a rank.

    Args:
        curves: by name, mean precision (K,) and mean recall (K,).
        title: above the axes.
    """
    figure, axes = _axes(5.0, 3.8)
    for number, (name, (precision, recall)) in enumerate(curves.items()):
        axes.plot(
            np.asarray(recall),
            np.asarray(precision),
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            markevery=0.1,
            linewidth=1.4,
            label=name,
        )
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=title)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return figure


def distance_figure(same: ArrayLike, other: ArrayLike, title: str = "") -> Figure:
    """Draw the distances of same-class and of other-class pairs as shares of their pairs.

    Args:
        same: counts (L + 1,) of pairs of the same class by Hamming distance.
        other: counts (L + 1,) of pairs of different classes.
        title: above the axes.
    """
    figure, axes = _axes(5.0, 3.4)
    for counts, name, colour, hatch in (
        (np.asarray(same), "same class", COLOURS[0], "//"),
        (np.asarray(other), "other class", COLOURS[1], ""),
    ):
        share = counts / max(1, counts.sum())
        axes.bar(np.arange(len(share)), share, 1.0, color=colour, alpha=0.55, label=name, hatch=hatch, edgecolor=colour)
    axes.set(xlabel="Hamming distance", ylabel="share of pairs", title=title)
    axes.legend(frameon=False)
    return figure


def in_format(figure: Figure, name: str) -> bytes:
    """Return the content of a file of a figure.

    Args:
        figure: to draw.
        name: of the file; its suffix (.png, .pdf, .svg, …) is the format.

    Raises:
        ValueError: the suffix is no picture format.
    """
    suffix, formats = PurePath(name).suffix.lstrip("."), figure.canvas.get_supported_filetypes()
    if suffix not in formats:
        raise ValueError(f"figure is {name!r}; its suffix must be one of {', '.join(sorted(formats))}")
    content = io.BytesIO()
    figure.savefig(content, dpi=200, format=suffix)
    return content.getvalue()
