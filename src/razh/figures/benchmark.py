"""Pictures of a benchmark: mAP over code lengths, or a dot a method where there is one code length."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from razh.figures.canvas import INK, MUTED, RIGHT, WRONG
from razh.figures.plots import COLOURS, MARKERS

__all__ = ["curves_figure", "dots_figure"]

LINES = ("-", "--", ":", "-.")
WIDE = 34  # characters of a name in a line; longer ones leave no room for the axes
LEADERS = 10  # more lines than that cannot be told from each other


def curves_figure(table: pd.DataFrame, chance: float | None, what: str, title: str) -> Figure:
    """Draw the mean over seeds at every code length, with the deviation as a whisker; best methods first in the legend.

    Of many methods the best ones have a colour, the others are grey.

    Args:
        table: `mean` and `std` by (bits, label), code lengths ascending.
        chance: value of a random ranking; None if not known.
        what: the metric's name, for the axis.
        title: above the axes.
    """
    means, deviations = table["mean"].unstack("label"), table["std"].fillna(0.0).unstack("label")
    labels = list(table.index.unique("label"))
    order = sorted(labels, key=lambda label: -float(np.nan_to_num(means[label].mean(), nan=-1.0)))
    places = np.arange(len(means), dtype=float)
    leaders, others = order[:LEADERS], order[LEADERS:]
    rows = math.ceil((len(leaders) + bool(others)) / 3)
    figure = Figure(figsize=(7.0, 4.2 + 0.17 * rows), layout="constrained")
    axes = figure.subplots()
    for turn, label in enumerate(others):
        name = f"{len(others)} others" if turn == 0 else "_hidden"
        axes.plot(places, means[label], color="0.82", linewidth=0.8, marker=".", markersize=3, label=name)
    for turn, label in enumerate(leaders):
        style = labels.index(label)  # a method keeps its colour in all pictures of a benchmark
        axes.errorbar(
            places + 0.012 * (turn - len(leaders) / 2),  # whiskers beside each other
            means[label],
            yerr=deviations[label],
            color=COLOURS[style % len(COLOURS)],
            marker=MARKERS[(style // 2) % len(MARKERS)],
            linestyle=LINES[style // len(COLOURS) % len(LINES)],
            markersize=4,
            linewidth=1.3,
            elinewidth=0.8,
            capsize=1.5,
            label=label,
        )
    if chance is not None:
        axes.axhline(chance, color=MUTED, linestyle=(0, (1, 3)), linewidth=1.2, label=f"random ranking ({chance:.3f})")
    axes.set_xticks(places, [str(bits) for bits in means.index])
    axes.set_xlim(-0.25, len(means) - 0.75)
    axes.set(xlabel="bits", ylabel=what)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=8)
    _finish(figure, title, ncols=4, handlelength=2.6)
    return figure


def dots_figure(
    column: pd.DataFrame,
    values: Mapping[str, Sequence[float]],
    chance: float | None,
    what: str,
    title: str,
    reference: str | None,
    words: Mapping[str, str],
) -> Figure:
    """Draw a dot a method with the values of its seeds, the reference as a line.

    Args:
        column: `mean` and `std` by label, of one protocol and code length.
        values: of the seeds, by label.
        chance: value of a random ranking; None if not known, or too far away to be shown with the rest.
        what: the metric's name, for the axis.
        title: above the axes.
        reference: method whose mean is drawn as a line.
        words: by method, what is written beside its dot.
    """
    labels = [label for label in column.index if values.get(label)]
    figure = Figure(figsize=(6.4, 0.24 * len(labels) + 1.3), layout="constrained")
    axes = figure.subplots()
    for place, label in enumerate(labels):
        mean, deviation = column.loc[label, "mean"], column.loc[label, "std"]
        colour = RIGHT if label != reference else INK
        axes.plot(list(values[label]), [place] * len(values[label]), "|", color=colour, markersize=7, alpha=0.7)
        axes.errorbar(mean, place, xerr=np.nan_to_num(deviation), fmt="o", color=colour, markersize=5, capsize=2)
        axes.annotate(words[label], (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
    if reference in labels:
        axes.axvline(column.loc[reference, "mean"], color=INK, linewidth=0.9, linestyle="--", label=reference)
    if chance is not None:
        axes.axvline(chance, color=WRONG, linewidth=1.4, label=f"random ranking ({chance:.3f})")
    axes.set_yticks(range(len(labels)), [textwrap.fill(label, WIDE) for label in labels], fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel(what, fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    _finish(figure, title, ncols=3)
    return figure


def _finish(figure: Figure, title: str, **legend: Any) -> None:
    """Set the title, and the legend below the axes, if anything has a name."""
    [axes] = figure.axes
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", fontsize=7.5, frameon=False, **legend)
