"""Features to bits."""

import torch
from torch import Tensor, nn

from razh.support.bounds import Bits, Bounded


class HashHead(Bounded, nn.Linear):
    """Linear projection of a feature (B, D) to hash logits (B, L); their signs are the code."""

    def __init__(self, dim: int, bits: Bits) -> None:
        """Build the layer.

        Args:
            dim: width D of the feature.
            bits: code length L, 1 to 1,024.

        Raises:
            ValueError: a code length out of range.
        """
        super().__init__(dim, bits)

    @torch.no_grad()
    def initialise(
        self,
        features: Tensor,
        whitening: Tensor | None = None,
        rotate: bool = True,
        seed: int = 0,
        auxiliary: Tensor | None = None,
    ) -> None:
        """Start from PCA (and ITQ's rotation) of features (n, D), so that the first codes keep what they tell.

        With a symmetric matrix `whitening` (D, D) the features are whitened first, see `within_class_whitening`. Inputs
        `auxiliary` (n, E) follow the features, and keep their scale against features of mean length 1. Inputs of the
        layer beyond the D + E weigh nothing at the start.
        """
        features = features.float().cpu()
        seen = features if whitening is None else features @ whitening
        length = 1.0
        if auxiliary is not None:
            length = float((seen - seen.mean(dim=0)).norm(dim=1).mean().clamp(min=1e-12))
            seen = torch.cat([seen / length, auxiliary.float().cpu()], dim=1)
        weight, bias = itq(seen, self.out_features, rotate=rotate, seed=seed)
        own, rest = weight[:, : features.shape[1]] / length, weight[:, features.shape[1] :]
        if whitening is not None:
            own = own @ whitening
        self.weight.zero_()[:, : weight.shape[1]] = torch.cat([own, rest], dim=1)
        self.bias.copy_(bias)


def binarize(logits: Tensor) -> Tensor:
    """Return the code (B, L), bool, of logits (B, L): 0 counts as a set bit, where `torch.sign` would give no bit."""
    return logits >= 0


def straight_through_sign(logits: Tensor, clip: float | None = None) -> Tensor:
    """Return −1 and +1 of logits (B, L); the gradient passes unchanged, or only where |h| ≤ `clip`."""
    code = torch.where(logits >= 0, 1.0, -1.0).to(logits.dtype)
    passing = logits if clip is None else logits.clamp(-clip, clip)
    return code + (passing - passing.detach())  # in this order the sum is exactly ±1


def bi_half(logits: Tensor) -> Tensor:
    """Return −1 and +1 of logits (B, L): per bit, +1 for the larger half of the batch; the gradient passes unchanged.

    The bi-half layer of Li & van Gemert (AAAI 2021); of an odd batch the smaller half is +1.
    """
    rank = logits.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
    code = torch.where(rank < len(logits) // 2, 1.0, -1.0).to(logits.dtype)
    return code + (logits - logits.detach())


def within_class_whitening(features: Tensor, labels: Tensor, shrinkage: float = 1.0) -> Tensor:
    """Return the symmetric matrix (D, D) that evens out the covariance within classes (WCCN, Hatch et al., 2006).

    What differs among images of one class (pose, background) counts less afterwards, also for classes that were never
    seen. The covariance is shrunk by adding its mean variance times `shrinkage`, since there are fewer images than
    dimensions.

    Args:
        features: (n, D).
        labels: (n,) ids of any range.
        shrinkage: above 0.
    """
    _, position, count = torch.unique(labels, return_inverse=True, return_counts=True)
    wide = features.double()
    means = wide.new_zeros(len(count), wide.shape[1]).index_add_(0, position, wide) / count[:, None]
    rest = wide - means[position]
    return shrunk_whitening(rest.T @ rest / len(rest), shrinkage).to(features.dtype)


def shrunk_whitening(scatter: Tensor, shrinkage: float = 1.0) -> Tensor:
    """Return the symmetric matrix (D, D) that evens out a covariance (D, D), shrunk by its mean variance.

    Args:
        scatter: (D, D), double.
        shrinkage: above 0; what is added, in units of the mean variance.
    """
    level = scatter.diagonal().mean().clamp(min=1e-12)
    variance, vectors = torch.linalg.eigh(scatter + shrinkage * level * torch.eye(len(scatter), dtype=torch.double))
    whitening: Tensor = (vectors * variance.rsqrt()) @ vectors.T * level.sqrt()
    return whitening


def itq(
    features: Tensor, bits: int, *, iterations: int = 50, rotate: bool = True, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Iterative quantisation (Gong & Lazebnik, CVPR 2011): PCA, then the rotation that comes nearest to ±1.

    Where more bits are asked for than the features have dimensions of any variance, the rotation is the first `bits`
    rows of a random orthogonal matrix on the projected space, so that every bit still carries something.

    Args:
        features: (n, D), n ≥ 2.
        bits: code length L.
        iterations: of the alternation.
        rotate: False stops after PCA.
        seed: of the first, random rotation.

    Returns:
        weight (L, D) and bias (L,) of the linear map; outputs have standard deviation 1 on average.

    Raises:
        ValueError: fewer than two features, NaN among them, or all the same.
    """
    if len(features) < 2 or not features.isfinite().all():
        raise ValueError(f"PCA needs at least 2 finite features, got {len(features)}; check the training images")
    mean = features.mean(dim=0)
    centred = (features - mean).double()
    scatter = centred.T @ centred / len(features)
    weight = quantising_map(scatter, centred, bits, iterations=iterations, rotate=rotate, seed=seed).to(features.dtype)
    return weight, -(weight @ mean)


def quantising_map(
    scatter: Tensor, centred: Tensor, bits: int, *, iterations: int = 50, rotate: bool = True, seed: int = 0
) -> Tensor:
    """Return the linear map (L, D) of `itq`, in double precision, for features whose covariance is known.

    Args:
        scatter: (D, D), the covariance.
        centred: (n, D) features without their mean, or a sample of them, that the rotation is fitted to.
        bits: code length L.
        iterations: of the alternation.
        rotate: False stops after PCA.
        seed: of the first, random rotation.

    Raises:
        ValueError: the features are all the same.
    """
    variance, vectors = torch.linalg.eigh(scatter)  # ascending
    usable = int((variance > variance[-1] * 1e-10).sum())
    if not usable:
        raise ValueError(f"PCA needs features that differ, got {len(centred)} equal ones; set model.hash_init=random")
    rank = min(bits, usable, len(centred) - 1)
    basis = vectors[:, -rank:].flip(1)  # (D, rank), most variance first
    projected = centred @ basis  # (n, rank)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(max(bits, rank), max(bits, rank), generator=generator, dtype=torch.double)
    rotation = torch.linalg.qr(start)[0][:rank, :bits]  # (rank, L)
    if not rotate and rank == bits:
        rotation = torch.eye(rank, dtype=torch.double)
    if rotate:
        for _ in range(iterations):
            code = torch.where(projected @ rotation >= 0, 1.0, -1.0).double()
            left, _, right = torch.linalg.svd(projected.T @ code, full_matrices=False)  # Procrustes
            rotation = left @ right
    scale = (projected @ rotation).square().mean().sqrt().clamp(min=1e-12)
    weight: Tensor = (basis @ rotation).T / scale
    return weight
