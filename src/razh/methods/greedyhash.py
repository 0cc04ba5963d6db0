"""GreedyHash: classify the code itself. Su et al., "Greedy Hash", NeurIPS 2018."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from razh.layers.hash import straight_through_sign
from razh.losses.hashing import magnitude_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative


class GreedyHash(HashingMethod):
    """L = CE(W sign(h), y) + α mean ||h| − 1|³; the sign's gradient is taken to be 1.

    As in the paper; W has no bias there, nor here.
    """

    def __init__(self, *, magnitude_weight: NonNegative = 0.1, **kwargs: Any) -> None:
        """Build the method.

        Args:
            magnitude_weight: α; 0.1 on CIFAR-10 and 1 on ImageNet in the released code.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.magnitude_weight = magnitude_weight
        self.classifier = nn.Linear(self.bits, len(self.train_classes), bias=False)

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy of the code, and the term of the size of logits."""
        logits = self.hash_logits(batch)
        scores = self.classifier(straight_through_sign(logits))
        return {
            "classification": F.cross_entropy(scores, self.targets(batch)),
            "magnitude": self.magnitude_weight * magnitude_loss(logits, 3),
        }
