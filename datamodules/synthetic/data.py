"""Synthetic creatures: a data set drawn on the fly, in which attributes belong to parts and both are known exactly."""

from __future__ import annotations

import hashlib
import mmap
import random
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from razh.datamodules.annotations import Annotations
from razh.datamodules.base import ZeroShotDataModule
from razh.datamodules.bounds import LARGEST_SEED, refuse_outside
from razh.datamodules.protocols import Protocol
from razh.datamodules.seeded import draw_order
from razh.datamodules.synthetic.creatures import PARTS, TRAITS, render, trait_values

__all__ = ["SyntheticDataModule", "draw_classes"]

SLOTS = tuple((part, trait) for part in PARTS for trait in TRAITS)
"""The 18 (part, trait) pairs; a class has one value in each."""

_VALUES = np.array([len(trait_values(part, trait)) for part, trait in SLOTS])  # values that a slot can take
_FIRST = np.concatenate([[0], np.cumsum(_VALUES)[:-1]])  # attribute id of a slot's first value
_FAMILIES = 4
_ATTEMPTS = 300  # to find a class that differs enough
_TRAIN_SHARE = 0.7  # of each seen class; the rest of it is in the database


class SyntheticDataModule(ZeroShotDataModule):
    """Creatures of six parts (tail, legs, body, wing, ears, head), each with a colour, a pattern and a shape.

    A class is a combination of 18 part attributes out of 90, such as "head colour: red", "wing pattern: striped" or
    "tail shape: forked". Classes come in four families whose members share most attributes, so single attributes of
    single parts must be seen to tell them apart. An unseen class is a new combination of attributes that all occur in
    seen classes. Pose, mirroring, scale, place, light, noise, clutter in the parts' own colours and patterns, and
    things in front of the creature vary from image to image. Image i is a function of `data_seed`, `image_size`, i and
    its class alone.

    Protocol `ps` is the fixed split: the first `seen_classes` classes are seen, 70 % of each is trained on; `unseen-K%`
    draws other unseen classes, whose attributes then need not all occur in seen ones.

    Args:
        root: Not used; there are no files.
        protocol: `ps` or `unseen-K%`.
        seen_classes: Seen classes of `ps`.
        unseen_classes: Unseen classes of `ps`.
        images_per_class: Images of each class.
        changes: Slots in which a class departs from its family, 1 … 18; fewer make classes harder to tell apart.
        min_distance: Slots in which any two classes differ at least.
        data_seed: Seed of classes and images; another one is another data set.
        memory_mb: Images and masks already drawn are kept, and shared with loader workers, up to this size in MiB.
        image_size: Side S of the images in pixels.
        num_workers: Loader processes.
        kwargs: Other arguments of `ZeroShotDataModule`.

    Raises:
        ValueError: A count is out of range, or there are not so many classes that differ by `min_distance`.
    """

    dataset: ClassVar[str] = "synthetic"
    title: ClassVar[str] = "synthetic creatures"

    def __init__(
        self,
        root: str = "",
        protocol: str = "ps",
        seen_classes: int = 20,
        unseen_classes: int = 8,
        images_per_class: int = 100,
        changes: int = 8,
        min_distance: int = 4,
        data_seed: int = 0,
        memory_mb: int = 256,
        image_size: int = 64,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(root or ".", protocol, image_size=image_size, num_workers=num_workers, **kwargs)
        refuse_outside(
            seen_classes=(seen_classes, 2, 10_000),
            unseen_classes=(unseen_classes, 1, 10_000),
            images_per_class=(images_per_class, 2, 1_000_000),
            changes=(changes, 1, len(SLOTS)),
            min_distance=(min_distance, 1, len(SLOTS)),
            data_seed=(data_seed, 0, LARGEST_SEED),
            memory_mb=(memory_mb, 0, 1_000_000),
            image_size=(image_size, 16, 8_192),
        )
        self.seen_classes, self.unseen_classes, self.images_per_class = seen_classes, unseen_classes, images_per_class
        self.changes, self.min_distance, self.data_seed = changes, min_distance, data_seed
        unseen = tuple(range(seen_classes, seen_classes + unseen_classes))
        self.protocols = {"ps": Protocol(unseen=unseen, official=True)}  # type: ignore[misc]  # depends on arguments
        self._gallery = _Gallery((seen_classes + unseen_classes) * images_per_class, image_size, memory_mb)

    # ------------------------------------------------------------------ classes, parts and attributes

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the P parts; part k has value k + 1 in a mask."""
        return PARTS

    @cached_property
    def creatures(self) -> NDArray[np.int64]:
        """Index of colour, pattern and shape (C, P, 3) of every part of every class."""
        return draw_classes(self.seen_classes, self.unseen_classes, self.changes, self.min_distance, self.data_seed)

    @cached_property
    def part_attributes(self) -> NDArray[np.int64]:
        """Attribute ids (C, P, 3), indexes into `attribute_names`: the true colour, pattern and shape of each part."""
        first: NDArray[np.int64] = _FIRST.reshape(len(PARTS), len(TRAITS))
        return self.creatures + first

    @cached_property
    def attribute_part(self) -> NDArray[np.int64]:
        """Index into `part_names` (M,) of the part that each attribute belongs to."""
        return np.repeat(np.arange(len(SLOTS)) // len(TRAITS), _VALUES)

    def part_masks(self, index: int) -> NDArray[np.uint8]:
        """Return the visible parts of image `index`, uint8 (S, S): 0 background or occluder, k + 1 for part k."""
        return self._drawn(index)[1]

    def read_annotations(self) -> Annotations:
        """Return labels, names and the binary class-attribute matrix; nothing is read."""
        class_attributes = np.zeros((len(self.creatures), int(_VALUES.sum())), dtype=np.float32)
        np.put_along_axis(class_attributes, self.part_attributes.reshape(len(self.creatures), -1), 1.0, axis=1)
        per_class = self.images_per_class
        labels = np.repeat(np.arange(len(self.creatures)), per_class)
        seen = labels < self.seen_classes
        trained = np.arange(len(labels)) % per_class < max(round(_TRAIN_SHARE * per_class), 1)
        return Annotations(
            labels=labels,
            class_names=tuple(_class_name(c, creature) for c, creature in enumerate(self.creatures)),
            attribute_names=tuple(f"{p} {t}: {value}" for p, t in SLOTS for value in trait_values(p, t)),
            class_attributes=class_attributes,
            official={
                "trainval": np.flatnonzero(seen & trained),
                "test_seen": np.flatnonzero(seen & ~trained),
                "test_unseen": np.flatnonzero(~seen),
            },
        )

    # ------------------------------------------------------------------ images

    def load_image(self, index: int) -> Tensor:
        """Return image `index`, uint8 (3, S, S)."""
        return torch.from_numpy(self._drawn(index)[0].copy())

    def evaluation_image(self, index: int) -> Tensor:
        """Return image `index`, uint8 (3, S, S): it is drawn in the size that is asked for."""
        return self.load_image(index)

    def training_image(self, index: int, draw: int) -> Tensor:
        """Return image `index` shifted by up to S/10 pixels, mirrored half of the time: a function of `draw`.

        The base's crops to a third of the area would cut whole parts off.
        """
        choose = random.Random(draw)
        margin = self.image_size // 10
        top, left = choose.randint(0, 2 * margin), choose.randint(0, 2 * margin)
        padded = pad(self.load_image(index).float(), [margin] * 4, mode="reflect").to(torch.uint8)
        image = padded[:, top : top + self.image_size, left : left + self.image_size]
        return image.flip(-1) if choose.random() < 0.5 else image.contiguous()

    def image_signatures(self) -> list[str]:
        """Return what decides each image, with three images in it, so that a change of the renderer shows."""
        digest = hashlib.sha256(f"{self.data_seed}\t{self.images_per_class}\t{self.creatures.tolist()}".encode())
        for index in (0, len(self.labels) // 2, len(self.labels) - 1):
            digest.update(self._drawn(index)[0].tobytes())
        return [f"{digest.hexdigest()} {index}" for index in range(len(self.labels))]

    def _drawn(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return image (3, S, S) and mask (S, S) of an index, drawn now or before; not to be written to."""
        kept = self._gallery.get(index)
        if kept is None:
            rng = np.random.default_rng([self.data_seed, index])
            kept = render(self.creatures[self.labels[index]], rng, self.image_size)
            self._gallery.put(index, *kept)
        return kept


class _Gallery:
    """Images and masks already drawn, in memory that forked loader workers share; a pickled copy starts empty.

    The memory is mapped for all images, but a page takes space only once something is written to it. Two workers may
    draw the same image at the same time: both write the same bytes, and the flag comes last.
    """

    def __init__(self, images: int, size: int, memory_mb: int) -> None:
        self.images, self.size, self.memory_mb = images, size, memory_mb
        shape = (min(images, memory_mb * 2**20 // (4 * size * size)), 4, size, size)
        self._rows = shape[0]
        if self._rows:
            self._pixels = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), dtype=np.uint8).reshape(shape)
            self._is_drawn = np.frombuffer(mmap.mmap(-1, self._rows), dtype=np.uint8)

    def get(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """Return image and mask as views, or None if they were not drawn or are not kept."""
        if index >= self._rows or not self._is_drawn[index]:
            return None
        return self._pixels[index, :3], self._pixels[index, 3]

    def put(self, index: int, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """Keep image and mask if there is room."""
        if index < self._rows:
            self._pixels[index, :3], self._pixels[index, 3] = image, mask
            self._is_drawn[index] = 1

    def __reduce__(self) -> tuple[type[_Gallery], tuple[int, int, int]]:
        return _Gallery, (self.images, self.size, self.memory_mb)


def draw_classes(seen: int, unseen: int, changes: int, min_distance: int, seed: int = 0) -> NDArray[np.int64]:
    """Draw classes as part attributes: `seen` ones, then `unseen` ones of values that all occur in seen classes.

    Each class starts from one of four families (in turn) and changes some slots: a seen class to values that few seen
    classes have, so that values are spread evenly; an unseen class to any value that seen classes have there.

    Args:
        seen: Number of seen classes.
        unseen: Number of unseen classes.
        changes: Slots that a class changes, 1 … 18.
        min_distance: Slots in which any two classes differ at least.
        seed: Seed of the draw.

    Returns:
        Indexes of colour, pattern and shape of every part, int64 (seen + unseen, P, 3).

    Raises:
        ValueError: No further class that differs enough was found.
    """
    orders = [draw_order(int(values), seed, slot) for slot, values in enumerate(_VALUES)]
    families = np.array([[order[f % len(order)] for order in orders] for f in range(_FAMILIES)])
    used = [np.zeros(values, dtype=np.int64) for values in _VALUES]  # how many seen classes have each value
    classes = np.zeros((0, len(SLOTS)), dtype=np.int64)
    for c in range(seen + unseen):
        for attempt in range(_ATTEMPTS):
            child = _child(families[c % _FAMILIES], changes, used, c < seen, (seed, c, attempt))
            if (classes != child).sum(axis=1).min(initial=len(SLOTS)) >= min_distance:
                break
        else:
            raise ValueError(
                f"min_distance is {min_distance}, but with changes {changes} no class {c} of {seen + unseen} differs "
                "that much from those before; lower min_distance or raise changes"
            )
        classes = np.concatenate([classes, child[None]])
        if c < seen:
            for slot, value in enumerate(child):
                used[slot][value] += 1
    return classes.reshape(-1, len(PARTS), len(TRAITS))


def _child(
    family: NDArray[np.int64], changes: int, used: list[NDArray[np.int64]], seen: bool, keys: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return a family's values (18,) with `changes` slots changed; see `draw_classes`."""
    child = family.copy()
    changed = set(draw_order(len(SLOTS), *keys)[:changes].tolist())
    for slot, counts in enumerate(used):
        if slot not in changed and (seen or counts[child[slot]] > 0):
            continue
        others = draw_order(len(counts), *keys, slot)
        others = others[others != family[slot]]
        if seen:
            child[slot] = others[counts[others].argmin()]
        else:
            child[slot] = next((value for value in others if counts[value] > 0), family[slot])
    return child


def _class_name(index: int, creature: NDArray[np.int64]) -> str:
    """Return a number and the traits that are easiest to see, for instance "07 red-headed striped-winged"."""
    colour = trait_values("head", "colour")[creature[PARTS.index("head"), 0]]
    pattern = trait_values("wing", "pattern")[creature[PARTS.index("wing"), 1]]
    return f"{index:02d} {colour}-headed {pattern}-winged"
