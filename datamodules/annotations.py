"""What a data set says about itself, as one checked value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Annotations"]


@dataclass(frozen=True, eq=False)
class Annotations:
    """Labels, names and class attributes of a data set, read once.

    Attributes:
        labels: (n,) int64, class id of every image, 0-based.
        class_names: C names in label order.
        attribute_names: M names.
        class_attributes: (C, M) float32 in [0, 1].
        image_paths: n paths relative to the data module's `folder`; empty where images are not files.
        official: Image rows (0-based, int64) that the data set's own split files list, by "trainval", "test_seen" and
            "test_unseen"; empty where there are none.
        class_ids: C ids of the classes in the complete data set; 0 … C − 1 unless classes were cut away.
        signatures: n strings that change with an image's content; empty where images are not files.
        notes: What a reader of figures must know, in one line; empty if nothing was left out.
        attribute_limits: (2, M) float32, what is 0 and what is 1 in the user's own table; None: 0 and 1.

    Raises:
        ValueError: The parts do not fit together.
    """

    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    class_attributes: NDArray[np.float32]
    image_paths: tuple[str, ...] = ()
    official: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    class_ids: tuple[int, ...] = ()
    signatures: tuple[str, ...] = ()
    notes: str = ""
    attribute_limits: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_ids", self.class_ids or tuple(range(len(self.class_names))))
        count, classes, attributes = len(self.labels), len(self.class_names), len(self.attribute_names)
        if self.class_attributes.shape != (classes, attributes):
            raise ValueError(
                f"class_attributes has shape {self.class_attributes.shape}, but there are {classes} class names and "
                f"{attributes} attribute names; the files belong to different data sets or one is cut short"
            )
        lowest, highest = self.class_attributes.min(initial=0), self.class_attributes.max(initial=0)
        if not (lowest >= 0 and highest <= 1):  # also refuses NaN
            raise ValueError(f"class_attributes spans {lowest} … {highest}, but must lie in [0, 1]; scale the file")
        if count and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(
                f"labels span {self.labels.min()} … {self.labels.max()}, but there are {classes} class names; "
                "check the label file"
            )
        if len(self.image_paths) not in (0, count):
            raise ValueError(f"{len(self.image_paths)} image paths, but {count} labels; check the image list")
        if len(self.class_ids) != classes:
            raise ValueError(f"{len(self.class_ids)} class ids, but {classes} class names")

    def restricted_to(self, classes: NDArray[np.int64]) -> Annotations:
        """Return the annotations of these classes (ids, ascending) and their images alone, renumbered from 0."""
        renumbered = np.full(len(self.class_names), -1, dtype=np.int64)
        renumbered[classes] = np.arange(len(classes))
        kept = self.without(np.flatnonzero(renumbered[self.labels] < 0))
        return replace(
            kept,
            labels=renumbered[kept.labels],
            class_names=tuple(self.class_names[c] for c in classes),
            class_attributes=self.class_attributes[classes],
            class_ids=tuple(self.class_ids[c] for c in classes),
        )

    def without(self, images: NDArray[np.int64]) -> Annotations:
        """Return the annotations without these images (rows); classes stay, also those that lose all their images."""
        kept = np.setdiff1d(np.arange(len(self.labels)), images)
        position = np.full(len(self.labels), -1, dtype=np.int64)
        position[kept] = np.arange(len(kept))
        return replace(
            self,
            labels=self.labels[kept],
            image_paths=tuple(self.image_paths[i] for i in kept) if self.image_paths else (),
            signatures=tuple(self.signatures[i] for i in kept) if self.signatures else (),
            official={name: position[rows][position[rows] >= 0] for name, rows in self.official.items()},
        )
