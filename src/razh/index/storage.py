"""Files that only grow, and a manifest that says how much of each counts: whole after a kill at any moment.

A writer adds bytes behind what counts, brings them to the disk, and then replaces the manifest at once. Whoever reads
maps what the manifest names, so it sees one state, goes on while bytes are added, and never sees half of them. What
cannot be added behind (a list of removed rows) is written as a new file; the old one is deleted afterwards, which
leaves those who have mapped it alone.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from razh.support.files import remove_leftovers, replacing

__all__ = ["MANIFEST", "Manifest", "StorageWriter", "check_files", "map_files"]

MANIFEST = "archive.json"
VERSION = 1
_DATA = re.compile(r".+-\d+\.bin")
_BLOCK = 1 << 24


class DataFile(NamedTuple):
    """How much of a file counts.

    Attributes:
        name: of the file in the folder.
        size: bytes that count; what is behind them was never acknowledged.
        crc: CRC-32 of these bytes.
    """

    name: str
    size: int
    crc: int


@dataclass(frozen=True)
class Manifest:
    """What a folder holds.

    Attributes:
        facts: plain values that its owner keeps.
        files: by what they mean.
        serial: counts what was committed.
    """

    facts: Mapping[str, Any]
    files: Mapping[str, DataFile] = field(default_factory=dict)
    serial: int = 0

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of a newer version.
        """
        path = folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] > VERSION:
                raise ValueError(f"has version {content['version']}, this razh reads {VERSION}; upgrade razh")
            files = {kind: DataFile(*of_kind) for kind, of_kind in content["files"].items()}
            return cls(content["facts"], files, content["serial"])
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"no archive at {folder}; make one with `razh index FOLDER --checkpoint CHECKPOINT --out {folder}`"
            ) from None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"archive {folder}: {MANIFEST} {_said(error)}") from None

    def write(self, folder: Path) -> None:
        """Replace the manifest of a folder at once; when this returns, it is on the disk."""
        content = {"version": VERSION, "serial": self.serial, "facts": self.facts, "files": self.files}
        with replacing(folder / MANIFEST) as part, part.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, ensure_ascii=False)
            _to_disk(file.fileno(), file.flush)
        _folder_to_disk(folder)


def _said(error: Exception) -> str:
    text = str(error)
    return text if text.startswith("has version") else f"is damaged ({text}); make the archive again"


def _to_disk(descriptor: int, flush: Any) -> None:
    flush()
    os.fsync(descriptor)


