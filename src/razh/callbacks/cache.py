"""The output of a frozen trunk, computed once and memory-mapped."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from razh.backbones.timm import TimmBackbone
from razh.backbones.views import Views, views_key
from razh.distributed import world
from razh.progress import track

log = logging.getLogger(__name__)
OF_VIEWS = ("descriptors", "view_patches")  # arrays that hold all views of an image, for methods that ask for them
THUMBNAIL = 112  # side in pixels; enough for the targets of the reconstruction branches
FORMAT = 1  # part of the key: raise it when the meaning of the arrays changes


Shapes = dict[str, tuple[tuple[int, ...], str]]
"""By array, the shape of a row and its type."""

RowsOf = Callable[[TimmBackbone, Tensor, torch.device], dict[str, np.ndarray]]
"""From uint8 images (B, 3, S, S) to rows of the arrays."""


class FeatureCache(Callback):
    """Compute what a frozen backbone makes of every image once, and train from the disk.

    The arrays lie in a folder named by (data fingerprint, network, frozen weights): other data, another transform or
    other weights have another folder. Every row has a mark that is written after the row itself, so a run that was
    killed goes on where it stopped, and nothing half-written is ever read. Space is reserved before the first row: a
    full disk is an error at once. Two processes take turns; the devices of one run share the work.

    What is made of several views (`TimmBackbone.describe`, `embed_views`) has a folder of its own, and so has `kept`:
    the feature by the network as it was built, for methods that train layers and should not forget it. Where the whole
    network trains, that is all there is to cache, and images are live beside it.
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
        default = os.environ.get("RAZH_CACHE") or str(Path.home() / ".cache" / "razh")
        self.directory = Path(directory or default)
        self.seconds = 0.0
        self._attached: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fill the cache for this split and hand it to the data module."""
        backbone = getattr(pl_module, "backbone", None)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not self.enabled or not isinstance(backbone, TimmBackbone):
            return
        inputs = tuple(pl_module.cached_inputs)  # type: ignore[arg-type]
        live = not backbone.caches
        if live and not (inputs and stage == "fit"):  # of a network that trains whole, only training needs anything
            return
        key = cache_key(data.fingerprint, backbone)
        if self._attached == key:
            return
        started = time.perf_counter()
        backbone.to(trainer.strategy.root_device)
        views, count = 2 if self.flips and not live else 1, len(data.labels)
        arrays: dict[str, np.ndarray] = {}
        if wanted := [name for name in (*backbone.caches, "thumbnail") if name in inputs]:
            store = CacheFolder(self.directory / key, _shapes(backbone, data), views=views, count=count)
            self._provide(store, compute, backbone, data, trainer)
            # Only the views that were filled just now: an older cache may have room for more than that.
            arrays |= {name: store.open(name)[:views] for name in wanted}
        if "kept" in inputs:
            folder = self.directory / f"{cache_key(data.fingerprint, backbone, whole=True)}-feature"
            store = CacheFolder(folder, {"kept": ((backbone.feature_dim,), "float16")}, views=views, count=count)
            self._provide(store, compute_kept, backbone, data, trainer)
            arrays["kept"] = store.open("kept")[:views]
        for name in (name for name in OF_VIEWS if name in inputs):
            shown, size = cast("Views", pl_module.views), cast("int", pl_module.view_size)
            shape = view_shape(name, backbone, shown, size)
            made_by = cache_key(data.fingerprint, backbone, whole=name == "descriptors")
            folder = self.directory / f"{made_by}-{name}-{size}-{views_key(shown)}"
            store = CacheFolder(folder, {name: (shape, "float16")}, 1, count)
            self._provide(store, partial(compute_views, name=name, shown=shown, size=size), backbone, data, trainer)
            # The mirror image has no views of its own: the image's are shown in its place.
            kept = store.open(name)
            arrays[name] = np.broadcast_to(kept[:1], (views, *kept.shape[1:]))
        data.attach(arrays, drop_image=not live)
        self._attached = key
        self.seconds += time.perf_counter() - started

    def _provide(
        self, store: "CacheFolder", rows_of: RowsOf, backbone: TimmBackbone, data: Any, trainer: Trainer
    ) -> None:
        """Reserve the space and fill in what is missing, while other runs wait."""
        lock = FileLock(store.folder.with_name(f"{store.folder.name}.lock"))
        try:
            self._reserve(store, lock, trainer)
            self._fill(store, rows_of, backbone, data, trainer.strategy.root_device)
            trainer.strategy.barrier("cache filled")
        finally:
            lock.release()

    @staticmethod
    def _reserve(store: "CacheFolder", lock: FileLock, trainer: Trainer) -> None:
        """Let the first rank wait for its turn and reserve the space; all ranks learn how that went."""
        problem = None
        if trainer.is_global_zero:
            try:
                store.folder.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                store.reserve()
            except OSError as error:
                problem = str(error)
        problem, store.views = trainer.strategy.broadcast((problem, store.views))
        if problem is None and not trainer.strategy.reduce_boolean_decision(_appears(store.folder), all=True):
            problem = (
                f"not every node sees the feature cache {store.folder}; set --cache.directory (or RAZH_CACHE) to a "
                "disk that all nodes share, or --cache.enabled=false"
            )
        if problem is not None:  # on every rank, or the others would wait for ever
            raise OSError(problem)

    def _fill(
        self, store: "CacheFolder", rows_of: RowsOf, backbone: TimmBackbone, data: Any, device: torch.device
    ) -> None:
        split = data.split
        needed = np.zeros((store.views, store.count), dtype=bool)
        for name in ("train", "validation_query", "validation_database", "query", "database"):
            needed[0, getattr(split, name)] = True
        if store.views > 1 and self.flips:
            needed[1, split.train] = True
        done = store.open("done", mode="r+")
        missing = np.flatnonzero((needed & ~done.astype(bool)).any(axis=0))
        if not len(missing):
            log.info("features of %d images are cached in %s", needed[0].sum(), store.folder)
            return
        rank, size = world()
        mine = missing[missing % size == rank]  # by index: other ranks may have marked rows since `done` was read
        loader: DataLoader[dict[str, Tensor]] = DataLoader(
            _Images(data, mine),
            batch_size=32,
            num_workers=data.num_workers,
            generator=torch.Generator(),  # the global one must not know whether the cache was there already
        )
        log.info("caching the features of %d images in %s", len(missing), store.folder)
        was_training = backbone.training
        backbone.eval()
        rows: Iterator[dict[str, Tensor]] = iter(loader)
        if rank == 0:
            rows = iter(track(loader, description="caching features", total=len(loader)))
        for batch in rows:
            index = batch["index"].numpy()
            for view in range(store.views):
                chosen = needed[view, index] & ~done[view, index].astype(bool)
                if chosen.any():
                    images = batch["image"][torch.from_numpy(chosen)]
                    store.write(view, index[chosen], rows_of(backbone, images.flip(-1) if view else images, device))
        backbone.train(was_training)


def _appears(folder: Path, seconds: float = 60.0) -> bool:
    """Tell whether another node's folder can be seen; network disks may show it late."""
    end = time.monotonic() + seconds
    while not (folder / "complete.json").is_file():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


