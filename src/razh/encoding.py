"""Any images to codes, with a trained method: what `razh encode` and `razh search` do."""

import glob
import hashlib
import logging
import os
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from datamodules.images import evaluation_view, list_images_below, read_image
from razh.files import write_arrays
from razh.layers.hash import binarize
from razh.method import HashingMethod
from razh.processes import cores
from razh.progress import track
from razh.retrieval.packing import pack

__all__ = ["Source", "Unfinished", "device_named", "digest_of", "encode", "find_images", "save", "work_key"]

log = logging.getLogger(__name__)
MOST_WORKERS = 8
SAVE_SECONDS = 30.0  # of work are lost at most where the process is killed


class Source(NamedTuple):
    """Images to encode: files, the names under which they are kept, and their classes, "" where no folder tells."""

    files: list[Path]
    names: list[str]
    classes: list[str]


def device_named(name: str | None) -> str:
    """Return the device of that name; None: `cuda` where there is a GPU, else `cpu`.

    Raises:
        ValueError: this machine has no such device.
    """
    if not name:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device={name} cannot be used ({reason}); pass cpu, cuda or cuda:0") from None
    return name


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def work_key(digest: str, source: Source) -> str:
    """Return what tells this work from other work: the checkpoint, and name, size and time of every image."""
    key = hashlib.sha256(digest.encode())
    for file, name in zip(source.files, source.names, strict=True):
        state = file.stat()
        key.update(f"\n{name}\0{state.st_size}\0{state.st_mtime_ns}".encode(errors="surrogateescape"))
    return key.hexdigest()


def find_images(given: list[Path]) -> Source:
    """Return the images of folders (with sub-folders) and files, each once.

    Paths are kept relative to the folder; to the one that all have in common, if several are given, for a path should
    tell one image from another. A class is the first sub-folder of what is given; of several folders without
    sub-folders, each is one.

    Raises:
        FileNotFoundError: a path does not exist, or no image is found at all.
    """
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"no image or folder at {path}")
    folders = [path if path.is_dir() else path.parent for path in given]
    common = os.path.commonpath([os.path.abspath(folder) for folder in folders]) if folders else ""
    found: dict[str, tuple[Path, str]] = {}
    for path, folder in zip(given, folders, strict=True):
        prefix = Path(os.path.relpath(folder, common))
        for name in list_images_below(path) if path.is_dir() else [path.name]:
            inside = (*prefix.parts[-1:], name) if "/" not in name else Path(name).parts
            found.setdefault((prefix / name).as_posix(), (folder / name, inside[0] if len(inside) > 1 else ""))
    names, files, classes = list(found), [file for file, _ in found.values()], [c for _, c in found.values()]
    if not files:
        raise FileNotFoundError(f"no images in {', '.join(map(str, given))}; .jpg, .png, .webp and the like are read")
    return Source(files, names, classes)


class _Files(Dataset[tuple[int, Tensor, str]]):
    """Images by position; a broken one comes as a black image with the reason."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> tuple[int, Tensor, str]:
        try:
            return position, evaluation_view(read_image(self.files[position]), self.size), ""
        except (OSError, ValueError, RuntimeError) as error:
            return position, torch.zeros(3, self.size, self.size, dtype=torch.uint8), str(error) or type(error).__name__


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
            with np.load(self.path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            if str(found["key"]) != self.key:
                return 0, {}
            done = len(found["codes"])
            codes[:done] = found["codes"]
            return done, dict(zip(found["broken"].tolist(), found["reasons"].tolist(), strict=True))
        except FileNotFoundError:
            return 0, {}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
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
        name = glob.escape(self.path.name.removesuffix(".unfinished"))
        for part in self.path.parent.glob(f"{name}.*.part"):  # of encodings that were killed
            part.unlink(missing_ok=True)


def encode(
    method: HashingMethod,
    source: Source,
    batch_size: int | None = None,
    workers: int | None = None,
    unfinished: Unfinished | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Return packed codes (n, ⌈L/8⌉) of all files, and why some could not be read, by position.

    Args:
        method: with trained weights.
        source: the files.
        batch_size: images at once; None for the device's own.
        workers: processes that decode images; None for one a core, up to `MOST_WORKERS`.
        unfinished: keeps what is done, and knows what was.
    """
    files = _Files(source.files, method.backbone.image_size)
    codes = np.zeros((len(files), -(-method.bits // 8)), dtype=np.uint8)
    done, broken = unfinished.read(codes) if unfinished is not None else (0, {})
    if done:
        log.info("going on behind the first %d of %d images", done, len(files))
    for reason in broken.values():
        log.warning("left out: %s", reason)
    rest = Subset(files, range(done, len(files)))
    # Small batches on a CPU: memory for their activations is there already, that for larger ones comes anew each time.
    batch_size = batch_size or (64 if method.device.type == "cuda" else 16)
    workers = min(cores(), MOST_WORKERS) if workers is None else workers
    loader = DataLoader(rest, batch_size=batch_size, num_workers=min(workers, len(rest)))
    try:
        with torch.inference_mode():
            for position, images, reasons in track(loader, "encoding", len(loader)):
                codes[position.numpy()] = pack(binarize(method(images.to(method.device))).cpu().numpy())
                for at, reason in zip(position.tolist(), reasons, strict=True):
                    if reason:
                        broken[at] = reason
                        log.warning("left out: %s", reason)
                done = int(position[-1]) + 1
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
    arrays = {"codes": codes, "paths": np.array(names), "bits": np.array(bits), "checkpoint": np.array(digest)}
    if all(classes):
        class_names, labels = np.unique(classes, return_inverse=True)
        arrays |= {"labels": labels.astype(np.int64), "class_names": class_names}
    write_arrays(path, arrays)
