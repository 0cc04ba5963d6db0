"""Filling a cache: the processes of a run agree on what is missing, take shares of it, and wait for each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from razh.datamodules.base import ZeroShotDataModule
from razh.features.store import CacheFolder, row_keys
from razh.support.distributed import world
from razh.support.progress import track

__all__ = ["RowsOf", "provide"]

log = logging.getLogger(__name__)

RowsOf: TypeAlias = Callable[[Tensor], dict[str, np.ndarray]]
"""From uint8 images (B, 3, S, S) to rows of the arrays of a folder."""


class _Plan(NamedTuple):
    """What the first rank found in a folder: the row of each view of each image, and which of them are to be made."""

    segments: list[str]
    where: np.ndarray  # (views, n), −1 for what no list of the split needs
    missing: np.ndarray  # (views, n) bool, of images with equal content the first one only


def provide(store: CacheFolder, rows_of: RowsOf, views: int, data: ZeroShotDataModule, trainer: Trainer) -> np.ndarray:
    """Reserve the space and fill in what is missing, while other runs wait; return the rows (views, n).

    Args:
        store: the folder.
        rows_of: computes what is missing.
        views: 2 to keep rows of the training images' mirror images, too.
        data: whose images are needed.
        trainer: knows the other processes of the run.

    Raises:
        OSError: the folder cannot be written, has no room, or is not seen by all nodes.
    """
    lock = FileLock(store.folder.with_name(f"{store.folder.name}.lock"))
    try:
        plan = _agree(store, lock, views, data, trainer)
        _fill(plan, store, rows_of, data)
        trainer.strategy.barrier("cache filled")
    finally:
        lock.release()
    return plan.where


def _agree(store: CacheFolder, lock: FileLock, views: int, data: ZeroShotDataModule, trainer: Trainer) -> _Plan:
    """Let the first rank wait for its turn and plan; all ranks learn the plan, or how that went wrong."""
    plan, problem = None, None
    if trainer.is_global_zero:
        try:
            store.folder.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            plan = _plan(store, views, data)
        except OSError as error:
            problem = str(error)
    plan, problem = trainer.strategy.broadcast((plan, problem))
    if plan is not None:
        store.segments = plan.segments
        if trainer.strategy.reduce_boolean_decision(store.appears(), all=True):
            return plan
        problem = (
            f"not every node sees the feature cache {store.folder}; set --cache.directory (or RAZH_CACHE) to a "
            "disk that all nodes share, or --cache.enabled=false"
        )
    raise OSError(problem)  # on every rank, or the others would wait for ever


def _plan(store: CacheFolder, views: int, data: ZeroShotDataModule) -> _Plan:
    """Find the rows that the split needs, and reserve space for those that are not there."""
    split = data.split
    needed = np.zeros((views, len(data.labels)), dtype=bool)
    for rows in (split.train, split.validation_query, split.validation_database, split.query, split.database):
        needed[0, rows] = True
    needed[1:, split.train] = True
    signatures = data.image_signatures()
    keys = np.stack([row_keys(signatures, view) for view in range(views)])[needed]
    store.look()
    rows, _ = store.find(keys)
    if (rows < 0).any():
        absent, first = np.unique(keys[rows < 0], return_index=True)
        store.reserve(absent[np.argsort(first)])
    rows, done = store.find(keys)
    once = np.zeros(len(rows), dtype=bool)
    once[np.unique(rows, return_index=True)[1]] = True
    where, missing = np.full(needed.shape, -1), np.zeros(needed.shape, dtype=bool)
    where[needed], missing[needed] = rows, once & ~done
    return _Plan(store.segments, where, missing)


def _fill(plan: _Plan, store: CacheFolder, rows_of: RowsOf, data: ZeroShotDataModule) -> None:
    """Compute this rank's share of what is missing."""
    missing = np.flatnonzero(plan.missing.any(axis=0))
    if not len(missing):
        log.info("features of %d images are cached in %s", (plan.where[0] >= 0).sum(), store.folder)
        return
    rank, size = world()
    loader: DataLoader[dict[str, Tensor]] = DataLoader(
        _Images(data, np.array_split(missing, size)[rank]),  # neighbours: ranks seldom write to one page of a file
        batch_size=32,
        num_workers=data.num_workers,
        generator=torch.Generator(),  # the global one must not know whether the cache was there already
    )
    log.info("caching the features of %d images in %s", len(missing), store.folder)
    batches: Iterator[dict[str, Tensor]] = iter(loader)
    if rank == 0:
        batches = iter(track(loader, description="caching features", total=len(loader)))
    for batch in batches:
        index = batch["index"].numpy()
        for view, absent in enumerate(plan.missing):
            chosen = absent[index]
            if chosen.any():
                images = batch["image"][torch.from_numpy(chosen)]
                values = rows_of(images.flip(-1) if view else images)
                store.write(plan.where[view, index[chosen]], values)


class _Images(Dataset[dict[str, Tensor]]):
    """Images by dataset index, as evaluation sees them."""

    def __init__(self, data: ZeroShotDataModule, indices: np.ndarray) -> None:
        self.data, self.indices = data, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        index = int(self.indices[position])
        return {"index": torch.tensor(index), "image": self.data.evaluation_image(index)}
