"""Which images of a data set can be read: found before anything long begins, and remembered from run to run."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import PIL
from filelock import FileLock
from rich.console import Console
from rich.progress import track

from razh.datamodules.images import image_problem

__all__ = ["Checked", "cache_folder", "check_images"]

log = logging.getLogger(__name__)

_AT_ONCE = 64  # images a task
_MOST_THREADS = 8  # each holds a decoded image
_SETTLED = 2.0  # seconds: a file may change once more within a tick of the coarsest file system's clock
_TABLE = "CREATE TABLE IF NOT EXISTS images (path BLOB PRIMARY KEY, state TEXT, signature TEXT)"


class Checked(NamedTuple):
    """What is known of an image file.

    Attributes:
        there: Whether there is such a file.
        signature: Hex SHA-256 of its content; "" if it cannot be used.
        problem: Why it cannot be used, in one line that names it; "" if it can.
    """

    there: bool
    signature: str = ""
    problem: str = ""


def cache_folder() -> Path:
    """Return where features, and what is known of images, are kept: $RAZH_CACHE, or ~/.cache/razh."""
    return Path(os.environ.get("RAZH_CACHE") or "~/.cache/razh").expanduser()


def check_images(folder: Path, paths: Sequence[str], max_megapixels: float) -> list[Checked]:
    """Decode all images, several at a time, and return what is known of each.

    Good images are remembered in `cache_folder()` by path, size and times of the file, and are not opened again. Others
    are tried at every start: they may have been repaired, or a decoder installed. Where several processes ask for one
    folder, the first one checks; the others wait and learn.

    Args:
        folder: What the paths are relative to.
        paths: Of n images.
        max_megapixels: Images of more millions of pixels cannot be used.
    """
    digest = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()
    memory = cache_folder() / "images" / f"{digest[:16]}.sqlite"
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(memory.with_suffix(".lock")), closing(_open(memory)) as known:
            return _check(folder, paths, max_megapixels, known)
    except (OSError, sqlite3.Error) as error:
        log.warning(
            "cannot note in %s which images are good (%s): all are checked at every start; set RAZH_CACHE",
            memory.parent,
            getattr(error, "strerror", None) or error,
        )
    with closing(sqlite3.connect(":memory:")) as known:
        known.execute(_TABLE)
        return _check(folder, paths, max_megapixels, known)


def _open(memory: Path) -> sqlite3.Connection:
    """Open what is remembered; a damaged file is begun anew."""
    known = sqlite3.connect(memory, timeout=60)
    try:
        known.execute(_TABLE)
        known.execute("SELECT count(path), max(state), max(signature) FROM images").fetchall()  # reads every page
    except sqlite3.OperationalError:  # not the file's fault: no room, no right to write
        known.close()
        raise
    except sqlite3.DatabaseError:
        known.close()
        for file in (memory, memory.with_name(f"{memory.name}-journal")):
            file.unlink(missing_ok=True)
        known = sqlite3.connect(memory, timeout=60)
        known.execute(_TABLE)
    return known


def _check(folder: Path, paths: Sequence[str], max_megapixels: float, known: sqlite3.Connection) -> list[Checked]:
    """Return what is known of each image, and put what was learnt into the table."""
    remembered = {path: seen for path, *seen in known.execute("SELECT path, state, signature FROM images")}
    checked: list[Checked] = []
    unknown: dict[int, _State] = {}
    for i, path in enumerate(paths):
        state = _state(folder / path, max_megapixels)
        before, signature = remembered.get(os.fsencode(path), ("", ""))
        if state is None:
            checked.append(Checked(False, problem=f"no image file {str(folder / path)!r}"))
            continue
        checked.append(Checked(True, signature))
        if before != state.text:
            unknown[i] = state
    if unknown:
        where = os.path.commonpath([(folder / path).parent for path in paths])
        log.info("checking %d of %d images in %s", len(unknown), len(paths), where)
    for found in _decoded(folder, paths, list(unknown), max_megapixels):
        rows = [
            (os.fsencode(paths[i]), unknown[i].text, image.signature)
            for i, image in found.items()
            if image.signature and unknown[i].settled
        ]
        with known:  # what was learnt so far outlives a kill
            known.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?)", rows)
        for i, image in found.items():
            checked[i] = image
    return checked


class _State(NamedTuple):
    """What changes when a file is written, or judged by other rules, and whether the next change will show in it."""

    text: str
    settled: bool


def _state(path: Path, max_megapixels: float) -> _State | None:
    """Return the state of a file; None if there is none, or something that is no plain file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    text = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {max_megapixels} {PIL.__version__}"
    return _State(text, time.time() - found.st_ctime > _SETTLED)


def _decoded(
    folder: Path, paths: Sequence[str], rows: list[int], max_megapixels: float
) -> Iterator[dict[int, Checked]]:
    """Yield what is learnt of the images in these rows, some at a time."""

    def examine(part: list[int]) -> dict[int, Checked]:
        return {i: _examine(folder / paths[i], max_megapixels) for i in part}

    parts = [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
    # Threads: decoders release Python's lock, and a process would have to import all this, or be forked beside torch.
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS))
    try:
        shown = track(
            pool.map(examine, parts),
            f"checking {len(rows)} images",
            total=len(parts),
            disable=not rows or not Console().is_terminal,
            transient=True,
        )
        yield from shown
    finally:
        pool.shutdown(cancel_futures=True)


def _examine(path: Path, max_megapixels: float) -> Checked:
    problem = image_problem(path, max_megapixels)
    if problem is not None:
        return Checked(True, problem=problem)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        return Checked(True, problem=f"image file {str(path)!r} cannot be read ({error.strerror or error})")
    return Checked(True, digest.hexdigest())
