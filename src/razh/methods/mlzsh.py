"""MLZSH: labels by ranking, then pairs. Zou et al., "Transductive Zero-Shot Hashing for Multilabel Image Retrieval"."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from razh.losses.attributes import centred_prototypes, logistic_ranking_loss
from razh.losses.hashing import focal_quantization_loss, pairwise_likelihood_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Positive
from razh.support.distributed import whole_batch

log = logging.getLogger(__name__)

NOBODY = -1  # label of an image that nobody has named


class MLZSH(HashingMethod):
    """Images of the collection are named by a visual-semantic bridge, and hashed with the labelled ones.

    An image is embedded among attributes, e = V h, and its score with a class is s_c = ⟨e, a_c⟩. Labelled images teach
    the bridge: mean over the training classes n of log(1 + e^{s_n − s_y}) (instance-concept coherence ranking). An
    image of the collection has the label of its largest score among the training classes and those that are described.
    All images then are hashed by pairs: log(1 + e^Θ) − s Θ with Θ = ⟨tanh h_i, tanh h_j⟩, and by the focal quantisation
    −q (1 − p) log p − (1 − q) p log(1 − p) with p = σ(h), q = σ(5 h).

    Zou, Cao, Zhang, Chen & Wang, IEEE TNNLS 2020; the formulas are those of the authors' released program, the paper
    was not read. Departures: one label an image, where the paper gives the three of largest scores; all terms in one
    step, labels by the scores of that step, where the paper ranks for an epoch, labels, and hashes for an epoch; class
    attributes, centred on the training classes, in the place of word vectors; pairs of the same and of different labels
    weigh half each, none is of an image with itself; means over bits. Without a collection only labelled images train.
    """

    of_collection = True

    def __init__(
        self,
        *,
        ranking_weight: Positive = 10.0,
        quantization_weight: NonNegative = 1.0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            ranking_weight: of the term that teaches the bridge.
            quantization_weight: of the focal quantisation.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.ranking_weight, self.quantization_weight = ranking_weight, quantization_weight
        centred = centred_prototypes(self.class_attributes, self.train_classes)
        self.register_buffer("concepts", F.normalize(centred, dim=1), persistent=False)
        self.bridge = nn.Linear(self.bits, centred.shape[1])
        self.named = self.train_classes.tolist()

    concepts: Tensor

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def take_collection(self, data: Any) -> None:
        """Let all images join, without labels."""
        rows = data.split.unlabelled
        self.named = [*self.train_classes.tolist(), *data.split.described_classes]
        log.info("%d images of the collection join, which %d classes name", len(rows), len(self.named))
        data.join(rows, np.full(len(rows), NOBODY))

    def labels(self, batch: Batch, scores: Tensor) -> Tensor:
        """Return ids (B,) of classes: an image's own, or the one of largest score (B, C) among those that may name."""
        named = torch.tensor(self.named, device=scores.device)
        guess = named[scores[:, named].argmax(dim=1)]
        return torch.where(batch["label"] == NOBODY, guess, batch["label"])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ranking of the labelled images, pairs of all, and quantisation."""
        logits = self.hash_logits(batch)
        scores = self.bridge(logits) @ self.concepts.T
        labels = self.labels(batch, scores.detach())
        told = (batch["label"] != NOBODY, self.targets(batch), scores[:, self.train_classes])
        every, labels, labelled, targets, scores = whole_batch(logits, labels, *told)
        return {
            "ranking": self.ranking_weight * logistic_ranking_loss(scores[labelled], targets[labelled]),
            "pairwise": pairwise_likelihood_loss(every.tanh(), labels, scale=1.0),
            "quantization": self.quantization_weight * focal_quantization_loss(logits),
        }
