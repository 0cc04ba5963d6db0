"""Anchored EM: which direction each class of a collection has, the seen, the described, and those nobody named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from razh.collection.rows import CHUNK, own_chunks, summed

__all__ = ["Anchors", "Space", "among_neighbours", "far_images", "fit_centres"]

ROUNDS = 10
SHARPNESS = 20.0  # of the responsibilities
LEAD = 0.1  # of classes without images, in the first round: images resemble classes that were fitted to images more
HANDICAP = 0.15  # of free clusters: an image is always like itself
HOLD = 0.2  # share of the anchor in an anchored centre
FEWEST = 2.0  # images that a class must have to go on
SETTLED = 3  # rounds before a class may lapse
NEIGHBOURS, STEPS = 10, 2  # of the diffusion among images


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

    def held(self, sums: Tensor) -> Tensor:
        """Return centres (P, D) of sums (P, D) of the images that belong to each, and of what is known of them."""
        found = sums + self.labelled + self.centres  # as if it were one more image, against a handful of strays
        return F.normalize((1 - HOLD) * F.normalize(found, dim=1) + HOLD * self.centres, dim=1)


def fit_centres(
    anchors: Anchors, share: Sequence[Tensor], pilot: Tensor, free: int = 0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return centres (P, D) after EM, and which of them the collection has images of (P,), bool; all of seen classes.

    Images of the collection belong to classes by softmax(20 z·m). Centres of seen and described classes keep a share of
    what they were. When these have settled, free clusters join them, which start at images far from all that is known,
    and are held by nothing; an image belongs to one only if it is more like it than like any known class by `HANDICAP`.
    They are found among images of which each is taken together with those it is most like, `STEPS` times, see
    `among_neighbours`: what cluster an image is of its neighbours know, too. Then the known classes settle once more
    beside them. Described classes and free clusters that are the likeliest of fewer than `FEWEST` images lapse: nothing
    belongs to them from then on.

    Args:
        anchors: what is known of the classes.
        share: this process's chunks of z (B, D), of images whose class is not known.
        pilot: z (n, D) of images among which free clusters are found, the same in every process.
        free: number of free clusters; fewer, where there are fewer different images.
        seed: of where they start.
    """
    known = len(anchors.centres)
    described = torch.arange(known) >= anchors.seen
    centres, occurs = anchors.centres, ~described
    if known:
        centres, occurs = _em(centres, share, described, LEAD * described, anchors.held)
    if not free or not len(pilot):
        return centres, occurs
    calm = pilot
    for _ in range(STEPS):
        calm = among_neighbours(calm)
    starts = far_images(centres[occurs], calm, free, seed)
    every, uncertain = torch.cat([centres, starts]), F.pad(described, (0, len(starts)), value=True)
    offset = F.pad(torch.zeros(known).masked_fill(~occurs, -torch.inf), (0, len(starts)), value=-HANDICAP)

    def together(sums: Tensor) -> Tensor:
        return torch.cat([anchors.held(sums[:known]), F.normalize(sums[known:], dim=1)])

    moved, stay = _em(every, own_chunks(calm), uncertain, offset, together)
    clusters = moved[known:][stay[known:]]
    if not known:
        return clusters, stay[stay]

    def beside(sums: Tensor) -> Tensor:
        return torch.cat([anchors.held(sums[:known]), clusters])

    every, uncertain = torch.cat([centres, clusters]), F.pad(described, (0, len(clusters)))
    return _em(every, share, uncertain, offset[: len(every)], beside)


def _em(
    centres: Tensor, share: Sequence[Tensor], uncertain: Tensor, offset: Tensor, moved: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return centres and which occur as `fit_centres` does, after `ROUNDS` rounds.

    Args:
        centres: (P, D) to start from.
        share: this process's chunks of z (B, D).
        uncertain: (P,), which may lapse.
        offset: (P,), added to the scores; a lead, what is above 0, counts in the first round only.
        moved: from the sums (P, D) of the z that belong to each, to the next centres; where nothing does, one stays.
    """
    for turn in range(ROUNDS):
        sums, mass = summed(share, _Belonging(centres, SHARPNESS * offset), centres.shape, (len(centres),))
        offset = offset.clamp(max=0)
        if turn >= SETTLED:
            offset = offset.masked_fill(uncertain & (mass < FEWEST), -torch.inf)
        centres = torch.where((sums.norm(dim=1) > 0)[:, None], moved(sums.float()), centres)
    return centres, offset > -torch.inf


def among_neighbours(z: Tensor) -> Tensor:
    """Return directions (n, D): each of z (n, D) and the mean of the `NEIGHBOURS` that it is most like, in equal parts.

    What is common to neighbours stays, what is an image's own averages out: a step of diffusion.
    """
    found = []
    for rows in torch.split(z, CHUNK):
        nearest = (rows @ z.T).topk(min(NEIGHBOURS + 1, len(z)), dim=1).indices  # itself is one
        mean = F.embedding_bag(nearest, z, mode="mean")
        found.append(F.normalize(rows + F.normalize(mean, dim=1), dim=1))
    return torch.cat(found)


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
