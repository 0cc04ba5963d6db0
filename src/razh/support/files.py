"""Files that are either the old one or the whole new one, and arrays that are what their headers say."""

from __future__ import annotations

import argparse
import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from razh.support.processes import alive, free_memory

__all__ = [
    "ArrayFile",
    "ArrayHeader",
    "check_sums",
    "digest_of",
    "expand_home",
    "flat",
    "given_path",
    "given_text",
    "read_json",
    "remove_leftovers",
    "replacing",
    "write_arrays",
    "write_bytes",
    "write_json",
    "write_text",
]

_LEFTOVER = re.compile(r"\..+\.(\d+)\.razh-part")
_NAME_LENGTH = 40  # of a target in the name of its leftovers, which may have 255 bytes
_OPEN = re.compile(r"/dev/std(out|err)|/(?:dev|proc/self)/fd/(\d+)")  # what is open already, be it a plain file


# ------------------------------------------------------------------------------------------------------------- paths


def given_text(text: str) -> str:
    """Return what an option is given, as a type for `argparse`, which puts the option's name before an error.

    Raises:
        argparse.ArgumentTypeError: the text is empty, like that of a variable which is not set.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; is a variable not set? Give a value, or leave the option out")
    return text


def given_path(text: str) -> Path:
    """Return the path that an option is given, see `given_text`."""
    return Path(given_text(text))


def expand_home(argument: str) -> str:
    """Return a word of a command line with the home folder for a leading `~` or `~user`, its own or its value's.

    A shell does so only where `~` begins the word, so not in `--out=~/codes.npz`.
    """
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return f"{option}{equals}{os.path.expanduser(value)}"


# ----------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place to write to; what was written moves to `path`, or is removed if writing fails.

    Of a symbolic link the target is replaced, and a file keeps its permissions. What is no plain file (a device, a
    pipe) is never replaced: all that there is to write goes through it at once.

    Raises:
        OSError: the folder cannot be made or written, or `path` is a folder or a read-only file.
    """
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder, _errors_name(path):
            part = Path(folder, "part")
            yield part
            with part.open("rb") as source, open(_stream(path), "wb") as sink:
                shutil.copyfileobj(source, sink)
        return
    target = Path(os.path.realpath(path))
    mode = _mode_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name.lstrip('.')[:_NAME_LENGTH]}.{os.getpid()}.razh-part")
    try:
        with _errors_name(path, part):
            yield part
            if mode is not None:
                part.chmod(mode)
            os.replace(part, target)
    finally:
        with contextlib.suppress(OSError):  # what stopped the writing is what to tell
            part.unlink(missing_ok=True)


def _is_stream(path: Path) -> bool:
    return bool(_OPEN.fullmatch(str(path))) or (path.exists() and not path.is_file() and not path.is_dir())


def _stream(path: Path) -> int:
    """Open what is no plain file; of what is open already, the place to write to is shared."""
    if found := _OPEN.fullmatch(str(path)):
        return os.dup(int(found[2] or {"out": 1, "err": 2}[found[1]]))
    return os.open(path, os.O_WRONLY | os.O_APPEND)


def _mode_of(target: Path) -> int | None:
    """Return the permissions of a file that may be replaced; None if there is none."""
    try:
        state = target.lstat()
    except (FileNotFoundError, NotADirectoryError):  # what is wrong with its folder is told where that is made
        return None
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(f"{target} is a folder; give a file")
    if stat.S_ISLNK(state.st_mode):  # the path was resolved: this one has no end
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target))
    if not state.st_mode & 0o222:
        raise PermissionError(f"{target} is read-only; make it writable, or give another name")
    return stat.S_IMODE(state.st_mode)


@contextlib.contextmanager
def _errors_name(path: Path, part: Path | None = None) -> Iterator[None]:
    """Name the file that was asked for in errors of the one that is written in its place."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(part)):
            error.filename, error.filename2 = str(path), None
        raise


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what `replacing` left in a folder (not below it) when its process was killed on this machine.

    Args:
        folder: where to look; need not be there.
        name: only what was to become a file whose name begins like this.
    """
    for part in folder.glob(f".{glob.escape(name.lstrip('.')[:_NAME_LENGTH])}*.razh-part"):
        found = _LEFTOVER.fullmatch(part.name)
        if found and not alive(int(found[1])) and stat.S_ISREG(part.lstat().st_mode):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file at once."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file at once.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    with replacing(path) as part:
        part.write_bytes(content)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed `.npz` of plain arrays at once."""
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON, at once."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


# ----------------------------------------------------------------------------------------------------------- reading


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one if there is no such file.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); remove it, it is written again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; remove it, it is written again")
    return content


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_sums(path: Path) -> None:
    """Compare all that is in a zip file with its checksums.

    Raises:
        ValueError: a member has changed, or the file is no zip; the message is the reason alone.
    """
    with _reasons(), zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} does not match its checksum")


class ArrayHeader(NamedTuple):
    """What a file says of an array before the array itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """The arrays of an `.npz` or `.npy` file, never pickled objects; each is read when it is asked for.

    Headers are read and compared with the size of what follows first, so that a caller can refuse arrays that do not
    go together before any memory is taken for them.

    Attributes:
        headers: shape and type by name; a `.npy` has one array, named as the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is neither, damaged, or an array is not what its header says; the message is the reason alone.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._archive: zipfile.ZipFile | None = None
        self.headers: dict[str, ArrayHeader] = {}
        with self._path.open("rb") as file:
            magic = file.read(len(npy.MAGIC_PREFIX))
        with _reasons():
            if magic == npy.MAGIC_PREFIX:
                self._members = {self._path.stem: self._path.stat().st_size}
            else:
                self._archive = zipfile.ZipFile(self._path)
                names = {info.filename: info.file_size for info in self._archive.infolist()}
                self._members = {n.removesuffix(".npy"): size for n, size in names.items() if n.endswith(".npy")}
            for name, size in self._members.items():
                with self.open(name) as file:
                    self.headers[name] = _header(file, size, name)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._archive is not None:
            self._archive.close()

    def open(self, name: str) -> IO[bytes]:
        """Return what follows the name of an array, to be read in parts: an .npy with its header."""
        return self._path.open("rb") if self._archive is None else self._archive.open(f"{name}.npy")

    def read(self, name: str) -> NDArray[Any]:
        """Return an array.

        Raises:
            ValueError: it is damaged, or larger than the memory that is free.
        """
        size, free = self.headers[name].nbytes, free_memory()
        if size > free:
            raise ValueError(f"{name} takes {size / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")
        with _reasons(), self.open(name) as file:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            file.read(1)  # at the end of a member its checksum is compared
        return array


def _header(file: IO[bytes], size: int, name: str) -> ArrayHeader:
    """Return the header of an array whose file, or member of an archive, has `size` bytes."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:  # a third one is for records alone
        raise ValueError(f"{name} is of version {version}; only plain arrays are read")
    shape, _, dtype = read(file)
    header = ArrayHeader(shape, dtype)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects; only plain arrays are read")
    if header.nbytes != size - file.tell():
        raise ValueError(f"{name} says {shape} of {dtype}, {header.nbytes} bytes, but has {size - file.tell()}")
    return header


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turn what a damaged file raises, which is of a dozen types, into ValueError with a reason of one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(reason) from error


def flat(content: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with the names on the way joined."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, separator, f"{prefix}{name}{separator}") if inner else {f"{prefix}{name}": value}
    return found
