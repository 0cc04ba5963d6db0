"""CSQ: a fixed far-off code for each class. Yuan et al., "Central Similarity Quantization", CVPR 2020."""

from typing import Any

from torch import Tensor

from razh.losses.centres import Centres, hash_centres
from razh.losses.hashing import central_similarity_loss, quantization_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Seed


class CSQ(HashingMethod):
    """L = BCE((tanh h + 1) / 2, (c_y + 1) / 2) + λ mean (|tanh h| − 1)², centres c of ±1 fixed before training.

    Centres are rows of a Hadamard matrix where there is one of order L and C ≤ 2L, else random codes that keep a
    distance. Departures: see `hash_centres` (which rows are taken); the released code's quantisation is this one,
    not the log cosh of the paper. Centres are given to classes at random, whatever the classes look like.
    """

    centres: Tensor

    def __init__(
        self,
        *,
        quantization_weight: NonNegative = 1e-4,
        centre_kind: Centres = "hadamard",
        centre_seed: Seed = 0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            quantization_weight: λ.
            centre_kind: `hadamard` for far apart centres, `bernoulli` for independent fair bits.
            centre_seed: of the centres.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.quantization_weight = quantization_weight
        centres = hash_centres(len(self.train_classes), self.bits, kind=centre_kind, seed=centre_seed)
        self.register_buffer("centres", centres)

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the distance from the centres, and quantisation."""
        logits = self.hash_logits(batch)
        return {
            "centre": central_similarity_loss(logits, self.centres[self.targets(batch)]),
            "quantization": self.quantization_weight * quantization_loss(logits),
        }
