"""Finds image files: which suffixes are read, which folders are searched, and what is passed over."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections import Counter
from functools import cache
from pathlib import Path

from PIL import Image

__all__ = ["HEIF", "MAX_MEGAPIXELS", "Walk", "formats", "is_system", "printable", "suffixes"]

log = logging.getLogger(__name__)

MAX_MEGAPIXELS = 100.0
"""Larger images are not decoded; see `razh.datamodules.images.read_image`."""

_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF"),
    *("ICO", "PSD", "PCX", "SGI", "SUN", "TGA"),
)
"""Pillow's names of the formats that are read.

Left out are drawings (EPS would start Ghostscript), films, fields of numbers, and formats of games, editors and X11,
which hardly hold photos and which Pillow decodes in Python: a large one takes minutes.
"""

_SYSTEM = frozenset(
    {
        *("@eadir", "@recycle", "#recycle", "$recycle.bin", "lost+found", "__macosx", "system volume information"),
        *("thumbs.db", "desktop.ini"),
    }
)
"""Names, in lower case, of what operating systems and file servers put beside a user's files."""

HEIF = frozenset({".heic", ".heif", ".hif"})


@cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that can be decoded here; HEIF is among them if `pillow-heif` is there."""
    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case, of files that are taken for images."""
    names = {*formats(), "MPO"}  # Pillow opens an .mpo as the JPEG that it starts as
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in names)


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system put beside a user's."""
    return name.startswith(".") or name.lower() in _SYSTEM


def printable(path: Path | str) -> str:
    r"""Return a path for one line of text: control characters and bytes that are not UTF-8 come as `\x…` escapes."""
    text = str(path)
    return text if text.isprintable() else repr(text)[1:-1]


class Walk:
    """A search of folders for image files; it remembers what it passed over, to `report` it once at the end.

    A file is taken for an image by its suffix, whatever it holds: a damaged one, a dangling link or a pipe is named by
    whoever reads it. Hidden and system folders are passed over. Linked folders are followed, each folder once.

    Attributes:
        kinds: How many files of each other suffix there were.
        left_out: A line for each file or folder that is not taken.
        unreadable: A line for each folder that the system does not let be read.
    """

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.left_out: list[str] = []
        self.unreadable: list[str] = []

    def images(self, folder: Path, below: bool = True) -> list[str]:
        """Return the paths, relative to `folder` and with slashes, of its image files, sorted.

        Args:
            folder: Searched even if its own name is hidden; one that does not exist has no images.
            below: Search sub-folders too; else each is named among `left_out`.
        """
        found: list[str] = []
        folders, links, seen = [""], list[str](), set[tuple[int, int]]()
        while folders or links:
            # Links come last: a folder is known by its own place if that lies in the tree as well.
            inside = folders.pop() if folders else links.pop(0)
            for entry in self._entries(folder, inside, seen):
                name = f"{inside}{entry.name}"
                if not _is_folder(entry):
                    if self._is_image(name) and self.keeps(folder, name):
                        found.append(name)
                elif not below:
                    self.left_out.append(f"folder {printable(folder / name)} is not searched; move its images up")
                else:
                    (links if entry.is_symlink() else folders).append(f"{name}/")
        return sorted(found)

    def keeps(self, folder: Path, name: str) -> bool:
        """Whether a file, by its name below `folder`, can be kept: codes and tables are UTF-8; else it is left out."""
        try:
            name.encode()
        except UnicodeEncodeError:
            self.left_out.append(f"image file {printable(folder / name)} has a name that is not UTF-8; rename it")
            return False
        return True

    def report(self, where: str) -> None:
        """Tell what was passed over below `where`: a warning for each that is left out, a line for all other kinds."""
        for line in (*self.left_out, *self.unreadable):
            log.warning("left out: %s", line)
        if self.kinds:
            log.info("%s: %s", where, self.others())

    def others(self) -> str:
        """Return how many files of other kinds were passed over, in one line; empty if there were none."""
        if not self.kinds:
            return ""
        count = self.kinds.total()
        kinds = ", ".join(f"{printable(kind)} {n}" for kind, n in self.kinds.most_common(10))
        more = ", …" if len(self.kinds) > 10 else ""
        hint = "; install pillow-heif to read .heic" if HEIF & self.kinds.keys() else ""
        return f"{count} {'file' if count == 1 else 'files'} of other kinds passed over: {kinds}{more}{hint}"

    def _entries(self, folder: Path, inside: str, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
        """Return what lies in a folder that was not `seen`, without what is hidden."""
        place = folder / inside
        try:
            state = place.stat()
            if (state.st_dev, state.st_ino) in seen:
                return []
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(place) as entries:
                return sorted((e for e in entries if not is_system(e.name)), key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            self.unreadable.append(f"folder {printable(place)} cannot be read ({error.strerror})")
            return []

    def _is_image(self, name: str) -> bool:
        suffix = os.path.splitext(name)[1].lower()
        if suffix in suffixes():
            return True
        self.kinds[suffix or "no suffix"] += 1
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a folder, or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False
