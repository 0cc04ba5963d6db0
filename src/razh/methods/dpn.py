"""DPN: every bit beyond a margin. Fan et al., "Deep Polarized Network", IJCAI 2020."""

from typing import Any

from torch import Tensor

from razh.losses.centres import Centres, hash_centres
from razh.losses.hashing import polarization_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Seed


class DPN(HashingMethod):
    """L = Σ_l max(0, m − h_l c_yl), the mean over images, plus ρ mean h²; fixed target codes c of fair random bits.

    Departures: the adaptive update of the targets, and the classifier beside the code that the released code can add,
    are left out; ρ is 0 unless set (the released code has the term).
    """

    centres: Tensor

    def __init__(
        self,
        *,
        margin: NonNegative = 1.0,
        size_weight: NonNegative = 0.0,
        centre_kind: Centres = "bernoulli",
        centre_seed: Seed = 0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            margin: m.
            size_weight: ρ.
            centre_kind: `bernoulli` for independent fair bits, `hadamard` for far apart centres.
            centre_seed: of the centres.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.margin, self.size_weight = margin, size_weight
        centres = hash_centres(len(self.train_classes), self.bits, kind=centre_kind, seed=centre_seed)
        self.register_buffer("centres", centres)

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the polarisation term, and that of the size of logits where it has a weight."""
        logits = self.hash_logits(batch)
        terms = {"polarization": polarization_loss(logits, self.centres[self.targets(batch)], self.margin)}
        if self.size_weight:
            terms["size"] = self.size_weight * logits.square().mean()
        return terms
