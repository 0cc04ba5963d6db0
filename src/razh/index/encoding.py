"""Any images to codes, with a trained method: what `razh encode` and `razh search` do."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from razh.datamodules.images import TRANSFORM, evaluation_view, read_image
from razh.index.options import Encoding, Precision
from razh.index.sources import Source
from razh.method import HashingMethod
from razh.retrieval.packing import pack
from razh.support.files import ArrayFile, remove_leftovers, write_arrays
from razh.support.processes import cores
from razh.support.progress import track

__all__ = [
    "Batch",
    "Encoded",
    "Unfinished",
    "batches",
    "default_batch",
    "device_named",
    "encode",
    "encoder",
    "save",
    "work_key",
]

log = logging.getLogger(__name__)
MOST_WORKERS = 8
SAVE_SECONDS = 30.0  # of work are lost at most where the process is killed


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


class _Files(Dataset[tuple[int, Tensor, str]]):
    """Images by position; a broken one comes as a black image with the reason."""

    def __init__(self, files: Sequence[Path], size: int, max_megapixels: float) -> None:
        self.files, self.size, self.max_megapixels = files, size, max_megapixels

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> tuple[int, Tensor, str]:
        try:
            image = read_image(self.files[position], max_megapixels=self.max_megapixels)
            return position, evaluation_view(image, self.size), ""
        except OSError as error:
            return position, torch.zeros(3, self.size, self.size, dtype=torch.uint8), str(error)


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


class Batch(NamedTuple):
    """Codes of some images.

    Attributes:
        positions: of the images among all, ascending (b,).
        codes: packed (b, ⌈L/8⌉); of a broken image they say nothing.
        broken: why images could not be read, by position.
        logits: real-valued (b, L), whose signs the codes are.
        features: of length 1, half precision (b, D), where they are wanted.
    """

    positions: NDArray[np.int64]
    codes: NDArray[np.uint8]
    broken: dict[int, str]
    logits: NDArray[np.float32]
    features: NDArray[np.float16] | None


class Encoded(NamedTuple):
    """What is made of images, see `Batch`."""

    codes: NDArray[np.uint8]
    logits: NDArray[np.float32]
    features: NDArray[np.float16] | None


def default_batch(method: HashingMethod) -> int:
    """Return how many images are encoded at once where nobody says."""
    # Small batches on a CPU: memory for their activations is there already, that for larger ones comes anew each time.
    return 64 if method.device.type == "cuda" else 16


def encoder(method: HashingMethod, precision: Precision = "32", features: bool = False) -> Callable[[Tensor], Encoded]:
    """Return what turns uint8 images (B, 3, S, S) into codes, as fast as that is right.

    Convolutions run channels last, which changes no bit of the codes and takes two thirds of the time on a CPU.

    Args:
        method: with trained weights.
        precision: see `Encoding`.
        features: see `Encoding`.

    Raises:
        ValueError: bf16, and the processor does not have it.
    """
    kind = method.device.type
    if precision == "bf16" and not _has_bf16(kind):
        raise ValueError(
            f"--precision=bf16 is not what this {'processor' if kind == 'cpu' else kind} has; leave it out"
        )
    method.backbone.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def encode_batch(images: Tensor) -> Encoded:
        batch, described = {"image": images.to(method.device)}, None
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            if features and not method.views:  # both are made from them
                batch["patches"] = method.patches(batch)
            logits = method.finite_logits(batch).float().cpu().numpy()
            if features:
                description = method.description(batch).float()
                described = torch.nn.functional.normalize(description, dim=1).half().cpu().numpy()
        return Encoded(pack(logits >= 0), logits, described)

    return encode_batch


def _has_bf16(kind: str) -> bool:
    """Whether a device has instructions for bfloat16: without, it is slower than what it replaces."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def batches(method: HashingMethod, files: Sequence[Path], options: Encoding, first: int = 0) -> Iterator[Batch]:
    """Yield the codes of images in order; what is broken is logged.

    Args:
        method: with trained weights.
        files: the images.
        options: how.
        first: so many images are done.
    """
    images = _Files(files, method.backbone.image_size, options.max_megapixels)
    rest = Subset(images, range(first, len(images)))
    batch_size = options.batch_size or default_batch(method)
    encode_batch = encoder(method, options.precision, options.features)
    workers = min(cores(), MOST_WORKERS) if options.workers is None else options.workers
    loader = DataLoader(rest, batch_size=batch_size, num_workers=min(workers, len(rest)))
    for position, pixels, reasons in track(loader, "encoding", len(loader)):
        made = encode_batch(pixels)
        broken = {at: reason for at, reason in zip(position.tolist(), reasons, strict=True) if reason}
        for reason in broken.values():
            log.warning("left out: %s", reason)
        yield Batch(position.numpy(), made.codes, broken, made.logits, made.features)


def encode(
    method: HashingMethod, source: Source, options: Encoding, unfinished: Unfinished | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Return packed codes (n, ⌈L/8⌉) of all files, and why some could not be read, by position.

    Args:
        method: with trained weights.
        source: the files.
        options: how.
        unfinished: keeps what is done, and knows what was.
    """
    codes = np.zeros((len(source.files), -(-method.bits // 8)), dtype=np.uint8)
    done, broken = unfinished.read(codes) if unfinished is not None else (0, {})
    if done:
        log.info("going on behind the first %d of %d images", done, len(codes))
    for reason in broken.values():
        log.warning("left out: %s", reason)
    try:
        for batch in batches(method, source.files, options, done):
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
