"""Which images there are to encode, and the checkpoint that encodes them; no torch here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from razh.datamodules.files.walk import Walk, printable

__all__ = ["Source", "find_images"]


class Source(NamedTuple):
    """Images to encode.

    Attributes:
        files: their places.
        names: under which they are kept.
        classes: of each, "" where no folder tells.
        left_out: how many files and folders could not be taken.
    """

    files: list[Path]
    names: list[str]
    classes: list[str]
    left_out: int = 0


def find_images(given: list[Path]) -> Source:
    """Return the images of folders (with sub-folders) and files, each once.

    Paths are kept relative to the folder; to the one that all have in common, if several are given, for a path should
    tell one image from another. A class is the first sub-folder of what is given; of several folders without
    sub-folders, each is one. What is passed over in folders is logged; a file that is named is taken whatever its
    suffix.

    Raises:
        FileNotFoundError: a path does not exist, or no image is found at all.
    """
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"no image or folder at {printable(path)}")
    folders = [path if path.is_dir() else path.parent for path in given]
    common = os.path.commonpath([os.path.abspath(folder) for folder in folders]) if folders else ""
    found: dict[str, tuple[Path, str]] = {}
    walk = Walk()
    for path, folder in zip(given, folders, strict=True):
        prefix = Path(os.path.relpath(folder, common))
        for name in walk.images(path) if path.is_dir() else [path.name]:
            kept = (prefix / name).as_posix()
            inside = (*prefix.parts[-1:], name) if "/" not in name else Path(name).parts
            if walk.keeps(Path(common), kept):
                found.setdefault(kept, (folder / name, inside[0] if len(inside) > 1 else ""))
    where = ", ".join(map(printable, given))
    walk.report(where)
    if not found:
        raise FileNotFoundError(f"no images in {where}; .jpg, .png, .webp and the like are read")
    files, classes = [file for file, _ in found.values()], [c for _, c in found.values()]
    return Source(files, list(found), classes, len(walk.left_out) + len(walk.unreadable))
