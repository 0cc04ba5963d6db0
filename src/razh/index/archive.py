"""An archive: codes, paths and facts of a collection of images in a folder that grows; no torch here."""

from __future__ import annotations

import hashlib
import os
import posixpath
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from razh.index.gallery import Gallery, Paths, block_of
from razh.index.storage import MANIFEST, Manifest, StorageWriter, check_files, map_files
from razh.retrieval.packing import check_packed, code_bytes
from razh.support.terminal import did_you_mean

__all__ = ["ArchiveGallery", "ArchiveWriter", "Column", "Entries", "Snapshot", "is_archive"]

BUILT_IN = ("class", "folder", "source")  # columns that every archive has

FACTS = ("id", "bits", "checkpoint", "checkpoint_path", "sources", "columns")
FEW = 16  # names that are looked for one by one
LOOSE = 4  # an archive is packed when one row in so many is removed
_BLOCK_ROWS = 1 << 20


def is_archive(path: Path) -> bool:
    """Whether a path is the folder of an archive."""
    return (path / MANIFEST).is_file()


def _hashes(names: Sequence[str]) -> NDArray[np.uint64]:
    """Return a hash of each name (n,), by which its row is found."""
    digests = (hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), dtype="<u8")


@dataclass(frozen=True, eq=False)
class Column:
    """One word a row, kept as a number into a list of words; 0 is the empty word.

    Attributes:
        numbers: (n,) uint32.
        words: the list.
    """

    numbers: NDArray[np.uint32]
    words: Paths

    def __getitem__(self, row: int) -> str:
        return self.words[int(self.numbers[row])]

    def counts(self, alive: NDArray[np.bool_] | None) -> dict[str, int]:
        """Return how many rows have each word, the most frequent first; rows that are not alive do not count."""
        numbers = self.numbers if alive is None else self.numbers[alive]
        counts = np.bincount(numbers, minlength=len(self.words))
        order = np.argsort(-counts, kind="stable")
        return {self.words[int(n)]: int(counts[n]) for n in order if counts[n]}


class Entries(NamedTuple):
    """Images to be added, a row each.

    Attributes:
        names: their paths in the archive.
        classes: "" where no folder tells.
        sizes: of the files, bytes (n,) int64.
        times: when they were last changed, nanoseconds (n,) int64.
        source: name of the folder that they come from.
    """

    names: Sequence[str]
    classes: Sequence[str]
    sizes: NDArray[np.int64]
    times: NDArray[np.int64]
    source: str


@dataclass(frozen=True, eq=False)
class ArchiveGallery(Gallery):
    """What is searched of an archive."""

    archive: Snapshot = field(kw_only=True)

    @property
    def checkpoint_path(self) -> Path | None:
        """Where the checkpoint was that made the codes."""
        return Path(self.archive.checkpoint_path)

    def rows_of(self, queries: Sequence[str]) -> dict[str, int]:
        """Return the row of every query that is an image of the archive, by its path there or by that of its file."""
        rows = self.archive.rows_of(queries)
        names = {query: self.archive.name_of(query) for query in queries if query not in rows}
        others = self.archive.rows_of(list(names.values())) if names else {}
        return rows | {query: others[name] for query, name in names.items() if name in others}

    def file_of(self, name: str, images: Path | None) -> Path:
        """Return the file of an image, where it was when it was indexed, or below `images`."""
        return images / name if images is not None else Path(self.archive.file_of(name))


