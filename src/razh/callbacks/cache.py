"""The output of a frozen trunk, computed once and memory-mapped."""

import time
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from razh.callbacks.fill import provide
from razh.datamodules.base import ZeroShotDataModule
from razh.datamodules.files.integrity import cache_folder
from razh.datamodules.items import CachedRows
from razh.features.arrays import CachedArray, Key, Source, compute, requested
from razh.features.store import CacheFolder
from razh.method import HashingMethod


class FeatureCache(Callback):
    """Compute what a frozen backbone makes of every image once, and train from the disk.

    Which arrays there are is declared in `razh.features.arrays`; a method names those that it reads. They lie in a
    folder named by what their values depend on (transform, network, frozen weights): another transform or other weights
    have another folder. In it, a row is found by the content of its image, so images may come, go, move and be in
    several data sets: only what is new is computed. Every row has a mark that is written after the row itself, so a run
    that was killed goes on where it stopped, and nothing half-written is ever read. Space is reserved before the first
    row: a full disk is an error at once. Two processes take turns; the devices of one run share the work.

    Where the whole network trains, only what it knew before is there to cache, and images are live beside it.
    View 0 of an image is the deterministic crop that evaluation sees, view 1 its mirror image (training only).
    """

    def __init__(self, enabled: bool = True, directory: str | None = None, flips: bool = True) -> None:
        """Build the callback.

        Args:
            enabled: False computes everything live.
            directory: where caches lie; default $RAZH_CACHE, or ~/.cache/razh.
            flips: also keep mirror images of the training images.
        """
        self.enabled, self.flips = enabled, flips
        if directory is not None and not directory.strip():
            raise ValueError("cache.directory is empty; is a variable not set? Give a folder, or leave it out")
        self.directory = Path(directory).expanduser() if directory else cache_folder()
        self.seconds = 0.0
        self._attached: tuple[str, ZeroShotDataModule] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fill the cache for this split and hand it to the data module."""
        method = cast("HashingMethod", pl_module)
        backbone, data = method.backbone, cast("ZeroShotDataModule", trainer.datamodule)  # type: ignore[attr-defined]
        live = not backbone.caches
        # Of a network that trains whole, only training needs anything.
        if not self.enabled or (live and not (method.cached_inputs and stage == "fit")):
            return
        source = Source(backbone, data.transform, data.image_size, method.views, method.view_size)
        if self._attached is not None and self._attached[0] == source.frozen_key and self._attached[1] is data:
            return
        started = time.perf_counter()
        backbone.to(trainer.strategy.root_device)
        was_training = backbone.training
        backbone.eval()
        arrays: dict[str, CachedRows] = {}
        for key, together in requested(method.cached_inputs, backbone).items():
            arrays |= self._rows(key, together, source, data, trainer, views=2 if self.flips and not live else 1)
        backbone.train(was_training)
        data.attach({name: arrays[name] for name in method.cached_inputs if name in arrays}, drop_image=not live)
        self._attached = source.frozen_key, data
        self.seconds += time.perf_counter() - started

    def _rows(
        self,
        key: Key,
        together: list[CachedArray],
        source: Source,
        data: ZeroShotDataModule,
        trainer: Trainer,
        *,
        views: int,
    ) -> dict[str, CachedRows]:
        """Return the arrays of one folder by name, which is complete then."""
        store = CacheFolder(self.directory / key.folder(source), {a.name: a.stored(source) for a in together})
        rows_of = partial(compute, together, source, device=trainer.strategy.root_device)
        where = provide(store, rows_of, min(views, together[0].views), data, trainer)
        # A mirror image without a row of its own: the image's is shown in its place.
        where = np.broadcast_to(where, (views, where.shape[1]))
        where = np.where(where < 0, where[:1], where)
        return {array.name: store.rows(array.name, where) for array in together}
