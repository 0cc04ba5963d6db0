"""ITQ: no training but a rotation. Gong & Lazebnik, "Iterative Quantization", CVPR 2011."""

from typing import Any

import torch
from torch import Tensor

from razh.layers.hash import within_class_whitening
from razh.method import Batch, HashingMethod


class ITQ(HashingMethod):
    """The backbone's feature, PCA, and the rotation that loses least by taking signs.

    The rotation is fitted to the training images (labels are not used). The base class fits the hash head before the
    first step; there is nothing else to train. In a setting that gives a collection, codes are adapted to it like those
    of any method; with `of_collection` ITQ itself is fitted to it instead.
    """

    trains = False

    def __init__(self, *, of_collection: bool = False, **kwargs: Any) -> None:
        """Build the method.

        Args:
            of_collection: fit to the unlabelled collection alone, in settings that give one, and leave the codes so.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.of_collection = of_collection
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

    def fitting_features(self) -> Tensor:
        """Return the features (n, D) of the images that are fitted to: the collection's, or those of training."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.of_collection and len(data.split.unlabelled):
            return self.features_of(data.evaluation_dataloader(data.split.unlabelled))
        return self.training_features()

    @torch.no_grad()
    def start_from_features(self) -> None:
        """Fit the hash head; what differs within a class is told by the training images alone."""
        whitening = None
        if self.hash_init == "whitened":
            whitening = within_class_whitening(self.training_features(), self.training_labels())
        if self.hash_init != "random":
            self.start_head(self.fitting_features(), whitening)
