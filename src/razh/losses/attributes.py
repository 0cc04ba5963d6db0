"""Terms that tie parts, features and codes to class attributes."""

import torch
from torch import Tensor
from torch.nn import functional as F


def alignment_loss(similarity: Tensor, strength: Tensor, positive: Tensor, temperature: float = 0.1) -> Tensor:
    """Pull every part towards the attributes of its image's class and away from the others.

    −log Σ_{m ∈ positive} w_m exp(S_km / t) / Σ_m exp(S_km / t), the mean over parts and images; w is the attribute's
    strength relative to the class's strongest. A guess of ours at what "aligning each part with its nearest attribute"
    minimises.

    Args:
        similarity: cosines S (B, K, M) of parts with attributes.
        strength: (B, M), how strongly the class has each attribute, in [0, 1].
        positive: (B, M, bool), which attributes the class has.
        temperature: t.
    """
    logits = similarity / temperature
    weight = strength / strength.amax(dim=-1, keepdim=True).clamp(min=1e-6)
    log_weight = weight.clamp(min=1e-6).log().masked_fill(~positive, -1e4)
    pull = (logits + log_weight.unsqueeze(1)).logsumexp(dim=-1)
    return (logits.logsumexp(dim=-1) - pull).clamp(min=0).mean()


def semantic_logits(projected: Tensor, prototypes: Tensor, scale: float) -> Tensor:
    """Return scaled cosines (B, C) of features projected to attribute space (B, M) with class prototypes (C, M)."""
    return scale * F.normalize(projected, dim=-1) @ F.normalize(prototypes, dim=-1).T


def centred_prototypes(class_attributes: Tensor, train_classes: Tensor) -> Tensor:
    """Return class attributes (C, M) minus their mean over the training classes.

    Without this all prototypes point the same way (attribute strengths are positive) and cosines hardly differ. The
    mean is taken over training classes only: nothing of the unseen rows leaks into training.
    """
    return class_attributes - class_attributes[train_classes].mean(dim=0)


def masked_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of error (B, N) weighted by weight (B, N); 0 where nothing weighs."""
    return (error * weight).sum() / weight.sum().clamp(min=1e-6)


def semantic_ranking_loss(similarity: Tensor, targets: Tensor, margins: Tensor) -> Tensor:
    """Hinge that ranks the image's own class above every other by a margin.

    max(0, m_yc − S_y + S_c), the sum over the other classes c, the mean over images: the ranking of DeViSE (Frome et
    al., NIPS 2013), with a margin for each pair of classes.

    Args:
        similarity: S (B, C) of images with the vectors of classes.
        targets: (B,), position y of each image's class.
        margins: m (C, C); the diagonal is not read.
    """
    gap, others = _gaps(similarity, targets)
    return ((margins[targets] + gap).clamp(min=0) * others).sum(dim=-1).mean()


def logistic_ranking_loss(similarity: Tensor, targets: Tensor) -> Tensor:
    """Mean over the other classes c of log(1 + exp(S_c − S_y)), and over images; 0 of no image, or of one class.

    The instance-concept coherence ranking of Zou et al., IEEE TNNLS 2020, with one label an image.

    Args:
        similarity: S (B, C) of images with the vectors of classes.
        targets: (B,), position y of each image's class.
    """
    gap, others = _gaps(similarity, targets)
    return (F.softplus(gap) * others).sum() / others.sum().clamp(min=1)


def _gaps(similarity: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return S_c − S_y (B, C), and 1 where c is another class than y, else 0 (B, C)."""
    own = similarity.gather(1, targets[:, None])
    return similarity - own, torch.ones_like(similarity).scatter(1, targets[:, None], 0.0)


def semantic_margins(prototypes: Tensor, margin: float) -> Tensor:
    """Return margins (C, C) that grow with the distance of class vectors (C, M): margin × (1 − cosine) / 2."""
    unit = F.normalize(prototypes, dim=-1)
    return margin * (1 - unit @ unit.T) / 2


def map_compactness_loss(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Spread of attribute maps around their peaks, as in the attribute prototype network (Xu et al., NeurIPS 2020).

    Each map is softmaxed over the patches and weighs their squared distance from its peak; coordinates run from 0 to 1,
    and the mean is taken over images and attributes. The softmax is ours: with raw scores, as in the paper, the term
    can fall for ever by making scores far from the peak negative.

    Args:
        maps: (B, M, N), scores of the patches for each attribute.
        grid: rows and columns of the N patches.
    """
    rows = torch.linspace(0, 1, grid[0], device=maps.device, dtype=maps.dtype)
    columns = torch.linspace(0, 1, grid[1], device=maps.device, dtype=maps.dtype)
    place = torch.cartesian_prod(rows, columns)  # (N, 2)
    peak = place[maps.argmax(dim=-1)]  # (B, M, 2)
    # Σ w‖x − p‖² = Σ w‖x‖² − 2⟨Σ w x, p⟩ + ‖p‖², so that no tensor of distances (B, M, N) is made.
    moments = maps.softmax(dim=-1) @ torch.cat([place, place.square().sum(dim=-1, keepdim=True)], dim=-1)  # (B, M, 3)
    return (moments[..., 2] - 2 * (moments[..., :2] * peak).sum(dim=-1) + peak.square().sum(dim=-1)).mean()


def attribute_contrast_loss(predicted: Tensor, strength: Tensor, temperature: float = 0.1) -> Tensor:
    """Contrast every attribute with all others: over the batch, a prediction should vary like its own attribute.

    Row m of the logits holds the correlations over the batch of prediction m with all M attributes; cross-entropy asks
    for the own one, in both directions. Attributes that do not vary in the batch have no context and are left out;
    attributes that vary alike (equal columns) share the target.

    Args:
        predicted: (B, M).
        strength: (B, M), of the image's class.
        temperature: of the correlations.
    """
    wanted = strength - strength.mean(dim=0)
    varies = wanted.square().mean(dim=0) > 1e-8
    if not varies.any():
        return predicted.sum() * 0
    wanted = F.normalize(wanted[:, varies], dim=0)
    found = F.normalize((predicted - predicted.mean(dim=0))[:, varies], dim=0)
    logits = found.T @ wanted / temperature  # (M', M')
    target = (wanted.T @ wanted > 1 - 1e-5).to(logits.dtype)
    target = target / target.sum(dim=-1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target.T / target.T.sum(-1, keepdim=True))) / 2
