"""SUN Attribute Database (Patterson, Xu, Su & Hays, IJCV 2014): 14,340 images, 717 classes, 102 attributes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.annotations import Annotations
from razh.datamodules.files.matlab import strings
from razh.datamodules.files.tables import read_mat, read_matrix, read_numbered
from razh.datamodules.files.text import slashes
from razh.datamodules.files.walk import Walk
from razh.datamodules.protocols import Protocol
from razh.datamodules.xlsa17 import ProposedSplitDataModule

__all__ = ["SUNDataModule"]

# fmt: off
PROPOSED_UNSEEN = (
    3, 10, 23, 24, 32, 38, 53, 57, 72, 74, 75, 85, 95, 99, 103, 112, 124, 130, 138, 145, 152, 158, 184, 196, 216,
    221, 237, 245, 246, 254, 259, 262, 286, 298, 315, 328, 336, 342, 353, 358, 379, 381, 420, 423, 425, 440, 448,
    471, 482, 493, 508, 509, 517, 529, 558, 560, 580, 622, 631, 635, 645, 650, 656, 658, 674, 679, 681, 695, 710,
    711, 712, 715,
)
# fmt: on
LAST_143 = tuple(range(574, 717))  # which 143 classes the papers left out is not published: the last, as for CUB


class SUNDataModule(ProposedSplitDataModule):
    """SUN attributes; `root` holds `images/` and either annotation.

    * as released, in `root` or `root/SUNAttributeDB`: `images.mat`, `attributes.mat` and
      `attributeLabels_continuous.mat`; the attributes of a class are the mean of its images' votes;
    * as text, in `root`: `classes.txt` and `attributes.txt` (lines `number name`) and
      `class_attributes_continuous.txt` (classes × attributes, [0, 1]). They win where both are there.

    An image `images/a/airport/entrance/x.jpg` is of class `airport_entrance`. Classes are in alphabetical order, which
    is that of the proposed split. Images are in the order of `images.mat`, and without it class by class, by name.
    """

    dataset = "sun"
    title = "SUN"
    subfolder = "SUN"
    xlsa17_name = "SUN"
    protocols: ClassVar = {
        "ps": Protocol(unseen=PROPOSED_UNSEEN, official=True),
        "comae": Protocol(unseen=LAST_143, train_per_class=10, query_per_class=10),
        "comae-legacy": Protocol(unseen=LAST_143, train_per_class=10, query_per_class=10, as_released=True),
    }

    def read_annotations(self) -> Annotations:
        """Read the text or MATLAB files, see the base class."""
        images = self.require_images()
        released = self._released_folder()
        if (released / "images.mat").is_file():
            files = [slashes(file) for file in strings(read_mat(released / "images.mat", "images")["images"])]
        else:
            walk = Walk()
            files = sorted(walk.images(images), key=lambda file: (_class_name(file), file))
            walk.report(str(images))
        of_image = [_class_name(file) for file in files]
        if (self.folder / "class_attributes_continuous.txt").is_file():
            classes, attributes, values = self._text_attributes()
        else:
            classes = sorted(set(of_image))
            attributes, values = _voted_attributes(released, np.searchsorted(classes, of_image))
        class_of = {name: label for label, name in enumerate(classes)}
        if stranger := next((name for name in of_image if name not in class_of), None):
            raise ValueError(
                f"{images} has images of class {stranger!r}, but {self.folder / 'classes.txt'} lacks it; remove them"
            )
        paths = tuple(f"{self.image_folder}/{file}" for file in files)
        return Annotations(
            labels=np.array([class_of[name] for name in of_image], dtype=np.int64),
            class_names=tuple(classes),
            attribute_names=tuple(attributes),
            class_attributes=values.astype(np.float32),
            image_paths=paths,
            official=self.official_rows(paths),
        )

    def _released_folder(self) -> Path:
        below = self.folder / "SUNAttributeDB"
        return below if below.is_dir() else self.folder

    def _text_attributes(self) -> tuple[list[str], list[str], NDArray[np.float64]]:
        classes, attributes = (
            [name for _, name in sorted(read_numbered(self.folder / file).items())]
            for file in ("classes.txt", "attributes.txt")
        )
        values = read_matrix(self.folder / "class_attributes_continuous.txt", len(classes), len(attributes))
        return classes, attributes, values


def _voted_attributes(folder: Path, labels: NDArray[np.int64]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the attributes' names and the mean votes of each class (C, M) from the released files."""
    attributes = strings(read_mat(folder / "attributes.mat", "attributes")["attributes"])
    file = folder / "attributeLabels_continuous.mat"
    votes = read_mat(file, "labels_cv")["labels_cv"].astype(np.float64)
    if votes.shape != (len(labels), len(attributes)):
        raise ValueError(
            f"{file} has labels of shape {votes.shape}, but there are {len(labels)} images and {len(attributes)} "
            "attributes; fetch the files again"
        )
    sums = np.zeros((int(labels.max()) + 1, len(attributes)))
    np.add.at(sums, labels, votes)
    return attributes, sums / np.bincount(labels)[:, None]


def _class_name(file: str) -> str:
    """Return the class of an image path below `images/`: its folders joined, without the initial letter's."""
    folders = file.split("/")[:-1]
    return "_".join(folders[1:] if len(folders) > 1 and len(folders[0]) == 1 else folders)
