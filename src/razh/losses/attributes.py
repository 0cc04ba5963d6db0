"""Terms that tie parts and features to class attributes."""

from torch import Tensor
from torch.nn import functional as F


def alignment_loss(similarity: Tensor, strength: Tensor, own: Tensor, temperature: float = 0.1) -> Tensor:
    """Pull every part towards the attributes of its image's class and away from the others.

    −log Σ_{m ∈ own} w_m exp(S_km / t) / Σ_m exp(S_km / t), the mean over parts and images; w is the attribute's
    strength relative to the class's strongest. A guess of ours at what "aligning each part with its nearest attribute"
    minimises.

    Args:
        similarity: cosines S (B, K, M) of parts with attributes.
        strength: (B, M), how strongly the class has each attribute, in [0, 1].
        own: (B, M, bool), which attributes count as the class's own.
        temperature: t.
    """
    logits = similarity / temperature
    weight = strength / strength.amax(dim=-1, keepdim=True).clamp(min=1e-6)
    log_weight = weight.clamp(min=1e-6).log().masked_fill(~own, -1e4)
    positive = (logits + log_weight.unsqueeze(1)).logsumexp(dim=-1)
    return (logits.logsumexp(dim=-1) - positive).clamp(min=0).mean()


def semantic_logits(projected: Tensor, prototypes: Tensor, scale: float) -> Tensor:
    """Return scaled cosines (B, C) of features projected to attribute space (B, M) with class prototypes (C, M)."""
    return scale * F.normalize(projected, dim=-1) @ F.normalize(prototypes, dim=-1).T


def centred_prototypes(class_attributes: Tensor, train_classes: Tensor) -> Tensor:
    """Return class attributes (C, M) minus their mean over the training classes.

    Without this all prototypes point the same way (attribute strengths are positive) and cosines hardly differ. The
    mean is taken over training classes only: nothing of the unseen rows leaks into training.
    """
    return class_attributes - class_attributes[train_classes].mean(dim=0)


def own_attributes(class_attributes: Tensor, threshold: float) -> Tensor:
    """Return which attributes (C, M, bool) each class has: strength at least `threshold` of the class's strongest."""
    strongest = class_attributes.amax(dim=-1, keepdim=True)
    return (class_attributes >= threshold * strongest) & (class_attributes > 0) | (class_attributes == strongest)


def masked_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of error (B, N) weighted by weight (B, N); 0 where nothing weighs."""
    return (error * weight).sum() / weight.sum().clamp(min=1e-6)
