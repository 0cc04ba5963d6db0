"""Patches to parts: differentiable soft clustering."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SoftPartClustering(nn.Module):
    """Group patches into parts by soft assignment to centres, with one more slot for the background.

    RAZH (arXiv 2503.07037) says only that "a clustering algorithm" groups similar patches; k-means in the summaries.
    Our reading (a guess): a softmax over the cosine between projected patches and centres, K of parts and some of the
    background, whose shares are added up: sky, leaves and water are different backgrounds, and a single centre for all
    would leave them to the parts. `centres="shared"` learns centres that all images share, so that part k means the
    same thing everywhere (as PDiscoNet does); `centres="image"` starts from them and refines them per image by
    differentiable k-means steps (slot-attention-like). `assignment="hard"` is the ablation: hard k-means.

    `initialise` starts the centres from k-means of real patches; otherwise they start at random.
    """

    def __init__(
        self,
        dim: int,
        parts: int,
        background: int = 1,
        embed_dim: int = 64,
        temperature: float = 0.1,
        centres: Literal["shared", "image"] = "shared",
        assignment: Literal["soft", "hard"] = "soft",
        iterations: int = 3,
    ) -> None:
        """Build the layer.

        Args:
            dim: width D of the patches.
            parts: number K of parts.
            background: number of background centres.
            embed_dim: width in which patches and centres are compared.
            temperature: τ of the softmax over the slots; smaller is harder.
            centres: `shared` by all images, or refined per `image`.
            assignment: `soft`, or `hard` as an ablation.
            iterations: k-means steps where centres are refined per image.
        """
        super().__init__()
        for name, count in (("parts", parts), ("background centres", background)):
            if count < 1:
                raise ValueError(f"{name}={count} must be at least 1")
        if temperature <= 0:
            raise ValueError(f"part temperature={temperature} must be above 0")
        self.parts, self.temperature, self.iterations = parts, temperature, iterations
        self.centres_kind, self.assignment_kind = centres, assignment
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, embed_dim)
        self.centres = nn.Parameter(torch.empty(parts + background, embed_dim))
        nn.init.orthogonal_(self.centres)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return part vectors (B, K, D) and assignment (B, N, K + 1) of patches (B, N, D).

        The rows of the assignment sum to 1; its last column is the background, which has no part vector.
        """
        embedded = F.normalize(self.project(self.norm(patches)), dim=-1)  # (B, N, E)
        centres = F.normalize(self.centres, dim=-1).expand(patches.shape[0], -1, -1)  # (B, K + background, E)
        assignment = self._assign(embedded, centres)
        if self.centres_kind == "image":
            for _ in range(self.iterations):
                centres = F.normalize(assignment.transpose(1, 2) @ embedded + 1e-3 * centres, dim=-1)
                assignment = self._assign(embedded, centres)
        background = assignment[..., self.parts :].sum(dim=-1, keepdim=True)
        assignment = torch.cat([assignment[..., : self.parts], background], dim=-1)  # (B, N, K + 1)
        return part_vectors(patches, assignment[..., :-1]), assignment

    @torch.no_grad()
    def initialise(self, patches: Tensor, grid: tuple[int, int], seed: int = 0) -> None:
        """Start from k-means of patches (n, N, D): the clusters that keep to the middle of images become the parts.

        Patches are whitened first (PCA), so that directions of little variance, which tell parts of one object apart,
        count as much as the main ones, which tell object from background.

        Args:
            patches: of n training images.
            grid: rows and columns of the N patches.
            seed: of the choice of the first centres.
        """
        normed = F.layer_norm(patches.float().cpu(), patches.shape[-1:])
        mean, basis = _whitening(normed.flatten(0, 1), self.project.out_features)
        self.project.weight.copy_(basis)
        self.project.bias.copy_(-(basis @ mean))
        embedded = F.normalize((normed - mean) @ basis.T, dim=-1)
        rows = embedded.flatten(0, 1)
        centres = spherical_kmeans(rows, spread_centres(rows, len(self.centres), seed))
        nearest = (embedded @ centres.T).argmax(dim=-1)  # (n, N)
        self.centres.copy_(centres[_central_first(nearest, len(centres), grid)])

    def _assign(self, embedded: Tensor, centres: Tensor) -> Tensor:
        soft = (embedded @ centres.transpose(1, 2) / self.temperature).softmax(dim=-1)
        if self.assignment_kind == "soft":
            return soft
        # Hard forward; the small soft share keeps a gradient for the projection, or nothing would ever move it.
        hard = F.one_hot(soft.argmax(dim=-1), soft.shape[-1]).to(soft.dtype)
        return hard + (soft - soft.detach())  # in this order the sum is exactly one-hot


