"""HashNet: tanh that grows into a sign. Cao et al., "HashNet: Deep Learning to Hash by Continuation", ICCV 2017."""

from typing import Annotated, Any

from torch import Tensor

from razh.losses.hashing import pairwise_likelihood_loss
from razh.method import Batch, HashingMethod
from razh.support.bounds import Bounds, Count, Positive
from razh.support.distributed import whole_batch


class HashNet(HashingMethod):
    """Weighted likelihood of pairs on h = tanh(β u), β raised by steps over the run.

    L = mean over positive and mean over negative pairs of log(1 + e^Θ) − s Θ, halved, with Θ = 10 ⟨h_i, h_j⟩ / L; this
    is the paper's weighting by the shares of positives and negatives, here those of the batch. β goes from 1 to `last`
    in `stages` steps of equal length, as √(1 + k c): the released code's schedule, which after its 10,000 steps ends
    at 7, scaled to the length of the run. Departure: no pair of an image with itself. Codes are signs of u, for which
    β does not matter.
    """

    def __init__(
        self,
        *,
        stages: Count = 10,
        last: Annotated[float, Bounds(1)] = 7.0,
        similarity_scale: Positive = 10.0,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            stages: number of values of β.
            last: the largest β.
            similarity_scale: Θ of equal codes.
            **kwargs: see `HashingMethod`.
        """
        super().__init__(**kwargs)
        self.stages, self.last, self.similarity_scale = stages, last, similarity_scale
        self.total_steps = 0

    def on_train_start(self) -> None:
        """Remember how long the run is."""
        self.total_steps = int(self.trainer.estimated_stepping_batches)

    def slope(self) -> float:
        """Return β at this step of the run; 1 outside a run."""
        done = self.global_step / self.total_steps if self.total_steps > 0 else 0.0
        stage = min(int(done * self.stages), self.stages - 1)
        return float((1 + stage / max(self.stages - 1, 1) * (self.last**2 - 1)) ** 0.5)

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return hash logits (B, L): a linear map of the feature."""
        return self.head(self.feature(batch))  # type: ignore[no-any-return]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the term of pairs."""
        logits, labels = whole_batch(self.hash_logits(batch), batch["label"])
        codes = (self.slope() * logits).tanh()
        scale = self.similarity_scale / self.bits
        return {"pairwise": pairwise_likelihood_loss(codes, labels, scale)}
