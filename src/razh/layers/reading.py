"""Attributes read where they are: maps of parts that compete for every place, and what each part alone tells."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.layers.parts import part_vectors

__all__ = ["AttributeReader", "CompetingParts", "Standardise"]


class Standardise(nn.Module):
    """Patches with mean 0 and deviation 1, as those of the training images that it starts from have them."""

    def __init__(self, dim: int) -> None:
        """Build the layer for patches of width `dim`; it changes nothing until `initialise`."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    mean: Tensor
    deviation: Tensor

    def forward(self, patches: Tensor) -> Tensor:
        """Return patches (B, N, D) standardised."""
        return (patches - self.mean) / self.deviation

    @torch.no_grad()
    def initialise(self, patches: Tensor) -> None:
        """Take mean and deviation of training patches (n, N, D)."""
        rows = patches.flatten(0, 1)
        self.mean.copy_(rows.mean(dim=0))
        self.deviation.copy_(rows.std(dim=0).clamp(min=1e-6))


class CompetingParts(nn.Module):
    """Group patches into parts by one soft assignment, in which parts and background compete for every place.

    A map for each part on its own would come to lie where attributes are easiest to guess; here what one part takes,
    another lacks. Context decides where a part is (convolutions over the map), see `AttributeReader` for what it is.
    """

    def __init__(self, dim: int, parts: int, width: int = 112, context: int = 1) -> None:
        """Build the layer.

        Args:
            dim: width D of the patches.
            parts: number K of parts, besides the background.
            width: of the layers in between.
            context: number of those, each of which looks twice as far as the one before: n of them see 2^n − 1 places
                in every direction.
        """
        super().__init__()
        self.parts = parts
        self.standardise = Standardise(dim)
        self.context = nn.Conv2d(dim, width, 3, padding=1)
        steps = [2**layer for layer in range(1, context)]
        self.wider = nn.ModuleList(nn.Conv2d(width, width, 3, padding=step, dilation=step) for step in steps)
        self.maps = nn.Conv2d(width, parts + 1, 1)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return part vectors (B, K, D) and assignment (B, N, K + 1) of patches (B, N, D) of a square.

        The rows of the assignment sum to 1; its last column is the background, which has no part vector.
        """
        side = math.isqrt(patches.shape[1])
        maps = self.standardise(patches).transpose(1, 2).unflatten(2, (side, side))
        seen = self.context(maps)
        for layer in self.wider:  # added, so that edges stay where they are
            seen = seen + layer(F.gelu(seen))
        slots = self.maps(F.gelu(seen))
        assignment = slots.flatten(2).transpose(1, 2).softmax(dim=-1)
        return part_vectors(patches, assignment[..., :-1]), assignment


class AttributeReader(nn.Module):
    """Predict each attribute of an image from the patches of its part alone.

    A reader that sees the whole image learns the class by heart, and its attributes with it, since they are a function
    of the label; what it has learned then says nothing of classes that are combined otherwise.

    Attributes:
        mean, deviation: (M,) of the attributes over the training classes; what is predicted is standardised by them.
    """

    def __init__(
        self,
        dim: int,
        strengths: Tensor,
        parts: int,
        groups: Tensor | None,
        *,
        whole: bool = False,
        width: int = 112,
        dropout: float = 0.1,
    ) -> None:
        """Build the layer.

        Args:
            dim: width D of the patches.
            strengths: (C', M), of the training classes.
            parts: number K of parts.
            groups: (M,) the part of each attribute, or None: which part an attribute belongs to is learned.
            whole: read all attributes from the mean of all patches: the control.
            width: of what is kept of a patch.
            dropout: of that, in training.
        """
        super().__init__()
        attributes = strengths.shape[1]
        self.whole = whole
        self.register_buffer("mean", strengths.mean(dim=0))
        deviation = strengths.std(dim=0, correction=0)
        varies = deviation > 1e-6
        self.register_buffer("deviation", torch.where(varies, deviation, torch.ones_like(deviation)))
        self.register_buffer(
            "groups", None if groups is None else groups.clone()
        )  # of its own: two names of one tensor tie
        self.standardise = Standardise(dim)
        self.local = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Dropout(dropout))
        self.read = nn.Linear(width, attributes)
        if groups is None:
            self.membership = nn.Parameter(torch.randn(attributes, parts))

    mean: Tensor
    deviation: Tensor
    groups: Tensor | None

    def shares(self, parts: int) -> Tensor:
        """Return the share (M, K) of each attribute in each of the parts; rows sum to 1."""
        if self.groups is None:
            return self.membership.softmax(dim=-1)
        return F.one_hot(self.groups, parts).to(self.read.weight.dtype)

    def standardised(self, strengths: Tensor) -> Tensor:
        """Return strengths (…, M) as they are predicted: 0 is the training classes' mean, 1 their deviation."""
        return (strengths - self.mean) / self.deviation

    def forward(self, patches: Tensor, assignment: Tensor) -> Tensor:
        """Return the standardised strengths (B, M) that patches (B, N, D) show.

        Args:
            patches: (B, N, D).
            assignment: (B, N, K + 1), background last.
        """
        weights = assignment[..., :-1]
        local = self.local(self.standardise(patches))
        if self.whole:
            return self.read(local.mean(dim=1))  # type: ignore[no-any-return]
        told = self.read(part_vectors(local, weights))  # (B, K, M)
        return torch.einsum("bkm,mk->bm", told, self.shares(weights.shape[-1]))

    def places(self, patches: Tensor, assignment: Tensor) -> Tensor:
        """Return what each patch adds to each attribute (B, M, N); over the patches it sums to what `forward` returns.

        Args:
            patches: (B, N, D).
            assignment: (B, N, K + 1), background last.
        """
        weights = assignment[..., :-1]
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
        told = self.read(self.local(self.standardise(patches)))  # (B, N, M)
        return torch.einsum("bnm,bnk,mk->bmn", told, weights, self.shares(weights.shape[-1]))

    def similarity(self, read: Tensor, parts: int) -> Tensor:
        """Return how near each part comes to each attribute (B, K, M), as cosines go: 0 is as near as on average.

        tanh of what was read; −1 for attributes of other parts. Of strengths themselves the nearest one would be what
        nearly every class has: a black eye, a plain head.

        Args:
            read: (B, M), standardised strengths.
            parts: number K of parts.
        """
        return torch.where(self.among(parts), read.tanh().unsqueeze(1), -1.0)

    def among(self, parts: int) -> Tensor:
        """Return which attributes belong to each of the parts most of all (K, M), bool."""
        return F.one_hot(self.shares(parts).argmax(dim=-1), parts).T.bool()
