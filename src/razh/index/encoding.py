"""Any images to codes, with a trained method, by torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from razh.datamodules.images import evaluation_view, read_image, tensor_of
from razh.export.facts import ClassFacts
from razh.index.network import Batch, Encoded, Pixels
from razh.index.options import MOST_WORKERS, Encoding, Precision
from razh.method import HashingMethod
from razh.retrieval.packing import pack
from razh.run.checkpoint import Loaded
from razh.support.processes import cores
from razh.support.progress import track

__all__ = ["TorchNetwork", "batches", "default_batch", "device_named", "encoder"]

log = logging.getLogger(__name__)


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


class TorchNetwork:
    """A checkpoint that encodes images, see `razh.index.network.Network`.

    Attributes:
        loaded: the method with its weights, and what was saved with it.
        method: the method, a `torch.nn.Module`.
    """

    by_torch = True

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.method = loaded, loaded.method
        self.info: Mapping[str, Any] = loaded.info
        self.kind, self.bits = type(loaded.method).__name__, loaded.method.bits
        self.image_size, self.batch_size = loaded.method.backbone.image_size, default_batch(loaded.method)
        self.origin = str(loaded.info.get("exported_from") or "")
        self._encoders: dict[tuple[Precision, bool], Callable[[Tensor], Encoded]] = {}

    @cached_property
    def tells_why(self) -> bool:
        """Whether it reads attributes part by part, and knows their names."""
        from razh.index.why import can_tell_why

        return can_tell_why(self.loaded)

    def classes(self) -> ClassFacts:
        """Return what it knows of classes."""
        return ClassFacts.of(self.loaded)

    def view(self, image: Path | Pixels) -> Pixels:
        """Return what it sees (3, S, S) of an image file, or of pixels (H, W, 3)."""
        pixels = read_image(image) if isinstance(image, Path) else tensor_of(image)
        seen: Pixels = evaluation_view(pixels, self.image_size).numpy()
        return seen

    def look(self, views: Pixels, features: bool = False, precision: Precision = "32") -> Encoded:
        """Return codes, logits and, if wanted, features of views (B, 3, S, S)."""
        how = (precision, features)
        if how not in self._encoders:
            self._encoders[how] = encoder(self.method, precision, features)
        return self._encoders[how](torch.from_numpy(views))

    def batches(self, files: Sequence[Path], how: Encoding, first: int = 0) -> Iterator[Batch]:
        """Yield the codes of image files in order, see `batches`."""
        return batches(self.method, files, how, first)
