"""The data set that loaders read: `(index, draw)` pairs in, one collated batch out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["Array", "Batch", "CachedRows", "Items", "Pair", "whole_batch"]

Batch = dict[str, Tensor]
"""`image` uint8 (B, 3, S, S), `label` int64 (B,), `index` int64 (B,), and the arrays of an attached feature cache."""

Pair = tuple[int, int]
"""Data set index and draw, as `EpochSampler` yields them."""


class Array(Protocol):
    """Values (views, n, …) by view and data set index: a NumPy array, or `CachedRows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (views, n, …)."""

    def __getitem__(self, at: tuple[NDArray[np.int64], NDArray[np.int64]], /) -> NDArray[Any]:
        """Return the rows (B, …) of these views (B,) and indices (B,)."""


class CachedRows:
    """Rows by view and data set index that lie, in any order, in .npy files: only those asked for are read.

    A copy in another process opens the files again.

    Args:
        files: Arrays (rows, …) of one type, counted through in this order.
        where: (views, n) int64, the row of each view of each image; −1 where there is none.
    """

    def __init__(self, files: Sequence[Path], where: NDArray[np.int64]) -> None:
        self.files, self.where = tuple(files), where
        self._arrays: list[NDArray[Any]] = [np.load(file, mmap_mode="r") for file in files]
        self._starts = np.cumsum([0, *(len(array) for array in self._arrays)])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (views, n, …)."""
        return (*self.where.shape, *self._arrays[0].shape[1:])

    def __getitem__(self, at: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[Any]:
        """Return the rows (B, …) of these views (B,) and indices (B,).

        Raises:
            IndexError: One of them is not there.
        """
        rows = self.where[at]
        if (rows < 0).any():
            raise IndexError(f"image {at[1][rows < 0][0]} is not in the cache; it is in no list of the split")
        if len(self._arrays) == 1:
            return np.asarray(self._arrays[0][rows])
        found = np.empty((len(rows), *self.shape[2:]), dtype=self._arrays[0].dtype)
        files = np.searchsorted(self._starts, rows, side="right") - 1
        for file in np.unique(files):
            found[files == file] = self._arrays[file][rows[files == file] - self._starts[file]]
        return found

    def __reduce__(self) -> tuple[type[CachedRows], tuple[tuple[Path, ...], NDArray[np.int64]]]:
        return CachedRows, (self.files, self.where)


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
    arrays: Mapping[str, Array] = field(default_factory=dict)
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
            count = min(array.shape[0] for array in self.arrays.values())
            views = np.array([draw % count for _, draw in pairs], dtype=np.int64)
        if self.with_image:
            batch["image"] = torch.stack([self.image(*pair) for pair in pairs])
        for name, array in self.arrays.items():
            batch[name] = torch.from_numpy(np.ascontiguousarray(array[views, indices]))
        return batch
