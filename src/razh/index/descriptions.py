"""What codes of a collection are fitted to, kept in the feature cache."""

from __future__ import annotations

import hashlib
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

from razh import __version__
from razh.datamodules.files.integrity import cache_folder, check_images
from razh.datamodules.images import TRANSFORM, evaluation_view, read_image
from razh.datamodules.items import CachedRows
from razh.features.arrays import ARRAYS, compute
from razh.features.arrays import Source as Features
from razh.features.store import CacheFolder, Shapes, row_keys
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
    """What codes of a collection are fitted to (n, E), as `HashingMethod.collection_input` gives it.

    Rows are read when they are asked for.

    Args:
        method: that hashes images.
        pictures: the images.
        array: name of the cached array.
        cached: its rows (1, n, …).
        logits: hash logits by the method itself (1, n, L), where they are cached, too.
    """

    def __init__(
        self,
        method: HashingMethod,
        pictures: Pictures,
        array: str,
        cached: CachedRows,
        logits: CachedRows | None = None,
    ) -> None:
        self.method, self.pictures, self.array, self.cached, self._logits = method, pictures, array, cached, logits
        self.shape = (cached.shape[1], cached.shape[-1])

    def __getitem__(self, at: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Return the rows (B, E) at these positions (B,)."""
        rows = np.asarray(self.cached[np.zeros_like(at), at], dtype=np.float32)
        return rows.mean(axis=1) if rows.ndim == 3 else rows  # of several views, the mean

    @torch.inference_mode()
    def logits(self, at: NDArray[np.int64]) -> Tensor:
        """Return the hash logits (B, L) by the method itself of the images at these positions (B,)."""
        if self._logits is not None:
            return torch.from_numpy(np.asarray(self._logits[np.zeros_like(at), at]))
        device, found = self.method.device, []
        for some in np.array_split(at, -(-len(at) // BATCH)):
            name = "feature" if self.array == "kept" else self.array  # of a frozen network they are the same
            if self.method.backbone.freeze == "all" and set(self.method.cached_inputs) <= {name}:
                batch = {name: torch.from_numpy(np.ascontiguousarray(self.cached[np.zeros_like(some), some])).float()}
            else:  # what else the code may be made of is not cached
                batch = {"image": torch.stack([self.pictures.load(int(position)) for position in some])}
            found.append(self.method.hash_logits({key: value.to(device) for key, value in batch.items()}).float().cpu())
        return torch.cat(found)


def describe(method: HashingMethod, pictures: Pictures, what: str, origin: str = "") -> Descriptions:
    """Return what codes of images are fitted to; only what is not in the cache yet is computed.

    A row is found by the content of its image, and marked when it is whole: work that was interrupted goes on.

    Args:
        method: in evaluation mode.
        pictures: the images.
        what: they are, for the progress bar.
        origin: SHA-256 of the method's checkpoint; its options make a difference, too, and weights do not tell them.

    Raises:
        OSError: the cache cannot be written, or an image cannot be read any more.
    """
    made = _OfCheckpoint(method, origin) if method.collection_array is None else _OfNetwork(method)
    store = CacheFolder(cache_folder() / made.folder, made.shapes)
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
            store.write(rows[position.numpy()], made.compute(images))
    first, *others = (store.rows(name, rows[None]) for name in made.shapes)
    return Descriptions(method, pictures, next(iter(made.shapes)), first, *others)


class _OfNetwork:
    """Rows that the network alone makes: every checkpoint of the same network finds them."""

    def __init__(self, method: HashingMethod) -> None:
        assert method.collection_array is not None, "asked before"
        self.method, self.array = method, ARRAYS[method.collection_array]
        self.source = Features(method.backbone, TRANSFORM, method.backbone.image_size, method.views, method.view_size)
        self.folder = self.array.key.folder(self.source)
        self.shapes: Shapes = {self.array.name: self.array.stored(self.source)}

    def compute(self, images: Tensor) -> dict[str, NDArray[Any]]:
        """Return the rows of uint8 images (B, 3, S, S), by the name of the array."""
        return compute([self.array], self.source, images, self.method.device)


class _OfCheckpoint:
    """Rows that layers have a part in which were trained: only this checkpoint finds them, and its own codes with them.

    Both are made by one pass of the network.
    """

    def __init__(self, method: HashingMethod, origin: str) -> None:
        assert origin, "layers that were trained are those of a checkpoint"
        self.method = method
        key = hashlib.sha256(f"{__version__} {TRANSFORM} {origin}".encode()).hexdigest()[:16]
        self.folder = f"{method.backbone.name.replace('/', '_')}-checkpoint-{key}"
        side = method.backbone.image_size
        rows = self.compute(torch.zeros(1, 3, side, side, dtype=torch.uint8))
        self.shapes: Shapes = {name: (value.shape[1:], str(value.dtype)) for name, value in rows.items()}

    @torch.inference_mode()
    def compute(self, images: Tensor) -> dict[str, NDArray[Any]]:
        """Return the rows of uint8 images (B, 3, S, S), by name."""
        batch = {"image": images.to(self.method.device)}
        if not self.method.views:
            batch["patches"] = self.method.patches(batch)
        rows, logits = self.method.collection_input(batch), self.method.hash_logits(batch)
        return {"rows": rows.half().cpu().numpy(), "logits": logits.float().cpu().numpy()}


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