class Snapshot:
    """An archive as it was at one moment, for any number of readers; files are mapped, not read.

    Attributes:
        folder: of the archive.
        numbering: names what the numbers of rows stand for: another one, other numbers.
        bits: code length L.
        checkpoint: SHA-256 of the checkpoint that made the codes.
        checkpoint_path: where it was.
        sources: folders that were indexed, by the name that paths begin with.
        codes: packed (n, ceil(L / 8)), rows that were removed included.
        paths: by row.
        sizes, times: of the files (n,), see `Entries`.
        columns: by name.
        features: of length 1, half precision (n, D), where the archive keeps them; else None.
        alive: which rows count (n,); None: all.

    Raises:
        FileNotFoundError: there is no archive.
        ValueError: it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        manifest, files = map_files(folder)
        facts: Mapping[str, Any] = manifest.facts
        if missing := [name for name in FACTS if name not in facts]:
            raise ValueError(f"archive {folder}: {MANIFEST} lacks {', '.join(missing)}; make the archive again")
        self.folder, self.serial = folder, manifest.serial
        self.numbering = (
            f"{facts['id']}-{manifest.files['codes'].name}" if "codes" in manifest.files else str(facts["id"])
        )
        self.bits, self.checkpoint = int(facts["bits"]), str(facts["checkpoint"])
        self.checkpoint_path = str(facts["checkpoint_path"])
        self.sources: dict[str, str] = dict(facts["sources"])
        self._bases = {name: os.path.join(folder_, "") for name, folder_ in self.sources.items()}
        self._looked_up = 0
        nothing = np.empty(0, np.uint8)

        def array(kind: str, dtype: str) -> NDArray[Any]:
            return files.get(kind, nothing).view(dtype)

        self.codes: NDArray[np.uint8] = array("codes", "u1").reshape(-1, code_bytes(self.bits))
        self.paths = Paths(array("paths", "u1"), array("ends", "<i8"))
        self.hashes: NDArray[np.uint64] = array("hashes", "<u8")
        self.sizes: NDArray[np.int64] = array("sizes", "<i8")
        self.times: NDArray[np.int64] = array("times", "<i8")
        self.columns = {
            name: Column(array(f"column.{name}", "<u4"), Paths(array(f"words.{name}", "u1")))
            for name in (*BUILT_IN, *facts["columns"])
        }
        kept = array("features", "<f2")
        if facts.get("features") and len(kept) % max(1, len(self.codes)):
            raise ValueError(
                f"archive {folder}: features of {len(kept)} numbers for {len(self.codes)} rows; make it again"
            )
        self.features: NDArray[np.float16] | None = None
        if facts.get("features"):
            self.features = kept.reshape(len(self.codes), -1) if len(self.codes) else kept.reshape(0, 0)
        self.alive: NDArray[np.bool_] | None = None
        if "removed" in files:
            removed = np.unpackbits(files["removed"])[: len(self.codes)].astype(np.bool_)
            self.alive = np.ones(len(self.codes), np.bool_)
            self.alive[: len(removed)] = ~removed
        lengths = {len(a) for a in (self.codes, self.paths, self.hashes, self.sizes, self.times)}
        if len(lengths | {len(column.numbers) for column in self.columns.values()}) > 1:
            raise ValueError(f"archive {folder}: its files have different numbers of rows; make the archive again")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.codes) if self.alive is None else int(self.alive.sum())

    def gallery(self, where: Mapping[str, Sequence[str]] | None = None) -> ArchiveGallery:
        """Return what is searched: all images, or those that fulfil every condition of `where`, see `chosen`."""
        mask = self.chosen(where) if where else self.alive
        return ArchiveGallery(self.codes, self.paths, self.bits, self.checkpoint, str(self.folder), mask, archive=self)

    def chosen(self, where: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
        """Return which rows are alive and have, in each of these columns, one of the words given; (n,).

        A `folder` also stands for those below it.

        Raises:
            ValueError: no such column, or a word that no image has.
        """
        mask = np.ones(len(self.codes), np.bool_) if self.alive is None else self.alive.copy()
        for name, wanted in where.items():
            if name not in self.columns:
                hint = did_you_mean(name, self.columns)
                raise ValueError(f"--where {name}=…: {self.folder} has no such column; {hint}it has "
                                 f"{', '.join(self.columns)}")  # fmt: skip
            column = self.columns[name]
            words = [column.words[number] for number in range(len(column.words))]
            numbers = set[int]()
            for word in wanted:
                word = word.rstrip("/") if name == "folder" else word
                below = f"{word}/" if name == "folder" else word
                found = {
                    n for n, known in enumerate(words) if known == word or (below != word and known.startswith(below))
                }
                if not found:
                    hint = did_you_mean(word, words)
                    raise ValueError(f"--where {name}={word}: no image of {self.folder} has it; {hint}"
                                     f"`razh index stats {self.folder}` lists what there is")  # fmt: skip
                numbers |= found
            chosen = np.zeros(len(words), np.bool_)
            chosen[list(numbers)] = True
            mask &= chosen[column.numbers]
        return mask

    def rows_of(self, names: Sequence[str]) -> dict[str, int]:
        """Return the row of every name that is among the images."""
        hashes = _hashes(names)
        self._looked_up += len(names)
        if self._looked_up <= FEW:  # whoever asks for more has time to sort
            places = [np.flatnonzero(self.hashes == one) for one in hashes]
        else:
            order, ordered = self._ordered
            first, last = (np.searchsorted(ordered, hashes, side) for side in ("left", "right"))
            places = [order[a:b] for a, b in zip(first, last, strict=True)]
        found: dict[str, int] = {}
        for name, rows in zip(names, places, strict=True):
            for row in rows.tolist():
                if (self.alive is None or self.alive[row]) and self.paths[row] == name:
                    found[name] = row
        return found

    @cached_property
    def _ordered(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        order = np.argsort(self.hashes, kind="stable")
        return order, self.hashes[order]

    def name_of(self, path: str) -> str:
        """Return the name in the archive of a file below one of its folders; else what was given."""
        whole = os.path.realpath(path)
        for source, folder in self.sources.items():
            if whole.startswith(base := os.path.join(folder, "")):
                return f"{source}/{whole[len(base) :].replace(os.sep, '/')}"
        return path

    def file_of(self, name: str) -> str:
        """Return where the image of a name was when it was indexed."""
        source, _, inside = name.partition("/")
        return (self._bases.get(source) or os.path.join(source, "")) + inside

    def live_rows(self) -> NDArray[np.int64]:
        """Return the rows that count, ascending."""
        return np.arange(len(self.codes)) if self.alive is None else np.flatnonzero(self.alive)

    def names(self) -> Iterator[tuple[int, str]]:
        """Yield row and name of every image."""
        for row in self.live_rows().tolist():
            yield row, self.paths[row]

    def stats(self) -> dict[str, Any]:
        """Return what `razh index stats` shows."""
        manifest = Manifest.read(self.folder)
        return {
            "images": len(self),
            "bits": self.bits,
            "checkpoint": self.checkpoint,
            "checkpoint_path": self.checkpoint_path,
            "sources": self.sources,
            "features": None if self.features is None else self.features.shape[1],
            "removed_rows": len(self.codes) - len(self),
            "bytes": sum(one.size for one in manifest.files.values()),
            "columns": {name: column.counts(self.alive) for name, column in self.columns.items()},
        }

    def problems(self) -> list[str]:
        """Read the whole archive and return what is wrong with it, a line each; none: it is as it was written."""
        found = check_files(self.folder)
        if found:
            return found
        try:
            check_packed(self.codes, self.bits, "codes")
        except ValueError as error:
            found.append(str(error))
        ends = self.paths.ends
        if (np.diff(ends, prepend=-1) < 1).any() or self.paths.block[ends].any():
            found.append("paths do not end where the archive says")
        for name, column in self.columns.items():
            if column.numbers.max(initial=0) >= max(1, len(column.words)):
                found.append(f"column {name} has a number without a word")
        return found


class ArchiveWriter:
    """The one process that changes an archive; nothing counts before `commit`. A context.

    Args:
        folder: of the archive.
        create: code length, digest and path of the checkpoint of an archive that may have to be made; None refuses to.
        features: whether one that has to be made keeps features of its images.

    Raises:
        FileNotFoundError: there is no archive.
        BlockingIOError: another process is writing.
        ValueError: the archive is damaged, or was made with another checkpoint or code length.
    """

    def __init__(self, folder: Path, create: tuple[int, str, str] | None = None, features: bool = False) -> None:
        facts = None
        if create is not None:
            bits, digest, path = create
            facts = {"bits": bits, "checkpoint": digest, "checkpoint_path": path, "sources": {}, "columns": []}
            facts |= {"id": uuid.uuid4().hex, "features": features}
        self.folder = folder
        self._words: dict[str, dict[str, int]] = {}
        self._removed = set[int]()
        self._storage = StorageWriter(folder, facts)
        try:
            self.now = Snapshot(folder)
            if facts is not None and not len(self.now.codes):  # nothing depends on what it was made for
                self._storage.facts.update(facts | {"sources": self.now.sources})
                self.commit()
            if create is not None and self.now.checkpoint != create[1]:
                raise ValueError(
                    f"archive {folder} was made with another checkpoint than {create[2]} (its own was "
                    f"{self.now.checkpoint_path}); codes of two do not compare: pass that one, or another --out"
                )
            if features and not self.features:
                raise ValueError(f"archive {folder} was made without --features; make another one with them (--out)")
        except BaseException:
            self._storage.__exit__(None, None, None)
            raise
        self._path_bytes = len(self.now.paths.block)

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._storage.__exit__(kind, error, at)

    @property
    def features(self) -> bool:
        """Whether features are kept."""
        return bool(self._storage.facts.get("features"))

    def source_of(self, folder: Path) -> str:
        """Return the name of a folder of images, which paths begin with: its own, with a number where that is taken.

        A folder that has moved keeps its name: where nothing lies at the old place, the new one counts.

        Raises:
            ValueError: the folder lies in another one of the archive, or the other way round.
        """
        whole = os.path.realpath(folder)
        sources: dict[str, str] = dict(self._storage.facts["sources"])
        for name, place in sources.items():
            if place == whole:
                return name
            if os.path.isdir(place) and os.path.commonpath([place, whole]) in (place, whole):
                raise ValueError(f"{folder} overlaps with {place}, which is in {self.folder} already; update that one")
        base = Path(whole).name or "images"
        name, number = base, 2
        while name in sources and os.path.isdir(sources[name]):
            name, number = f"{base}-{number}", number + 1
        self._storage.facts["sources"] = {**sources, name: whole}
        return name

    def append(
        self,
        codes: NDArray[np.uint8],
        entries: Entries,
        replaced: Sequence[int] = (),
        features: NDArray[np.float16] | None = None,
    ) -> None:
        """Add rows: packed codes (n, ceil(L / 8)) and what is known of their images, in the place of others.

        Raises:
            ValueError: the codes are no packed ones of this length, or there are features (n, D) just where none are
                kept.
        """
        if not len(entries.names):
            return
        if (features is not None) != self.features:
            raise ValueError(f"archive {self.folder} keeps {'' if self.features else 'no '}features; give them so")
        block = block_of(entries.names)
        rows = {
            "codes": check_packed(codes, self.now.bits, "codes").tobytes(),
            "paths": block.tobytes(),
            "ends": (np.flatnonzero(block == 0) + self._path_bytes).astype("<i8").tobytes(),
            "hashes": _hashes(entries.names).tobytes(),
            "sizes": entries.sizes.astype("<i8").tobytes(),
            "times": entries.times.astype("<i8").tobytes(),
        }
        if features is not None:
            rows["features"] = features.astype("<f2").tobytes()
        folders = [posixpath.dirname(name) for name in entries.names]
        given = {"class": entries.classes, "folder": folders, "source": [entries.source] * len(folders)}
        for name in self.now.columns:
            rows[f"column.{name}"] = self._numbers(name, given.get(name) or [""] * len(folders)).tobytes()
        self.remove(replaced)
        self._storage.append(rows)  # at once: who is told to stop commits whole rows, or none
        self._path_bytes += len(block)

    def _numbers(self, column: str, words: Sequence[str]) -> NDArray[np.uint32]:
        if column not in self._words:
            known = self.now.columns[column].words if column in self.now.columns else Paths.of([])
            self._words[column] = {known[number]: number for number in range(len(known))}
        numbers = self._words[column]
        fresh = [word for word in dict.fromkeys(["", *words]) if word not in numbers]
        numbers.update({word: len(numbers) + place for place, word in enumerate(fresh)})
        if fresh:
            self._storage.append({f"words.{column}": block_of(fresh).tobytes()})
        return np.array([numbers[word] for word in words], dtype="<u4")

    def remove(self, rows: Sequence[int]) -> None:
        """Take rows out."""
        self._removed.update(rows)

    def set_columns(self, table: Mapping[str, Mapping[str, str]]) -> int:
        """Give images words of own columns; what a column says of other images stays.

        Args:
            table: by column, the word of an image by its name in the archive.

        Returns:
            How many of the images named are in the archive.
        """
        rows = self.now.rows_of(list({name: None for of_column in table.values() for name in of_column}))
        own = list(self._storage.facts["columns"])
        for column, words in table.items():
            if column in self.now.columns:
                numbers = np.array(self.now.columns[column].numbers)
            else:
                numbers = np.zeros(len(self.now.codes), "<u4")
            known = {name: word for name, word in words.items() if name in rows}
            numbers[[rows[name] for name in known]] = self._numbers(column, list(known.values()))
            self._storage.put(f"column.{column}", [numbers.tobytes()])
            own += [column] if column not in (*own, *BUILT_IN) else []
        self._storage.facts["columns"] = own
        self.commit()
        return len(rows)

    def commit(self) -> None:
        """Acknowledge what was added and removed: when this returns, it is on the disk; before, nothing of it."""
        if self._removed:
            removed = np.zeros(max(len(self.now.codes), max(self._removed) + 1), np.bool_)
            if self.now.alive is not None:
                removed[: len(self.now.codes)] = ~self.now.alive
            removed[list(self._removed)] = True
            self._storage.put("removed", [np.packbits(removed).tobytes()])
        self._storage.commit()
        self._removed = set()
        self.now = Snapshot(self.folder)

    def pack(self) -> bool:
        """Give back the room of removed rows where they are many; return whether that was so."""
        now = self.now
        if now.alive is None or (len(now.codes) - len(now)) * LOOSE < len(now.codes):
            return False
        rows = now.live_rows()
        arrays: dict[str, NDArray[Any]] = {
            "codes": now.codes,
            "hashes": now.hashes,
            "sizes": now.sizes,
            "times": now.times,
        }
        arrays |= {f"column.{name}": column.numbers for name, column in now.columns.items()}
        if now.features is not None:
            arrays["features"] = now.features
        for kind, array in arrays.items():
            self._storage.put(kind, (array[some].tobytes() for some in _blocks(rows)))
        lengths = np.diff(now.paths.ends, prepend=-1)[rows]
        ends = np.cumsum(lengths) - 1
        self._storage.put("ends", [ends.astype("<i8").tobytes()])
        self._storage.put(
            "paths", (block_of([now.paths[int(row)] for row in some]).tobytes() for some in _blocks(rows))
        )
        self._storage.drop("removed")
        self._path_bytes = int(lengths.sum())
        self.commit()
        return True


def _blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), _BLOCK_ROWS):
        yield rows[start : start + _BLOCK_ROWS]
