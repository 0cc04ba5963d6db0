"""CUB-200-2011 (Wah, Branson, Welinder, Perona & Belongie, 2011): 11,788 birds of 200 classes, 312 attributes."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from razh.datamodules.annotations import Annotations
from razh.datamodules.files.tables import read_matrix, read_numbered, read_numbers
from razh.datamodules.files.text import slashes
from razh.datamodules.images import read_image
from razh.datamodules.points import evaluation_points
from razh.datamodules.protocols import Protocol
from razh.datamodules.xlsa17 import ProposedSplitDataModule

__all__ = ["CUBDataModule"]

# fmt: off
PROPOSED_UNSEEN = (
    3, 11, 22, 25, 27, 30, 32, 42, 44, 48, 51, 54, 69, 71, 76, 83, 86, 90, 93, 96, 97, 102, 103, 110, 112, 118, 122,
    123, 126, 129, 131, 135, 137, 138, 142, 147, 155, 156, 160, 162, 163, 164, 167, 168, 172, 179, 187, 189, 190, 199,
)
# fmt: on
LAST_50 = tuple(range(150, 200))


class CUBDataModule(ProposedSplitDataModule):
    """CUB-200-2011 in its official layout; `root` is the folder `CUB_200_2011` or its parent.

    Class attributes are the shares of annotations of a class that name the attribute,
    `attributes/class_attribute_labels_continuous.txt` (percent in the file, [0, 1] here). Images, and so the rows of
    every list, are in the order of `images.txt`, which is also that of the proposed split.
    """

    dataset = "cub"
    title = "CUB"
    subfolder = "CUB_200_2011"
    part_synonyms = {"bill": "beak"}  # noqa: RUF012  # a ClassVar in the base class
    xlsa17_name = "CUB"
    protocols: ClassVar = {
        "ps": Protocol(unseen=PROPOSED_UNSEEN, official=True),
        "comae": Protocol(unseen=LAST_50, train_per_class=30, query_per_class=30),
        "comae-legacy": Protocol(unseen=LAST_50, train_per_class=30, query_per_class=30, as_released=True),
        "last10": Protocol(unseen=LAST_50, train_per_class=30, query_per_class=30),
    }

    def read_annotations(self) -> Annotations:
        """Read the official text files, see the base class."""
        self.require_images()
        classes = self._numbered("classes.txt")
        attributes = read_numbered(self._attribute_names_file())
        percent = read_matrix(
            self.folder / "attributes" / "class_attribute_labels_continuous.txt", len(classes), len(attributes)
        )
        labels = self._numbered("image_class_labels.txt")
        if absent := self._images.keys() - labels.keys():
            raise ValueError(
                f"{self.folder / 'image_class_labels.txt'} has no label of image {min(absent)}; unpack it again"
            )
        numbers = sorted(classes)
        class_of = {str(number): label for label, number in enumerate(numbers)}
        if stranger := next((i for i in self._images if labels[i] not in class_of), None):
            raise ValueError(
                f"{self.folder / 'image_class_labels.txt'} gives image {stranger} the class {labels[stranger]}, which "
                f"{self.folder / 'classes.txt'} lacks (its numbers begin at {numbers[0]}); unpack both again"
            )
        return Annotations(
            labels=np.array([class_of[labels[i]] for i in self._images], dtype=np.int64),
            class_names=tuple(classes[number] for number in numbers),
            attribute_names=tuple(attributes[number] for number in sorted(attributes)),
            class_attributes=(percent / 100).astype(np.float32),
            image_paths=tuple(self._images.values()),
            official=self.official_rows(tuple(self._images.values()), tuple(self._images)),
        )

    @cached_property
    def part_names(self) -> tuple[str, ...]:
        """Names of the 15 bird parts, in the order of `part_locations`."""
        parts = self._numbered("parts/parts.txt")
        return tuple(parts[number] for number in sorted(parts))

    def part_locations(self) -> NDArray[np.float32]:
        """Return (n, 15, 3): x and y in pixels of the stored image, and 1 if the part is visible (else all are 0)."""
        table = read_numbers(self.folder / "parts" / "part_locs.txt").astype(np.float32)
        ids, parts = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64) - 1
        if parts.min() < 0 or parts.max() >= len(self.part_names):
            raise ValueError(
                f"{self.folder / 'parts' / 'part_locs.txt'} names parts {parts.min() + 1} … {parts.max() + 1}, but "
                f"they count from 1 to {len(self.part_names)}; unpack it again"
            )
        located = np.zeros((ids.max() + 1, len(self.part_names), 3), dtype=np.float32)
        located[ids, parts] = table[:, 2:5]
        return located[self._official_ids()]

    def load_image(self, index: int) -> Tensor:
        """Return image `index` as it is stored, see the base class: parts and boxes are places in the stored image."""
        return read_image(self.image_path(index), upright=False, max_megapixels=self.max_megapixels)

    def part_points(self, index: int) -> NDArray[np.float32] | None:
        """Return x, y and visibility (15, 3) of the parts of evaluation image `index`; None without their files."""
        if not (self.folder / "parts" / "part_locs.txt").is_file():
            return None
        with Image.open(self.image_path(index)) as image:  # reads the header alone
            width, height = image.size
        return evaluation_points(self._located[index], height, width, self.image_size)

    @cached_property
    def _located(self) -> NDArray[np.float32]:
        return self.part_locations()

    def bounding_boxes(self) -> NDArray[np.float32]:
        """Return (n, 4): left, top, width and height of the bird in pixels of the stored image.

        A few boxes stick out of their image, in the published file too.
        """
        table = read_numbers(self.folder / "bounding_boxes.txt").astype(np.float32)
        ids = table[:, 0].astype(np.int64)
        boxes = np.zeros((ids.max() + 1, 4), dtype=np.float32)
        boxes[ids] = table[:, 1:5]
        return boxes[self._official_ids()]

    @cached_property
    def _images(self) -> dict[int, str]:
        """Path below `folder` of every listed image, by its official id, ids ascending."""
        return {i: f"{self.image_folder}/{slashes(path)}" for i, path in sorted(self._numbered("images.txt").items())}

    def _official_ids(self) -> NDArray[np.int64]:
        """Return the id in `images.txt` of each image of the data set."""
        ids = {path: i for i, path in self._images.items()}
        return np.array([ids[path] for path in self.annotations.image_paths], dtype=np.int64)

    def _attribute_names_file(self) -> Path:
        places = (self.folder / "attributes", self.folder, self.folder.parent)
        files = [place / "attributes.txt" for place in places]
        return next((file for file in files if file.is_file()), files[0])

    def _numbered(self, name: str) -> dict[int, str]:
        return read_numbered(self.folder / name)
