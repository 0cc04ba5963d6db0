"""Rows of arrays on disk, found by a key: memory-mapped, added to without a copy, whole after a kill at any moment."""

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from razh.datamodules.items import CachedRows

__all__ = ["CacheFolder", "Shapes", "row_keys"]

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""By array, the shape of a row and its type."""

KEY = "S32"
WAYS_OUT = "make room, set --cache.directory, or --cache.enabled=false"


def row_keys(signatures: Iterable[str], view: int) -> np.ndarray:
    """Return the keys (n,) under which rows of this view of images with these signatures are kept."""
    digests = (hashlib.sha256(f"{view} {signature}".encode()).hexdigest()[:32] for signature in signatures)
    return np.array(list(digests), dtype=KEY)


class CacheFolder:
    """A folder of memory-mapped arrays (rows, …), each row with a key and a mark that says that it is complete.

    Rows lie in segments, sub-folders 0, 1, …, and are counted through all of them. A segment appears with all its space
    and the keys of its rows, and is never moved, copied or made longer: what is new gets a segment of its own.

    Attributes:
        segments: Names of the segments that count, in order.
    """

    def __init__(self, folder: Path, shapes: Shapes) -> None:
        self.folder, self.shapes = folder, shapes
        self.segments: list[str] = []

    def look(self) -> None:
        """Find the segments that are there and whole."""
        self.segments = [str(number) for number in self._numbers() if self._is_whole(str(number))]

    def _numbers(self) -> list[int]:
        names = (path.name for path in self.folder.iterdir()) if self.folder.is_dir() else ()
        return sorted(int(name) for name in names if name.isdecimal())

    def _is_whole(self, segment: str) -> bool:
        try:
            rows = {len(self._open(segment, name)) for name in (*self.shapes, "done", "keys")}
        except (OSError, ValueError) as error:
            log.warning("%s is damaged and does not count (%s); remove it", self.folder / segment, error)
            return False
        return len(rows) == 1

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of each key, −1 where there is none, and whether it is complete."""
        if not self.segments:
            return np.full(keys.shape, -1), np.zeros(keys.shape, dtype=bool)
        known, done = (np.concatenate([self._open(s, name) for s in self.segments]) for name in ("keys", "done"))
        ordered, rows = np.unique(known, return_index=True)
        at = np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)
        found = ordered[at] == keys
        return np.where(found, rows[at], -1), found & (done[rows[at]] > 0)

    def reserve(self, keys: np.ndarray) -> None:
        """Add a segment for rows of these keys, with all its space.

        Raises:
            OSError: The disk has not enough room; nothing is left behind.
        """
        need = len(keys) * sum(_bytes(*spec) for spec in self.shapes.values())
        free = shutil.disk_usage(self.folder.parent).free
        if need > free:
            raise OSError(
                f"the feature cache needs {need / 1e9:.1f} GB in {self.folder.parent}, which has {free / 1e9:.1f} GB "
                f"free; {WAYS_OUT}"
            )
        segment = str(max(self._numbers(), default=-1) + 1)
        part = self.folder / f".{segment}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            for name, (shape, dtype) in {**self.shapes, "done": ((), "uint8")}.items():
                _allocate(part / f"{name}.npy", (len(keys), *shape), dtype)
            np.save(part / "keys.npy", keys)
            part.rename(self.folder / segment)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()  # if it is empty
            raise OSError(
                f"cannot reserve {need / 1e9:.1f} GB for the feature cache in {self.folder.parent} "
                f"({error.strerror or error}); {WAYS_OUT}"
            ) from error
        self.segments.append(segment)

    def appears(self, seconds: float = 60.0) -> bool:
        """Tell whether all segments can be seen from here; network disks may show another node's late."""
        end = time.monotonic() + seconds
        while not all((self.folder / segment / "keys.npy").is_file() for segment in self.segments):
            if time.monotonic() > end:
                return False
            time.sleep(0.5)
        return True

    def rows(self, name: str, where: np.ndarray) -> CachedRows:
        """Return an array by view and image, memory-mapped; `where` (views, n) are the rows of each."""
        return CachedRows([self.folder / segment / f"{name}.npy" for segment in self.segments], where)

    def write(self, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Write the values of rows, then mark these as complete."""
        start = 0
        for segment in self.segments:
            done = self._open(segment, "done", "r+")
            chosen = (rows >= start) & (rows < start + len(done))
            if chosen.any():
                own = rows[chosen] - start
                for name, of_rows in values.items():
                    array = self._open(segment, name, "r+")
                    array[own] = of_rows[chosen]
                    array.flush()
                done[own] = 1
                done.flush()
            start += len(done)

    def _open(self, segment: str, name: str, mode: Literal["r", "r+"] = "r") -> np.memmap:
        opened: np.memmap = np.load(self.folder / segment / f"{name}.npy", mmap_mode=mode)
        return opened


def _allocate(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Create an .npy file whose blocks are really there: a hole that cannot be filled later would be a bus error."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape).flush()
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
