"""AGH: codes from the graph of a collection, through anchors. Liu et al., "Hashing with Graphs", ICML 2011."""

from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from razh.layers.hash import HashHead
from razh.methods.itq import ITQ
from razh.support.bounds import Bounds, Count

ROUNDS = 10  # of k-means; the paper says that few are enough


class AGH(ITQ):
    """Anchor graph hashing with one layer: the smoothest functions on a graph of the images, cut at 0.

    Z (n, m) says how an image is made of its s nearest anchors u: Z_ij = e^{−‖x_i − u_j‖²/t}, divided by their sum, and
    0 for the other anchors. The graph is A = Z Λ⁻¹ Zᵀ with Λ = diag(Zᵀ 1). Its eigenvectors come from a small matrix:
    M = Λ^{−1/2} Zᵀ Z Λ^{−1/2} has eigenvalues σ and eigenvectors v, and Y = √n Z Λ^{−1/2} V Σ^{−1/2} = Z W those of A;
    the one with σ = 1, which is constant, is left out. The code of any image is sign(z(x) W), z(x) its row of Z.

    Anchors are the centres of a k-means. All is fitted to the collection in settings that give one, to the training
    images else; labels are not used. Departures: one layer (the paper's second one cuts each eigenvector twice); t is
    the squared mean distance of images from their s-th nearest anchor, a guess; where more bits are asked for than M
    has eigenvectors, random orthogonal combinations of all of them fill the code. `hash_init` has no effect.
    """

    def __init__(
        self,
        *,
        anchors: Annotated[int, Bounds(2, 65_536)] = 300,
        nearest: Count = 5,
        of_collection: bool = True,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            anchors: m; of fewer images, each is an anchor, and some twice.
            nearest: s, how many anchors an image is made of.
            of_collection: see `ITQ`.
            **kwargs: see `HashingMethod`.

        Raises:
            ValueError: `nearest` is above `anchors`.
        """
        super().__init__(of_collection=of_collection, **kwargs)
        if nearest > anchors:
            raise ValueError(f"model.nearest={nearest} is above model.anchors={anchors}; pass a smaller one")
        self.nearest = nearest
        self.register_buffer("anchors", torch.zeros(anchors, self.head.in_features))
        self.register_buffer("width", torch.ones(()))
        self.head = HashHead(anchors, self.bits).requires_grad_(False)

    anchors: Tensor
    width: Tensor

    def hash_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the values (B, L) of the graph's eigenvectors, as the anchors tell them."""
        return self.head(self.affinities(self.feature(batch)))  # type: ignore[no-any-return]

    def affinities(self, features: Tensor) -> Tensor:
        """Return Z (B, m) of features (B, D): what each image has of its nearest anchors, 1 together."""
        squared, at = self._nearest(features)
        return (
            torch.zeros(len(features), len(self.anchors))
            .to(squared)
            .scatter(1, at, F.softmax(-squared / self.width, 1))
        )

    def _nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.cdist(features.float(), self.anchors.float()).topk(self.nearest, largest=False)
        return found.values.square().to(features.dtype), found.indices

    @torch.no_grad()
    def start_from_features(self) -> None:
        """Fit anchors and eigenvectors."""
        features = self.fitting_features().to(self.anchors)
        self.anchors.copy_(centres(features, len(self.anchors)))
        squared, _ = self._nearest(features)
        self.width.copy_(squared[:, -1].sqrt().mean().square().clamp(min=1e-12))
        weight = eigenvectors(self.affinities(features).double(), self.bits)
        self.head.weight.copy_(weight.T)
        self.head.bias.zero_()
        self.synchronise(self)


def centres(features: Tensor, count: int) -> Tensor:
    """Return `count` centres (m, D) of features (n, D), by k-means from features drawn with a fixed seed."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    found = features[order[torch.arange(count) % len(order)]]
    for _ in range(ROUNDS):
        member = torch.cdist(features, found).argmin(dim=1)
        sizes = torch.bincount(member, minlength=count).to(features)[:, None]
        sums = torch.zeros_like(found).index_add_(0, member, features)
        found = torch.where(sizes > 0, sums / sizes.clamp(min=1), found)
    return found


def eigenvectors(z: Tensor, bits: int) -> Tensor:
    """Return W (m, L), with which Z W has the eigenvectors of Z Λ⁻¹ Zᵀ, the largest eigenvalue first.

    Args:
        z: Z (n, m), rows of sum 1, in double precision.
        bits: L.

    Raises:
        ValueError: there is none but the constant one: all images are made of the same anchors.
    """
    mass = z.sum(dim=0)
    scale = torch.where(mass > 0, mass.clamp(min=1e-12).rsqrt(), 0.0)  # an anchor of no image tells nothing
    small = scale[:, None] * (z.T @ z) * scale
    constant = mass.sqrt() / len(z) ** 0.5
    values, vectors = torch.linalg.eigh(small - torch.outer(constant, constant))
    usable = min(int((values > 1e-9).sum()), bits)
    if not usable:
        raise ValueError("all images are made of the same anchors in the same way; pass fewer --model.nearest")
    values, vectors = values[-usable:].flip(0), vectors[:, -usable:].flip(1)
    weight: Tensor = len(z) ** 0.5 * scale[:, None] * vectors * values.rsqrt()
    if usable < bits:
        noise = torch.randn(bits, bits, generator=torch.Generator().manual_seed(0), dtype=z.dtype)
        weight = weight @ torch.linalg.qr(noise)[0][:usable].to(z)
    return weight
