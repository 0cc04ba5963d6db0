"""Attribute regression and LSH: predict the class attributes, then take signs of random projections of them."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from razh.layers.hash import HashHead
from razh.layers.regression import AttributeRegressor
from razh.method import Batch, HashingMethod
from razh.support.bounds import Positive


class AttributeLSH(HashingMethod):
    """The anchor that zero-shot papers leave out: whatever the attributes tell, and nothing else.

    No paper of its own. The attributes â of the image are predicted by a linear layer, trained on the attributes of
    the training classes (the regression of attribute-based zero-shot learning, Lampert et al., CVPR 2009, here in one
    step); the code is the sign of random hyperplanes (LSH, Charikar, STOC 2002) of what differs from the training
    classes' mean ā: b = sign(G (â − ā)), G (L, M) Gaussian. There may be more bits than attributes.

    Our additions: the layer starts from ridge regression, and `standardise` divides each attribute by its standard
    deviation over the training classes first, so that rare attributes count as much as common ones.
    """

    def __init__(
        self,
        *,
        regression: Literal["mse", "bce"] = "mse",
        attribute_init: Literal["ridge", "mean"] = "ridge",
        ridge_penalty: Positive = 10.0,
        standardise: bool = True,
        hash_init: Literal["random"] = "random",
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            regression: loss of the predicted attributes, squared error or binary cross-entropy.
            attribute_init: start the attribute layer from ridge regression, or at the mean of the training classes.
            ridge_penalty: of the start, in units of the feature's mean variance.
            standardise: divide attributes by their standard deviation over the training classes before projecting.
            hash_init: hyperplanes are random; there is nothing to choose.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(hash_init=hash_init, **kwargs)
        self.attribute_init, self.ridge_penalty = attribute_init, ridge_penalty
        known = self.class_attributes[self.train_classes]
        self.regressor = AttributeRegressor(self.head.in_features, known.shape[1], regression)
        mean = known.mean(dim=0)
        nn.init.zeros_(self.regressor.weight)  # strengths differ little: random weights would drown them
        self.regressor.bias.data.copy_(mean.clamp(0.02, 0.98).logit() if regression == "bce" else mean)
        self.head = HashHead(known.shape[1], self.bits).requires_grad_(False)
        with torch.no_grad():
            spread = known.std(dim=0, correction=0).clamp(min=1e-3) if standardise else torch.ones(known.shape[1])
            self.head.weight.copy_(torch.randn_like(self.head.weight) / spread)
            self.head.bias.copy_(-(self.head.weight @ mean))

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return random projections (B, L) of the predicted attributes."""
        return self.head(self.regressor(self.feature(batch)))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the error of the predicted attributes."""
        return {"attributes": self.regressor.loss(self.feature(batch), self.class_attributes[batch["label"]])}

    def start_from_features(self) -> None:
        """Start the attribute layer from ridge regression."""
        if self.attribute_init == "ridge":
            strength = self.class_attributes.cpu()[self.training_labels()]
            self.regressor.initialise(self.training_features(), strength, self.ridge_penalty)
            state = {k: v.cpu() for k, v in self.regressor.state_dict().items()}
            self.regressor.load_state_dict(self.trainer.strategy.broadcast(state))
