"""DSH: a contrastive loss with a margin. Liu et al., "Deep Supervised Hashing for Fast Image Retrieval", CVPR 2016."""

from typing import Any

from torch import Tensor

from razh.losses.hashing import magnitude_loss, pairwise_contrast_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative
from razh.support.distributed import whole_batch


class DSH(HashingMethod):
    """Pairs of a class near, others a margin apart, logits near ±1.

    L = mean over pairs of s d / 2 + (1 − s) max(m − d, 0) / 2, plus α mean ||h| − 1|, with d = ‖h_i − h_j‖² and m = 2L.
    Departures: pairs of the batch only (some re-implementations keep logits of all images), pairs of an image with
    itself left out, and the regulariser is a mean over images and bits where the paper sums. The head's start from
    PCA and ITQ gives |h| ≈ 1, as the margin wants it.
    """

    def __init__(
        self, *, margin_per_bit: NonNegative = 2.0, magnitude_weight: NonNegative = 0.1, **kwargs: Any
    ) -> None:
        """Build the method.

        Args:
            margin_per_bit: m / L.
            magnitude_weight: α.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.margin_per_bit, self.magnitude_weight = margin_per_bit, magnitude_weight

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of pairs and of the size of logits."""
        logits, labels = whole_batch(self.hash_logits(batch), batch["label"])
        return {
            "pairwise": pairwise_contrast_loss(logits, labels, self.margin_per_bit * self.bits),
            "magnitude": self.magnitude_weight * magnitude_loss(logits, 1),
        }
