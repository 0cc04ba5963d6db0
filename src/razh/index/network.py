"""What turns images into codes: a checkpoint by torch, or an exported network without it; no torch here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from razh.export.facts import ClassFacts
from razh.index.options import Encoding, Precision

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Batch", "Encoded", "Network", "One", "arrays_of"]

Pixels: TypeAlias = NDArray[np.uint8]
One: TypeAlias = "str | os.PathLike[str] | Image.Image | Pixels | Any"
"""What `arrays_of` takes for an image or several; Any is a tensor of torch, which need not be installed."""


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


class Network(Protocol):
    """A trained network that turns images into codes.

    Attributes:
        kind: name of its method.
        bits: code length L.
        image_size: side S of the square that it sees, in pixels.
        batch_size: images that it takes at once where nobody says.
        origin: SHA-256 of the checkpoint that it was exported from; "" of a checkpoint.
        info: what was saved with it: names of classes and attributes, and more.
        by_torch: whether torch reads the images, and not Pillow alone.
        tells_why: whether it reads attributes part by part, and knows their names.
    """

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def bits(self) -> int: ...  # noqa: D102

    @property
    def image_size(self) -> int: ...  # noqa: D102

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    @property
    def origin(self) -> str: ...  # noqa: D102

    @property
    def info(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def by_torch(self) -> bool: ...  # noqa: D102

    @property
    def tells_why(self) -> bool: ...  # noqa: D102

    def classes(self) -> ClassFacts:
        """Return what it knows of classes."""

    def view(self, image: Path | Pixels) -> Pixels:
        """Return what it sees (3, S, S) of an image file, or of pixels (H, W, 3).

        Raises:
            OSError: the file cannot be read as an image.
        """

    def look(self, views: Pixels, features: bool = False, precision: Precision = "32") -> Encoded:
        """Return codes, logits and, if wanted, features of views (B, 3, S, S).

        Raises:
            ValueError: logits that are not finite, or what is wanted is not to be had.
        """

    def batches(self, files: Sequence[Path], how: Encoding, first: int = 0) -> Iterator[Batch]:
        """Yield the codes of image files in order, from the one at `first` on; what is broken is logged."""


def arrays_of(image: One) -> list[Path | Pixels]:
    """Return the files, or the pixels (H, W, 3), of something that stands for one image or more.

    Raises:
        ValueError: it is no image.
    """
    from PIL import Image

    if isinstance(image, str | os.PathLike):
        from razh.index.sources import find_images

        path = Path(image)
        return list(find_images([path]).files) if path.is_dir() else [path]
    if isinstance(image, Image.Image):
        from razh.datamodules.pictures import picture_array

        return [picture_array(image)]
    if isinstance(image, np.ndarray):
        array = image[..., None].repeat(3, axis=-1) if image.ndim == 2 else image
        if array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 3 and array.size:
            return list(array.reshape(-1, *array.shape[-3:]))
        raise ValueError(f"the array has shape {image.shape} and dtype {image.dtype}; pass uint8 (H, W), (H, W, 3) or "
                         "(n, H, W, 3)")  # fmt: skip
    if type(image).__module__.partition(".")[0] == "torch" and hasattr(image, "numpy"):
        if str(image.dtype) == "torch.uint8" and image.ndim in (3, 4) and image.shape[-3] == 3 and image.numel():
            return list(image.reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1).cpu().numpy())
        raise ValueError(f"the tensor has shape {tuple(image.shape)} and dtype {image.dtype}; pass uint8 (3, H, W) or "
                         "(n, 3, H, W)")  # fmt: skip
    raise ValueError(f"{type(image).__name__} is no image; pass a path, a PIL image, an array or a tensor")
