"""CE: cross-entropy on the hash logits, signs at test. The anchor that papers leave out, though it is strong."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from razh.losses.hashing import quantization_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative


class CE(HashingMethod):
    """A linear classifier over the training classes on top of the hash logits.

    No paper of its own: the supervised floor of every deep hashing comparison, here under the same protocol, backbone
    and budget as the rest. `quantization_weight` adds the usual pull of logits towards ±1; 0, the default, is the
    plain anchor.
    """

    def __init__(self, *, quantization_weight: NonNegative = 0.0, **kwargs: Any) -> None:
        """Build the method.

        Args:
            quantization_weight: weight of the quantisation term.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.quantization_weight = quantization_weight
        self.classifier = nn.Linear(self.bits, len(self.train_classes))

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy, and quantisation where it has a weight."""
        logits = self.hash_logits(batch)
        terms = {"classification": F.cross_entropy(self.classifier(logits), self.targets(batch))}
        if self.quantization_weight:
            terms["quantization"] = self.quantization_weight * quantization_loss(logits)
        return terms
