"""ADSH-angular: CosFace on codes, classes spread evenly. Zhou et al., "Angular Deep Supervised Hashing", 2019."""

from typing import Any

import torch
from torch import Tensor, nn

from razh.losses.hashing import centre_distances, cosine_margin_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Positive


class ADSH(HashingMethod):
    """L = CE of s (cos(h, w_c) − m [c = y]) − α mean d + β var d, with learnt class weights w and their distances d.

    "Angular Deep Supervised Hashing for Image Retrieval" (IEEE Access 2019), which COMAE starts from. The form is that
    of a public re-implementation; the paper was not read. d is the distance of two classes as a share of bits,
    (1 − cos) / 2: the re-implementation takes half the difference of L and an inner product of tanh of unit vectors,
    whose entries are so small that tanh does nothing, and which has the same gradient.
    """

    def __init__(
        self,
        *,
        scale: Positive = 10.0,
        margin: NonNegative = 0.2,
        mean_weight: NonNegative = 1.0,
        variance_weight: NonNegative = 1.0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            scale: s.
            margin: m.
            mean_weight: α.
            variance_weight: β.
            **kwargs: see `HashingMethod`.

        Raises:
            ValueError: fewer than three training classes, whose distances have no variance.
        """
        super().__init__(**kwargs)
        classes = len(self.train_classes)
        if classes < 3:
            raise ValueError(
                f"adsh needs at least 3 training classes, got {classes}; take another method or more classes"
            )
        self.scale, self.margin = scale, margin
        self.mean_weight, self.variance_weight = mean_weight, variance_weight
        self.weight = nn.Parameter(torch.randn(classes, self.bits))

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy of cosines, and the mean and variance of the classes' distances."""
        logits = self.hash_logits(batch)
        distances = centre_distances(self.weight)
        return {
            "classification": cosine_margin_loss(logits, self.weight, self.targets(batch), self.scale, self.margin),
            "distance": -self.mean_weight * distances.mean(),
            "variance": self.variance_weight * distances.var(),
        }
