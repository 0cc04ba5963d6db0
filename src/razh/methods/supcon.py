"""SupCon on hash logits. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020."""

from typing import Any

from torch import Tensor

from razh.losses.hashing import quantization_loss, supervised_contrastive_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Positive
from razh.support.distributed import whole_batch


class SupCon(HashingMethod):
    """The supervised contrastive loss (L_out) on the directions of the hash logits, signs at test.

    −1/|P_i| Σ_{p ∈ P_i} log(exp(cos(h_i, h_p) / t) / Σ_{a ≠ i} exp(cos(h_i, h_a) / t)), P_i the other images of i's
    class in the batch. Departures: no projection head (the code itself is contrasted), and one view of each image
    instead of two, so that an image without a companion of its class in the batch only serves as a negative.
    """

    def __init__(self, *, temperature: Positive = 0.1, quantization_weight: NonNegative = 0.0, **kwargs: Any) -> None:
        """Build the method.

        Args:
            temperature: t.
            quantization_weight: weight of the quantisation term.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.temperature, self.quantization_weight = temperature, quantization_weight

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the contrastive term, and quantisation where it has a weight."""
        logits, labels = whole_batch(self.hash_logits(batch), batch["label"])
        terms = {"contrast": supervised_contrastive_loss(logits, labels, self.temperature)}
        if self.quantization_weight:
            terms["quantization"] = self.quantization_weight * quantization_loss(logits)
        return terms
