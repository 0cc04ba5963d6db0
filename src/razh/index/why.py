"""Why an image was found: the attributes that a model reads in it, and where; what two images share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from razh.datamodules.attributes import named_groups
from razh.datamodules.images import evaluation_view
from razh.measures.abilities import FindsParts, ReadsAttributes, reads_parts

if TYPE_CHECKING:
    from razh.run.checkpoint import Loaded

__all__ = ["Found", "Shared", "Why", "can_tell_why", "explain"]

Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Found:
    """An attribute that was looked for in an image.

    Attributes:
        name: of the attribute.
        part: that it was read from: the group that its name names, or `part 3` where groups are learned.
        strength: 0 is the mean of the training classes, 1 their standard deviation above it.
        map: (h, w) what each patch adds to the strength; it sums to it.
        at: x and y, in pixels of the image, of the middle of the patch that adds most.
    """

    name: str
    part: str
    strength: float
    map: Map
    at: tuple[float, float]


class Shared(NamedTuple):
    """An attribute that two images have.

    Attributes:
        query: as it was found in the one.
        hit: as it was found in the other.
    """

    query: Found
    hit: Found

    @property
    def strength(self) -> float:
        """The smaller of both strengths."""
        return min(self.query.strength, self.hit.strength)


@dataclass(frozen=True, eq=False)
class Why:
    """What a model found in an image.

    Attributes:
        attributes: all that it knows, the strongest first.
        parts: (h, w) share of each patch in a part, by the part's name; what is missing to 1 is background.
        box: x and y of the left upper corner of the square that the model sees, and its side, in pixels of the image.
    """

    attributes: list[Found]
    parts: dict[str, Map]
    box: tuple[float, float, float]

    def shared(self, other: Why, above: float = 0.0) -> list[Shared]:
        """Return the attributes that both images show, those that are strong in both first.

        Args:
            other: what the same model found in another image.
            above: strength that both must exceed.
        """
        there = {found.name: found for found in other.attributes}
        pairs = [Shared(found, there[found.name]) for found in self.attributes if found.name in there]
        return sorted((pair for pair in pairs if pair.strength > above), key=lambda pair: -pair.strength)


def can_tell_why(loaded: Loaded) -> bool:
    """Whether a checkpoint reads attributes, whose names it knows, part by part."""
    method = loaded.method
    return reads_parts(method) and bool(loaded.info.get("attribute_names"))


@torch.inference_mode()
def explain(loaded: Loaded, image: Tensor) -> Why:
    """Return what a model finds in an image, uint8 (3, H, W) of any size.

    Raises:
        ValueError: the checkpoint reads no attributes part by part.
    """
    method = loaded.method
    if not can_tell_why(loaded) or not isinstance(method, ReadsAttributes):
        raise ValueError(f"the checkpoint is one of {type(method).__name__} and reads no attributes part by part, so "
                         "it cannot tell why; train one with --method=razh on data that has attributes")  # fmt: skip
    pixels = evaluation_view(image, method.backbone.image_size)
    read = method.read_attributes({"image": pixels[None].to(method.device)})
    grid = method.backbone.grid
    names = [str(name) for name in loaded.info["attribute_names"]]
    are_groups = isinstance(method, FindsParts) and method.parts_are_groups
    parts = _part_names(names, read.assignment.shape[-1] - 1, are_groups)
    maps = read.places[0].float().cpu().numpy().reshape(len(names), *grid)
    shares = read.assignment[0].float().cpu().numpy().T.reshape(-1, *grid)
    height, width = image.shape[-2:]
    side = float(min(height, width))
    box = ((width - side) / 2, (height - side) / 2, side)
    found = []
    for name, part, strength, places in zip(names, read.part.tolist(), read.strength[0].tolist(), maps, strict=True):
        row, column = np.unravel_index(int(places.argmax()), grid)
        at = (box[0] + (float(column) + 0.5) * side / grid[1], box[1] + (float(row) + 0.5) * side / grid[0])
        found.append(Found(name, parts[part], strength, places, at))
    found.sort(key=lambda one: -one.strength)
    return Why(found, dict(zip(parts, shares, strict=False)), box)


def _part_names(attributes: list[str], count: int, are_groups: bool) -> list[str]:
    groups = named_groups(attributes) if are_groups else None
    return list(groups[1]) if groups is not None else [f"part {number}" for number in range(1, count + 1)]
