"""Anchored EM: which direction each class of a collection has, the seen, the described, and those nobody named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from razh.collection.rows import summed

__all__ = ["Anchors", "Space", "far_images", "fit_centres"]

ROUNDS = 10
SHARPNESS = 20.0  # of the responsibilities
LEAD = 0.1  # of classes without images, in the first round: images resemble classes that were fitted to images more
HANDICAP = 0.15  # of free clusters: an image is always like itself
HOLD = 0.2  # share of the anchor in an anchored centre
FEWEST = 2.0  # images that a class must have to go on
SETTLED = 3  # rounds before a class may lapse


@dataclass(frozen=True)
class Space:
    """Where images are compared: z = normalise((x − mean) whitening).

    Attributes:
        mean: (D,).
        whitening: (D, D), symmetric.
    """

    mean: Tensor
    whitening: Tensor

    def directions(self, rows: Tensor) -> Tensor:
        """Return z (B, D), of length 1, of descriptions (B, D)."""
        return F.normalize((rows - self.mean) @ self.whitening, dim=1)


@dataclass(frozen=True)
class Anchors:
    """What is known of the classes before the collection is looked at.

    Attributes:
        centres: (P, D) of length 1: of seen classes, then of described ones.
        labelled: (P, D) sums of the z of images whose class is known.
        described: how many are known by a description alone.
    """

    centres: Tensor
    labelled: Tensor
    described: int = 0

    @property
    def seen(self) -> int:
        """Number of classes with labelled images."""
        return len(self.centres) - self.described


def fit_centres(
    anchors: Anchors, share: Sequence[Tensor], pilot: Tensor, free: int = 0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return centres (P, D) after EM, and of how many images of the collection each is the likeliest (P,).

    Images of the collection belong to classes by softmax(20 z·m). Labelled images keep their class; centres of seen
    and described classes keep a share of what they were. When these have settled, free clusters join them, which start
    at images far from all that is known, and are held by nothing; an image belongs to one only if it is more like it
    than like any known class by `HANDICAP`. Described classes and free clusters that are the likeliest of fewer than
    `FEWEST` images lapse: nothing belongs to them from then on.

    Args:
        anchors: what is known of the classes.
        share: this process's chunks of z (B, D).
        pilot: z (n, D) of images among which free clusters start, the same in every process.
        free: number of free clusters; fewer, where there are fewer different images.
        seed: of where they start.
    """
    described = torch.arange(len(anchors.centres)) >= anchors.seen
    centres, mass = anchors.centres, torch.zeros(0, dtype=torch.double)
    if len(centres):
        centres, mass = _em(anchors, centres, share, described, LEAD * described)
    lapsed = described & (mass == 0)
    starts = far_images(centres[~lapsed], pilot, free, seed)
    if not len(starts):
        return centres, mass
    offset = torch.zeros(len(centres) + len(starts)).masked_fill(F.pad(lapsed, (0, len(starts))), -torch.inf)
    offset[len(centres) :] -= HANDICAP
    uncertain = F.pad(described, (0, len(starts)), value=True)
    return _em(anchors, torch.cat([centres, starts]), share, uncertain, offset)


def _em(
    anchors: Anchors, centres: Tensor, share: Sequence[Tensor], uncertain: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """Return centres and counts as `fit_centres` does, after `ROUNDS` rounds.

    Args:
        anchors: of the first of the centres.
        centres: (P, D) to start from.
        share: this process's chunks of z (B, D).
        uncertain: (P,), which classes may lapse.
        offset: (P,), added to the scores; a lead, what is above 0, counts in the first round only.
    """
    held = len(anchors.centres)
    mass = torch.zeros(len(centres), dtype=torch.double)
    for turn in range(ROUNDS):
        sums, mass = summed(share, _Belonging(centres, SHARPNESS * offset), centres.shape, (len(centres),))
        offset = offset.clamp(max=0)
        if turn >= SETTLED:
            offset = offset.masked_fill(uncertain & (mass < FEWEST), -torch.inf)
        moved = sums.float()
        moved[:held] += anchors.labelled + anchors.centres  # as if it were one more image, against a handful of strays
        moved = F.normalize(moved, dim=1)
        moved[:held] = F.normalize((1 - HOLD) * moved[:held] + HOLD * anchors.centres, dim=1)
        centres = torch.where((sums.norm(dim=1) > 0)[:, None], moved, centres)
    return centres, mass.masked_fill(offset == -torch.inf, 0)


def far_images(known: Tensor, z: Tensor, count: int, seed: int) -> Tensor:
    """Return starting points (≤ count, D) of free clusters: images z (n, D) far from centres (P, D) and each other.

    They are drawn one after the other in proportion to their squared distance from the nearest centre, as k-means++
    does (Arthur & Vassilvitskii, SODA 2007), so that what neither is seen nor described finds a place of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    nearest = (z @ known.T).amax(dim=1) if len(known) else torch.zeros(len(z))
    chosen = [z[:0]]
    for _ in range(min(count, len(z))):
        far = torch.where(nearest < 1 - 1e-5, 1 - nearest, 0).double()
        if not far.any():  # fewer different images than clusters
            break
        pick = int(torch.searchsorted(far.cumsum(0), torch.rand((), generator=generator).double() * far.sum()))
        chosen.append(z[pick : pick + 1] if pick < len(z) else z[-1:])
        nearest = torch.maximum(nearest, z @ chosen[-1][0])
    return torch.cat(chosen)


@dataclass(frozen=True)
class _Belonging:
    """From z (B, D) to Σ p z (P, D), and to how many images each class is the likeliest of (P,)."""

    centres: Tensor
    offset: Tensor

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        p = (SHARPNESS * z @ self.centres.T + self.offset).softmax(dim=1)
        return p.T @ z, torch.bincount(p.argmax(dim=1), minlength=len(self.centres))
