"""Random: codes that tell nothing about the image. The floor of every table."""

import torch
from torch import Tensor

from razh.method import Batch
from razh.methods.itq import ITQ


class Random(ITQ):
    """The same image always gets the same code, and the codes of two different images are unrelated.

    No paper of its own. h = sin(1000 W f), W a random matrix from the run's seed: the projection of the feature f wraps
    around so often that any difference between two features, however small for retrieval, turns the phases of all bits
    at random. So a new image can be encoded without an index or a table, equal images have equal codes, and nearness of
    features is lost. As the code hangs on the last digits of the feature, it may change with precision or device.
    """

    def start_from_features(self) -> None:
        """Leave the head at its random start."""

    def hash_logits(self, batch: Batch) -> Tensor:
        """Return sines (B, L) of very fast turning projections of the feature."""
        return torch.sin(1000 * self.head(self.feature(batch)))
