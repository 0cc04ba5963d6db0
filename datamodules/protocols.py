"""How a named protocol cuts a data set into a `ZeroShotSplit`.

The counts and unseen classes of a protocol are facts of a data set and stand in its module as `Protocol` values; what
they mean is written here, once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from razh.datamodules.annotations import Annotations
from razh.datamodules.seeded import draw_order
from razh.datamodules.splits import Rows, Setting, ZeroShotSplit

__all__ = ["Protocol", "make_split", "validation_lists"]

log = logging.getLogger(__name__)

_CLASSES, _VALIDATION, _HELD_OUT, _TRAIN, _QUERY, _DATABASE = range(6)  # keys that keep kinds of choice apart
_SEEN_TRAIN_SHARE = 0.8  # of each seen class, where no published list says which images train


@dataclass(frozen=True)
class Protocol:
    """Facts of one protocol on one data set.

    Attributes:
        unseen: Ids of the unseen classes in the complete data set.
        unseen_count: Number of unseen classes to draw by seed where `unseen` is empty.
        official: Use the data set's own image lists where they are found (the proposed split).
        train_per_class: Images of each seen class to train on; None: 80 % of them.
        query_per_class: Images of each unseen class to ask with; None: every other one, by index.
        as_released: Draw train, query and database each by a shuffle of its own, so that they overlap.
    """

    unseen: tuple[int, ...] = ()
    unseen_count: int = 0
    official: bool = False
    train_per_class: int | None = None
    query_per_class: int | None = None
    as_released: bool = False


def make_split(
    name: str,
    protocols: Mapping[str, Protocol],
    annotations: Annotations,
    *,
    seed: int = 0,
    validation_class_share: float = 0.2,
    validation_image_share: float = 0.1,
    setting: Setting = "inductive",
    refit: bool = False,
) -> ZeroShotSplit:
    """Cut a data set by the protocol `name`.

    Args:
        name: A key of `protocols`, or `unseen-K%` with K from 1 to 90: that share of the classes, drawn, is unseen; of
            each seen class 80 % train and the rest is in the database; every other unseen image is a query.
        protocols: The protocols that the data set has.
        annotations: The data set.
        seed: Seed of everything that a protocol draws, validation included.
        validation_class_share: Share of the seen classes to hold out as validation classes.
        validation_image_share: Share of each remaining class's training images to hold out for the validation
            database.
        setting: What methods may know, see `razh.datamodules.splits.SETTINGS`.
        refit: Hold nothing out.

    Raises:
        ValueError: The data set has no such protocol, or too few classes or images for it.
    """
    protocol = _find_protocol(name, protocols, len(annotations.class_names))
    unseen = _unseen_classes(name, protocol, annotations, seed)
    seen = np.setdiff1d(np.arange(len(annotations.class_names)), unseen)
    notes = [annotations.notes] if annotations.notes else []
    if protocol.official and annotations.official:
        trainval, query, database = _official_lists(name, annotations, unseen)
    else:
        if protocol.official:
            notes.append("no published image lists found: seen classes cut 80/20 by a seeded draw per class")
            log.warning("protocol %r: %s; figures are not those of the published split", name, notes[-1])
        trainval, query, database = _drawn_lists(name, protocol, annotations, unseen, seed)
    if not len(query):
        raise ValueError(
            f"protocol is {name!r}, but none of its {len(unseen)} unseen classes has two images: one would be a query, "
            "one to find; add images, or pass another --data.split_seed"
        )
    validation, train, validation_query, validation_database = validation_lists(
        trainval, annotations.labels, seed, 0 if refit else validation_class_share, validation_image_share
    )
    if protocol.as_released:
        notes += _overlap(name, query, database)
    return ZeroShotSplit(
        protocol=name,
        setting=setting,
        refit=refit,
        seen_classes=tuple(seen.tolist()),
        unseen_classes=tuple(unseen.tolist()),
        validation_classes=tuple(validation.tolist()),
        train=train,
        validation_query=validation_query,
        validation_database=validation_database,
        query=query,
        database=database,
        notes="; ".join(notes),
        labels=annotations.labels,
        as_released=protocol.as_released,
    )


def validation_lists(
    trainval: Rows, labels: Rows, seed: int, class_share: float, image_share: float
) -> tuple[Rows, Rows, Rows, Rows]:
    """Hold validation classes and images out of the training images.

    Of a validation class every other image by index is a query, starting with the second, so that the database always
    has one. At least one class stays to train on, and one image of each training class.

    Args:
        trainval: Rows of all images that the protocol trains on.
        labels: (n,) class ids of all images.
        seed: Seed of the draw.
        class_share: Share of the classes in `trainval` to hold out; 0 holds none out.
        image_share: Share of each remaining class's images to hold out for the validation database.

    Returns:
        Validation classes, and rows of train, validation query and validation database.
    """
    classes = np.unique(labels[trainval])
    held = min(max(round(class_share * len(classes)), int(class_share > 0)), len(classes) - 1)
    validation = np.sort(classes[draw_order(len(classes), seed, _VALIDATION)[:held]])
    train, query, database = [], [], []
    for label, rows in _rows_by_class(trainval, labels):
        if label in validation:
            query.append(rows[1::2])
            database.append(rows[::2])
            continue
        out = min(round(image_share * len(rows)), len(rows) - 1) if held else 0
        order = draw_order(len(rows), seed, _HELD_OUT, label)
        database.append(rows[order[:out]])
        train.append(rows[order[out:]])
    return validation, _joined(train), _joined(query), _joined(database)


def _find_protocol(name: str, protocols: Mapping[str, Protocol], classes: int) -> Protocol:
    if name in protocols:
        return protocols[name]
    match = re.fullmatch(r"unseen-(\d{1,2})%", name)
    if match and 1 <= int(match[1]) <= 90:
        return Protocol(unseen_count=min(max(round(int(match[1]) / 100 * classes), 1), classes - 1))
    known = ", ".join([*protocols, "unseen-K% (K from 1 to 90)"])
    raise ValueError(f"protocol is {name!r}, but this data set has {known}; pass --data.protocol=…")


def _unseen_classes(name: str, protocol: Protocol, annotations: Annotations, seed: int) -> Rows:
    classes = len(annotations.class_names)
    if protocol.unseen:
        unseen = np.flatnonzero(np.isin(annotations.class_ids, protocol.unseen))
    else:
        unseen = np.sort(draw_order(classes, seed, _CLASSES)[: protocol.unseen_count])
    if classes < 2:
        raise ValueError(
            f"there is {classes} class, but zero-shot learning needs a seen and an unseen one; add classes"
        )
    if not 0 < len(unseen) < classes:
        kind = "unseen" if len(unseen) == 0 else "seen"
        raise ValueError(
            f"protocol is {name!r}, but it leaves no {kind} class among the {classes} classes present; "
            "name other unseen classes, pass --data.protocol=unseen-20%, or the complete data set"
        )
    return unseen.astype(np.int64)


def _official_lists(name: str, annotations: Annotations, unseen: Rows) -> tuple[Rows, Rows, Rows]:
    """Return trainval, query and database of the published lists, after a check of their classes."""
    trainval, test_seen, test_unseen = (annotations.official[k] for k in ("trainval", "test_seen", "test_unseen"))
    labels = annotations.labels
    found = np.unique(labels[test_unseen])
    if np.isin(labels[np.concatenate([trainval, test_seen])], unseen).any() or not np.array_equal(found, unseen):
        raise ValueError(
            f"protocol is {name!r}, but the image lists of the split file mix seen and unseen classes: the rows are "
            "not in this tree's order; put res101.mat beside att_splits.mat, or unpack the complete data set"
        )
    query = [rows[1::2] for _, rows in _rows_by_class(test_unseen, labels)]
    return trainval, _joined(query), np.concatenate([test_seen, np.setdiff1d(test_unseen, _joined(query))])


def _drawn_lists(
    name: str, protocol: Protocol, annotations: Annotations, unseen: Rows, seed: int
) -> tuple[Rows, Rows, Rows]:
    """Return trainval, query and database by seeded draws in each class."""
    labels = annotations.labels
    trainval, query, database = [], [], []
    for label, rows in _rows_by_class(np.arange(len(labels)), labels):
        asked = label in unseen
        order = draw_order(len(rows), seed, _QUERY if asked else _TRAIN, label)
        wanted = protocol.query_per_class if asked else protocol.train_per_class
        if wanted is not None and len(rows) < wanted + asked:
            raise ValueError(
                f"protocol is {name!r}, but class {annotations.class_names[label]!r} has {len(rows)} images and the "
                f"protocol takes {wanted} of each; pass --data.protocol=unseen-20%, or the complete data set"
            )
        if asked:
            chosen = rows[1::2] if wanted is None else rows[order[:wanted]]
            query.append(chosen)
        else:
            count = max(round(_SEEN_TRAIN_SHARE * len(rows)), 1) if wanted is None else wanted
            chosen = rows[order[:count]]
            trainval.append(chosen)
        if protocol.as_released:
            database.append(rows[draw_order(len(rows), seed, _DATABASE, label)[len(chosen) :]])
        else:
            database.append(np.setdiff1d(rows, chosen))
    return _joined(trainval), _joined(query), _joined(database)


def _overlap(name: str, query: Rows, database: Rows) -> list[str]:
    """Return a note of the queries that are in the database, too, and warn of them; nothing where there are none."""
    shared = len(np.intersect1d(query, database))
    if not shared:
        return []
    note = f"{shared} of {len(query)} queries are also in the database, as released"
    log.warning("protocol %r: %s; do not compare with disjoint splits", name, note)
    return [note]


def _rows_by_class(rows: Rows, labels: Rows) -> list[tuple[int, Rows]]:
    """Return (class id, ascending rows) of each class among `rows`, classes ascending."""
    rows = np.sort(rows)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    classes, starts = np.unique(labels[rows], return_index=True)
    return list(zip(classes.tolist(), np.split(rows, starts[1:]), strict=True)) if len(rows) else []


def _joined(parts: Iterable[Rows]) -> Rows:
    """Return the sorted union of disjoint row lists."""
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *parts]))
