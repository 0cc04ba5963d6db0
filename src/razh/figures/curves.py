"""Curves and bars of a run: precision over recall, distances, training, classes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from razh.figures.canvas import INK, MUTED, RIGHT, WRONG
from razh.figures.names import readable, shortened
from razh.figures.plots import Curves, distance_figure, precision_recall_figure

__all__ = ["best_epoch", "classes_figure", "distances", "precision_recall", "training_figure"]

Rows = Sequence[Mapping[str, Any]]
MOST_CLASSES = 80
SHARE = 1e-4  # of the pairs: distances of fewer pairs lie outside of the picture


def precision_recall(curves: Curves, chance: tuple[float, float], title: str) -> Figure:
    """Draw precision over recall, a point a rank, and what a random ranking of the first curve's queries would have.

    Args:
        curves: by name, mean precision (K,) and mean recall (K,).
        chance: precision and mAP of that random ranking: its precision is the same at every rank, and its mAP, a little
            higher, is the chance beside `map` in tables.
        title: above the axes.
    """
    figure = precision_recall_figure(curves)
    axes = figure.axes[0]
    words = f"random ({next(iter(curves)).partition(' ')[0]}): precision {chance[0]:.3f}, mAP {chance[1]:.3f}"
    axes.axhline(chance[0], color=MUTED, linestyle="--", linewidth=1.2, label=words)
    axes.set(xlabel="recall", ylabel="precision")
    top = max(chance[0], *(float(np.max(precision)) for precision, _ in curves.values()))
    axes.set_ylim(0, min(1.02, 1.25 * top + 0.02))
    _finish(figure, title)
    return figure


def distances(counts: NDArray[np.int64], separation: float, title: str) -> Figure:
    """Draw distances of same-class and other-class pairs, their means, and how far they lie apart.

    Args:
        counts: pairs by distance and relevance (L + 1, 2).
        separation: d′ of the two distributions.
        title: above the axes.
    """
    figure = distance_figure(counts[:, 1], counts[:, 0])
    axes = figure.axes[0]
    for bars, column, colour, line in zip(axes.containers, (1, 0), (RIGHT, WRONG), ("-", "--"), strict=True):
        if counts[:, column].sum():
            mean = np.average(np.arange(len(counts)), weights=counts[:, column])
            axes.axvline(mean, color=colour, linewidth=1.6, linestyle=line)
            bars.set_label(f"{bars.get_label()}, mean {mean:.1f}")
    shares = counts / np.maximum(1, counts.sum(axis=0))
    used = np.flatnonzero((shares > SHARE).any(axis=1))
    if len(used):
        axes.set_xlim(used[0] - 1.5, used[-1] + 1.5)
    _finish(figure, f"{title}, d′ = {separation:.2f}")
    return figure


def _finish(figure: Figure, title: str) -> None:
    """Give a figure with one axes the look of the others: title at the left, legend below."""
    axes = figure.axes[0]
    axes.set_title("")
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7.2, frameon=False, handlelength=1.6)


# ---------------------------------------------------------------------------------------------------------- training


def best_epoch(rows: Rows, monitor: str | None = "val/map", mode: str = "max") -> int | None:
    """Return the epoch that a checkpoint is chosen at: the first best value, or the last epoch without any value."""
    if not rows:
        return None
    values = _column(rows, monitor or "")
    if not np.isfinite(values).any():
        return int(rows[-1]["epoch"])
    at = np.nanargmax(values) if mode == "max" else np.nanargmin(values)
    return int(rows[int(at)]["epoch"])


def training_figure(rows: Rows, best: int | None, title: str = "") -> Figure:
    """Draw validation mAP and every loss term over the epochs, each term in axes of its own scale.

    Args:
        rows: rows of `metrics.csv`, values as numbers or as text.
        best: epoch to mark.
        title: above the figure.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("rows is empty; training has no epoch yet")
    epochs = np.array([int(row["epoch"]) for row in rows])
    terms = sorted({name for row in rows for name in row if name.startswith("train/")} - {"train/loss"})
    names = [name for name in ("val/map", "train/loss") if np.isfinite(_column(rows, name)).any()] + terms
    columns = min(4, max(1, len(names)))
    lines = math.ceil(len(names) / columns) or 1
    figure = Figure(figsize=(max(2.6 * columns + 0.4, 4.6), 1.85 * lines + 0.8), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for axes, name in zip(grid.flat, names, strict=False):
        _panel(axes, epochs, rows, name, best)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[max(0, len(names) - columns) : len(names)]:
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_tick_params(labelbottom=True)
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    figure.legend(
        handles=_training_key(),
        loc="outside lower left",
        ncols=4 if columns > 2 else 2,
        fontsize=7.5,
        frameon=False,
        handlelength=1.6,
    )
    return figure


def _training_key() -> list[Artist]:
    return [
        Line2D([], [], color=WRONG, linestyle=":", marker="*", markersize=9, label="chosen epoch"),
        Patch(color=RIGHT, alpha=0.18, label="worst to best order of ties"),
        Line2D([], [], color=MUTED, linestyle="--", label="random ranking"),
        Line2D([], [], color="none", label="beside a name: value of the last epoch"),
    ]


def _panel(axes: Axes, epochs: NDArray[Any], rows: Rows, name: str, best: int | None) -> None:
    values = _column(rows, name)
    main = name == "val/map"
    colour = RIGHT if main else INK
    marker = "o" if len(epochs) <= 20 else ""
    axes.plot(epochs, values, color=colour, linewidth=1.4, marker=marker, markersize=3)
    if main:
        low, high, chance = (_column(rows, f"val/{key}") for key in ("map_worst", "map_best", "chance"))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(epochs, chance, color=MUTED, linestyle="--", linewidth=1.0)
    if best is not None:
        axes.axvline(best, color=WRONG, linewidth=1.0, linestyle=":")
        chosen = values[epochs == best]
        if main and len(chosen):
            axes.plot([best], chosen[:1], marker="*", markersize=9, color=WRONG, linestyle="none")
    heading = "validation mAP" if main else name.removeprefix("train/").replace("_", " ")
    last = values[np.isfinite(values)][-1:]
    axes.set_title(f"{heading}   {last[0]:.3g}" if len(last) else heading, fontsize=8.5, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=7.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)


def _column(rows: Rows, name: str) -> NDArray[np.float64]:
    """Return a column (n,); NaN where a row has no value."""
    values = (row.get(name) for row in rows)
    return np.array([math.nan if value in (None, "") else float(value) for value in values], dtype=np.float64)


# ----------------------------------------------------------------------------------------------------------- classes


def classes_figure(names: Sequence[str], ap: ArrayLike, chance: ArrayLike, title: str = "") -> Figure:
    """Draw the mean AP of every class as a bar, best on top, with what a random ranking would have.

    With more than 80 classes only the 40 best and the 40 worst are shown, and the figure says so.

    Args:
        names: of the classes.
        ap: mean AP of each (C,).
        chance: AP of a random ranking of each (C,).
        title: above the axes.

    Raises:
        ValueError: there are no classes.
    """
    values, random = np.asarray(ap, dtype=np.float64), np.asarray(chance, dtype=np.float64)
    if not len(names):
        raise ValueError("names is empty; there is no class to draw")
    order = np.argsort(-values, kind="stable")
    left_out = max(0, len(order) - MOST_CLASSES)
    if left_out:
        order = np.concatenate([order[: MOST_CLASSES // 2], order[-MOST_CLASSES // 2 :]])
    figure = Figure(figsize=(6.2, 0.21 * len(order) + 1.25), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(order))
    if left_out:
        places[MOST_CLASSES // 2 :] += 1  # a free line for the words that say so
    axes.barh(places, values[order], 0.72, color=RIGHT, label="mean AP of the class")
    axes.vlines(random[order], places - 0.45, places + 0.45, color=WRONG, linewidth=1.8, label="random ranking")
    axes.axvline(
        values.mean(), color=INK, linewidth=1.0, linestyle="--", label=f"mean of the classes ({values.mean():.3f})"
    )
    for place, value, least in zip(places, values[order], random[order], strict=True):
        axes.annotate(
            f"{value:.3f}", (max(value, least), place), (4, 0), textcoords="offset points", va="center", fontsize=7,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    if left_out:
        words = f"… {left_out} classes between are not shown …"
        axes.text(0.0, MOST_CLASSES // 2, words, va="center", fontsize=7, color=MUTED, backgroundcolor="white")
    axes.set_yticks(places, [shortened(readable(names[i]), 34) for i in order], fontsize=7.5)
    axes.set(xlabel="expected AP", xlim=(0, min(1.0, 1.12 * max(values.max(), random.max()) + 0.01)))
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=3, fontsize=7.5, frameon=False)
    return figure
