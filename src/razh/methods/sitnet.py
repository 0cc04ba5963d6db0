"""SitNet: semantic ranking, centres and classes on discrete codes. Guo et al., IJCAI 2017."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.layers.hash import straight_through_sign
from razh.losses.attributes import centred_prototypes, semantic_logits, semantic_margins, semantic_ranking_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Positive


class SitNet(HashingMethod):
    """Discrete similarity transfer network: three tasks on the code itself.

    **A re-implementation from second-hand descriptions** of "SitNet: Discrete Similarity Transfer Network for
    Zero-shot Hashing" (IJCAI 2017). Known: a discrete hashing layer (sign, with a straight-through gradient), a
    semantic embedding loss with a margin, a regularised centre loss and softmax classification. With b = sign(h):

        L = w_s Σ_{c≠y} max(0, m_yc − cos(W_s b, a_y) + cos(W_s b, a_c))       ranking of class vectors
          + w_c (‖b − z_y‖² / L + η ‖|z| − 1‖² / (C L))                         centres z of the training classes
          + w_k CE(W_k b, y)

    Guesses of ours: class vectors a are class attributes centred on the training classes (the paper: word vectors of
    class names); the margin grows with the classes' semantic distance (`margin_kind=constant` for the plain hinge);
    "regularised" means that centres are drawn to ±1; the gradient passes the sign where |h| ≤ `clip`. All the terms
    see √L-scaled codes through their own linear maps. The hash head starts from ITQ (our addition).
    """

    def __init__(
        self,
        *,
        margin: NonNegative = 1.0,
        margin_kind: Literal["semantic", "constant"] = "semantic",
        clip: Positive = 3.0,
        ranking_weight: NonNegative = 1.0,
        centre_weight: NonNegative = 0.1,
        centre_penalty: NonNegative = 0.1,
        classification_weight: NonNegative = 1.0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            margin: the largest margin, that of classes of opposite attributes.
            margin_kind: margins by semantic distance, or all alike.
            clip: the gradient passes the sign only for logits of at most this size.
            ranking_weight: of the semantic ranking.
            centre_weight: of the centre loss.
            centre_penalty: η, pull of the centres towards ±1.
            classification_weight: of the cross-entropy.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.clip, self.centre_penalty = clip, centre_penalty
        self.ranking_weight, self.centre_weight = ranking_weight, centre_weight
        self.classification_weight = classification_weight
        prototypes = centred_prototypes(self.class_attributes, self.train_classes)[self.train_classes]
        classes, attributes = prototypes.shape
        margins = semantic_margins(prototypes, margin)
        self.register_buffer("prototypes", prototypes)
        self.register_buffer("margins", margins if margin_kind == "semantic" else torch.full_like(margins, margin))
        self.semantic = nn.Linear(self.bits, attributes)
        self.classifier = nn.Linear(self.bits, classes)
        self.centres = nn.Parameter(0.1 * torch.randn(classes, self.bits))

    prototypes: Tensor
    margins: Tensor

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ranking, centre and classification terms of the discrete code."""
        targets = self.targets(batch)
        code = straight_through_sign(self.hash_logits(batch), self.clip)
        similarity = semantic_logits(self.semantic(code), self.prototypes, 1.0)
        centre = centre_loss(code, targets, self.centres, self.centre_penalty)
        return {
            "ranking": self.ranking_weight * semantic_ranking_loss(similarity, targets, self.margins),
            "centre": self.centre_weight * centre,
            "classification": self.classification_weight * F.cross_entropy(self.classifier(code), targets),
        }


def centre_loss(codes: Tensor, targets: Tensor, centres: Tensor, penalty: float) -> Tensor:
    """Mean squared distance of codes (B, L) from their classes' centres (C, L), and of the centres from ±1."""
    return (codes - centres[targets]).square().mean() + penalty * (centres.abs() - 1).square().mean()
