"""Terms that make soft clusters into parts: each of them can be switched off by its weight."""

import torch
from torch import Tensor
from torch.nn import functional as F


def as_maps(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return values (B, N, S) of patches as maps (B, rows, columns, S)."""
    return values.reshape(len(values), *grid, values.shape[-1])


def orthogonality_loss(parts: Tensor) -> Tensor:
    """Mean squared cosine between different part vectors (B, K, D) of an image, as in PDiscoNet."""
    parts = F.normalize(parts, dim=-1)
    gram = parts @ parts.transpose(1, 2)
    count = gram.shape[1] * (gram.shape[1] - 1)
    off = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
    return off.square().sum() / max(count * len(gram), 1)


def presence_loss(assignment: Tensor, background_share: float = 0.5) -> Tensor:
    """Divergence of the slots' shares of the batch from a fair one; assignment (B, N, K + 1).

    KL(prior ‖ mean assignment), where the prior gives the background its share and splits the rest evenly among the
    parts. It is what keeps parts alive: entropy and smoothness alone are smallest where everything is one slot.
    """
    mean = assignment.mean(dim=(0, 1))
    parts = assignment.shape[-1] - 1
    prior = torch.full_like(mean, (1 - background_share) / parts)
    prior[-1] = background_share
    return (torch.xlogy(prior, prior) - prior * (mean + 1e-6).log()).sum()  # a share of 0 counts nothing


def background_loss(assignment: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cross-entropy (offset by 1e-4) of the outermost ring of patches being background; assignment (B, N, K + 1).

    Objects are photographed near the middle, so the rim says which slot the background is (PDiscoFormer places its
    background by the rim, too). Without it any slot may become the background, and the part that gets it is replaced.
    """
    background = as_maps(assignment, grid)[..., -1]
    rim = torch.ones(grid, dtype=torch.bool, device=assignment.device)
    rim[1:-1, 1:-1] = False
    return -(background[:, rim] + 1e-4).log().mean()  # an offset and no clamp: the gradient must not vanish


def entropy_loss(assignment: Tensor) -> Tensor:
    """Mean entropy of a patch's assignment (B, N, K + 1), in units of its maximum: 0 where patches decide."""
    entropy = -(assignment * assignment.clamp(min=1e-9).log()).sum(dim=-1)
    return entropy.mean() / torch.log(torch.tensor(float(assignment.shape[-1])))


def total_variation_loss(assignment: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean absolute difference between the assignments (B, N, K + 1) of neighbouring patches of a grid."""
    maps = as_maps(assignment, grid)
    down = (maps[:, 1:] - maps[:, :-1]).abs()
    right = (maps[:, :, 1:] - maps[:, :, :-1]).abs()
    return down.sum() / max(down.numel(), 1) + right.sum() / max(right.numel(), 1)  # a single row has nothing below


def equivariance_loss(assignment: Tensor, wanted: Tensor) -> Tensor:
    """Mean over patches of the squared difference between two assignments (B, N, K + 1)."""
    return (assignment - wanted).square().sum(dim=-1).mean()
