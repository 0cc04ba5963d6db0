"""An archive brought up to date with folders of images: what is new or changed is encoded, and committed meanwhile."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.files import text
from razh.index.archive import ArchiveWriter, Entries
from razh.index.sources import Source, find_images

if TYPE_CHECKING:
    from razh.index.network import Network
    from razh.index.options import Encoding

__all__ = ["Report", "plan", "read_columns", "update"]

log = logging.getLogger(__name__)
COMMIT_SECONDS = 5.0  # of work are lost at most where the process is killed


@dataclass
class Report:
    """What an update did: numbers of images.

    Attributes:
        added: that were not in the archive.
        changed: encoded again, since their file has another size or time.
        unchanged: left as they are.
        gone: whose file is not there any more.
        pruned: of these, removed.
        left_out: that could not be taken, each by its name in the log.
        problem: why the first of them could not be read.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    gone: int = 0
    pruned: int = 0
    left_out: int = 0
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done for a folder: positions in `source` that are to be encoded, and rows without a file."""

    source: Source
    label: str
    names: list[str]
    sizes: NDArray[np.int64]
    times: NDArray[np.int64]
    rows: dict[str, int]
    todo: list[int]
    gone: list[int] = field(default_factory=list)


def plan(writer: ArchiveWriter, folder: Path) -> Plan:
    """Compare a folder with the archive.

    Raises:
        FileNotFoundError: there is no such folder, or it has no images.
        ValueError: it is a file.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file; name the folder that it is in")
    source = find_images([folder])
    label, now = writer.source_of(folder), writer.now
    names = [f"{label}/{name}" for name in source.names]
    sizes, times = _states(source.files)
    rows = now.rows_of(names)
    known = np.array([rows.get(name, -1) for name in names], dtype=np.int64)
    old = known >= 0
    same = old.copy()
    same[old] = (now.sizes[known[old]] == sizes[old]) & (now.times[known[old]] == times[old])
    kept = np.zeros(len(now.codes), np.bool_)
    kept[known[old]] = True
    sources = now.columns["source"]
    own = np.flatnonzero([word == label for word in (sources.words[n] for n in range(len(sources.words)))])
    gone = np.isin(sources.numbers, own) & ~kept & (True if now.alive is None else now.alive)
    return Plan(source, label, names, sizes, times, rows, np.flatnonzero(~same).tolist(), np.flatnonzero(gone).tolist())


def _states(files: list[Path]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return size and time of files (n,), 0 where there is none: a dangling link."""
    states = np.zeros((2, len(files)), dtype=np.int64)
    for position, file in enumerate(files):
        try:
            state = file.stat()
        except OSError:
            continue
        states[:, position] = state.st_size, state.st_mtime_ns
    return states[0], states[1]


def update(
    writer: ArchiveWriter,
    folders: Sequence[Path],
    network: Callable[[], Network],
    how: Encoding,
    prune: bool = False,
) -> Report:
    """Bring an archive up to date with folders; what is encoded is committed every `COMMIT_SECONDS`, and at the end.

    Args:
        writer: of the archive.
        folders: with images.
        network: gives what encodes, which is asked for only where there is something to encode.
        how: images are encoded.
        prune: remove images whose file is not there any more.

    Raises:
        FileNotFoundError: there is no such folder, or it has no images.
        ValueError: it is a file, or overlaps with another folder of the archive; or hash logits are not finite.
        OSError: the archive cannot be written.
    """
    report = Report()
    for folder in folders:
        work = plan(writer, folder)
        report.gone += len(work.gone)
        report.left_out += work.source.left_out
        report.unchanged += len(work.names) - len(work.todo)
        if prune:
            writer.remove(work.gone)
            report.pruned += len(work.gone)
        writer.commit()
        if work.todo:
            _encode(writer, work, network(), how, report)
    if writer.pack():
        log.info("packed: removed images take no room any more")
    return report


def _encode(writer: ArchiveWriter, work: Plan, network: Network, how: Encoding, report: Report) -> None:
    files = [work.source.files[position] for position in work.todo]
    committed = time.monotonic()
    try:
        for batch in network.batches(files, replace(how, features=writer.features)):
            report.left_out += len(batch.broken)
            report.problem = report.problem or next(iter(batch.broken.values()), "")
            whole = np.array([at not in batch.broken for at in batch.positions.tolist()], dtype=np.bool_)
            chosen = np.array(work.todo, dtype=np.int64)[batch.positions[whole]]
            replaced = [work.rows[name] for name in (work.names[at] for at in chosen) if name in work.rows]
            entries = Entries(
                [work.names[at] for at in chosen],
                [work.source.classes[at] for at in chosen],
                work.sizes[chosen],
                work.times[chosen],
                work.label,
            )
            features = None if batch.features is None else batch.features[whole]
            writer.append(batch.codes[whole], entries, replaced, features)
            report.changed += len(replaced)
            report.added += len(chosen) - len(replaced)
            if time.monotonic() - committed > COMMIT_SECONDS:
                writer.commit()
                committed = time.monotonic()
    finally:  # also where the process is told to stop
        writer.commit()


def read_columns(path: Path, writer: ArchiveWriter) -> Mapping[str, Mapping[str, str]]:
    """Read a table of own columns: a header, and a line an image with its path, in the archive or below a folder of it.

    Args:
        path: of a CSV file; the column `path` (else the first one) tells images apart.
        writer: of the archive, which knows the folders.

    Returns:
        By column, the word of each image by its name in the archive.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no table, or a column has a name that the archive needs itself.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--columns={path}: no such file; give a CSV with a column `path` and others")
    content, _ = text.decode(path.read_bytes(), path)
    table_rows = text.cells(content, path)[0] if content.strip() else []
    header, rows = (table_rows[0], table_rows[1:]) if table_rows else ([], [])
    if len(header) < 2 or not rows:
        raise ValueError(f"--columns={path} has {len(header)} columns and {len(rows)} lines; give `path` and others")
    at = header.index("path") if "path" in header else 0
    names = [name for place, name in enumerate(header) if place != at]
    if wrong := [name for name in names if name in ("", "path", "folder", "source", "size", "time") or "=" in name]:
        raise ValueError(f"--columns={path}: a column cannot be called {wrong[0]!r}; give it another name")
    if len(set(names)) < len(names):
        raise ValueError(f"--columns={path} has two columns of one name; give them different ones")
    if uneven := [number for number, row in enumerate(rows, 2) if len(row) != len(header)]:
        raise ValueError(f"--columns={path} line {uneven[0]} has other columns than the header; all lines need as many")
    given = [text.slashes(row[at]) for row in rows]
    table: dict[str, dict[str, str]] = {name: {} for name in names}
    for prefix in ("", *(f"{source}/" for source in writer.now.sources)):
        known = writer.now.rows_of([f"{prefix}{name}" for name in given])
        for name, row in zip(given, rows, strict=True):
            if f"{prefix}{name}" in known:
                words = [word for place, word in enumerate(row) if place != at]
                for column, word in zip(names, words, strict=True):
                    table[column][f"{prefix}{name}"] = word
    return table