def _folder_to_disk(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system lets a folder be opened."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def map_files(folder: Path) -> tuple[Manifest, dict[str, NDArray[np.uint8]]]:
    """Return the manifest of a folder and the bytes of its files, memory-mapped.

    Raises:
        FileNotFoundError: there is no archive.
        ValueError: it is damaged.
    """
    while True:
        manifest = Manifest.read(folder)
        try:
            return manifest, {kind: _mapped(folder / one.name, one.size) for kind, one in manifest.files.items()}
        except ValueError as error:
            if Manifest.read(folder).serial == manifest.serial:  # else files were replaced in between
                raise ValueError(f"archive {folder}: {error}; make the archive again") from None


def _mapped(path: Path, size: int) -> NDArray[np.uint8]:
    try:
        if (found := path.stat().st_size) < size:
            raise ValueError(f"{path.name} has {found} of its {size} bytes")
        # As a plain array: each slice of a memmap would cost as much as reading a path.
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r", shape=(size,))) if size else np.empty(0, np.uint8)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None


def check_files(folder: Path) -> list[str]:
    """Read every byte that counts; return what is damaged, a line each."""
    problems = []
    for one in Manifest.read(folder).files.values():
        path = folder / one.name
        try:
            with path.open("rb") as file:
                crc, left = 0, one.size
                while left and (block := file.read(min(left, _BLOCK))):
                    crc, left = zlib.crc32(block, crc), left - len(block)
        except OSError as error:
            problems.append(f"{one.name} cannot be read ({error.strerror})")
            continue
        if left:
            problems.append(f"{one.name} has {one.size - left} of its {one.size} bytes")
        elif crc != one.crc:
            problems.append(f"{one.name} does not match its checksum")
    return problems


@dataclass
class Given:
    """What was acknowledged last, and what was given since.

    Attributes:
        manifest: of the folder.
        added: bytes to put behind those of files, by kind; those of one dict belong together.
        put: files that take the place of others, by kind; None takes one out.
    """

    manifest: Manifest
    added: list[dict[str, bytes]] = field(default_factory=list)
    put: dict[str, DataFile | None] = field(default_factory=dict)

    def replace(self, kind: str, other: DataFile | None) -> None:
        """Put another file in the place of one and of what was added to it; None takes it out."""
        self.added = [{one: data for one, data in together.items() if one != kind} for together in self.added]
        self.put[kind] = other


class StorageWriter:
    """The one process that may write to a folder; a context that lets go of it at its end.

    The lock is the system's own: it goes with the process that held it, however that ended.

    Args:
        folder: of the archive.
        facts: of an archive that is not there yet, which is made; None refuses to make one.

    Raises:
        FileNotFoundError: there is no archive.
        BlockingIOError: another process is writing.
        ValueError: the archive is damaged.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
        from filelock import FileLock, Timeout  # readers do without

        self.folder = folder
        if facts is None:
            Manifest.read(folder)
        elif not (folder / MANIFEST).exists():
            if folder.exists() and (not folder.is_dir() or any(p.name[0] != "." for p in folder.iterdir())):
                raise ValueError(f"{folder} is there and no archive; give the name of a new folder")
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BlockingIOError(
                f"archive {folder} is being written by {self._holder()}; wait for it to end"
            ) from None
        try:
            (folder / ".writer").write_text(str(os.getpid()), encoding="ascii")
            if not (folder / MANIFEST).exists():
                Manifest(facts or {}).write(folder)
            self._given = Given(Manifest.read(folder))
            self._clear()
        except BaseException:
            self._lock.release()
            raise
        self.facts: dict[str, Any] = dict(self.manifest.facts)

    @property
    def manifest(self) -> Manifest:
        """What was acknowledged last."""
        return self._given.manifest

    def _holder(self) -> str:
        try:
            return f"process {int((self.folder / '.writer').read_text(encoding='ascii'))}"
        except (OSError, ValueError):
            return "another process"

    def _clear(self) -> None:
        """Remove what a process that was killed had written and not acknowledged."""
        remove_leftovers(self.folder)
        sizes = {one.name: one.size for one in self.manifest.files.values()}
        for path in self.folder.iterdir():
            if _DATA.fullmatch(path.name) and path.name not in sizes:
                path.unlink()
        for name, size in sizes.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size < size:
                raise ValueError(f"archive {self.folder}: {name} is missing or cut short; make the archive again")
            if path.stat().st_size > size:
                os.truncate(path, size)

    def __enter__(self) -> StorageWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        (self.folder / ".writer").unlink(missing_ok=True)
        self._lock.release()

    def append(self, data: Mapping[str, bytes]) -> None:
        """Add bytes behind those of some files, together; they count from the next `commit` on."""
        self._given.added.append(dict(data))

    def put(self, kind: str, blocks: Iterable[bytes]) -> None:
        """Give a file other content, whole, from the next `commit` on; what was added to it before is dropped."""
        name, size, crc = self._name(kind), 0, 0
        with (self.folder / name).open("wb") as file:
            for block in blocks:
                file.write(block)
                size, crc = size + len(block), zlib.crc32(block, crc)
            _to_disk(file.fileno(), file.flush)
        self._given.replace(kind, DataFile(name, size, crc))

    def drop(self, kind: str) -> None:
        """Take a file out, from the next `commit` on."""
        self._given.replace(kind, None)

    def _name(self, kind: str) -> str:
        return f"{kind}-{self.manifest.serial + 1}.bin"

    def commit(self) -> None:
        """Acknowledge all that was given since the last time: when this returns, it is on the disk, all or nothing.

        Whoever is told to stop in the middle of it can do it once more: the same bytes are written to the same places.
        """
        given, before = self._given, self.manifest.files
        files = {**before, **{kind: one for kind, one in given.put.items() if one is not None}}
        for kind in [kind for kind, one in given.put.items() if one is None]:
            files.pop(kind, None)
        added: dict[str, list[bytes]] = {}
        for together in given.added:
            for kind, data in together.items():
                added.setdefault(kind, []).append(data)
        for kind, blocks in added.items():
            files[kind] = self._extended(files.get(kind) or DataFile(self._name(kind), 0, 0), blocks)
        manifest = Manifest(dict(self.facts), files, self.manifest.serial + 1)
        manifest.write(self.folder)
        self._given = Given(manifest)  # at once: a signal must not find half of it
        kept = {one.name for one in files.values()}
        for one in before.values():
            if one.name not in kept:
                (self.folder / one.name).unlink(missing_ok=True)

    def _extended(self, one: DataFile, blocks: list[bytes]) -> DataFile:
        size, crc = one.size, one.crc
        with (self.folder / one.name).open("r+b" if one.size else "wb") as file:
            file.seek(one.size)
            for block in blocks:
                file.write(block)
                size, crc = size + len(block), zlib.crc32(block, crc)
            _to_disk(file.fileno(), file.flush)
        return DataFile(one.name, size, crc)
