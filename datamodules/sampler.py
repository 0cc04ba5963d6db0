"""The order of a data set's images: one for all devices, and independent of the number of loader workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from razh.datamodules.seeded import draw_numbers, draw_order

__all__ = ["EpochSampler"]

_ORDER, _DRAW = 1, 2  # keys that keep the two kinds of choice apart


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield `(index, draw)` pairs of one rank.

    Training (`shuffle=True`): the order is a permutation from (seed, epoch) which all ranks share; rank r takes the
    elements r, r + world_size, … after the remainder was cut, so that every rank has the same number of full batches.
    The k-th batches of all ranks together are therefore the k-th batch of a single process with `world_size` times the
    batch size. Where there is less than one full batch for each rank, each takes the one smaller batch that there is,
    and if there are fewer images than ranks, images repeat. `draw` is a 63-bit integer from (seed, epoch, position): a
    random transform that is a function of it does not depend on loader workers.

    Evaluation (`shuffle=False`): rank r takes indices r, r + world_size, … in order. Nothing is padded or repeated, so
    ranks may differ by one image; every `draw` is 0.

    Args:
        indices: Data set indices to visit, (n,).
        batch_size: Images a batch and rank; only training uses it, to cut the remainder.
        shuffle: Training order instead of evaluation order.
        seed: Seed of orders and draws.
        rank: This process, 0 … world_size − 1.
        world_size: Number of processes.
        epoch: The epoch whose order comes first.
        batches_done: Batches of that epoch that a run that goes on has trained on already; they are left out.

    Raises:
        ValueError: `rank` is not below `world_size`, `batch_size` is not positive, or there is nothing to train on.
    """

    def __init__(
        self,
        indices: NDArray[np.int64],
        batch_size: int = 1,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        batches_done: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}, but must lie in 0 … {world_size - 1} for world_size {world_size}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
        if shuffle and len(indices) == 0:
            raise ValueError("indices is empty: no image to train on; lower validation_class_share or check the split")
        self.indices = np.asarray(indices, dtype=np.int64)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.batches_done = epoch, batches_done

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration yields; Lightning calls this before each epoch."""
        if epoch != self.epoch:
            self.epoch, self.batches_done = epoch, 0

    def __len__(self) -> int:
        if not self.shuffle:
            return len(range(self.rank, len(self.indices), self.world_size))
        share = len(self.indices) // self.world_size
        return share // self.batch_size * self.batch_size or max(share, 1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if not self.shuffle:
            yield from ((int(index), 0) for index in self.indices[self.rank :: self.world_size])
            return
        order = draw_order(len(self.indices), self.seed, self.epoch, _ORDER)
        draws = draw_numbers(len(self) * self.world_size, self.seed, self.epoch, _DRAW)
        done = self.batches_done * self.batch_size * self.world_size
        for position in range(done + self.rank, len(draws), self.world_size):
            yield int(self.indices[order[position % len(order)]]), int(draws[position])
