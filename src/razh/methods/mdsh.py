"""MDSH: centres of a guaranteed distance. Wang et al., "Minimal-Distance-Separated Hash Centers", CVPR 2023."""

from typing import Any

from torch import Tensor

from razh.losses.centres import hash_centres
from razh.losses.hashing import centre_likelihood_loss, positive_pair_loss, quantization_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import NonNegative, Seed
from razh.support.distributed import whole_batch


class MDSH(HashingMethod):
    """Codes near their class's centre among all centres, and near each other within a class.

    With u = tanh h and p = softmax(√L cos(u, c)) over the centres:
    L = −Σ_c (s_c log p_c + (1 − s_c) log(1 − p_c)) / C + β mean over positive pairs of log(1 + e^{(1 − cos) / 2})
    + λ mean (|u| − 1)², as in the released code. Departures: the paper solves for centres of the distance that the
    Gilbert-Varshamov bound promises, one by one, by an augmented Lagrangian; here they are Hadamard rows (which are
    further apart) or, where there are none, the best of many random codes. Its momentum encoder and memory of all
    images are left out: pairs are those of the batch, from the first epoch on.
    """

    centres: Tensor

    def __init__(
        self,
        *,
        pair_weight: NonNegative = 1.0,
        quantization_weight: NonNegative = 1e-4,
        centre_seed: Seed = 0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            pair_weight: β.
            quantization_weight: λ.
            centre_seed: of the centres.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.pair_weight, self.quantization_weight = pair_weight, quantization_weight
        self.register_buffer("centres", hash_centres(len(self.train_classes), self.bits, seed=centre_seed, effort=30))

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the likelihood of the own centre, the term of pairs, and quantisation."""
        logits = self.hash_logits(batch)
        code = logits.tanh()
        every, labels = whole_batch(code, batch["label"])
        return {
            "centre": centre_likelihood_loss(code, self.centres, self.targets(batch)),
            "pairwise": self.pair_weight * positive_pair_loss(every, labels),
            "quantization": self.quantization_weight * quantization_loss(logits),
        }
