"""Which images a figure shows: spread over classes and over good and bad ones, the same ones every time."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose_images", "choose_queries"]

Integers = NDArray[np.int64]
GOLDEN = (5**0.5 - 1) / 2  # multiples of it modulo 1 are spread evenly, however many there are


def choose_queries(ap: NDArray[np.float64], labels: Integers, count: int) -> Integers:
    """Return positions of queries to show, best AP first.

    Classes are taken evenly from the easiest to the hardest, and from each a query of another quantile of its class's
    AP, so that neither only successes nor only failures are shown.

    Args:
        ap: average precision (Q,).
        labels: class ids (Q,).
        count: how many to choose; all of them if there are fewer.
    """
    ids = np.unique(labels)
    means = np.array([ap[labels == c].mean() for c in ids])
    classes = _evenly(ids[np.argsort(-means, kind="stable")], count)
    waiting = {int(c): _sorted_by(ap, np.flatnonzero(labels == c)) for c in classes}
    chosen: list[int] = []
    turn = 0
    while len(chosen) < count and any(waiting.values()):
        members = waiting[int(classes[turn % len(classes)])]
        if members:
            level = (0.5 + turn * GOLDEN) % 1.0
            chosen.append(members.pop(int(level * len(members))))
        turn += 1
    return np.array(sorted(chosen, key=lambda row: (-ap[row], row)), dtype=np.int64)


def choose_images(rows: Integers, labels: Integers, count: int) -> Integers:
    """Return dataset indices out of `rows`: as many classes as possible, evenly spread, and of each a middle image.

    Args:
        rows: dataset indices to choose from.
        labels: class ids (n,) of the whole data set.
        count: how many to choose; fewer if there are not so many classes.
    """
    classes = _evenly(np.unique(labels[rows]), count)
    groups = [rows[labels[rows] == c] for c in classes]
    return np.array([group[len(group) // 2] for group in groups], dtype=np.int64)


def _sorted_by(ap: NDArray[np.float64], rows: Integers) -> list[int]:
    return [int(row) for row in rows[np.argsort(ap[rows], kind="stable")]]


def _evenly(values: Integers, count: int) -> Integers:
    """Return at most `count` of the values, first and last among them."""
    if len(values) <= count:
        return values
    places = np.linspace(0, len(values) - 1, count).round().astype(np.intp)
    chosen: Integers = values[places]
    return chosen
