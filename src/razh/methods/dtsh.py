"""DTSH: likelihood of triplets. Wang et al., "Deep Supervised Hashing with Triplet Labels", ACCV 2016."""

from typing import Any

from torch import Tensor

from razh.losses.hashing import magnitude_loss, triplet_likelihood_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative
from razh.support.distributed import whole_batch


class DTSH(HashingMethod):
    """An image is nearer to its own class than to others, by a margin.

    L = mean over triplets of log(1 + exp(−(Θ_ap − Θ_an − m))) with Θ = ⟨h_i, h_j⟩ / 2 and m = L / 2, plus
    λ mean (h − sign h)². Departures: all triplets of the batch, averaged for each anchor, where the released code
    samples triplets from the whole training set; λ stands before a mean over images and bits (the released λ = 100
    stands beside a gradient summed over 22,500 triplets, so the number does not carry over).
    """

    def __init__(
        self, *, margin_per_bit: NonNegative = 0.5, magnitude_weight: NonNegative = 1.0, **kwargs: Any
    ) -> None:
        """Build the method.

        Args:
            margin_per_bit: m / L.
            magnitude_weight: λ.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.margin_per_bit, self.magnitude_weight = margin_per_bit, magnitude_weight

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of triplets and of the size of logits."""
        logits, labels = whole_batch(self.hash_logits(batch), batch["label"])
        return {
            "triplet": triplet_likelihood_loss(logits, labels, self.margin_per_bit * self.bits),
            "magnitude": self.magnitude_weight * magnitude_loss(logits, 2),
        }
