"""Patches to parts: differentiable soft clustering."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SoftPartClustering(nn.Module):
    """Group patches into parts by soft assignment to centres, with one more slot for the background.

    RAZH (arXiv 2503.07037) says only that "a clustering algorithm" groups similar patches; k-means in the summaries.
    Our reading (a guess): a softmax over the cosine between projected patches and K + 1 centres. `centres="shared"`
    learns centres that all images share, so that part k means the same thing everywhere (as PDiscoNet does);
    `centres="image"` starts from them and refines them per image by differentiable k-means steps (slot-attention-like).
    `assignment="hard"` is the ablation: hard k-means without a gradient through the assignment.
    """

    def __init__(
        self,
        dim: int,
        parts: int,
        embed_dim: int = 64,
        temperature: float = 0.1,
        centres: Literal["shared", "image"] = "shared",
        assignment: Literal["soft", "hard"] = "soft",
        iterations: int = 3,
    ) -> None:
        """Build the layer.

        Args:
            dim: width D of the patches.
            parts: number K of parts; the background is one more.
            embed_dim: width in which patches and centres are compared.
            temperature: τ of the softmax over the slots; smaller is harder.
            centres: `shared` by all images, or refined per `image`.
            assignment: `soft`, or `hard` as an ablation.
            iterations: k-means steps where centres are refined per image.
        """
        super().__init__()
        if parts < 1:
            raise ValueError(f"parts={parts} must be at least 1")
        if temperature <= 0:
            raise ValueError(f"part temperature={temperature} must be above 0")
        self.parts, self.temperature, self.iterations = parts, temperature, iterations
        self.centres_kind, self.assignment_kind = centres, assignment
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, embed_dim, bias=False)
        self.centres = nn.Parameter(torch.empty(parts + 1, embed_dim))
        nn.init.orthogonal_(self.centres)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return part vectors (B, K, D) and assignment (B, N, K + 1) of patches (B, N, D).

        The rows of the assignment sum to 1; its last column is the background, which has no part vector.
        """
        embedded = F.normalize(self.project(self.norm(patches)), dim=-1)  # (B, N, E)
        centres = F.normalize(self.centres, dim=-1).expand(len(patches), -1, -1)  # (B, K + 1, E)
        assignment = self._assign(embedded, centres)
        if self.centres_kind == "image":
            for _ in range(self.iterations):
                centres = F.normalize(assignment.transpose(1, 2) @ embedded + 1e-3 * centres, dim=-1)
                assignment = self._assign(embedded, centres)
        return part_vectors(patches, assignment[..., :-1]), assignment

    def _assign(self, embedded: Tensor, centres: Tensor) -> Tensor:
        soft = (embedded @ centres.transpose(1, 2) / self.temperature).softmax(dim=-1)
        if self.assignment_kind == "soft":
            return soft
        # Hard forward; the small soft share keeps a gradient for the projection, or nothing would ever move it.
        hard = F.one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())  # in this order the sum is exactly one-hot


def part_vectors(patches: Tensor, assignment: Tensor) -> Tensor:
    """Return the assignment-weighted mean patch of each part: (B, K, D) from (B, N, D) and (B, N, K)."""
    mass = assignment.sum(dim=1).unsqueeze(-1)  # (B, K, 1)
    return torch.einsum("bnk,bnd->bkd", assignment, patches) / mass.clamp(min=1e-6)
