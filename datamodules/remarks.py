"""What a careful colleague would say about a data set and its split before a run begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from razh.datamodules.annotations import Annotations
from razh.datamodules.splits import ZeroShotSplit

__all__ = ["listed", "remarks"]


def remarks(annotations: Annotations, split: ZeroShotSplit) -> list[str]:
    """Return a line for each thing that makes figures of this split doubtful; none for an ordinary data set."""
    return [*_about_images(annotations, split), *_about_classes(annotations, split), *_about_attributes(annotations)]


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names with commas between them, in one line, and a sign if there are more."""
    shown = (name if name.isprintable() else repr(name)[1:-1] for name in names[:most])
    return ", ".join(shown) + (" …" if len(names) > most else "")


def _about_images(annotations: Annotations, split: ZeroShotSplit) -> Iterable[str]:
    counts = np.bincount(annotations.labels, minlength=len(annotations.class_names))
    if single := [name for name, count in zip(annotations.class_names, counts, strict=True) if count == 1]:
        yield f"{_count(single, 'class')} one image ({listed(single)}), which no other image can be found by"
    trained = len(np.unique(annotations.labels[split.train]))
    if len(split.train) < 2 * trained:
        yield f"{len(split.train)} images to train {trained} classes: fewer than two each, so nothing shows what varies"


def _about_classes(annotations: Annotations, split: ZeroShotSplit) -> Iterable[str]:
    held_out = split.validation_classes
    if held_out and not len(split.validation_query):
        yield (
            "no validation class has two images, so none can be asked for and the last weights are tested, not the "
            "best; add images, or pass another --data.split_seed"
        )
    elif len(held_out) == 1:
        yield (
            f"one validation class ({annotations.class_names[held_out[0]]}): weights are selected by it alone and "
            "validation figures are noise; raise --data.validation_class_share"
        )
    if len(split.unseen_classes) == 1:
        yield f"one unseen class ({annotations.class_names[split.unseen_classes[0]]}): test figures are its alone"
    if len(split.seen_classes) - len(held_out) == 1:
        yield "one class to train on: there is nothing to tell it from"


def _about_attributes(annotations: Annotations) -> Iterable[str]:
    values = annotations.class_attributes
    if constant := [
        name for name, same in zip(annotations.attribute_names, np.ptp(values, axis=0) == 0, strict=True) if same
    ]:
        yield f"{_count(constant, 'attribute')} the same value in all classes ({listed(constant)}) and tell nothing"
    _, first, sizes = np.unique(values, axis=0, return_index=True, return_counts=True)
    if (twins := np.sort(first[sizes > 1])).size:
        alike = [annotations.class_names[c] for c in np.flatnonzero((values == values[twins[0]]).all(axis=1))]
        yield (
            f"{int(sizes[sizes > 1].sum())} classes have the attributes of another ({' and '.join(alike[:2])}): they "
            "tell nothing apart there"
        )


def _count(names: Sequence[str], noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{len(names)} {noun} has" if len(names) == 1 else f"{len(names)} {plural} have"