class EachPatch(nn.Module):
    """The ablation of clustering: every patch is a part of its own, and nothing is background."""

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return patches (B, N, D) as parts, and their assignment (B, N, N + 1), see `SoftPartClustering`."""
        identity = torch.eye(patches.shape[1], device=patches.device, dtype=patches.dtype)
        return patches, F.pad(identity, (0, 1)).expand(patches.shape[0], -1, -1)


def part_vectors(patches: Tensor, assignment: Tensor) -> Tensor:
    """Return the assignment-weighted mean patch of each part: (B, K, D) from (B, N, D) and (B, N, K)."""
    mass = assignment.sum(dim=1).unsqueeze(-1)  # (B, K, 1)
    return torch.einsum("bnk,bnd->bkd", assignment, patches) / mass.clamp(min=1e-6)


def _whitening(rows: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) of rows (n, D) and the whitening projection (dims, D); rows of zeros beyond the rank."""
    mean = rows.mean(dim=0)
    scatter = (rows - mean).T.double() @ (rows - mean).double() / len(rows)
    variance, vectors = torch.linalg.eigh(scatter)  # ascending
    kept = min(dims, int((variance > variance[-1] * 1e-6).sum()))
    basis = torch.zeros(dims, rows.shape[1])
    basis[:kept] = (vectors[:, -kept:] / variance[-kept:].sqrt()).flip(1).T.to(rows.dtype)
    return mean, basis


def spread_centres(rows: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Return first centres (clusters, D) among unit-length rows (n, D), far from each other (k-means++, 2007)."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    distance = 1 - rows @ rows[chosen[0]]
    for _ in range(clusters - 1):
        odds = distance.clamp(min=1e-9).double()
        # Inverse of the cumulated odds: torch.multinomial stops at 2²⁴ rows.
        drawn = torch.rand(1, generator=generator, dtype=torch.double) * odds.sum()
        chosen.append(min(int(torch.searchsorted(odds.cumsum(0), drawn)), len(rows) - 1))
        distance = torch.minimum(distance, 1 - rows @ rows[chosen[-1]])
    return rows[chosen]


def spherical_kmeans(rows: Tensor, centres: Tensor, iterations: int = 30) -> Tensor:
    """Return unit-length centres (clusters, D) of unit-length rows (n, D), from first centres, by cosine k-means."""
    for _ in range(iterations):
        nearest = (rows @ centres.T).argmax(dim=-1)
        # The old centre with a small weight keeps a cluster that lost all its rows.
        centres = F.normalize((1e-6 * centres).index_add(0, nearest, rows), dim=-1)
    return centres


def _central_first(nearest: Tensor, clusters: int, grid: tuple[int, int]) -> Tensor:
    """Return the clusters ordered by how much more often they are met in the middle of images than at the rim."""
    rows, columns = (torch.arange(size) for size in grid)
    at_rim = ((rows == 0) | (rows == grid[0] - 1))[:, None] | ((columns == 0) | (columns == grid[1] - 1))[None]
    inner_rows, inner_columns = (((p >= s / 4) & (p < s - s / 4)) for p, s in ((rows, grid[0]), (columns, grid[1])))
    in_middle = inner_rows[:, None] & inner_columns[None]
    one_hot = F.one_hot(nearest, clusters).float()  # (n, N, clusters)
    middle = one_hot[:, in_middle.flatten()].mean(dim=(0, 1))
    rim = one_hot[:, at_rim.flatten()].mean(dim=(0, 1))
    return (middle / (rim + 1e-4)).argsort(descending=True, stable=True)
