"""DPSH: likelihood of pairs. Li et al., "Feature Learning based Deep Supervised Hashing", IJCAI 2016."""

from typing import Any

from torch import Tensor

from razh.losses.hashing import magnitude_loss, pairwise_likelihood_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative
from razh.support.distributed import whole_batch


class DPSH(HashingMethod):
    """Inner products of logits say whether two images are of one class.

    L = mean over pairs of log(1 + e^Θ) − s Θ with Θ = ⟨h_i, h_j⟩ / 2, plus α mean (h − sign h)². Departures: pairs of
    the batch only, where the paper pairs the batch with all training images; pairs of the same and of different classes
    weigh half each (with 20 classes the paper's plain mean is 19 parts of negatives); no pair of an image with itself.
    """

    def __init__(self, *, magnitude_weight: NonNegative = 0.1, **kwargs: Any) -> None:
        """Build the method.

        Args:
            magnitude_weight: α (η in the paper).
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.magnitude_weight = magnitude_weight

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of pairs and of the size of logits."""
        logits, labels = whole_batch(self.hash_logits(batch), batch["label"])
        return {
            "pairwise": pairwise_likelihood_loss(logits, labels),
            "magnitude": self.magnitude_weight * magnitude_loss(logits, 2),
        }
