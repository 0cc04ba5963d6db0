"""The code of an adapted model: signs of a rotation of where an image lies, and of which classes it resembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from razh.collection.clusters import Anchors, Space, fit_centres
from razh.collection.rows import Rows, Some, chunks, spread, summed
from razh.layers.hash import quantising_map, shrunk_whitening, within_class_whitening
from razh.layers.posteriors import predicted_means

__all__ = ["CollectionCode", "Fitted", "Known", "fit_collection"]

SHARPNESS = 20.0  # of the soft assignment that is part of the code
# Length of that part beside z, times the length of what its class does not tell of z. Where z is nearly what its class
# tells, more would only make images of classes that nobody knows alike.
RESEMBLANCE = 0.85
ALIKE = 0.5  # the mean z·z of two images of a class, where no class is known
MOST = 50_000  # images that are fitted to; larger collections are sampled evenly
PILOT = 10_000  # images that free clusters and the rotation are fitted to
PER_CLUSTER, MOST_CLUSTERS = 12, 100


class CollectionCode(nn.Module):
    """Hash logits (B, L) of descriptions (B, D): a linear map of [z, sqrt softmax(s z·m)].

    z is the description, whitened and of length 1; m are the centres of the seen and the described classes and of the
    clusters of the collection. Everything is a buffer that `fit_collection` has solved for, nothing is trained.

    Attributes:
        sharpness: s, of the soft assignment.
        classes: (P,) ids of the classes that the centres are of; −1 for clusters, and where nobody gave ids.
        attributes: (C, M) of these classes, whose centres stand first; (0, 0) where nobody gave any.
    """

    def __init__(self, dim: int, classes: int, bits: int) -> None:
        """Build the layer for descriptions of width D, P classes and L bits; its logits are 0 until it is fitted."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("whitening", torch.zeros(dim, dim))
        self.register_buffer("centres", torch.zeros(classes, dim))
        self.register_buffer("sharpness", torch.tensor(SHARPNESS))
        self.register_buffer("classes", torch.full((classes,), -1))
        self.register_buffer("attributes", torch.zeros(0, 0))
        self.register_buffer("weight", torch.zeros(bits, dim + classes))
        self.register_buffer("bias", torch.zeros(bits))

    mean: Tensor
    whitening: Tensor
    centres: Tensor
    sharpness: Tensor
    classes: Tensor
    attributes: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def of_shapes(cls, state: Mapping[str, Any]) -> CollectionCode:
        """Return a layer that a state, as `state_dict` gives it, fits."""
        classes, dim = state["centres"].shape
        code = cls(dim, classes, len(state["bias"]))
        code.attributes = torch.zeros_like(state["attributes"])
        return code

    def forward(self, descriptions: Tensor) -> Tensor:
        """Return hash logits (B, L) of descriptions (B, D)."""
        return self.of_directions(Space(self.mean, self.whitening).directions(descriptions))

    def of_directions(self, z: Tensor) -> Tensor:
        """Return hash logits (B, L) of z (B, D) of length 1; a class asked for by its centre is one."""
        return self.with_resemblance(z) @ self.weight.T + self.bias

    def of_classes(self) -> tuple[list[int], Tensor]:
        """Return the ids of the classes that have one (C,), and what their centres come to (C, L)."""
        known = self.classes >= 0
        return self.classes[known].tolist(), self.of_directions(self.centres[known]).cpu()

    def with_resemblance(self, z: Tensor) -> Tensor:
        """Return [z, sqrt softmax(s z·m)] (B, D + P) of z (B, D)."""
        logs = (self.sharpness * z @ self.centres.T).log_softmax(dim=1)
        return torch.cat([z, (0.5 * logs).exp()], dim=1)


@dataclass(frozen=True)
class Known:
    """What is known beside the collection: images of seen classes, and attributes of described ones.

    Attributes:
        descriptions: (n, D) of labelled images.
        labels: (n,) counted from 0; every seen class has an image.
        attributes: (C, M) of the seen classes.
        described: (U, M) of the described ones; none by default.
        ids: (C + U,) of the seen and the described classes, if they have any.
    """

    descriptions: Tensor
    labels: Tensor
    attributes: Tensor
    described: Tensor | None = None
    ids: Tensor | None = None

    def all_attributes(self) -> Tensor:
        """Return those of the seen classes, then of the described ones (C + U, M)."""
        return self.attributes if self.described is None else torch.cat([self.attributes, self.described])

    def anchors(self, space: Space) -> Anchors:
        """Return directions of seen classes, and those that a ridge predicts of the described ones."""
        z = space.directions(self.descriptions)
        sums = torch.zeros(int(self.labels.max()) + 1, z.shape[1]).index_add_(0, self.labels, z)
        means = F.normalize(sums, dim=1)
        if self.described is None:
            return Anchors(means, sums)
        centre = self.attributes.mean(dim=0)
        predicted = predicted_means(means, self.attributes - centre, self.described - centre, penalty=1.0)
        predicted = F.normalize(predicted, dim=1)
        return Anchors(torch.cat([means, predicted]), torch.cat([sums, 0 * predicted]), described=len(predicted))


@dataclass(frozen=True)
class Fitted:
    """A code that fits a collection, and what was found there.

    Attributes:
        code: the layer.
        lapsed: positions of described classes, among the described, that do not occur.
        clusters: how many free clusters there are; their centres stand last.
    """

    code: CollectionCode
    lapsed: list[int]
    clusters: int


