"""Attributes that parts and images are said to have, beside those of their class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

__all__ = ["Accuracy", "AttributeAUC", "attribute_accuracy", "attribute_auc", "auc", "named", "positive_classes"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Accuracy:
    """How often an attribute was right.

    Attributes:
        value: share of the choices that are right.
        chance: the same for an attribute drawn evenly from all.
        permuted: the same for the attributes that were chosen, permuted among the items: what is above it was
            seen in the item, what is below it says only that common attributes are chosen.
        count: number of choices.
    """

    value: float
    chance: float
    permuted: float
    count: int


def attribute_accuracy(chosen: Ids, right: Bools) -> Accuracy:
    """Return how often the chosen attribute is among the right ones.

    Args:
        chosen: attribute ids (R,).
        right: (R, M), which attributes are right for each choice.

    Raises:
        ValueError: there are no choices.
    """
    if not len(chosen):
        raise ValueError("chosen is empty; accuracy needs at least one choice")
    hits = right[np.arange(len(chosen)), chosen]
    permuted = right.mean(axis=0)[chosen]
    return Accuracy(float(hits.mean()), float(right.mean()), float(permuted.mean()), len(chosen))


def auc(scores: Floats, positive: Bools) -> Floats:
    """Return the area under the ROC curve of every column (M,), NaN where one side is empty.

    The chance that a positive row has a higher score than a negative one, a tie counting half (Mann & Whitney, 1947).

    Args:
        scores: (n, M).
        positive: (n, M).
    """
    ranks = rankdata(scores, axis=0)  # ties share their mean rank
    return _area((ranks * positive).sum(axis=0), positive.sum(axis=0), len(scores))


def _area(rank_sum: Floats, positives: NDArray[np.integer], count: int) -> Floats:
    pairs = positives * (count - positives)
    area = np.divide(
        rank_sum - positives * (positives + 1) / 2, pairs, where=pairs > 0, out=np.full(rank_sum.shape, np.nan)
    )
    return np.asarray(area)


def positive_classes(class_attributes: NDArray[np.floating]) -> Bools:
    """Return which of these classes have each attribute more than the others do: strength (C, M) above the median.

    Where no class is above the median, those at it are taken: an attribute that is either there or not is itself then.
    Attributes that do not tell the classes apart have no class at all.
    """
    median = np.median(class_attributes, axis=0)
    above = class_attributes > median
    varies = class_attributes.max(axis=0) > class_attributes.min(axis=0)
    positive: Bools = np.where(above.any(axis=0), above, class_attributes >= median) & varies
    return positive


@dataclass(frozen=True, eq=False)
class AttributeAUC:
    """How well attribute scores rank images of classes that have the attribute before the others.

    Attributes:
        values: AUC of each attribute (M,), NaN where the classes do not differ in it.
        mean: over the others.
        chance_deviation: standard deviation of that mean when the classes' attributes are permuted among the classes
            at random: with few classes it is far from 0, since attributes go together.
        attributes: how many the mean is over.
    """

    values: Floats
    mean: float
    chance_deviation: float
    attributes: int


def attribute_auc(
    scores: Floats, labels: Ids, class_attributes: NDArray[np.floating], draws: int = 200, seed: int = 0
) -> AttributeAUC:
    """Measure attribute scores on images of classes that they were not trained on; chance is 0.5.

    Args:
        scores: (n, M), of images.
        labels: their class ids (n,); only classes that occur count.
        class_attributes: strengths (C, M) of all classes.
        draws: permutations of the classes for `chance_deviation`.
        seed: of the permutations.

    Raises:
        ValueError: no attribute tells the classes apart, for instance because there is one class.
    """
    classes, position = np.unique(labels, return_inverse=True)
    positive = positive_classes(class_attributes[classes])
    if not positive.any():
        raise ValueError(f"labels are of {len(classes)} classes that no attribute tells apart; AUC needs two")
    rank_sums = np.zeros((len(classes), scores.shape[1]))
    np.add.at(rank_sums, position, rankdata(scores, axis=0))
    sizes = np.bincount(position)
    values = _class_area(rank_sums, sizes, positive)
    rng = np.random.default_rng(seed)
    means = [np.nanmean(_class_area(rank_sums, sizes, positive[rng.permutation(len(classes))])) for _ in range(draws)]
    return AttributeAUC(values, float(np.nanmean(values)), float(np.std(means)), int(np.isfinite(values).sum()))


def _class_area(rank_sums: Floats, sizes: Ids, positive: Bools) -> Floats:
    """Return the AUC (M,) from the classes' sums of ranks (C, M), their sizes (C,) and which are positive (C, M)."""
    return _area((rank_sums * positive).sum(axis=0), sizes @ positive, int(sizes.sum()))


def named(scores: NDArray[np.floating], class_attributes: NDArray[np.floating], centre: NDArray[np.floating]) -> Ids:
    """Return the row of the class (n,) whose attributes lie nearest to an image's scores by the cosine.

    Args:
        scores: (n, M), of images.
        class_attributes: strengths (C, M) of the classes to choose among.
        centre: (M,), taken off the strengths: what training classes have on average.
    """
    prototypes = class_attributes - centre
    lengths = np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-12)  # of scores it changes no order
    nearest: Ids = (scores @ (prototypes / lengths).T).argmax(axis=1)
    return nearest
