"""What a network makes of any images, kept in the feature cache: what codes are fitted to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from razh.datamodules.files.integrity import cache_folder, check_images
from razh.datamodules.images import TRANSFORM, evaluation_view, read_image
from razh.datamodules.items import CachedRows
from razh.features.arrays import ARRAYS, compute
from razh.features.arrays import Source as Features
from razh.features.store import CacheFolder, row_keys
from razh.index.options import MOST_WORKERS
from razh.index.sources import Source
from razh.method import HashingMethod
from razh.support.processes import cores
from razh.support.progress import track

__all__ = ["Descriptions", "Pictures", "describe", "pictures_of"]

log = logging.getLogger(__name__)
BATCH = 16


class Pictures(NamedTuple):
    """Images to describe.

    Attributes:
        signatures: of n images, by their content.
        load: from a position to the image as evaluation sees it, uint8 (3, S, S).
        workers: processes that decode images; None for one a core, up to `MOST_WORKERS`.
    """

    signatures: Sequence[str]
    load: Callable[[int], Tensor]
    workers: int | None = None


def pictures_of(source: Source, size: int, max_megapixels: float, workers: int | None) -> tuple[Pictures, list[str]]:
    """Return the images of files that can be read, each content once, and why others cannot.

    Args:
        source: the files.
        size: side S of an image in pixels.
        max_megapixels: larger images are left out.
        workers: see `Pictures`.
    """
    files = [file.absolute() for file in source.files]
    folder = files[0].parents[-1]
    checked = check_images(folder, [file.relative_to(folder).as_posix() for file in files], max_megapixels)
    good = {image.signature: file for file, image in zip(files, checked, strict=True) if not image.problem}
    problems = [image.problem for image in checked if image.problem]
    load = partial(_read, list(good.values()), size, max_megapixels)
    return Pictures(list(good), load, workers), problems


def _read(files: Sequence[Any], size: int, max_megapixels: float, position: int) -> Tensor:
    return evaluation_view(read_image(files[position], max_megapixels=max_megapixels), size)


class Descriptions:
    """Descriptions (n, D) of images as `HashingMethod.description` gives them; rows are read when they are asked for.

    Args:
        method: that hashes images.
        pictures: the images.
        array: name of the cached array.
        cached: its rows (1, n, …).
    """

    def __init__(self, method: HashingMethod, pictures: Pictures, array: str, cached: CachedRows) -> None:
        self.method, self.pictures, self.array, self.cached = method, pictures, array, cached
        self.shape = (cached.shape[1], cached.shape[-1])

    def __getitem__(self, at: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Return the rows (B, D) at these positions (B,)."""
        rows = np.asarray(self.cached[np.zeros_like(at), at], dtype=np.float32)
        return rows.mean(axis=1) if rows.ndim == 3 else rows  # of several views, the mean

    @torch.inference_mode()
    def logits(self, at: NDArray[np.int64]) -> Tensor:
        """Return the hash logits (B, L) by the method itself of the images at these positions (B,)."""
        device, found = self.method.device, []
        for some in np.array_split(at, -(-len(at) // BATCH)):
            name = "feature" if self.array == "kept" else self.array  # of a frozen network they are the same
            if self.method.backbone.freeze == "all" and set(self.method.cached_inputs) <= {name}:
                batch = {name: torch.from_numpy(np.ascontiguousarray(self.cached[np.zeros_like(some), some])).float()}
            else:  # what else the code may be made of is not cached
                batch = {"image": torch.stack([self.pictures.load(int(position)) for position in some])}
            found.append(self.method.hash_logits({key: value.to(device) for key, value in batch.items()}).float().cpu())
        return torch.cat(found)


def describe(method: HashingMethod, pictures: Pictures, what: str) -> Descriptions:
    """Return the descriptions of images; only those that are not in the cache yet are computed.

    A row is found by the content of its image, and marked when it is whole: work that was interrupted goes on.

    Args:
        method: in evaluation mode.
        pictures: the images.
        what: they are, for the progress bar.

    Raises:
        OSError: the cache cannot be written, or an image cannot be read any more.
    """
    array = ARRAYS[method.description_array]
    source = Features(method.backbone, TRANSFORM, method.backbone.image_size, method.views, method.view_size)
    store = CacheFolder(cache_folder() / array.key.folder(source), {array.name: array.stored(source)})
    store.folder.parent.mkdir(parents=True, exist_ok=True)
    keys = row_keys(pictures.signatures, 0)
    with FileLock(store.folder.with_name(f"{store.folder.name}.lock")):
        store.look()
        rows, _ = store.find(keys)
        if (rows < 0).any():
            store.reserve(np.unique(keys[rows < 0]))
        rows, done = store.find(keys)
        absent = np.flatnonzero(~done)
        if len(absent) < len(keys):
            log.info("%s: %d of %d are cached in %s", what, len(keys) - len(absent), len(keys), store.folder)
        loader = _loader(pictures, absent)
        for position, images in track(loader, what, len(loader)):
            store.write(rows[position.numpy()], compute([array], source, images, method.device))
    return Descriptions(method, pictures, array.name, store.rows(array.name, rows[None]))


def _loader(pictures: Pictures, positions: NDArray[np.int64]) -> DataLoader[tuple[Tensor, Tensor]]:
    workers = min(cores(), MOST_WORKERS) if pictures.workers is None else pictures.workers
    return DataLoader(_Positions(pictures.load, positions), batch_size=BATCH, num_workers=min(workers, len(positions)))


class _Positions(Dataset[Any]):
    """Images by position."""

    def __init__(self, load: Callable[[int], Tensor], positions: NDArray[np.int64]) -> None:
        self.load, self.positions = load, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, at: int) -> tuple[int, Tensor]:
        return int(self.positions[at]), self.load(int(self.positions[at]))