def fit_collection(
    rows: Rows,
    bits: int,
    known: Known | None = None,
    *,
    clusters: int | None = None,
    labelled: NDArray[np.int64] | Sequence[int] = (),
    seed: int = 0,
) -> Fitted:
    """Fit a code to a collection: whitening, anchored EM, and the rotation that loses least by taking signs.

    Without labelled images the whitening starts from the collection's own covariance, and is refined by what differs
    within its clusters.

    Args:
        rows: descriptions (n, D) of its images; of more than `MOST`, an even sample counts.
        bits: code length L.
        known: labelled images and described classes, if there are any.
        clusters: free clusters beside the classes; None: one for every `PER_CLUSTER` images, at most `MOST_CLUSTERS`.
        labelled: positions of images of `known` in the collection. Their class is known, so they tell nothing of what
            else there is; the rotation is fitted to them, too.
        seed: of the clusters and the rotation.
    """
    others = Some(rows, np.setdiff1d(np.arange(rows.shape[0]), labelled)) if len(labelled) else rows
    free = min(others.shape[0] // PER_CLUSTER, MOST_CLUSTERS) if clusters is None else clusters
    if known is not None:
        whitening = within_class_whitening(known.descriptions, known.labels)
        space = Space(known.descriptions.mean(dim=0), whitening)
        anchors = known.anchors(space)
    else:
        space = _own_space(rows, free, seed)
        nothing = torch.zeros(0, rows.shape[1])
        anchors = Anchors(nothing, nothing)
    share, pilot = _directions(others, space)
    centres, stays = fit_centres(anchors, share, pilot, free, seed)
    named = len(anchors.centres)
    lapsed = torch.nonzero(~stays[anchors.seen : named]).flatten().tolist()
    code = CollectionCode(rows.shape[1], int(stays.sum()), bits)
    code.mean.copy_(space.mean)
    code.whitening.copy_(space.whitening)
    code.centres.copy_(centres[stays])
    if known is not None and known.ids is not None:
        code.classes[: int(stays[:named].sum())] = known.ids[stays[:named]]
        code.attributes = known.all_attributes()[stays[:named]].clone()
    if others is not rows:
        del share, pilot  # a collection once is enough to hold
        share, pilot = _directions(rows, space)
    alike = ALIKE if known is None else _alike(anchors.labelled[: anchors.seen], known.labels.bincount())
    _rotate(code, share, pilot, RESEMBLANCE * (1 - alike) ** 0.5, seed)
    return Fitted(code, lapsed, int(stays[named:].sum()))


def _directions(rows: Rows, space: Space) -> tuple[list[Tensor], Tensor]:
    """Return z of this process's chunks of the rows, and of those that every process looks at (n, D)."""
    return [space.directions(chunk) for chunk in chunks(rows, MOST)], space.directions(spread(rows, PILOT))


def _own_space(rows: Rows, free: int, seed: int) -> Space:
    """Return the space of a collection of which nothing is known: what differs within its clusters counts less."""
    width = rows.shape[1]
    total, outer = summed(chunks(rows, MOST), lambda x: (x.sum(dim=0), x.T @ x), (width,), (width, width))
    count = min(rows.shape[0], MOST)
    mean = total / count
    scatter = outer / count - mean[:, None] * mean
    space = Space(mean.float(), shrunk_whitening(scatter).float())
    share, pilot = _directions(rows, space)
    nothing = torch.zeros(0, width)
    centres, _ = fit_centres(Anchors(nothing, nothing), share, pilot, free, seed)

    def within(chunk: Tensor) -> tuple[Tensor, Tensor]:
        nearest = F.one_hot((space.directions(chunk) @ centres.T).argmax(dim=1), len(centres)).float()
        return nearest.T @ (chunk - space.mean), nearest.sum(dim=0)

    sums, members = summed(chunks(rows, MOST), within, (len(centres), width), (len(centres),))
    between = (sums / members.clamp(min=1)[:, None]).T @ sums / count
    return Space(space.mean, shrunk_whitening(scatter - between).float())


def _alike(sums: Tensor, counts: Tensor) -> float:
    """Return the mean z·z over pairs of images of a class, of the sum of z of each class (C, D) and its images (C,).

    It is 0 where no class has two images, and where they are less alike than by chance.
    """
    pairs = float((counts * (counts - 1)).sum())
    if not pairs:
        return 0.0
    mean = float(sums.double().square().sum() - counts.sum()) / pairs
    return min(max(mean, 0.0), 1.0)  # copies of one image are by rounding a little more alike than 1


def _rotate(code: CollectionCode, share: list[Tensor], pilot: Tensor, resemblance: float, seed: int) -> None:
    """Solve for the linear map: PCA of the whole collection, ITQ's rotation of the pilot.

    Args:
        code: the layer, whose centres are there.
        share: this process's chunks of z (B, D).
        pilot: z (n, D) that every process has.
        resemblance: length of what an image resembles, beside z.
        seed: of the rotation.
    """
    width = code.weight.shape[1]
    length = torch.ones(width)
    length[len(code.mean) :] = resemblance

    def moments(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = length * code.with_resemblance(z)
        return seen.sum(dim=0), seen.T @ seen, torch.tensor(float(len(z)))

    total, outer, count = summed(share, moments, (width,), (width, width), ())
    mean = total / count
    centred = (length * code.with_resemblance(pilot) - mean).double()
    weight = quantising_map(outer / count - mean[:, None] * mean, centred, len(code.bias), seed=seed)
    code.weight.copy_(length * weight)
    code.bias.copy_(-(weight @ mean))
