"""Terms on hash logits: what makes codes of one class near, bits binary, balanced, and informative."""

import torch
from torch import Tensor
from torch.nn import functional as F


def pairwise_likelihood_loss(logits: Tensor, labels: Tensor, scale: float = 0.5) -> Tensor:
    """Negative log-likelihood of pairwise similarity (DPSH, Li et al., IJCAI 2016), positives and negatives balanced.

    With Θ = scale × ⟨h_i, h_j⟩ the term of a pair is log(1 + e^Θ) − s Θ; pairs of an image with itself are left out.

    Args:
        logits: (B, L).
        labels: (B,).
        scale: of the inner product; ½ in DPSH, 10 / L in HashNet.
    """
    theta = scale * logits @ logits.T
    same, apart = pair_masks(labels)
    terms = F.softplus(theta) - same * theta
    means = [terms[mask].mean() for mask in (same & apart, ~same) if mask.any()]
    return torch.stack(means).mean() if means else logits.sum() * 0


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return which pairs (B, B, bool) have the same label (B,), and which are two different images."""
    same = labels[:, None] == labels[None, :]
    return same, ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def pairwise_contrast_loss(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Draw pairs of a class together and push others a margin apart (DSH, Liu et al., CVPR 2016).

    With the squared distance d of two logits the term of a pair is d / 2 for the same class, max(margin − d, 0) / 2
    else; the mean over all pairs of two images.

    Args:
        logits: (B, L).
        labels: (B,).
        margin: squared distance that is enough; 2L in DSH, that of ±1 codes which differ in half their bits.
    """
    distance = squared_distances(logits)
    same, apart = pair_masks(labels)
    terms = torch.where(same, distance, (margin - distance).clamp(min=0)) / 2
    return terms[apart].mean() if len(labels) > 1 else logits.sum() * 0


def squared_distances(logits: Tensor) -> Tensor:
    """Return squared distances (B, B) of logits (B, L); by inner products, whose gradient has no pole at 0."""
    square = logits.square().sum(dim=-1)
    return (square[:, None] + square[None, :] - 2 * logits @ logits.T).clamp(min=0)


