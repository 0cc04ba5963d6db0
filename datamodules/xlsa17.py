"""The proposed split (Xian, Lampert, Schiele & Akata, TPAMI 2019, arXiv 1707.00600) as its authors' files list it.

`att_splits.mat` of the archive xlsa17 lists rows, counted from 1, of the feature matrix in `res101.mat`, whose
`image_files` say which image a row is. Where `res101.mat` is not there, rows are taken in the data set's own order:

* CUB: the order of `images.txt`, so a row is an official image id. The lists agree with CUB's labels in this order.
* AwA2: class folders by name in alphabetical order, files by name in each; not the order of `classes.txt`. With this
  order and the images per class, the lists hit exactly the ten unseen classes; with that of `classes.txt` they do not.
* SUN: classes in alphabetical order with 20 images each, in the order of `images.mat`. The lists agree with it.

In each of them trainval, test-seen and test-unseen together list every image once. A row order that mixes seen and
unseen classes is refused when the split is made.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from razh.datamodules.base import ZeroShotDataModule
from razh.datamodules.files.matlab import strings
from razh.datamodules.files.paths import expanded
from razh.datamodules.files.tables import read_lines, read_mat
from razh.datamodules.files.text import nfc, slashes
from razh.datamodules.splits import Rows

__all__ = ["ProposedSplitDataModule"]

log = logging.getLogger(__name__)

_LISTS = ("trainval", "test_seen", "test_unseen")


class ProposedSplitDataModule(ZeroShotDataModule):
    """A data set that the proposed split covers.

    The lists are looked for at `split_file`, and without it at `att_splits.mat` and `xlsa17/data/NAME/att_splits.mat`
    in the data set's folder, in `root` and beside `root`. Where none is found, the classes are those of the proposed
    split and the images of seen classes are cut 80/20 by a seeded draw, which a warning and the split's notes say.

    Args:
        root: Folder of the data set.
        protocol: Name of the split.
        split_file: An `att_splits.mat`, or a folder with `trainval_image_ids.txt`, `test_seen_image_ids.txt` and
            `test_unseen_image_ids.txt` (image ids, counted from 1, one a line).
        kwargs: Arguments of `ZeroShotDataModule`.
    """

    xlsa17_name: ClassVar[str] = ""
    """The data set's folder in the archive xlsa17."""

    def __init__(self, root: str, protocol: str = "ps", split_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(root, protocol, **kwargs)
        self.split_file = expanded(split_file, "split_file")

    def official_rows(self, image_paths: Sequence[str], image_ids: Sequence[int] | None = None) -> dict[str, Rows]:
        """Return the published image lists as rows of `image_paths`, by trainval, test_seen and test_unseen.

        Args:
            image_paths: n paths, in the order of the rows to return.
            image_ids: Official ids, counted from 1, where the data set has them; else its images are numbered in
                order, which holds for the complete data set alone.

        Returns:
            Three lists, or nothing where no list is found.

        Raises:
            FileNotFoundError: `split_file` does not exist.
            ValueError: The lists cannot be read, or list images that the tree lacks and `allow_partial` is off.
        """
        source = self._split_source()
        if source is None:
            return {}
        lists = _ids_of_folder(source) if source.is_dir() else _ids_of_mat(source)
        if any(i < 1 for ids in lists.values() for i in ids):
            raise ValueError(f"{source} lists images from number 0 on, but they count from 1; add 1 to each number")
        features = source.with_name("res101.mat")
        if not source.is_dir() and features.is_file():
            known = _ids_by_file(features, image_paths)
        elif image_ids is not None:
            known = dict(zip(image_ids, range(len(image_ids)), strict=True))
        else:
            known = {row + 1: row for row in range(len(image_paths))}
            if self.allow_partial and len(known) != sum(len(ids) for ids in lists.values()):
                log.warning("%s lists another number of images than the %d found: not used", source, len(known))
                return {}
        unknown = [i for ids in lists.values() for i in ids if i not in known]
        if unknown and not self.allow_partial:
            raise ValueError(
                f"{source} lists {len(unknown)} images not among the {len(image_paths)} at {self.root} (first: number "
                f"{unknown[0]}); unpack the complete data set, or pass --data.allow_partial=true"
            )
        if unknown:
            log.warning("%s: %d of its images are not at %s and are left out", source, len(unknown), self.root)
        return {name: np.array([known[i] for i in ids if i in known], dtype=np.int64) for name, ids in lists.items()}

    def _split_source(self) -> Path | None:
        if self.split_file is not None:
            path = Path(self.split_file)
            if not path.exists():
                raise FileNotFoundError(f"split_file is {self.split_file!r}, but is not there; correct the path")
            return path
        names = ("att_splits.mat", f"xlsa17/data/{self.xlsa17_name}/att_splits.mat")
        places = (self.folder, self.root, self.root.parent)
        found = (place / name for place in places for name in names)
        return next((path for path in found if path.is_file()), None)


def _ids_of_folder(folder: Path) -> dict[str, list[int]]:
    lists = {}
    for name in _LISTS:
        path = folder / f"{name}_image_ids.txt"
        try:
            lists[name] = [int(line) for line in read_lines(path)]
        except ValueError as error:
            raise ValueError(
                f"{path} holds a line that is no image id ({error}); write one whole number a line"
            ) from None
    return lists


def _ids_of_mat(path: Path) -> dict[str, list[int]]:
    content = read_mat(path, *(f"{name}_loc" for name in _LISTS))
    return {name: content[f"{name}_loc"].ravel().astype(np.int64).tolist() for name in _LISTS}


def _ids_by_file(features: Path, image_paths: Sequence[str]) -> dict[int, int]:
    """Return the row of `image_paths` for each row, counted from 1, of res101.mat; they share folder and file name."""
    files = strings(read_mat(features, "image_files")["image_files"])
    rows = {_tail(path): row for row, path in enumerate(image_paths)}
    return {number: rows[_tail(file)] for number, file in enumerate(files, start=1) if _tail(file) in rows}


def _tail(path: str) -> str:
    return "/".join(nfc(slashes(path)).split("/")[-2:])
