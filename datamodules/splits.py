"""The value of a zero-shot split: who trains, who asks and who is searched. It checks itself and has a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import InitVar, dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["SETTINGS", "Rows", "Setting", "ZeroShotSplit"]

Rows = NDArray[np.int64]

Setting: TypeAlias = Literal["inductive", "described", "collection", "both"]

SETTINGS: dict[Setting, str] = {
    "inductive": "labelled images of seen classes alone",
    "described": "also the attributes of the classes to be searched (class-transductive)",
    "collection": "also the unlabelled images of the database (instance-transductive)",
    "both": "also both of them",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class ZeroShotSplit:
    """Image lists of one protocol, as data set indices (int64, sorted, read-only).

    The validation lists come from the images that the protocol trains on: a share of the seen classes is held out as
    validation classes, so that a model can be selected on classes it never saw without a look at the test lists.

    Seen queries are not listed: they are the seen rows of `database`, each searched for in the others.

    Attributes:
        protocol: Name of the protocol.
        seen_classes: Class ids, ascending.
        unseen_classes: Class ids, ascending.
        validation_classes: Seen classes that are held out of `train`, ascending.
        train: Images of seen classes to train on.
        validation_query: Images of validation classes.
        validation_database: Images of validation and training classes that `train` lacks.
        query: Images of unseen classes.
        database: Images of seen and unseen classes.
        notes: What a reader of the numbers must know, in one line; empty if the lists are as published.
        setting: What a method may know beside labelled images of seen classes, a key of `SETTINGS`.
        refit: Whether `train` has all seen classes, for as long as a run with validation classes has chosen.
        labels: (n,) class ids of all images; used for the checks, not kept.
        as_released: Accept overlapping lists, as some papers released them. `overlap` measures them.

    Raises:
        ValueError: An index is out of range or listed twice, classes are both seen and unseen, an unseen or a
            validation class is trained on, lists overlap that must not, or a query's class is not in the database.
    """

    SUBSETS: ClassVar[tuple[str, ...]] = ("train", "validation_query", "validation_database", "query", "database")

    protocol: str
    seen_classes: tuple[int, ...]
    unseen_classes: tuple[int, ...]
    validation_classes: tuple[int, ...]
    train: Rows
    validation_query: Rows
    validation_database: Rows
    query: Rows
    database: Rows
    notes: str = ""
    setting: Setting = "inductive"
    refit: bool = False
    labels: InitVar[Rows]
    as_released: InitVar[bool] = False

    def __post_init__(self, labels: Rows, as_released: bool) -> None:
        if self.setting not in SETTINGS:
            raise ValueError(f"setting is {self.setting!r}; pass --data.setting={'|'.join(SETTINGS)}")
        for name in ("seen_classes", "unseen_classes", "validation_classes"):
            object.__setattr__(self, name, tuple(sorted(int(c) for c in getattr(self, name))))
        for name in self.SUBSETS:
            object.__setattr__(self, name, self._checked_rows(name, len(labels)))
        self._check_classes(labels)
        self._check_disjoint(as_released)

    def _checked_rows(self, name: str, count: int) -> Rows:
        rows = np.sort(np.asarray(getattr(self, name), dtype=np.int64))
        if len(rows) and not 0 <= rows[0] <= rows[-1] < count:
            raise ValueError(
                f"{name} of split {self.protocol!r} holds index {rows[0] if rows[0] < 0 else rows[-1]}, but there are "
                f"{count} images; the lists belong to another copy of the data set"
            )
        repeated = rows[1:][rows[1:] == rows[:-1]]
        if len(repeated):
            raise ValueError(f"{name} of split {self.protocol!r} holds index {repeated[0]} twice; list each image once")
        rows.setflags(write=False)
        return rows

    def _check_classes(self, labels: Rows) -> None:
        seen, unseen, validation = set(self.seen_classes), set(self.unseen_classes), set(self.validation_classes)
        self._refuse(seen & unseen, "are both seen and unseen")
        self._refuse(validation - seen, "are validation classes, but not seen ones")
        self._refuse(self._classes(self.train, labels) - (seen - validation), "are in train, but not training classes")
        self._refuse(self._classes(self.query, labels) - unseen, "are in query, but not unseen")
        self._refuse(self._classes(self.database, labels) - seen - unseen, "are in database, but not seen or unseen")
        self._refuse(
            self._classes(self.query, labels) - self._classes(self.database, labels), "are in query, but not database"
        )
        asked, searched = (self._classes(r, labels) for r in (self.validation_query, self.validation_database))
        self._refuse(asked - validation, "are in validation_query, but no validation classes")
        self._refuse(searched - seen, "are in validation_database, but not seen")
        self._refuse(asked - searched, "are in validation_query, but not in validation_database")

    def _check_disjoint(self, as_released: bool) -> None:
        pairs = [("train", "query"), ("train", "validation_query"), ("train", "validation_database")]
        pairs += [("validation_query", "validation_database"), ("validation_query", "query")]
        if not as_released:
            pairs.append(("query", "database"))
        for first, second in pairs:
            if shared := self.overlap(first, second):
                raise ValueError(
                    f"{first} and {second} of split {self.protocol!r} share {shared} images, so figures would be "
                    "too good; list each image in one of them"
                )

    @staticmethod
    def _classes(rows: Rows, labels: Rows) -> set[int]:
        return {int(c) for c in np.unique(labels[rows])}

    def _refuse(self, classes: set[int], fault: str) -> None:
        if classes:
            listed = ", ".join(str(c) for c in sorted(classes)[:5]) + (" …" if len(classes) > 5 else "")
            raise ValueError(f"classes {listed} of split {self.protocol!r} {fault}; correct the lists")

    def overlap(self, first: str, second: str) -> int:
        """Return how many images the subsets `first` and `second` (names) share."""
        return len(np.intersect1d(getattr(self, first), getattr(self, second), assume_unique=True))

    @property
    def describes_unseen(self) -> bool:
        """Whether a method may look at the attributes of unseen classes."""
        return self.setting in ("described", "both")

    @property
    def described_classes(self) -> tuple[int, ...]:
        """Ids of the unseen classes whose attributes a method may look at; none in most settings."""
        return self.unseen_classes if self.describes_unseen else ()

    @property
    def unlabelled(self) -> Rows:
        """Images that a method may look at without their labels: the database, never a query; none in most settings."""
        return np.setdiff1d(self.database, self.query) if self.setting in ("collection", "both") else self.database[:0]

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the five sorted lists, and of what is given beside the usual; others are not comparable."""
        digest = hashlib.sha256()
        if self.setting != "inductive":
            digest.update(f"setting {self.setting}\n".encode())
        if self.refit:
            digest.update(b"refit\n")
        for name in self.SUBSETS:
            rows = getattr(self, name)
            digest.update(f"{name} {len(rows)}\n".encode() + rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def counts(self) -> dict[str, int]:
        """Return the number of classes of each kind and of images in each subset."""
        names = ("seen_classes", "unseen_classes", "validation_classes", *self.SUBSETS)
        return {name: len(getattr(self, name)) for name in names}

    def as_dict(self) -> dict[str, str | bool | list[int]]:
        """Return protocol, notes, fingerprint and all lists as plain values for JSON."""
        names = ("seen_classes", "unseen_classes", "validation_classes", *self.SUBSETS)
        lists = {name: [int(value) for value in getattr(self, name)] for name in names}
        about = {"protocol": self.protocol, "setting": self.setting, "notes": self.notes}
        return {**about, "refit": self.refit, "fingerprint": self.fingerprint, **lists}
