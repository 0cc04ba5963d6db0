"""Whether a collection gives any reason to change its codes: told by images that a trial was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from razh.collection.clusters import Anchors, Space, fit_centres
from razh.collection.code import PER_CLUSTER, Known, fit_collection
from razh.collection.rows import Rows, Some, positions

__all__ = ["FEWEST_IMAGES", "Verdict", "like_neighbours", "trial"]

FEWEST_IMAGES = 40  # half of them are fitted to, half are judged by
MOST = 6000  # images that a trial takes
NEIGHBOURS = 10
# Standard errors by which the new code must be better; as fitted to half of the images, it is worse than it will be.
SURE = 1.0
SURE_OF_CLUSTERS = 2.0  # where no class is known, and clusters alone judge, which noise has, too


class Verdict(NamedTuple):
    """What came of a trial: shares of nearest neighbours by code that belong together, of images it was not fitted to.

    Attributes:
        before: by the code as it was.
        after: by the code that fits the collection.
        better: whether the second is better by more than chance.
    """

    before: float
    after: float
    better: bool


def trial(
    rows: Rows,
    before: Callable[[NDArray[np.int64]], Tensor],
    bits: int,
    known: Known | None = None,
    *,
    clusters: int | None = None,
    labelled: NDArray[np.int64] | Sequence[int] = (),
    seed: int = 0,
) -> Verdict:
    """Fit codes to each half of a collection, and compare them with those that are there on the other half.

    What belongs together is told by the seen classes and the clusters of that other half, in whose clusters nothing but
    its own images has a part: where there is no structure, what one half tells says nothing of the other. What is said
    of described classes does not judge: it may be wrong. Images with labels do not, either, as long as there are
    `FEWEST_IMAGES` others: codes that were trained on them are better there than anywhere else.

    Args:
        rows: descriptions (n, D), n ≥ `FEWEST_IMAGES`.
        before: from positions (B,) to the logits (B, L) of the codes that are there.
        bits: code length L.
        known: see `fit_collection`, also for the rest.
        clusters: free clusters.
        labelled: positions of training images in the collection.
        seed: of the fit.
    """
    chosen = positions(rows.shape[0], MOST)
    judges = np.setdiff1d(chosen, labelled)
    if len(judges) < FEWEST_IMAGES:
        judges = chosen
    rest = np.setdiff1d(chosen, judges)
    old, new = [], []
    for turn in (0, 1):
        others = judges[turn::2]
        half = np.union1d(judges[1 - turn :: 2], rest[1 - turn :: 2])
        with_labels = np.flatnonzero(np.isin(half, labelled))
        fit = fit_collection(Some(rows, half), bits, known, clusters=clusters, labelled=with_labels, seed=seed)
        code = fit.code
        judged = torch.from_numpy(np.asarray(rows[others], dtype=np.float32))
        labels = _alike(judged, Space(code.mean, code.whitening), known, seed)
        old.append(like_neighbours(labels, before(others) >= 0))
        new.append(like_neighbours(labels, code(judged) >= 0))
    was, now = torch.cat(old), torch.cat(new)
    gain = now - was
    sure = SURE_OF_CLUSTERS if known is None else SURE
    better = gain.mean() > sure * gain.std() / len(gain) ** 0.5
    return Verdict(float(was.mean()), float(now.mean()), bool(better))


def _alike(rows: Tensor, space: Space, known: Known | None, seed: int) -> Tensor:
    """Return to which seen class or cluster of their own each of some descriptions (n, D) belongs (n,)."""
    z = space.directions(rows)
    anchors = Anchors(z[:0], z[:0]) if known is None else replace(known, described=None).anchors(space)
    centres, occurs = fit_centres(anchors, [z], z, len(z) // PER_CLUSTER, seed)
    return (z @ centres[occurs].T).argmax(dim=1)


def like_neighbours(labels: Tensor, codes: Tensor) -> Tensor:
    """Return for each image (n,) the expected share of its nearest in codes (n, L) that have its label (n,).

    Images that are equally far by their codes are as likely as each other to be among the nearest.
    """
    count = min(NEIGHBOURS, len(codes) - 1)
    alike = (labels[:, None] == labels).fill_diagonal_(False)
    signs = codes.float() * 2 - 1
    agreement = (signs @ signs.T).fill_diagonal_(-torch.inf)
    last = agreement.topk(count).values[:, -1:]
    inside, tied = agreement > last, agreement == last
    chance = (count - inside.sum(dim=1)) / tied.sum(dim=1)
    return ((alike & inside).sum(dim=1) + chance * (alike & tied).sum(dim=1)) / count
