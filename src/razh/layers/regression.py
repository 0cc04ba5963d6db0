"""Features to class attributes: regression in closed form, and a linear layer that can start from it."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def ridge(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weight (T, D) and bias (T,) of the ridge regression of targets (n, T) on features (n, D).

    The penalty is in units of the features' mean variance, so that one value serves features of any scale; the bias is
    not penalised.
    """
    mean, target_mean = features.mean(dim=0), targets.mean(dim=0)
    centred = (features - mean).double()
    scatter = centred.T @ centred / len(features)
    scale = scatter.diagonal().mean().clamp(min=1e-12)
    scatter = scatter + penalty * scale * torch.eye(len(scatter), dtype=scatter.dtype)
    covariance = centred.T @ (targets - target_mean).double() / len(features)
    weight = torch.linalg.solve(scatter, covariance).T.to(features.dtype)  # (T, D)
    return weight, target_mean - weight @ mean


def attribute_regression_loss(scores: Tensor, strength: Tensor, kind: Literal["mse", "bce"] = "mse") -> Tensor:
    """Return the error of predicted attributes, the mean over images and attributes.

    Args:
        scores: (B, M), strengths for `mse`, log odds for `bce`.
        strength: (B, M), of the image's class, in [0, 1].
        kind: squared error, or binary cross-entropy.
    """
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(scores, strength)
    return F.mse_loss(scores, strength)


class AttributeRegressor(nn.Linear):
    """Linear regression of the M class attributes on a feature (B, D).

    `mse` predicts strengths as they are; `bce` predicts them as probabilities, through a sigmoid.
    """

    def __init__(self, dim: int, attributes: int, kind: Literal["mse", "bce"] = "mse") -> None:
        """Build the layer.

        Args:
            dim: width D of the feature.
            attributes: number M.
            kind: which loss it is trained with.
        """
        super().__init__(dim, attributes)
        self.kind = kind

    def forward(self, features: Tensor) -> Tensor:
        """Return predicted strengths (B, M) of features (B, D)."""
        scores = super().forward(features)
        return scores.sigmoid() if self.kind == "bce" else scores

    def loss(self, features: Tensor, strength: Tensor) -> Tensor:
        """Return the regression loss of features (B, D) with class strengths (B, M) in [0, 1]."""
        return attribute_regression_loss(super().forward(features), strength, self.kind)

    @torch.no_grad()
    def initialise(self, features: Tensor, strength: Tensor, penalty: float) -> None:
        """Start from the ridge regression of strengths (n, M), or of their log odds, on features (n, D)."""
        targets = strength.float().cpu()
        if self.kind == "bce":
            targets = targets.clamp(0.02, 0.98).logit()  # certainty would be an infinite target
        weight, bias = ridge(features.float().cpu(), targets, penalty)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