def triplet_likelihood_loss(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Negative log-likelihood of triplets (DTSH, Wang et al., ACCV 2016).

    With Θ = ⟨h_i, h_j⟩ / 2 the term of anchor a, image p of its class and image n of another is
    log(1 + exp(−(Θ_ap − Θ_an − margin))); the mean over an anchor's triplets, then over the anchors that have any.

    Args:
        logits: (B, L).
        labels: (B,).
        margin: by how much Θ of the own class should be larger.
    """
    theta = logits @ logits.T / 2
    same, apart = pair_masks(labels)
    triplet = (same & apart)[:, :, None] & ~same[:, None, :]  # (B, B, B)
    terms = F.softplus(margin + theta[:, None, :] - theta[:, :, None]) * triplet
    count = triplet.sum(dim=(1, 2))
    return (terms.sum(dim=(1, 2)) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def supervised_contrastive_loss(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Contrast each image's class with the rest of the batch (SupCon, Khosla et al., NeurIPS 2020, L_out).

    −1/|P| Σ_{p ∈ P} log(exp(cos(h_i, h_p) / t) / Σ_{a ≠ i} exp(cos(h_i, h_a) / t)), P the other images of i's class;
    the mean over the images that have such.

    Args:
        logits: (B, L).
        labels: (B,).
        temperature: t.
    """
    unit = F.normalize(logits, dim=-1)
    same, apart = pair_masks(labels)
    similarity = (unit @ unit.T / temperature).masked_fill(~apart, -1e4)
    log_share = similarity - similarity.logsumexp(dim=-1, keepdim=True)
    positive = same & apart
    count = positive.sum(dim=-1)
    own = (log_share * positive).sum(dim=-1) / count.clamp(min=1)
    return -own.sum() / (count > 0).sum().clamp(min=1)


def central_similarity_loss(logits: Tensor, centres: Tensor) -> Tensor:
    """Binary cross-entropy of (tanh h + 1) / 2 with (c + 1) / 2 (CSQ, Yuan et al., CVPR 2020), the mean over bits.

    Args:
        logits: h (B, L).
        centres: c (B, L), the centre of each image's class, ±1.
    """
    return F.softplus(-2 * logits * centres).mean()  # (tanh h + 1) / 2 is the sigmoid of 2h


def polarization_loss(logits: Tensor, centres: Tensor, margin: float) -> Tensor:
    """Push every logit beyond a margin on its centre's side (DPN, Fan et al., IJCAI 2020): Σ_l max(0, m − h_l c_l).

    Args:
        logits: h (B, L).
        centres: c (B, L), the centre of each image's class, ±1.
        margin: m.
    """
    return (margin - logits * centres).clamp(min=0).sum(dim=-1).mean()


def cosine_margin_loss(logits: Tensor, centres: Tensor, targets: Tensor, scale: float, margin: float) -> Tensor:
    """Cross-entropy of scale × (cos(h, c) − margin × [c is the own centre]): CosFace (Wang et al., CVPR 2018).

    Args:
        logits: h (B, L).
        centres: c (C, L), learnt or fixed.
        targets: (B,), position of each image's class among the centres.
        scale: of the cosines.
        margin: taken off the own class's cosine.
    """
    cosine = F.normalize(logits, dim=-1) @ F.normalize(centres, dim=-1).T
    own = F.one_hot(targets, len(centres)).to(cosine.dtype)
    return F.cross_entropy(scale * (cosine - margin * own), targets)


def centre_likelihood_loss(logits: Tensor, centres: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of the shares p = softmax(√L cos(h, c)) with the own centre (MDSH, Wang et al., CVPR 2023).

    −Σ_c (s_c log p_c + (1 − s_c) log(1 − p_c)) / C, the mean over images.

    Args:
        logits: h (B, L).
        centres: c (C, L), ±1.
        targets: (B,), position of each image's class among the centres.
    """
    cosine = F.normalize(logits, dim=-1) @ F.normalize(centres, dim=-1).T
    log_share = (logits.shape[-1] ** 0.5 * cosine).log_softmax(dim=-1)
    log_rest = torch.log1p(-log_share.exp().clamp(max=1 - 1e-6))
    own = F.one_hot(targets, len(centres)).bool()
    return -torch.where(own, log_share, log_rest).mean()


def positive_pair_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of log(1 + exp((1 − cos(h_i, h_j)) / 2)) over pairs of a class (MDSH); 0 where there are none.

    Args:
        logits: (B, L).
        labels: (B,).
    """
    unit = F.normalize(logits, dim=-1)
    same, apart = pair_masks(labels)
    positive = same & apart
    return (F.softplus((1 - unit @ unit.T) / 2) * positive).sum() / positive.sum().clamp(min=1)


def proxy_margin_loss(logits: Tensor, proxies: Tensor, targets: Tensor, margin: float) -> Tensor:
    """Draw codes to the own proxy, keep the others below a cosine (HyP², Xu et al., ACM MM 2022).

    Mean of 1 − cos(h, p_y), plus the mean of max(0, cos(h, p_c) − margin) over the other classes.

    Args:
        logits: h (B, L).
        proxies: p (C, L), learnt.
        targets: (B,), position of each image's class among the proxies.
        margin: cosine that is far enough.
    """
    cosine = F.normalize(logits, dim=-1) @ F.normalize(proxies, dim=-1).T
    own = F.one_hot(targets, len(proxies)).bool()
    pull = 1 - cosine[own].mean()
    return pull + (cosine[~own] - margin).clamp(min=0).mean() if len(proxies) > 1 else pull


def irrelevant_pair_loss(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of max(0, cos(h_i, h_j) − margin) over pairs of different classes (HyP²); 0 where there are none.

    Args:
        logits: (B, L).
        labels: (B,).
        margin: cosine that is far enough.
    """
    unit = F.normalize(logits, dim=-1)
    different = ~pair_masks(labels)[0]
    return ((unit @ unit.T - margin).clamp(min=0) * different).sum() / different.sum().clamp(min=1)


def centre_distances(centres: Tensor) -> Tensor:
    """Return, for each pair of centres (C, L), the share of bits (C (C − 1) / 2,) that their angle stands for.

    (1 − cos) / 2: of two ±1 codes it is their Hamming distance over L.
    """
    unit = F.normalize(centres, dim=-1)
    row, column = torch.triu_indices(len(centres), len(centres), offset=1, device=centres.device)
    return (1 - unit @ unit.T)[row, column] / 2


def magnitude_loss(logits: Tensor, power: int) -> Tensor:
    """Mean of ||h| − 1|^power of logits (B, L), the distance from the sign: 0 where every logit is ±1.

    power 1 is the regulariser of DSH, 2 that of DPSH and DTSH, 3 that of GreedyHash.
    """
    return (logits.abs() - 1).abs().pow(power).mean()


def quantization_loss(logits: Tensor) -> Tensor:
    """Mean squared distance of tanh(h) from its sign, of logits (B, L): 0 where every logit is saturated."""
    return (1 - logits.tanh().abs()).square().mean()


def focal_quantization_loss(logits: Tensor, sharpness: float = 5.0, focus: float = 1.0) -> Tensor:
    """Cross-entropy of a bit with its own sharper version, least of all where it is sure (Zou et al., TNNLS 2020).

    Mean of −q (1 − p)^f log p − (1 − q) p^f log(1 − p) with p = σ(h) and q = σ(γ h).

    Args:
        logits: (B, L).
        sharpness: γ.
        focus: f.
    """
    p, q = logits.sigmoid(), (sharpness * logits).sigmoid()
    on, off = (1 - p).pow(focus) * F.logsigmoid(logits), p.pow(focus) * F.logsigmoid(-logits)
    return -(q * on + (1 - q) * off).mean()


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


def similarity_loss(
    logits: Tensor, features: Tensor, attributes: Tensor | None = None, attribute_share: float = 0.0
) -> Tensor:
    """Mean squared difference between the cosines of the codes and those of the features, over pairs of the batch.

    Keeps in the code what the (frozen) feature knows of similarity, labels or not: classes that were never trained
    on have nothing else.

    Args:
        logits: (B, L).
        features: (B, D), centred; no gradient flows into them.
        attributes: (B, M), centred attributes of each image's class.
        attribute_share: share of the attributes' cosine in the one to be kept; the rest is the features'.
    """
    code = F.normalize(logits.tanh(), dim=-1)
    target = _cosines(features)
    if attributes is not None and attribute_share:
        target = (1 - attribute_share) * target + attribute_share * _cosines(attributes)
    difference = code @ code.T - target
    count = len(logits) * (len(logits) - 1)
    return (difference.square().sum() - difference.diagonal().square().sum()) / max(count, 1)


def _cosines(rows: Tensor) -> Tensor:
    rows = F.normalize(rows.detach(), dim=-1)
    return rows @ rows.T
