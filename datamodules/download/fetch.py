"""Fetches the public data sets: resumable, checked, unpacked safely; a second call does nothing.

All addresses, sizes and checksums stand in `DATASETS`. Of archives whose authors publish no checksum, the first
download's SHA-256 is written to `checksums.json` in the data folder, and later downloads are held to it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from razh.datamodules.download.extraction import remove_leftovers, unpack
from razh.datamodules.download.transfer import file_size, forget, transfer

__all__ = ["DATASETS", "Archive", "fetch"]

log = logging.getLogger(__name__)

MB, GB = 10**6, 10**9


@dataclass(frozen=True)
class Archive:
    """One file to fetch and unpack.

    Attributes:
        url: Address.
        size: Size in bytes, about; exact if `exact`.
        unpacked: Most bytes that its wanted members unpack to.
        provides: Paths below the data folder that are there once it is unpacked.
        checksum: "md5:…" or "sha256:…" as published; empty: the first download's is recorded.
        exact: `size` is known to the byte.
        members: Shell patterns of the members that are wanted.
    """

    url: str
    size: int
    unpacked: int
    provides: tuple[str, ...]
    checksum: str = ""
    exact: bool = False
    members: tuple[str, ...] = ("*",)

    @property
    def name(self) -> str:
        """File name in the data folder."""
        return self.url.partition("?")[0].rpartition("/")[2]


def _proposed_split(name: str) -> Archive:
    """Return the archive of the proposed split (Xian et al.), of which only one data set's files are unpacked."""
    return Archive(
        url="https://datasets.d2.mpi-inf.mpg.de/xian/xlsa17.zip",
        size=900 * MB,
        unpacked=1 * GB,
        provides=(f"xlsa17/data/{name}/att_splits.mat",),
        members=(f"xlsa17/data/{name}/*",),
    )


