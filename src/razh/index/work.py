"""A folder of images to a file of codes: what is done is kept meanwhile; no torch here."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path

import numpy as np

from razh.datamodules.pictures import TRANSFORM
from razh.index.network import Network
from razh.index.options import Encoding
from razh.index.sources import Source
from razh.support.files import ArrayFile, remove_leftovers, write_arrays

__all__ = ["Unfinished", "encode", "save", "work_key"]

log = logging.getLogger(__name__)
SAVE_SECONDS = 30.0  # of work are lost at most where the process is killed


def work_key(digest: str, source: Source, how: Encoding) -> str:
    """Return what tells this work from other work: checkpoint, decoding, and name, size and time of every image."""
    key = hashlib.sha256(f"{digest}\0{TRANSFORM}\0{how.max_megapixels}\0{how.precision}".encode())
    for file, name in zip(source.files, source.names, strict=True):
        try:
            state = file.stat()
            size, time_ = state.st_size, state.st_mtime_ns
        except OSError:  # a dangling link
            size = time_ = 0
        key.update(f"\n{name}\0{size}\0{time_}".encode())
    return key.hexdigest()


class Unfinished:
    """What was encoded so far, beside the file that is being made: the first images in order, and why some are broken.

    Args:
        out: the file that is being made.
        key: of the work; what was done under another one does not count.
    """

    def __init__(self, out: Path, key: str) -> None:
        self.path = out.with_name(f".{out.name}.unfinished")
        self.key = key
        self.saved = time.monotonic()

    def read(self, codes: np.ndarray) -> tuple[int, dict[int, str]]:
        """Fill in the codes (n, ⌈L/8⌉) that are done; return how many, and what is broken among them."""
        try:
            with ArrayFile(self.path) as file:
                found = {name: file.read(name) for name in file.headers}
            if str(found["key"]) != self.key:
                return 0, {}
            done = len(found["codes"])
            codes[:done] = found["codes"]
            return done, dict(zip(found["broken"].tolist(), found["reasons"].tolist(), strict=True))
        except FileNotFoundError:
            return 0, {}
        except (OSError, ValueError, KeyError):
            log.warning("%s is damaged and does not count", self.path)
            return 0, {}

    def write(self, codes: np.ndarray, broken: dict[int, str], now: bool = False) -> None:
        """Keep the codes (done, ⌈L/8⌉) that are done, every `SAVE_SECONDS` or now."""
        if not now and time.monotonic() - self.saved < SAVE_SECONDS:
            return
        positions = np.array(list(broken), dtype=np.int64)
        reasons = np.array(list(broken.values()), dtype=np.str_)
        write_arrays(self.path, {"key": np.array(self.key), "codes": codes, "broken": positions, "reasons": reasons})
        self.saved = time.monotonic()

    def remove(self) -> None:
        """Forget what was done: the whole file is there."""
        self.path.unlink(missing_ok=True)
        remove_leftovers(self.path.parent, self.path.name.removesuffix(".unfinished"))  # of encodings that were killed


def encode(
    network: Network, source: Source, options: Encoding, unfinished: Unfinished | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Return packed codes (n, ⌈L/8⌉) of all files, and why some could not be read, by position.

    Args:
        network: that encodes.
        source: the files.
        options: how.
        unfinished: keeps what is done, and knows what was.
    """
    codes = np.zeros((len(source.files), -(-network.bits // 8)), dtype=np.uint8)
    done, broken = unfinished.read(codes) if unfinished is not None else (0, {})
    if done:
        log.info("going on behind the first %d of %d images", done, len(codes))
    for reason in broken.values():
        log.warning("left out: %s", reason)
    try:
        for batch in network.batches(source.files, options, done):
            codes[batch.positions] = batch.codes
            broken |= batch.broken
            done = int(batch.positions[-1]) + 1
            if unfinished is not None:
                unfinished.write(codes[:done], broken)
    except BaseException:  # an interrupt, too
        if unfinished is not None and done:
            unfinished.write(codes[:done], {at: reason for at, reason in broken.items() if at < done}, now=True)
        raise
    return codes, broken


def save(path: Path, codes: np.ndarray, source: Source, kept: list[int], bits: int, digest: str) -> None:
    """Write the file of codes (n, …) of those images that were `kept`; an interrupted write leaves nothing behind."""
    names, classes = ([of_all[i] for i in kept] for of_all in (source.names, source.classes))
    arrays = {
        "codes": codes,
        "paths": np.array(names, dtype=np.str_),
        "bits": np.array(bits),
        "checkpoint": np.array(digest),
    }
    if all(classes):
        class_names, labels = np.unique(classes, return_inverse=True)
        arrays |= {"labels": labels.astype(np.int64), "class_names": class_names}
    write_arrays(path, arrays)
