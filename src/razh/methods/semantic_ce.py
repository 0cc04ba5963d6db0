"""Semantic CE: cross-entropy of cosines with class attributes, signs at test."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from razh.losses.attributes import centred_prototypes, semantic_logits
from razh.losses.hashing import quantization_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Positive


class SemanticCE(HashingMethod):
    """A classifier whose weights are the class attributes: logits γ cos(W h, a_c), cross-entropy over training classes.

    No paper of its own: the compatibility classifier of zero-shot learning on top of the hash logits, and the plain
    control for methods that use attributes in more involved ways. Attributes are centred on the training classes, else
    all a_c point the same way. W has a bias.
    """

    prototypes: Tensor

    def __init__(self, *, scale: Positive = 10.0, quantization_weight: NonNegative = 0.0, **kwargs: Any) -> None:
        """Build the method.

        Args:
            scale: γ, of the cosines.
            quantization_weight: weight of the quantisation term.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.scale, self.quantization_weight = scale, quantization_weight
        prototypes = centred_prototypes(self.class_attributes, self.train_classes)[self.train_classes]
        self.register_buffer("prototypes", prototypes)
        self.semantic = nn.Linear(self.bits, prototypes.shape[1])

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return cross-entropy, and quantisation where it has a weight."""
        logits = self.hash_logits(batch)
        scores = semantic_logits(self.semantic(logits), self.prototypes, self.scale)
        terms = {"semantic": F.cross_entropy(scores, self.targets(batch))}
        if self.quantization_weight:
            terms["quantization"] = self.quantization_weight * quantization_loss(logits)
        return terms
