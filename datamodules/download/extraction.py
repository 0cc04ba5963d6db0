"""Unpacks archives from the internet: nothing outside the target folder, nothing half-finished, nothing endless."""

from __future__ import annotations

import filecmp
import logging
import os
import posixpath
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO

__all__ = ["remove_leftovers", "unpack"]

log = logging.getLogger(__name__)

_PREFIX = ".razh-unpack-"  # of the temporary folders
_CHUNK = 1 << 20
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True)
class _Member:
    """One entry of an archive: kind "file", "folder", "link" or "device"; files have a size, links a target."""

    name: str
    kind: str
    size: int = 0
    target: str = ""


def unpack(archive: Path, root: Path, limit: int, patterns: Sequence[str] = ("*",)) -> int:
    """Unpack the matching files of a .zip or .tar(.gz, .bz2, .xz) into `root`.

    Files are written to a temporary folder in `root` and moved to their places once all of them are there; existing
    folders are filled up, existing files stay as they are. Links inside the archive are left out with a warning.

    Args:
        archive: File to unpack.
        root: Folder to unpack into; made if missing.
        limit: Most bytes that may come out.
        patterns: Shell patterns (`*` also crosses folders) of the member names that are wanted.

    Returns:
        Number of files unpacked.

    Raises:
        ValueError: The archive is damaged, holds a path or link that leads out of `root` or a device, is larger than
            `limit` when unpacked, or holds nothing that matches.
        OSError: A file cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    try:
        try:
            count = _unpack_into(folder, archive, limit, patterns)
        except _DAMAGED as error:
            raise ValueError(f"archive {archive} is cut short or damaged ({error}); delete it and run again") from error
        if count == 0:
            raise ValueError(f"archive {archive} holds no file like {', '.join(patterns)}; it is not the expected one")
        _merge(folder, root)
        return count
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(root: Path) -> None:
    """Remove what a killed `unpack` left in `root`; only while no other process unpacks there."""
    for folder in root.glob(f"{_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _unpack_into(folder: Path, archive: Path, limit: int, patterns: Sequence[str]) -> int:
    count, left = 0, limit
    with _opened(archive) as members:
        for member, content in members:
            _check(member, archive)
            name = posixpath.normpath(member.name)
            if not any(fnmatchcase(name, pattern) for pattern in patterns) or _is_junk(name):
                continue
            if member.size > left:  # says its header, before anything of it is unpacked
                raise _too_large(archive, limit)
            if member.kind == "link":
                log.warning("%s: left out the link %s -> %s", archive.name, member.name, member.target)
            elif member.kind == "folder":
                (folder / name).mkdir(parents=True, exist_ok=True)
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with content() as source, (folder / name).open("wb") as sink:
                    left = _copy(source, sink, left, archive, limit)
                count += 1
    return count


def _copy(source: IO[bytes], sink: IO[bytes], left: int, archive: Path, limit: int) -> int:
    """Copy one file and return how many of the `left` bytes are left after it."""
    while chunk := source.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise _too_large(archive, limit)
        sink.write(chunk)
    return left


def _too_large(archive: Path, limit: int) -> ValueError:
    return ValueError(
        f"archive {archive} unpacks to more than {limit} bytes, the most that was expected; "
        "delete it, and check that its source is the right one"
    )


def _check(member: _Member, archive: Path) -> None:
    """Refuse members that could write or point outside, and devices."""
    if _leads_out(member.name):
        raise ValueError(f"archive {archive} holds the path {member.name!r}, which leads out of its folder; delete it")
    if member.kind == "device":
        raise ValueError(f"archive {archive} holds {member.name!r}, which is no file, folder or link; delete it")
    if member.kind == "link" and _leads_out(member.target):
        raise ValueError(
            f"archive {archive} holds the link {member.name!r} to {member.target!r}, which leads out; delete it"
        )


def _leads_out(name: str) -> bool:
    windows = PureWindowsPath(name)
    parts = {*name.split("/"), *windows.parts}
    return not name or name.startswith("/") or ".." in parts or bool(windows.drive or windows.root) or "\0" in name


def _is_junk(name: str) -> bool:
    return name.startswith("__MACOSX/") or posixpath.basename(name).startswith("._")  # resource forks of macOS


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[tuple[_Member, Callable[[], IO[bytes]]]]]:
    """Open an archive as pairs of a member and a function that opens its content."""
    if zipfile.is_zipfile(archive) or archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as compressed:
            yield ((_of_zip(info), partial(compressed.open, info)) for info in compressed.infolist())
    else:
        with tarfile.open(archive) as tape:
            yield ((_of_tar(info), partial(_content, tape, info)) for info in tape)


def _content(tape: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = tape.extractfile(info)
    if content is None:
        raise tarfile.ReadError(f"member {info.name!r} has no content")
    return content


def _of_zip(info: zipfile.ZipInfo) -> _Member:
    mode = info.external_attr >> 16  # Unix mode, 0 where the archive was made elsewhere
    kind = {stat.S_IFLNK: "link", stat.S_IFDIR: "folder", stat.S_IFREG: "file", 0: "file"}.get(
        stat.S_IFMT(mode), "device"
    )
    # A zip keeps a link's target in its content; such a link is refused whatever it points to.
    return _Member(info.filename, "folder" if info.is_dir() else kind, info.file_size)


def _of_tar(info: tarfile.TarInfo) -> _Member:
    if info.issym():  # relative to the folder of the link; normalised, so only real ways out keep their ".."
        target = info.linkname
        if not target.startswith("/"):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(info.name), target))
        return _Member(info.name, "link", target=target)
    if info.islnk():
        return _Member(info.name, "link", target=info.linkname)
    kind = "folder" if info.isdir() else "file" if info.isreg() else "device"
    return _Member(info.name, kind, info.size)


def _merge(source: Path, target: Path) -> None:
    """Move everything in folder `source` to folder `target`, whole new folders at once; what is there stays."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _merge(path, place)
        elif not os.path.lexists(place):
            shutil.move(path, place)
        elif not (path.is_file() and place.is_file() and filecmp.cmp(path, place, shallow=False)):
            log.warning("%s was there already, is not what the archive holds, and stays", place)
