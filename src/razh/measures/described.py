"""Queries without an example: each unseen class is asked for by its attributes alone, and unseen images are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from razh.layers.posteriors import left_out_means, predicted_means
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Settings, measure
from razh.retrieval.packing import pack, unpack
from razh.retrieval.tasks import retrieval_task

if TYPE_CHECKING:
    from razh.method import HashingMethod

__all__ = ["Trained", "calibration", "look_at_trained", "measure_described", "naming", "sharpness"]

PENALTY = 1.0  # of the ridge, beside attributes of length 1
PERMUTATIONS = 10
NAMED = 5  # attributes of a partial description
BINS = 10  # of the calibration error


class Trained(NamedTuple):
    """What is known of the training classes.

    Attributes:
        classes: their ids (C,).
        attributes: (C, M).
        means: of the logits of their images (C, L).
        logits: of the images (n, L).
        position: of each image's class (n,).
    """

    classes: Tensor
    attributes: Tensor
    means: Tensor
    logits: Tensor
    position: Tensor

    def predicted(self, attributes: Tensor) -> Tensor:
        """Return the logits (U, L) of classes with these attributes (U, M), less the mean class, by a ridge."""
        level = self.means.mean(dim=0)
        known = self.attributes - self.attributes.mean(dim=0)
        return level + predicted_means(self.means - level, known, attributes, PENALTY)

    def sharpness(self) -> float:
        """Return that of `calibration`, chosen on training images named among classes predicted without their own."""
        level = self.means.mean(dim=0)
        known = self.attributes - self.attributes.mean(dim=0)
        classes = level + left_out_means(self.means - level, known, PENALTY)
        distance = ((self.logits >= 0)[:, None] != (classes >= 0)[None]).sum(dim=2)
        return sharpness(distance.numpy(), self.position.numpy())


@torch.no_grad()
def measure_described(
    method: HashingMethod, data: Any, codes: Codes, trained: Trained | None = None
) -> dict[str, float]:
    """Return how well the attributes of unseen classes find their images, and tell them apart, whatever the method.

    `test/described/map` asks the whole database, `test/described/zsl/map` its unseen part, each with `chance` beside
    it, with `permuted/map`, where every class is asked for by the attributes of another, and with `asymmetric/map`, by
    the predicted logits in the place of their signs. `named/map` describes a class by the `NAMED` attributes alone that
    tell it best from the mean class. `test/described/accuracy` and `top5` are the shares of unseen query images whose
    own class's code is the nearest, or among the nearest five, of all unseen classes' codes; `ece` is the calibration
    error of naming, see `calibration`. Described classes that the code of a collection has found are known there, as
    training classes are: a class is asked for by its centre, and the ridge learns from it what attributes look like.

    Args:
        method: that was tested.
        data: the data module.
        codes: of the test.
        trained: what `look_at_trained` returned; looked at here if it is not given.
    """
    if codes.unseen_classes is None or len(codes.unseen_classes) < 2:
        return {}
    classes = np.array(codes.unseen_classes)
    trained = trained or look_at_trained(method, data)
    own, there = data.class_attributes.float()[torch.from_numpy(classes)], _found_there(method, classes)
    whole, known = trained.predicted(own - trained.attributes.mean(dim=0)), trained
    if there:
        at, logits = list(there), torch.stack(list(there.values()))
        whole[at] = logits
        known = trained._replace(
            attributes=torch.cat([trained.attributes, own[at]]), means=torch.cat([trained.means, logits])
        )
    named = known.predicted(_named(own - known.attributes.mean(dim=0), known.attributes))
    figures: dict[str, float] = {}
    for prefix, queries in (("", whole), ("named/", named)):
        for name, task in (("", "unseen"), ("zsl/", "zsl")):
            found = _figures(codes, queries, classes, task)
            turned = [_figures(codes, queries, np.roll(classes, by), task) for by in _turns(len(classes))]
            if found:
                figures |= {f"{prefix}{name}{key}": value for key, value in found.items()}
                for key in ("map", "asymmetric/map"):
                    figures[f"{prefix}{name}permuted/{key}"] = float(np.mean([one[key] for one in turned]))
    asked = np.isin(codes.query_labels, classes)
    if asked.any():
        distance = (unpack(codes.query_codes[asked], codes.bits)[:, None] != (whole >= 0).numpy()).sum(axis=2)
        own_class = np.searchsorted(classes, codes.query_labels[asked])
        figures |= naming(distance, own_class) | calibration(distance, own_class, trained.sharpness())
    return {f"test/described/{name}": value for name, value in figures.items()}


def _turns(classes: int) -> range:
    """Return the cyclic shifts that permute the classes: none keeps its own attributes."""
    return range(1, min(classes, PERMUTATIONS + 1))


def _named(own: Tensor, attributes: Tensor) -> Tensor:
    """Return departures (U, M) from the mean class with only those `NAMED` attributes that each class has most.

    Most is in units of how attributes vary over the known classes (C, M).
    """
    score = own / attributes.std(dim=0).clamp(min=1e-6)
    kept = score.topk(min(NAMED, own.shape[1]), dim=1).indices
    return torch.zeros_like(own).scatter(1, kept, own.gather(1, kept))


def _figures(codes: Codes, logits: Tensor, labels: np.ndarray, name: str) -> dict[str, float]:
    """Return mAP and chance of queries (U, L) with labels (U,); nothing where there is no such database."""
    asked = Codes(
        query_codes=pack((logits >= 0).numpy()),
        database_codes=codes.database_codes,
        query_labels=labels,
        database_labels=codes.database_labels,
        bits=codes.bits,
        unseen_classes=codes.unseen_classes,
        query_logits=logits.numpy(),
    )
    task = retrieval_task(asked, name)
    if task is None:
        return {}
    values = measure(task, Settings()).values
    return {key: float(values[key].mean()) for key in ("map", "asymmetric/map", "chance")}


@torch.no_grad()
def look_at_trained(method: HashingMethod, data: Any, images: int = 2000) -> Trained:
    """Return the attributes and logits of training classes, by so many of their images; the mode is left as it is.

    Args:
        method: with trained weights.
        data: the data module.
        images: how many are looked at, at most, spread over all.
    """
    rows = data.split.train
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), images)).round().astype(np.int64)]
    was_training = method.training
    method.eval()
    found, labels = [], []
    for batch in data.evaluation_dataloader(rows):
        found.append(method.code_logits({name: value.to(method.device) for name, value in batch.items()}).float().cpu())
        labels.append(batch["label"])
    method.train(was_training)
    logits = torch.cat(found)
    classes, position, count = torch.unique(torch.cat(labels), return_inverse=True, return_counts=True)
    means = torch.zeros(len(classes), method.bits).index_add_(0, position, logits) / count[:, None]
    return Trained(classes, data.class_attributes.float()[classes], means, logits, position)


def _found_there(method: HashingMethod, classes: np.ndarray) -> dict[int, Tensor]:
    """Return, by position among the classes, the logits of those that a collection's code has a centre of."""
    code = method.collection
    if code is None:
        return {}
    ids, logits = code.of_classes()
    return {at: logits[ids.index(label)] for at, label in enumerate(classes.tolist()) if label in ids}


