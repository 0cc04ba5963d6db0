"""AgNet: image to attributes to code. Ji et al., "Attribute-Guided Network for Cross-Modal Zero-Shot Hashing", 2020."""

from typing import Any, Literal

import torch
from torch import Tensor

from razh.layers.regression import AttributeRegressor
from razh.losses.attributes import centred_prototypes
from razh.losses.hashing import pairwise_likelihood_loss, quantization_loss, similarity_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Positive
from razh.support.distributed import whole_batch


class AgNet(HashingMethod):
    """The code is made from the predicted attributes, and from nothing else (IEEE TNNLS 2020, arXiv 1802.01943).

    **A re-implementation from second-hand descriptions.** Known: images are mapped into attribute space by regression
    on class attributes; a second network maps that space to codes, trained with a category similarity between pairs
    and a quantisation term. With â = W_a f and h = W_h â:

        L = w_a ‖â − a_y‖² / M + w_s Σ_ij pair(h_i, h_j) + w_q ‖1 − |tanh h|‖² / L

    Guesses of ours: both maps are linear; `similarity=class` is the balanced likelihood of DPSH on same or other class,
    `semantic` compares the cosine of two codes with that of their classes' attributes (centred on the training
    classes). Departures: the paper's second modality (text to attributes) is left out, since the task has images only;
    the attribute layer starts from ridge regression and the hash head from ITQ of its predictions.
    """

    def __init__(
        self,
        *,
        regression: Literal["mse", "bce"] = "mse",
        attribute_init: Literal["ridge", "random"] = "ridge",
        ridge_penalty: Positive = 10.0,
        similarity: Literal["class", "semantic"] = "class",
        attribute_weight: NonNegative = 1.0,
        similarity_weight: NonNegative = 1.0,
        quantization_weight: NonNegative = 0.1,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            regression: loss of the predicted attributes, squared error or binary cross-entropy.
            attribute_init: start the attribute layer from ridge regression, or at random.
            ridge_penalty: of the start, in units of the feature's mean variance.
            similarity: what the pairwise term asks for: same or other class, or the classes' attribute similarity.
            attribute_weight: of the regression.
            similarity_weight: of the pairwise term.
            quantization_weight: pull of the logits towards ±1.
            **kwargs: see `HashingMethod`.
        """
        self.regression = regression
        super().__init__(**kwargs)
        self.attribute_init, self.ridge_penalty, self.similarity = attribute_init, ridge_penalty, similarity
        self.attribute_weight, self.similarity_weight = attribute_weight, similarity_weight
        self.quantization_weight = quantization_weight
        self.register_buffer("prototypes", centred_prototypes(self.class_attributes, self.train_classes))

    prototypes: Tensor

    def input_width(self) -> int:
        """Build the regression of attributes, which are all that the hash head sees; return their number M."""
        attributes = self.class_attributes.shape[1]
        self.regressor = AttributeRegressor(self.feature_width, attributes, self.regression)
        return attributes

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the predicted attributes."""
        return self.head(self.regressor(self.feature(batch)))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return attribute regression, pairwise similarity and quantisation."""
        feature, label = self.feature(batch), batch["label"]
        logits = self.head(self.regressor(feature))
        every, labels = whole_batch(logits, label)
        if self.similarity == "class":
            pairs = pairwise_likelihood_loss(every, labels)
        else:
            pairs = similarity_loss(every, self.prototypes[labels])
        return {
            "attributes": self.attribute_weight * self.regressor.loss(feature, self.class_attributes[label]),
            "similarity": self.similarity_weight * pairs,
            "quantization": self.quantization_weight * quantization_loss(logits),
        }

    @torch.no_grad()
    def start_from_features(self) -> None:
        """Start the attribute layer from ridge regression, then the hash head from what it predicts."""
        features = self.training_features()
        if self.attribute_init == "ridge":
            strength = self.class_attributes.cpu()[self.training_labels()]
            self.regressor.initialise(features, strength, self.ridge_penalty)
        if self.hash_init != "random":
            self.head.initialise(self.regressor(features.to(self.head.weight)), rotate=self.hash_init == "itq")
        for layer in (self.regressor, self.head):
            self.synchronise(layer)
