"""BiHalf: every bit halves the batch. Li & van Gemert, "Maximizing Bit Entropy", AAAI 2021."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from razh.layers.hash import bi_half
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative
from razh.support.distributed import whole_batch


class BiHalf(HashingMethod):
    """Cross-entropy on codes of which each bit is +1 for half of the batch.

    "Deep Unsupervised Image Hashing by Maximizing Bit Entropy": in training a bit is +1 for the images with the larger
    logits, −1 for the others; going back, the gradient of the code is passed on plus γ (h − b) / (B L). That addition
    is the gradient of γ / 2 × mean (h − b)², b held fixed, and is written as this term here. Departures: the paper's
    task is unsupervised (cosines of codes like those of features), here the layer is followed by a linear classifier
    over the training classes; at test, bits are signs of h. With several devices the halves are those of the whole
    batch, so that their number does not matter.
    """

    def __init__(self, *, gamma: NonNegative = 6.0, **kwargs: Any) -> None:
        """Build the method.

        Args:
            gamma: γ, pull of the logits towards the balanced code.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.gamma = gamma
        self.classifier = nn.Linear(self.bits, len(self.train_classes))

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy of the balanced code, and the term that draws logits to it."""
        logits, targets = whole_batch(self.hash_logits(batch), self.targets(batch))
        code = bi_half(logits)
        return {
            "classification": F.cross_entropy(self.classifier(code), targets),
            "balance": self.gamma / 2 * (logits - code.detach()).square().mean(),
        }