DATASETS: Mapping[str, tuple[Archive, ...]] = {
    "cub": (
        Archive(
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            size=1_150_585_339,
            exact=True,
            unpacked=2 * GB,
            provides=("CUB_200_2011/images.txt", "CUB_200_2011/images"),
            checksum="md5:97eceeb196236b17998738112f37df78",
        ),
        _proposed_split("CUB"),
    ),
    "awa2": (
        Archive(
            url="https://cvml.ista.ac.at/AwA2/AwA2-base.zip",
            size=32_000,
            unpacked=10 * MB,
            provides=("Animals_with_Attributes2/classes.txt",),
        ),
        Archive(
            url="https://cvml.ista.ac.at/AwA2/AwA2-data.zip",
            size=14 * GB,
            unpacked=20 * GB,
            provides=("Animals_with_Attributes2/JPEGImages",),
        ),
        _proposed_split("AWA2"),
    ),
    "sun": (
        Archive(
            url="https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB.tar.gz",
            size=1 * MB,
            unpacked=200 * MB,
            provides=("SUNAttributeDB/images.mat",),
            checksum="md5:883293e5b645822f6ae0046c6df54183",
        ),
        Archive(
            url="https://cs.brown.edu/~gmpatter/Attributes/SUNAttributeDB_Images.tar.gz",
            size=2 * GB,
            unpacked=4 * GB,
            provides=("images",),
            checksum="md5:5966725c7306df6e05cd3ada7f45a18b",
        ),
        _proposed_split("SUN"),
    ),
    "cifar10": (
        Archive(
            url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            size=170_052_171,
            exact=True,
            unpacked=200 * MB,
            provides=("cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin/test_batch.bin"),
            checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
}


def fetch(
    name: str, root: str | Path, *, keep_archive: bool = False, datasets: Mapping[str, tuple[Archive, ...]] = DATASETS
) -> bool:
    """Fetch a data set into a folder and unpack it there.

    An archive that lies in `root` under its own name is used instead of the network, and stays. What was interrupted
    goes on where it stopped: a download in `NAME.razh-part`; unpacking starts anew.

    Args:
        name: Data set, a key of `datasets`.
        root: Folder of the data set, made if missing.
        keep_archive: Leave the archives in `root` after unpacking, also those that were fetched.
        datasets: Table of data sets.

    Returns:
        Whether anything was done; False if everything was there.

    Raises:
        ValueError: There is no such data set, or an archive is not the expected one, damaged or unsafe.
        OSError: The network or the disk failed, the disk is too small, or another process fetches into `root`.
    """
    if name not in datasets:
        raise ValueError(f"data set is {name!r}, but can be {', '.join(datasets)}")
    folder = Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".fetch.lock", timeout=0):
            remove_leftovers(folder)
            wanted = [archive for archive in datasets[name] if not _is_complete(archive, folder)]
            for archive in datasets[name]:
                if archive not in wanted:
                    log.info("%s is already unpacked in %s", archive.name, folder)
            _check_disk(folder, wanted)
            for archive in wanted:
                _fetch_archive(archive, folder, keep_archive)
            return bool(wanted)
    except Timeout:
        raise OSError(f"another process is fetching into {folder}; wait for it, or stop it and run again") from None


def _fetch_archive(archive: Archive, folder: Path, keep: bool) -> None:
    place, part = folder / archive.name, _part_file(archive, folder)
    fetched = not place.is_file()
    file = part if fetched else place
    with _progress() as progress:
        if fetched:
            transfer(archive.url, part, progress, archive.size, exact=archive.exact)
        digest = _verify(archive, file, folder, progress)
    log.info("unpacking %s", file)
    count = unpack(file, folder, archive.unpacked, archive.members)
    missing = [path for path in archive.provides if not (folder / path).exists()]
    if missing:
        raise ValueError(f"archive {file} was unpacked, but {missing[0]} is not in it; it is not the expected archive")
    # Not before: what is no such archive (a page that asks to log in) must not be what later downloads are held to.
    _record(folder, archive, sha256=digest, bytes=file_size(file), unpacked=True)
    log.info("%d files of %s are in %s", count, archive.name, folder)
    if fetched:
        if keep:
            os.replace(part, place)
        forget(part)


# ---------------------------------------------------------------------------------------------------------- the record


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `checksums.json` knows: by archive name its url, size, sha256 and whether it is unpacked."""
    path = folder / "checksums.json"
    if not path.is_file():
        return {}
    try:
        records: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {name: dict(record) for name, record in records.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and run again") from error


def _record(folder: Path, archive: Archive, **facts: Any) -> None:
    records = _records(folder)
    records[archive.name] = {**records.get(archive.name, {}), "url": archive.url, **facts}
    _write_json(folder / "checksums.json", records)


def _write_json(path: Path, value: Any) -> None:
    """Write a file that is never seen half-written."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, path)


def _is_complete(archive: Archive, folder: Path) -> bool:
    """Return whether the archive was unpacked here; only our own record is trusted, since a folder can be half-full."""
    record = _records(folder).get(archive.name, {})
    return bool(record.get("unpacked")) and all((folder / path).exists() for path in archive.provides)


# ------------------------------------------------------------------------------------------------------------ checking


def _check_disk(folder: Path, archives: list[Archive]) -> None:
    """Refuse to start what cannot fit: what is left to download, and everything unpacked."""
    needed = sum(archive.unpacked for archive in archives)
    for archive in archives:
        if not (folder / archive.name).is_file():
            needed += max(archive.size - file_size(_part_file(archive, folder)), 0)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / GB:.1f} GB free, but download and unpacked files may take {needed / GB:.1f} GB; "
            "free some space, or pass --root on a larger disk"
        )


def _verify(archive: Archive, file: Path, folder: Path, progress: Progress) -> str:
    """Compare the file with the published checksum, or with the recorded one; return its SHA-256."""
    kind, _, published = archive.checksum.partition(":")
    found = _digests(file, {kind, "sha256"} - {""}, progress)
    if published and found[kind] != published.lower():
        ours = file == _part_file(archive, folder)
        if ours:
            forget(file)
        raise ValueError(
            f"{file} has {kind.upper()} {found[kind]}, but {published} is published: it is damaged or was changed; "
            + ("it was deleted, run again" if ours else "delete it and run again")
        )
    recorded = _records(folder).get(archive.name, {}).get("sha256")
    if recorded not in (None, found["sha256"]):
        raise ValueError(
            f"{file} has SHA-256 {found['sha256']}, but the first download had {recorded}; if the new one is right, "
            f"remove {archive.name} from {folder / 'checksums.json'}, else delete the file; then run again"
        )
    return found["sha256"]


def _digests(file: Path, kinds: set[str], progress: Progress) -> dict[str, str]:
    digests = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
    task = progress.add_task(f"checking {file.name}", total=file_size(file))
    with file.open("rb") as content:
        while chunk := content.read(1 << 20):
            for digest in digests.values():
                digest.update(chunk)
            progress.advance(task, len(chunk))
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


def _part_file(archive: Archive, folder: Path) -> Path:
    return folder / f"{archive.name}.razh-part"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
