"""The arrays that a feature cache can hold, each declared once.

A new array is an entry of `ARRAYS`; a method that names it in `cached_inputs` finds it in its batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from razh.backbones.timm import TimmBackbone
from razh.backbones.views import Views, views_key

__all__ = ["ARRAYS", "CachedArray", "Images", "Key", "Source", "compute", "requested"]

THUMBNAIL = 112  # side in pixels; enough for the targets of the reconstruction branches
FORMAT = 2  # part of the keys: raise it when the meaning of the arrays changes


@dataclass(frozen=True, eq=False)
class Source:
    """What arrays are made by.

    Attributes:
        backbone: the network.
        transform: what turns a stored image into the one that the network sees, in words.
        image_size: side S of that image in pixels.
        views: that the method shows of an image.
        view_size: side of an enlarged view in pixels.
    """

    backbone: TimmBackbone
    transform: str
    image_size: int
    views: Views
    view_size: int

    @cached_property
    def frozen_key(self) -> str:
        """What results of the network's frozen part depend on, beside the image."""
        return self._key(f" {self.backbone.split} {self.backbone.freeze}", self.backbone.frozen_state())

    @cached_property
    def whole_key(self) -> str:
        """What results of the whole network depend on, beside the image."""
        return self._key("", self.backbone.model.state_dict())

    def _key(self, cut: str, state: dict[str, Tensor]) -> str:
        name = self.backbone.name
        digest = hashlib.sha256(f"{FORMAT} {self.transform} {name}{cut}".encode())
        for entry, tensor in sorted(state.items()):
            digest.update(entry.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return f"{name.replace('/', '_')}-{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class Key:
    """What the values of an array depend on. Arrays of one key lie in one folder and are computed together.

    Attributes:
        kind: tells keys that depend on the same apart.
        whole: on all weights of the network, else on its frozen ones.
        of_views: on the views that the method shows.
    """

    kind: str = ""
    whole: bool = False
    of_views: bool = False

    def folder(self, source: Source) -> str:
        """Return the name of the folder."""
        network = source.whole_key if self.whole else source.frozen_key
        shown = [str(source.view_size), views_key(source.views)] if self.of_views else []
        return "-".join([network, *([self.kind] if self.kind else []), *shown])


class Images:
    """A few uint8 images (B, 3, S, S), on the network's device, and what arrays have in common."""

    def __init__(self, source: Source, images: Tensor) -> None:
        """Take the images; nothing is computed yet."""
        self.source, self.backbone, self.images = source, source.backbone, images

    @cached_property
    def patches(self) -> Tensor:
        """Patches (B, prefix + N, D)."""
        return self.backbone.embed(self.images)

    @cached_property
    def feature(self) -> Tensor:
        """The feature (B, D)."""
        return self.backbone.encode(self.patches)

    @property
    def thumbnail(self) -> Tensor:
        """The images with sides of `THUMBNAIL` pixels at most."""
        side = min(THUMBNAIL, self.images.shape[-1])
        return F.interpolate(self.images.float(), (side, side), mode="area").round()

    @property
    def view_patches(self) -> Tensor:
        """Patches of all views, one after the other."""
        return self.backbone.embed_views(self.images, self.source.views, self.source.view_size)

    @property
    def descriptors(self) -> Tensor:
        """Descriptors (B, V, D) of all views."""
        return self.backbone.describe(self.images, self.source.views, self.source.view_size)


@dataclass(frozen=True)
class CachedArray:
    """An array that a cache can hold, a row an image.

    Attributes:
        name: of the array in a batch.
        key: what its values depend on.
        shape: of a row.
        compute: from images to their rows.
        dtype: that rows are kept in.
        views: 2 where the mirror image has a row of its own; 1 where the image's is shown in its place.
        offered: whether it is a function of the image alone with this network. The default: whatever trains.
    """

    name: str
    key: Key
    shape: Callable[[Source], tuple[int, ...]]
    compute: Callable[[Images], Tensor]
    dtype: torch.dtype = torch.float16
    views: int = 2
    offered: Callable[[TimmBackbone], bool] = lambda backbone: True

    def rows(self, images: Images) -> np.ndarray:
        """Return the rows of some images.

        Raises:
            ValueError: a value does not fit into half precision.
        """
        rows = self.compute(images).to(self.dtype)
        if not rows.isfinite().all():
            name = images.backbone.name
            raise ValueError(f"{self.name} of {name} overflow half precision; set --cache.enabled=false")
        return rows.cpu().numpy()

    def stored(self, source: Source) -> tuple[tuple[int, ...], str]:
        """Return shape and type of a row on disk."""
        return self.shape(source), str(self.dtype).removeprefix("torch.")


def _side(source: Source) -> int:
    return min(THUMBNAIL, source.image_size)


def _patches_of_views(source: Source) -> tuple[int, int]:
    return sum(source.backbone.count_patches(source.views, source.view_size)), source.backbone.dim


FROZEN = Key()

ARRAYS = {
    array.name: array
    for array in (
        CachedArray(
            "patches",
            key=FROZEN,
            shape=lambda source: (source.backbone.prefix + source.backbone.num_patches, source.backbone.dim),
            compute=lambda images: images.patches,
            offered=lambda backbone: backbone.freeze != "none",
        ),
        CachedArray(
            "feature",
            key=FROZEN,
            shape=lambda source: (source.backbone.feature_dim,),
            compute=lambda images: images.feature,
            offered=lambda backbone: backbone.freeze == "all",
        ),
        CachedArray(
            "thumbnail",
            key=FROZEN,
            shape=lambda source: (3, _side(source), _side(source)),
            compute=lambda images: images.thumbnail,
            dtype=torch.uint8,
            offered=lambda backbone: backbone.freeze != "none",
        ),
        # By the network as it was built, for methods that train layers and should not forget what these knew.
        CachedArray(
            "kept",
            key=Key("feature", whole=True),
            shape=lambda source: (source.backbone.feature_dim,),
            compute=lambda images: images.feature,
        ),
        CachedArray(
            "descriptors",
            key=Key("descriptors", whole=True, of_views=True),
            shape=lambda source: (len(source.views), source.backbone.descriptor_dim),
            compute=lambda images: images.descriptors,
            views=1,
        ),
        CachedArray(
            "view_patches",
            key=Key("view_patches", of_views=True),
            shape=_patches_of_views,
            compute=lambda images: images.view_patches,
            views=1,
            offered=lambda backbone: backbone.freeze != "none",
        ),
    )
}


def requested(names: Iterable[str], backbone: TimmBackbone) -> dict[Key, list[CachedArray]]:
    """Return, by key, all arrays that are computed where these are asked for; without those that are not offered.

    Raises:
        ValueError: a name that is not declared.
    """
    names = list(names)
    if unknown := [name for name in names if name not in ARRAYS]:
        raise ValueError(f"cached_inputs names {unknown[0]!r}, which is none of {', '.join(ARRAYS)}; declare it there")
    offered = [array for array in ARRAYS.values() if array.offered(backbone)]
    keys = dict.fromkeys(array.key for array in offered if array.name in names)
    return {key: [array for array in offered if array.key == key] for key in keys}


@torch.no_grad()
def compute(
    arrays: Iterable[CachedArray], source: Source, images: Tensor, device: torch.device
) -> dict[str, np.ndarray]:
    """Return the rows of some arrays by name, for uint8 images (B, 3, S, S).

    Raises:
        ValueError: a value does not fit into half precision.
    """
    rows = [
        {array.name: array.rows(few) for array in arrays}
        for few in (Images(source, chunk) for chunk in _chunks(images, device))
    ]
    return {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}


def _chunks(images: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Yield images on the device; few at a time on a CPU, whose caches hold the maps of few images only."""
    for chunk in torch.split(images, 4 if device.type == "cpu" else max(len(images), 1)):
        yield chunk.to(device)