class _Images(Dataset[dict[str, Tensor]]):
    """Images by dataset index, as evaluation sees them."""

    def __init__(self, data: Any, indices: np.ndarray) -> None:
        self.data, self.indices = data, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        index = int(self.indices[position])
        return {"index": torch.tensor(index), "image": self.data.evaluation_image(index)}


class CacheFolder:
    """A folder of memory-mapped arrays (views, n, …) with a mark for every row that is complete."""

    def __init__(self, folder: Path, shapes: Shapes, views: int, count: int) -> None:
        self.folder, self.shapes, self.views, self.count = folder, shapes, views, count

    def reserve(self) -> None:
        """Create the arrays with all their space.

        Raises:
            OSError: the disk has not enough room; nothing is left behind.
        """
        # Views are files' first axis; a cache made with flips serves a run without them, not the other way round.
        if (self.folder / "complete.json").is_file():
            kept = json.loads((self.folder / "complete.json").read_text())
            if kept["views"] >= self.views and kept["count"] == self.count:
                self.views = kept["views"]
                return
        sizes = {name: self.views * self.count * _bytes(*spec) for name, spec in self.shapes.items()}
        need, parent = sum(sizes.values()), self.folder.parent
        free = shutil.disk_usage(parent).free
        if need > free:
            raise OSError(
                f"the feature cache needs {need / 1e9:.1f} GB in {parent}, which has {free / 1e9:.1f} GB free; "
                "make room, set --cache.directory, or --cache.enabled=false"
            )
        part = parent / f"{self.folder.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            for name, (shape, dtype) in (self.shapes | {"done": ((), "uint8")}).items():
                _allocate(part / f"{name}.npy", (self.views, self.count, *shape), dtype)
            (part / "complete.json").write_text(json.dumps({"views": self.views, "count": self.count}))
            shutil.rmtree(self.folder, ignore_errors=True)
            part.rename(self.folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise OSError(
                f"cannot reserve {need / 1e9:.1f} GB for the feature cache in {parent} ({error.strerror or error}); "
                "make room, set --cache.directory, or --cache.enabled=false"
            ) from error

    def open(self, name: str, mode: Literal["r", "r+"] = "r") -> np.ndarray:
        """Return an array (views, n, …), memory-mapped."""
        return np.load(self.folder / f"{name}.npy", mmap_mode=mode)  # type: ignore[no-any-return]

    def write(self, view: int, index: np.ndarray, rows: dict[str, np.ndarray]) -> None:
        """Write rows, then mark them as complete."""
        for name, values in rows.items():
            array = self.open(name, mode="r+")
            array[view, index] = values
            array.flush()  # type: ignore[attr-defined]
        done = self.open("done", mode="r+")
        done[view, index] = 1
        done.flush()  # type: ignore[attr-defined]


def _allocate(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Create an .npy file whose blocks are really there: a hole that cannot be filled later would be a bus error."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def _shapes(backbone: TimmBackbone, data: Any) -> Shapes:
    side = min(THUMBNAIL, data.image_size)
    shapes: Shapes = {
        "patches": ((backbone.prefix + backbone.num_patches, backbone.dim), "float16"),
        "feature": ((backbone.feature_dim,), "float16"),
    }
    return {name: shapes[name] for name in backbone.caches} | {"thumbnail": ((3, side, side), "uint8")}


@torch.no_grad()
def compute(backbone: TimmBackbone, images: Tensor, device: torch.device) -> dict[str, np.ndarray]:
    """Return the rows of the cache for uint8 images (B, 3, S, S)."""
    parts: dict[str, list[Tensor]] = {}
    for chunk in _chunks(images, device):
        patches = backbone.embed(chunk)
        rows = {"patches": patches.half()}
        if "feature" in backbone.caches:
            rows["feature"] = backbone.encode(patches).half()
        side = min(THUMBNAIL, chunk.shape[-1])
        rows["thumbnail"] = F.interpolate(chunk.float(), (side, side), mode="area").round().to(torch.uint8)
        for name, row in rows.items():
            parts.setdefault(name, []).append(row.cpu())
    return _checked({name: torch.cat(part) for name, part in parts.items()}, backbone)


@torch.no_grad()
def compute_kept(backbone: TimmBackbone, images: Tensor, device: torch.device) -> dict[str, np.ndarray]:
    """Return `kept`, the feature by the whole network as it is, for uint8 images (B, 3, S, S)."""
    rows = [backbone.encode(backbone.embed(chunk)).half().cpu() for chunk in _chunks(images, device)]
    return _checked({"kept": torch.cat(rows)}, backbone)


@torch.no_grad()
def compute_views(
    backbone: TimmBackbone, images: Tensor, device: torch.device, name: str, shown: Views, size: int
) -> dict[str, np.ndarray]:
    """Return an array of `OF_VIEWS` for uint8 images (B, 3, S, S), of views with sides of `size` pixels."""
    make = backbone.describe if name == "descriptors" else backbone.embed_views
    rows = [make(chunk, shown, size).half().cpu() for chunk in _chunks(images, device)]
    return _checked({name: torch.cat(rows)}, backbone)


def view_shape(name: str, backbone: TimmBackbone, shown: Views, size: int) -> tuple[int, ...]:
    """Return the shape of an image's row in an array of `OF_VIEWS`."""
    if name == "descriptors":
        return (len(shown), backbone.descriptor_dim)
    return (sum(backbone.count_patches(shown, size)), backbone.dim)


def _chunks(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Yield images on the device; few at a time on a CPU, whose caches hold the maps of few images only."""
    for chunk in torch.split(images, 4 if device.type == "cpu" else max(len(images), 1)):
        yield chunk.to(device)


def _checked(rows: dict[str, Tensor], backbone: TimmBackbone) -> dict[str, np.ndarray]:
    for name, row in rows.items():
        if not row.isfinite().all():
            raise ValueError(f"{name} of {backbone.name} overflow half precision; set --cache.enabled=false")
    return {name: row.numpy() for name, row in rows.items()}


def cache_key(data_fingerprint: str, backbone: TimmBackbone, whole: bool = False) -> str:
    """Return the name of the folder for these images, this network and its frozen weights, or the `whole` network's."""
    cut = "" if whole else f" {backbone.split} {backbone.freeze}"
    digest = hashlib.sha256(f"{FORMAT} {data_fingerprint} {backbone.name}{cut}".encode())
    state = backbone.model.state_dict() if whole else backbone.frozen_state()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return f"{backbone.name.replace('/', '_')}-{digest.hexdigest()[:16]}"