def naming(distance: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Return the expected shares of images that are named right at once, and within five names.

    Args:
        distance: of images to the codes of classes (Q, U); equally near ones are in any order.
        own: (Q,), position of each image's class.
    """
    mine = np.take_along_axis(distance, own[:, None], axis=1)
    nearer, tied = (distance < mine).sum(axis=1), (distance == mine).sum(axis=1)
    shares = {name: np.clip((k - nearer) / tied, 0, 1).mean() for name, k in (("accuracy", 1), ("top5", 5))}
    classes = distance.shape[1]
    return {
        **{name: float(value) for name, value in shares.items()},
        "accuracy_chance": 1 / classes,
        "top5_chance": min(5 / classes, 1),
    }


def sharpness(distance: np.ndarray, own: np.ndarray) -> float:
    """Return the β of softmax(−β distance) under which the images' own classes (Q,) are most likely, of a few.

    Args:
        distance: of images to the codes of classes (Q, U).
        own: (Q,), position of each image's class.
    """
    choices = [2.0**power for power in range(-8, 3)]
    target = torch.from_numpy(own)
    losses = [float(F.cross_entropy(-beta * torch.from_numpy(distance).double(), target)) for beta in choices]
    return choices[int(np.argmin(losses))]


def calibration(distance: np.ndarray, own: np.ndarray, beta: float) -> dict[str, float]:
    """Return the mean confidence of naming, max softmax(−β distance), and its expected calibration error.

    Images are put into `BINS` bins of equal width by their confidence; the error is the mean difference between
    confidence and accuracy of a bin, weighted by its images (Guo et al., ICML 2017).

    Args:
        distance: of images to the codes of classes (Q, U).
        own: (Q,), position of each image's class.
        beta: see `sharpness`.
    """
    likely = torch.from_numpy(-beta * distance).softmax(dim=1).numpy()
    confidence = likely.max(axis=1)
    nearest = distance == distance.min(axis=1, keepdims=True)
    right = np.take_along_axis(nearest, own[:, None], axis=1)[:, 0] / nearest.sum(axis=1)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return {"ece": float(np.abs(gaps).sum() / len(own)), "confidence": float(confidence.mean())}
