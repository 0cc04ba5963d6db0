"""Your own images: a folder for each class, and a CSV with the classes' attributes."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from razh.datamodules.annotations import Annotations
from razh.datamodules.base import ZeroShotDataModule
from razh.datamodules.files.paths import expanded
from razh.datamodules.files.survey import class_ids, survey
from razh.datamodules.files.tables import one_line
from razh.datamodules.files.text import name_list
from razh.datamodules.protocols import Protocol

__all__ = ["FolderDataModule"]

log = logging.getLogger(__name__)


class FolderDataModule(ZeroShotDataModule):
    """Images at `root/CLASS/*` and a table `class,attribute,…` of numbers.

    Class ids follow the rows of the table. Attributes beyond [0, 1] are scaled, column by column, to [0, 1].

    Args:
        root: Folder with one folder of images for each class.
        protocol: `unseen-K%`, or `listed` for the classes in `unseen_classes`.
        attributes_file: The table; None: `attributes.csv` in `root`.
        unseen_classes: Names of the unseen classes: a list, text with commas between them, or the path of a file with
            one a line; of each seen class 80 % train and the rest is in the database, every other unseen image is a
            query. Implies the protocol `listed`.
        kwargs: Arguments of `ZeroShotDataModule`.

    Raises:
        ValueError: Table and folders do not name the same classes, or a cell is no number; the message begins with
            the number of such problems, and `razh check` lists them.
    """

    dataset = "folder"
    title = "class/image"
    image_folder = "."

    def __init__(
        self,
        root: str,
        protocol: str = "unseen-20%",
        attributes_file: str | None = None,
        unseen_classes: Sequence[str | int] | str = (),
        **kwargs: Any,
    ) -> None:
        names = name_list(unseen_classes) if isinstance(unseen_classes, str) else map(str, unseen_classes)
        self.unseen_classes = tuple(name.strip() for name in names)
        super().__init__(root, "listed" if self.unseen_classes else protocol, **kwargs)
        self.attributes_file = Path(expanded(attributes_file, "attributes_file") or self.root / "attributes.csv")

    def read_annotations(self) -> Annotations:
        """Read the table and list the folders, see the base class."""
        found = survey(self.root, self.attributes_file, self.allow_partial)
        if found.problems or found.table is None:
            told = f"; `razh check {shlex.quote(str(self.root))}` lists them all" if len(found.problems) > 1 else ""
            raise ValueError(one_line(str(self.root), found.problems) + told)
        for note in found.notes:
            log.info("%s: %s", self.root, note)
        values = found.table.values
        lowest, highest = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 1)
        listed = [
            (label, f"{folder}/{file}")
            for label, name in enumerate(found.table.classes)
            if (folder := found.folder_of.get(name)) is not None
            for file in found.images[folder]
        ]
        found.walk.report(str(self.root))
        return Annotations(
            labels=np.array([label for label, _ in listed], dtype=np.int64),
            class_names=found.table.classes,
            attribute_names=found.table.attributes,
            class_attributes=((values - lowest) / (highest - lowest)).astype(np.float32),
            image_paths=tuple(path for _, path in listed),
            attribute_limits=np.stack([lowest, highest]).astype(np.float32),
        )

    @property
    def available_protocols(self) -> Mapping[str, Protocol]:
        """The protocol `listed` if unseen classes were named."""
        if not self.unseen_classes:
            return {}
        ids = self.annotations.class_ids
        unseen = class_ids(self.unseen_classes, self.class_names)
        return {"listed": Protocol(unseen=tuple(ids[position] for position in unseen))}
