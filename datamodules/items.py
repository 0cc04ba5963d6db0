"""The data set that loaders read: `(index, draw)` pairs in, one collated batch out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["Batch", "Items", "Pair", "whole_batch"]

Batch = dict[str, Tensor]
"""`image` uint8 (B, 3, S, S), `label` int64 (B,), `index` int64 (B,), and the arrays of an attached feature cache."""

Pair = tuple[int, int]
"""Data set index and draw, as `EpochSampler` yields them."""


def whole_batch(batch: Any) -> Any:
    """Return the batch as it is: `Items.__getitems__` has collated it."""
    return batch


@dataclass(frozen=True, eq=False)
class Items(Dataset[Batch]):
    """Images, labels and indices, and the arrays of a feature cache if one is attached.

    Attributes:
        labels: (n,) class ids.
        image: From (index, draw) to the image uint8 (3, S, S) that a batch shows.
        arrays: Cached arrays (views, n, …); view 1 is that of the mirrored image.
        with_image: Put images into the batch; arrays show view 0 then.
        random_view: Choose a random view of the arrays by `draw`, where no image is in the batch.
    """

    labels: NDArray[np.int64]
    image: Callable[[int, int], Tensor]
    arrays: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    with_image: bool = True
    random_view: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, pair: Pair) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([pair]).items()}

    def __getitems__(self, pairs: Sequence[Pair]) -> Batch:
        indices = np.array([index for index, _ in pairs], dtype=np.int64)
        batch = {"label": torch.from_numpy(self.labels[indices]), "index": torch.from_numpy(indices)}
        views = np.zeros(len(pairs), dtype=np.int64)
        if self.arrays and self.random_view and not self.with_image:
            count = min(len(array) for array in self.arrays.values())
            views = np.array([draw % count for _, draw in pairs], dtype=np.int64)
        if self.with_image:
            batch["image"] = torch.stack([self.image(*pair) for pair in pairs])
        for name, array in self.arrays.items():
            batch[name] = torch.from_numpy(np.ascontiguousarray(array[views, indices]))
        return batch
