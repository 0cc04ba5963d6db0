"""Terms on hash logits: what makes codes of one class near, bits binary, balanced, and informative."""

import torch
from torch import Tensor
from torch.nn import functional as F


def pairwise_likelihood_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of pairwise similarity (DPSH, Li et al., IJCAI 2016), positives and negatives balanced.

    With Θ = ⟨h_i, h_j⟩ / 2 the term of a pair is log(1 + e^Θ) − s Θ; pairs of an image with itself are left out.

    Args:
        logits: (B, L).
        labels: (B,).
    """
    theta = logits @ logits.T / 2
    same = labels[:, None] == labels[None, :]
    apart = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    terms = F.softplus(theta) - same * theta
    means = [terms[mask].mean() for mask in (same & apart, ~same) if mask.any()]
    return torch.stack(means).mean() if means else logits.sum() * 0


def quantization_loss(logits: Tensor) -> Tensor:
    """Mean squared distance of tanh(h) from its sign, of logits (B, L): 0 where every logit is saturated."""
    return (1 - logits.tanh().abs()).square().mean()


def bit_balance_loss(logits: Tensor) -> Tensor:
    """Squared mean of every bit over the batch, of logits (B, L): 0 where each bit splits the batch in half."""
    return logits.tanh().mean(dim=0).square().mean()


def bit_correlation_loss(logits: Tensor) -> Tensor:
    """Mean squared correlation of two different bits over the batch, of logits (B, L): 0 where none repeats another."""
    code = logits.tanh()
    code = code - code.mean(dim=0)
    code = code / (code.square().mean(dim=0) + 1e-6).sqrt()
    correlation = code.T @ code / len(code)
    bits = correlation.shape[0]
    off = correlation - torch.diag_embed(correlation.diagonal())
    return off.square().sum() / max(bits * (bits - 1), 1)


def similarity_loss(logits: Tensor, features: Tensor) -> Tensor:
    """Mean squared difference between the cosines of the codes and those of the features, over pairs of the batch.

    Keeps in the code what the (frozen) feature knows of similarity, labels or not: classes that were never trained
    on have nothing else.

    Args:
        logits: (B, L).
        features: (B, D), centred; no gradient flows into them.
    """
    code = F.normalize(logits.tanh(), dim=-1)
    target = F.normalize(features.detach(), dim=-1)
    difference = code @ code.T - target @ target.T
    count = len(logits) * (len(logits) - 1)
    return (difference.square().sum() - difference.diagonal().square().sum()) / max(count, 1)
