"""Animals with Attributes 2 (Xian, Lampert, Schiele & Akata, TPAMI 2019): 37,322 images, 50 classes, 85 attributes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from razh.datamodules.annotations import Annotations
from razh.datamodules.files.tables import read_lines, read_matrix
from razh.datamodules.files.walk import Walk
from razh.datamodules.protocols import Protocol
from razh.datamodules.xlsa17 import ProposedSplitDataModule

__all__ = ["AwA2DataModule"]

PROPOSED_UNSEEN = (6, 8, 22, 23, 29, 30, 33, 40, 46, 49)
STANDARD_UNSEEN = (5, 13, 14, 17, 23, 24, 33, 38, 41, 47)  # the split of AwA1, testclasses.txt of the archive


class AwA2DataModule(ProposedSplitDataModule):
    """AwA2 in its official layout; `root` is the folder `Animals_with_Attributes2` or its parent.

    Class ids follow `classes.txt`. Images are in the proposed split's order: folders of `JPEGImages` by name, files by
    name. Class attributes are `predicate-matrix-continuous.txt` divided by 100; a missing value, −1.00 in the file, is
    taken as 0, which means "nobody named it".

    Args:
        root: Folder of the data set.
        protocol: Name of the split.
        split_file: Where the proposed split's lists are, see the base class.
        binary_attributes: Use `predicate-matrix-binary.txt` instead.
        kwargs: Arguments of `ZeroShotDataModule`.
    """

    dataset = "awa2"
    title = "AwA2"
    subfolder = "Animals_with_Attributes2"
    image_folder = "JPEGImages"
    xlsa17_name = "AWA2"
    protocols: ClassVar = {
        "ps": Protocol(unseen=PROPOSED_UNSEEN, official=True),
        "comae": Protocol(unseen=STANDARD_UNSEEN, train_per_class=100, query_per_class=100),
        "comae-legacy": Protocol(unseen=STANDARD_UNSEEN, train_per_class=100, query_per_class=100, as_released=True),
        "last10": Protocol(unseen=tuple(range(40, 50)), train_per_class=100, query_per_class=100),
    }

    def __init__(
        self,
        root: str,
        protocol: str = "ps",
        split_file: str | None = None,
        binary_attributes: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, protocol, split_file, **kwargs)
        self.binary_attributes = binary_attributes

    def read_annotations(self) -> Annotations:
        """Read the official text files and list the image folders, see the base class."""
        images = self.require_images()
        classes, attributes = (
            [line.split()[-1] for line in read_lines(self.folder / name)] for name in ("classes.txt", "predicates.txt")
        )
        kind, scale = ("binary", 1) if self.binary_attributes else ("continuous", 100)
        values = read_matrix(self.folder / f"predicate-matrix-{kind}.txt", len(classes), len(attributes))
        walk = Walk()
        listed = [(name, file) for name in sorted(classes) for file in walk.images(images / name, below=False)]
        walk.report(str(images))
        paths = tuple(f"{self.image_folder}/{name}/{file}" for name, file in listed)
        class_of = {name: label for label, name in enumerate(classes)}
        return Annotations(
            labels=np.array([class_of[name] for name, _ in listed], dtype=np.int64),
            class_names=tuple(classes),
            attribute_names=tuple(attributes),
            class_attributes=(np.maximum(values, 0) / scale).astype(np.float32),
            image_paths=paths,
            official=self.official_rows(paths),
        )
