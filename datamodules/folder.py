"""Your own images: a folder for each class, and a CSV with the classes' attributes."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.annotations import Annotations
from datamodules.base import ZeroShotDataModule
from datamodules.images import list_images
from datamodules.protocols import Protocol
from datamodules.tables import read_class_table

__all__ = ["FolderDataModule"]


class FolderDataModule(ZeroShotDataModule):
    """Images at `root/CLASS/*` and a table `class,attribute,…` of numbers.

    Class ids follow the rows of the table. Attributes beyond [0, 1] are scaled, column by column, to [0, 1].

    Args:
        root: Folder with one folder of images for each class.
        protocol: `unseen-K%`, or `listed` for the classes in `unseen_classes`.
        attributes_file: The table; None: `attributes.csv` in `root`.
        unseen_classes: Names of the unseen classes, a list or with commas between them; of each seen class 80 % train
            and the rest is in the database, every other unseen image is a query. Implies the protocol `listed`.
        kwargs: Arguments of `ZeroShotDataModule`.

    Raises:
        ValueError: Table and folders do not name the same classes, or a cell is no number.
    """

    dataset = "folder"
    title = "class/image"

    def __init__(
        self,
        root: str,
        protocol: str = "unseen-20%",
        attributes_file: str | None = None,
        unseen_classes: Sequence[str | int] | str = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(root, "listed" if unseen_classes else protocol, **kwargs)
        self.attributes_file = Path(attributes_file) if attributes_file is not None else self.root / "attributes.csv"
        named = unseen_classes.split(",") if isinstance(unseen_classes, str) else unseen_classes
        self.unseen_classes = tuple(unicodedata.normalize("NFC", str(name).strip()) for name in named)

    def read_annotations(self) -> Annotations:
        """Read the table and list the folders, see the base class."""
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"no class/image folders at {self.root}; pass DATA_ROOT=…, or train on DATASET=synthetic"
            )
        classes, attributes, values = read_class_table(self.attributes_file)
        there = [path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        # A Mac writes umlauts as two characters, where a table has one.
        folders = {unicodedata.normalize("NFC", name): name for name in there}
        if len(folders) < len(there):
            twice = next(name for name in there if folders[unicodedata.normalize("NFC", name)] != name)
            raise ValueError(
                f"two folders in {self.root} are named {twice!r}, with accents written in two ways; join them"
            )
        classes = tuple(unicodedata.normalize("NFC", name) for name in classes)
        self._compare(classes, set(folders))
        lowest, highest = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 1)
        listed = [
            (label, f"{folders[name]}/{file}")
            for label, name in enumerate(classes)
            for file in list_images(self.root / folders.get(name, name))
        ]
        return Annotations(
            labels=np.array([label for label, _ in listed], dtype=np.int64),
            class_names=classes,
            attribute_names=attributes,
            class_attributes=((values - lowest) / (highest - lowest)).astype(np.float32),
            image_paths=tuple(path for _, path in listed),
        )

    @property
    def available_protocols(self) -> Mapping[str, Protocol]:
        """The protocol `listed` if unseen classes were named."""
        if not self.unseen_classes:
            return {}
        ids = dict(zip(self.class_names, self.annotations.class_ids, strict=True))
        if strangers := [name for name in self.unseen_classes if name not in ids]:
            known = ", ".join(list(ids)[:5]) + (" …" if len(ids) > 5 else "")
            raise ValueError(f"unseen_classes names {strangers[0]!r}, but the classes are {known}; correct the name")
        return {"listed": Protocol(unseen=tuple(ids[name] for name in self.unseen_classes))}

    def _compare(self, classes: Sequence[str], folders: set[str]) -> None:
        if without_row := sorted(folders - set(classes)):
            raise ValueError(
                f"folder {without_row[0]!r} in {self.root} has no row in {self.attributes_file} "
                f"({len(without_row)} such); add its attributes, or move the folder away"
            )
        if not self.allow_partial and (without_folder := [name for name in classes if name not in folders]):
            raise ValueError(
                f"class {without_folder[0]!r} of {self.attributes_file} has no folder in {self.root} "
                f"({len(without_folder)} such); add its images, or pass --data.allow_partial=true"
            )
