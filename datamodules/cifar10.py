"""CIFAR-10 (Krizhevsky, 2009): 60,000 images of 32 × 32 pixels, 10 classes, no attributes of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from razh.datamodules.annotations import Annotations
from razh.datamodules.base import ZeroShotDataModule
from razh.datamodules.files.paths import expanded
from razh.datamodules.files.tables import read_array, read_class_table, read_lines, some
from razh.datamodules.files.walk import Walk
from razh.datamodules.protocols import Protocol

__all__ = ["CIFAR10DataModule"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes

ATTRIBUTES = {
    "animal": "bird cat deer dog frog horse",
    "vehicle": "airplane automobile ship truck",
    "wheels": "airplane automobile truck",
    "rows of windows": "airplane ship",
    "wings": "airplane bird",
    "sharp claws": "bird cat",
    "on the road": "automobile truck",
    "in or on water": "frog ship",
    "carries many people or goods": "airplane ship truck",
    "cargo bed": "truck",
    "fur": "cat deer dog horse",
    "moist bare skin": "frog",
    "four legs": "cat deer dog frog horse",
    "hooves": "deer horse",
    "antlers": "deer",
    "beak": "bird",
    "tail": "airplane bird cat deer dog horse",
    "lives in homes": "cat dog",
    "larger than a person": "airplane automobile deer horse ship truck",
    "hunts": "bird cat dog frog",
    "barks": "dog",
}
"""The authors of `razh` wrote this table for the default; it is no published annotation."""


class CIFAR10DataModule(ZeroShotDataModule):
    """CIFAR-10 for zero-shot hashing.

    `root` or a folder below it holds the *binary version* (`cifar-10-batches-bin/` with `data_batch_1.bin` to
    `data_batch_5.bin`, `test_batch.bin` and `batches.meta.txt`), or it holds a tree `{train,test}/CLASS/*`. The Python
    version is not read: it consists of pickles, which can run code. Training images come first, then test images.

    The two unseen classes of `cifar-8-2` are drawn by `split_seed`: the papers leave out different ones.

    Args:
        root: Folder of the data set.
        protocol: Name of the split.
        class_attributes_file: Attributes of the classes: a table (`class,attribute,…`, values in [0, 1]), or a .npy or
            .npz (`file.npz:key`) with one vector a class, whose columns are then scaled to [0, 1] and count as
            attributes. None: the small table in this module.
        kwargs: Arguments of `ZeroShotDataModule`.
    """

    dataset = "cifar10"
    title = "CIFAR-10"
    subfolder = "cifar-10-batches-bin"
    protocols: ClassVar = {"cifar-8-2": Protocol(unseen_count=2, train_per_class=500, query_per_class=100)}

    def __init__(
        self, root: str, protocol: str = "cifar-8-2", class_attributes_file: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(root, protocol, **kwargs)
        self.class_attributes_file = expanded(class_attributes_file, "class_attributes_file")

    def read_annotations(self) -> Annotations:
        """Read labels and list images of whichever layout is there, see the base class."""
        if self._is_binary:
            names = tuple(read_lines(self.folder / "batches.meta.txt"))
            labels, paths = np.concatenate([batch[:, 0] for batch in self._batches]).astype(np.int64), []
        elif (self.folder / "train").is_dir():
            names = CLASSES
            walk = Walk()
            listed = [
                (label, f"{part}/{name}/{file}")
                for part in ("train", "test")
                for label, name in enumerate(names)
                for file in walk.images(self.folder / part / name, below=False)
            ]
            walk.report(str(self.folder))
            labels, paths = np.array([label for label, _ in listed], dtype=np.int64), [path for _, path in listed]
        else:
            raise FileNotFoundError(
                f"no CIFAR-10 images at {self.root}; run `razh data cifar10`, pass --data_root=…, "
                "or train on --dataset=synthetic (reads the binary version or {train,test}/CLASS, no pickles)"
            )
        attributes, values = self._attributes(names)
        return Annotations(labels, names, attributes, values, tuple(paths))

    def load_image(self, index: int) -> Tensor:
        """Return image `index`, uint8 (3, 32, 32), see the base class."""
        if not self._is_binary:
            return super().load_image(index)
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        pixels = self._batches[batch][index - self._starts[batch], 1:]
        return torch.from_numpy(np.array(pixels)).view(3, 32, 32)

    def image_signatures(self) -> Sequence[str]:
        """Return a digest of each image, see the base class."""
        if not self._is_binary:
            return super().image_signatures()
        return [hashlib.sha256(record[1:]).hexdigest() for batch in self._batches for record in batch]

    @cached_property
    def _is_binary(self) -> bool:
        return (self.folder / BINARY_FILES[0]).is_file()

    @cached_property
    def _batches(self) -> list[NDArray[np.uint8]]:
        """The six batch files as memory maps (images, 3073)."""
        return [_batch(self.folder / name) for name in BINARY_FILES]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Index of the first image of each batch file."""
        return np.cumsum([0, *(len(batch) for batch in self._batches)])[:-1]

    def _attributes(self, classes: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        file = self.class_attributes_file
        if file is None:
            table = [[float(name in having.split()) for having in ATTRIBUTES.values()] for name in classes]
            return tuple(ATTRIBUTES), np.array(table, dtype=np.float32)
        if not file.endswith((".npy", ".npz")) and ".npz:" not in file:
            listed, attributes, values = read_class_table(Path(file))
            if missing := [name for name in classes if name not in listed]:
                raise ValueError(f"class_attributes_file is {file!r}, which has no row for {some(missing)}; add it")
            return attributes, values[[listed.index(name) for name in classes]]
        vectors = read_array(file, "class_attributes_file")
        if vectors.ndim != 2 or len(vectors) != len(classes) or not np.isfinite(vectors).all():
            raise ValueError(
                f"class_attributes_file is {file!r} with shape {vectors.shape}, but must hold {len(classes)} rows of "
                f"finite numbers, in the order {', '.join(classes[:3])} …"
            )
        lowest, highest = vectors.min(axis=0), vectors.max(axis=0)
        scaled = (vectors - lowest) / np.where(highest > lowest, highest - lowest, 1)
        return tuple(f"dimension {column}" for column in range(vectors.shape[1])), scaled


def _batch(path: Path) -> NDArray[np.uint8]:
    if not path.is_file():
        raise FileNotFoundError(f"no image file {path}; unpack the binary version of CIFAR-10 again")
    size = path.stat().st_size
    if size == 0 or size % RECORD:
        raise OSError(
            f"image file {path} has {size} bytes, which is no multiple of {RECORD}: it is cut short; fetch it again"
        )
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, RECORD)
