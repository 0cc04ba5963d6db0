"""ITQ: no training but a rotation. Gong & Lazebnik, "Iterative Quantization", CVPR 2011."""

from typing import Any

from torch import Tensor

from razh.method import Batch, HashingMethod


class ITQ(HashingMethod):
    """The backbone's feature, PCA, and the rotation that loses least by taking signs.

    The rotation is fitted to the training images (labels are not used). The base class fits the hash head before the
    first step; there is nothing else to train.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Build the method; see `HashingMethod` for the arguments."""
        super().__init__(**kwargs)
        # Nothing trains, so the backbone must not look trainable to DDP.
        self.requires_grad_(False)

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return the rotated principal components (B, L)."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return no terms: there is nothing to train."""
        return {}

    def configure_optimizers(self) -> None:
        """Return no optimiser."""
        return
