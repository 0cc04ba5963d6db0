"""OrthoHash: cosines with fixed codes, and nothing else. Hoe et al., "One Loss for All", NeurIPS 2021."""

from typing import Any

from torch import Tensor, nn

from razh.losses.centres import Centres, hash_centres
from razh.losses.hashing import cosine_margin_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Positive, Seed


class OrthoHash(HashingMethod):
    """Deep Hashing with a Single Cosine Similarity: one term on h = BN(W x).

    L = CE of s (cos(h, c) − m [c = c_y]) with fixed centres c of ±1. Batch normalisation is what balances the bits, no
    other term does. As in the paper, with its cosine margin; s and m are those of the released code. Departures: W
    keeps a bias (the normalisation takes it off again, so it gets no gradient to speak of), and starts from PCA and
    ITQ, whose outputs are normalised already. Several GPUs share the statistics, several processes on a CPU do not.
    """

    centres: Tensor

    def __init__(
        self,
        *,
        scale: Positive = 8.0,
        margin: NonNegative = 0.2,
        centre_kind: Centres = "bernoulli",
        centre_seed: Seed = 0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            scale: s.
            margin: m.
            centre_kind: `bernoulli` for independent fair bits, `hadamard` for far apart centres.
            centre_seed: of the centres.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.scale, self.margin = scale, margin
        centres = hash_centres(len(self.train_classes), self.bits, kind=centre_kind, seed=centre_seed)
        self.register_buffer("centres", centres)
        self.norm = nn.BatchNorm1d(self.bits)

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature, each bit normalised."""
        return self.norm(self.head(self.feature(batch)))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the cross-entropy of cosines."""
        logits = self.hash_logits(batch)
        loss = cosine_margin_loss(logits, self.centres, self.targets(batch), self.scale, self.margin)
        return {"classification": loss}
