"""HyP²: proxies, and pairs that must not be near. Xu et al., "HyP² Loss", ACM MM 2022."""

from typing import Any

import torch
from torch import Tensor, nn

from razh.losses.centres import hash_centres, smallest_distance
from razh.losses.hashing import irrelevant_pair_loss, proxy_margin_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import Cosine, NonNegative
from razh.support.distributed import whole_batch


class HyP2(HashingMethod):
    """Codes near a learnt proxy of their class, other proxies and other classes' images below a cosine ζ.

    "HyP² Loss: Beyond Hypersphere Metric Space for Multi-label Image Retrieval":
    L = mean (1 − cos(h, p_y)) + mean_{c ≠ y} max(0, cos(h, p_c) − ζ) + β mean over irrelevant pairs of
    max(0, cos(h_i, h_j) − ζ), as in the released code. Departures: the pair term there is for pairs of images with
    several labels each; here images have one label, and all pairs of different classes take part. ζ is the cosine
    1 − 2 d / L of C codes at distance d: d comes from a table of known codes there, from `hash_centres` here (the
    same where there is a Hadamard matrix).
    """

    def __init__(self, *, pair_weight: NonNegative = 0.5, threshold: Cosine | None = None, **kwargs: Any) -> None:
        """Build the method.

        Args:
            pair_weight: β.
            threshold: ζ; by default from the number of classes and bits.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.pair_weight = pair_weight
        classes = len(self.train_classes)
        if threshold is None:
            threshold = 1 - 2 * smallest_distance(hash_centres(classes, self.bits)) / self.bits
        self.threshold = threshold
        self.proxies = nn.Parameter(torch.empty(classes, self.bits))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of proxies and of pairs."""
        logits = self.hash_logits(batch)
        every, labels = whole_batch(logits, batch["label"])
        return {
            "proxy": proxy_margin_loss(logits, self.proxies, self.targets(batch), self.threshold),
            "pairwise": self.pair_weight * irrelevant_pair_loss(every, labels, self.threshold),
        }
