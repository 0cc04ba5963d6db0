"""An exported network (ONNX) that encodes images by onnxruntime, Pillow and NumPy; no torch here."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from razh.datamodules.pictures import picture_view, read_picture
from razh.export.facts import ClassFacts, facts_beside, from_text
from razh.index.network import Batch, Encoded, Pixels
from razh.index.options import MOST_WORKERS, Encoding, Precision
from razh.retrieval.packing import pack
from razh.support.processes import cores
from razh.support.progress import track

__all__ = ["ExportedNetwork"]

log = logging.getLogger(__name__)
AHEAD = 4  # images for each worker that wait to be encoded


class ExportedNetwork:
    """An ONNX file of `razh export` that encodes images, see `razh.index.network.Network`.

    Args:
        file: of the network; what it says of itself is in its metadata.
        device: see `razh.index.loading.open_network`.

    Raises:
        ImportError: onnxruntime is missing.
        ValueError: the file is damaged or none of `razh export`, or the device cannot be used.
    """

    batch_size, by_torch, tells_why = 16, False, False

    def __init__(self, file: Path, device: str | None = None) -> None:
        facts_beside(file)  # compares it with its checksum, where that is there
        self._session = _session(file, device)
        facts = from_text(self._session.get_modelmeta().custom_metadata_map.get("razh"), file)
        self.kind, self.bits, self.image_size = facts["method"], int(facts["bits"]), int(facts["image_size"])
        self.origin: str = facts["checkpoint"]
        self.info: Mapping[str, Any] = facts["info"]
        self._file, self._classes = file, facts.get("classes")
        given, made = self._session.get_inputs()[0], self._session.get_outputs()[0]
        if given.shape[1:] != [3, self.image_size, self.image_size] or made.shape[1:] != [self.bits]:
            raise ValueError(f"{file} is not what its metadata say; export the checkpoint again")
        self._names = given.name, made.name

    def classes(self) -> ClassFacts:
        """Return what it knows of classes."""
        if self._classes is None:
            return ClassFacts(np.zeros((0, 0), np.float32), [])
        return ClassFacts.of_json(self._classes)

    def view(self, image: Path | Pixels) -> Pixels:
        """Return what it sees (3, S, S) of an image file, or of pixels (H, W, 3)."""
        return picture_view(read_picture(image) if isinstance(image, Path) else image, self.image_size)

    def look(self, views: Pixels, features: bool = False, precision: Precision = "32") -> Encoded:
        """Return codes and logits of views (B, 3, S, S).

        Raises:
            ValueError: features or another precision, which an exported network does not have; logits not finite.
        """
        if features:
            raise ValueError(f"{self._file} gives codes alone; leave features out, or name the checkpoint")
        if precision != "32":
            raise ValueError(f"--precision={precision} is for checkpoints; leave it out, or name the checkpoint")
        given, made = self._names
        logits = self._session.run([made], {given: views})[0]
        if not np.isfinite(logits).all():
            raise ValueError(f"{self._file} gives logits that are not finite; export the checkpoint again")
        return Encoded(pack(logits >= 0), logits, None)

    def batches(self, files: Sequence[Path], how: Encoding, first: int = 0) -> Iterator[Batch]:
        """Yield the codes of image files in order, from the one at `first` on; what is broken is logged."""
        size = how.batch_size or self.batch_size
        read = _read(files, first, self.image_size, how)
        starts = range(first, len(files), size)
        for start in track(starts, "encoding", len(starts)):
            views, reasons = zip(*islice(read, min(size, len(files) - start)), strict=True)
            made = self.look(np.stack(views), how.features, how.precision)
            broken = {start + at: reason for at, reason in enumerate(reasons) if reason}
            for reason in broken.values():
                log.warning("left out: %s", reason)
            yield Batch(np.arange(start, start + len(views)), made.codes, broken, made.logits, None)


def _session(file: Path, device: str | None) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(f'{file} needs a package; pip install "onnxruntime>=1.20"') from None
    kind, _, number = (device or "").partition(":")
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind not in ("", "cpu", "cuda") or (kind == "cuda" and not has_gpu):
        raise ValueError(f"--device={device} cannot be used by this onnxruntime; pass cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(cores(), int(os.environ.get("OMP_NUM_THREADS") or cores()))
    options.log_severity_level = 3  # errors
    providers: list[Any] = ["CPUExecutionProvider"]
    if kind != "cpu" and has_gpu:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(number or 0)}))
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime has a dozen types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{file} cannot be read as ONNX ({reason}); export the checkpoint again") from None


def _read(files: Sequence[Path], first: int, side: int, how: Encoding) -> Iterator[tuple[Pixels, str]]:
    """Yield views in order, a black one with the reason for a file that cannot be read; decoded by threads."""

    def one(at: int) -> tuple[Pixels, str]:
        try:
            return picture_view(read_picture(files[at], how.max_megapixels), side), ""
        except OSError as error:
            return np.zeros((3, side, side), np.uint8), str(error)

    workers = min(cores(), MOST_WORKERS) if how.workers is None else how.workers
    if not workers:
        yield from map(one, range(first, len(files)))
        return
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[tuple[Pixels, str]]]()
    try:
        for at in range(first, len(files)):
            waiting.append(pool.submit(one, at))
            if len(waiting) >= workers * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
