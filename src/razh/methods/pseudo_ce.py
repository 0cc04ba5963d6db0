"""CE on pseudo-labels: images of the collection join the training, each as what it resembles most. Lee, 2013."""

import logging
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from razh.layers.posteriors import ClassPosteriors
from razh.losses.attributes import centred_prototypes
from razh.methods.ce import CE
from razh.support.bounds import Bounds, Positive

log = logging.getLogger(__name__)


class PseudoCE(CE):
    """Cross-entropy on the training images and, with labels that nobody gave, on images of the collection.

    An image's posterior p over the classes is that of a linear discriminant: the softmax of `sharpness` times scores
    with class means, within-class whitened, that are cosines on average. Classes that are described by attributes alone
    have their means predicted by ridge regression and a lead of .1, in settings that give their attributes
    (`ClassPosteriors`). An image of the collection joins as argmax p if max p ≥ `confidence`; all is decided once,
    before the first step, from the network as it is then.

    The transductive rival that is nearest at hand: pseudo-labels as in Lee, "Pseudo-Label", ICML workshop 2013, with
    the zero-shot classifier in the place of the network's own guesses. Departures: they are fixed and not drawn anew in
    each epoch, their weight does not rise, and a threshold keeps the sure ones. Without a collection this is `ce`, but
    for a classifier that knows all classes. Codes are not adapted to the collection once more.
    """

    of_collection = True

    def __init__(
        self, *, confidence: Annotated[float, Bounds(0, 1)] = 0.5, sharpness: Positive = 15.0, **kwargs: Any
    ) -> None:
        """Build the method.

        Args:
            confidence: smallest posterior of an image that joins.
            sharpness: what scores are multiplied by before the softmax.
            **kwargs: see `CE`.
        """
        super().__init__(**kwargs)
        self.confidence, self.sharpness = confidence, sharpness
        self.classifier = nn.Linear(self.bits, len(self.class_attributes))

    def targets(self, batch: dict[str, Tensor]) -> Tensor:
        """Return labels (B,) among all classes: those of the collection's images are among the described ones."""
        return batch["label"]

    def take_collection(self, data: Any) -> None:
        """Let the images join whose labels are sure enough; the same ones when a run goes on."""
        rows = data.split.unlabelled
        self.to(self.trainer.strategy.root_device)
        features = self.features_of(data.evaluation_dataloader(rows))
        described = torch.tensor(data.split.described_classes, dtype=torch.int64)
        share, label = self.guesses(features, described)
        sure = (share >= self.confidence).numpy()
        joined, labels = self.trainer.strategy.broadcast((rows[sure], label.numpy()[sure]))
        log.info("%d of %d images of the collection join, of %d classes", len(joined), len(rows), len(set(labels)))
        data.join(joined, labels)

    @torch.no_grad()
    def guesses(self, features: Tensor, described: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest posterior (n,) of features (n, D), and the id (n,) of the class that has it.

        Args:
            features: of any images.
            described: ids (U,) of the classes without images, whose attributes may be looked at.
        """
        known, targets = self.training_features(), self.class_position.cpu()[self.training_labels()]
        trained = self.train_classes.cpu()
        centred = centred_prototypes(self.class_attributes.cpu().float(), trained)
        layer = ClassPosteriors(known.shape[1], len(trained), len(described), sharpness=self.sharpness, weight=1.0)
        layer.fit(known, targets, centred[trained], centred[described])
        share, at = layer(features).square().max(dim=1)
        return share, torch.cat([trained, described])[at]
