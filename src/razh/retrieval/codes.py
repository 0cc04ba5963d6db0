"""The codes of a query set and a database in one file: what every evaluation starts from."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from razh.retrieval.packing import check_packed
from razh.support.files import ArrayFile, ArrayHeader, write_arrays

__all__ = ["Codes"]

LARGEST_LABEL = 1 << 62


@dataclass(frozen=True, eq=False)
class Codes:
    """Packed codes with labels, checked on construction; arrays are made read-only.

    Attributes:
        query_codes: packed query codes (Q, ceil(L / 8)) uint8, see `razh.retrieval.packing.pack`.
        database_codes: packed database codes (G, ceil(L / 8)) uint8.
        query_labels: class ids (Q,) int64, or multi-hot labels (Q, C) uint8.
        database_labels: class ids (G,) or multi-hot labels (G, C).
        bits: code length L.
        query_index: dataset index of every query (Q,), or None. An image that is in both sets never retrieves itself.
        database_index: dataset index of every database row (G,), or None.
        unseen_classes: ids of the classes without training images, or None where the file does not say.
        validation_classes: ids of the seen classes that were held out of training, to choose a model by; or None where
            the file does not say. All other seen classes were trained on.
        class_names: names by class id; may be empty.
        fingerprint: fingerprint of the split, "" if unknown; results of different splits are never put side by side.
        protocol: name of the protocol, "" if unknown.
        query_logits: real-valued logits (Q, L) whose signs are the query codes, or None; for asymmetric ranking.

    Raises:
        ValueError: lengths, widths, padding bits, indices or classes that do not fit, or an empty database.
    """

    query_codes: NDArray[np.uint8]
    database_codes: NDArray[np.uint8]
    query_labels: NDArray[Any]
    database_labels: NDArray[Any]
    bits: int
    query_index: NDArray[np.int64] | None = None
    database_index: NDArray[np.int64] | None = None
    unseen_classes: tuple[int, ...] | None = None
    validation_classes: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    fingerprint: str = ""
    protocol: str = ""
    query_logits: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for side in ("query", "database"):
            self._check_side(side)
        if not len(self.database_codes):
            raise ValueError("database_codes is empty; retrieval needs at least one database code")
        if self.query_labels.shape[1:] != self.database_labels.shape[1:]:
            raise ValueError(
                f"query_labels has shape {self.query_labels.shape} but database_labels {self.database_labels.shape}; "
                "both must be class ids (n,) or multi-hot (n, C)"
            )
        if (self.query_index is None) != (self.database_index is None):
            missing = "query_index" if self.query_index is None else "database_index"
            raise ValueError(f"{missing} is missing; give the indices of both sets or of neither")
        if self.unseen_classes is not None and self.multi_label:
            raise ValueError("unseen_classes needs class ids, but the labels are multi-hot; leave it out")
        if self.validation_classes is not None:
            self._check_validation_classes(self.validation_classes)
        logits, wanted = self.query_logits, (len(self.query_codes), self.bits)
        if logits is not None and (logits.shape != wanted or logits.dtype.kind != "f" or not np.isfinite(logits).all()):
            raise ValueError(
                f"query_logits has shape {logits.shape} and dtype {logits.dtype}; pass finite numbers {wanted}"
            )

    def _check_validation_classes(self, classes: tuple[int, ...]) -> None:
        if self.unseen_classes is None:
            raise ValueError("validation_classes needs unseen_classes beside it; add them, or leave both out")
        if both := sorted(set(classes) & set(self.unseen_classes)):
            raise ValueError(
                f"validation_classes holds {both[0]}, which is one of unseen_classes; a class that was held out for "
                "validation is a seen one, leave it out of one of the two"
            )

    def _check_side(self, side: str) -> None:
        codes = check_packed(getattr(self, f"{side}_codes"), self.bits, f"{side}_codes")
        labels = _labels(getattr(self, f"{side}_labels"), f"{side}_labels")
        if len(labels) != len(codes):
            raise ValueError(
                f"{side}_labels has {len(labels)} rows but {side}_codes {len(codes)}; give one label a code"
            )
        index = getattr(self, f"{side}_index")
        if index is not None:
            index = _index(index, len(codes), f"{side}_index")
        for name, array in ((f"{side}_codes", codes), (f"{side}_labels", labels), (f"{side}_index", index)):
            if array is not None:
                array = array.view()
                array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def multi_label(self) -> bool:
        """Whether the labels are multi-hot."""
        return self.query_labels.ndim == 2

    def own_rows(self) -> NDArray[np.int64]:
        """Return for each query the database row of the same image, −1 where there is none; (Q,)."""
        if self.query_index is None or self.database_index is None:
            return np.full(len(self.query_codes), -1, dtype=np.int64)
        order = np.argsort(self.database_index)
        ordered = self.database_index[order]
        at = np.minimum(np.searchsorted(ordered, self.query_index), len(ordered) - 1)
        own: NDArray[np.int64] = np.where(ordered[at] == self.query_index, order[at], -1)
        return own

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a compressed `.npz` with plain arrays under the attributes' names; an interrupted write leaves nothing.

        Raises:
            OSError: the folder cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            classes = field.name in ("unseen_classes", "validation_classes")  # none at all says something, too
            if value is None or (isinstance(value, (str, tuple)) and not value and not classes):
                continue
            arrays[field.name] = np.asarray(value, dtype=np.int64 if classes else None)
        write_arrays(Path(path), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Codes:
        """Read a file that `save` wrote, or any `.npz` with the same keys.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no `.npz`, lacks a key, or its arrays do not fit together.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no codes file at {path}; write one with `razh test` or `Codes.save`")
        try:
            if not zipfile.is_zipfile(path):
                raise ValueError("it is no .npz")
            with ArrayFile(path) as file:
                _check_rows(file.headers)
                arrays = {name: file.read(name) for name in file.headers if name in READ}
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{path} cannot be read as .npz with plain arrays ({error}); write it with numpy.savez, or name "
                "arrays of other files one by one (`razh evaluate --help`)"
            ) from error
        return cls.from_arrays(arrays, str(path))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], source: str) -> Codes:
        """Build codes from named arrays; `source` names their origin in errors.

        Raises:
            ValueError: a key is missing, or the arrays do not fit together.
        """
        arrays = _one_set(arrays, source) if "codes" in arrays else arrays
        needed = [field.name for field in fields(cls)][:5]
        missing = [name for name in needed if name not in arrays]
        if missing:
            raise ValueError(f"{source} lacks {', '.join(missing)}; a codes file has {', '.join(needed)}")
        bits = arrays["bits"]
        if bits.ndim != 0 or bits.dtype.kind not in "iu":
            raise ValueError(f"bits in {source} has shape {bits.shape} and dtype {bits.dtype}; store one integer")
        for name in ("unseen_classes", "validation_classes"):
            ids = arrays.get(name)
            if ids is not None and ids.size and ids.dtype.kind not in "iu":
                raise ValueError(f"{name} in {source} has dtype {ids.dtype}; store class ids, integers")
        try:
            return cls(
                **{name: arrays[name] for name in needed[:4]},
                bits=int(bits),
                query_index=arrays.get("query_index"),
                database_index=arrays.get("database_index"),
                unseen_classes=_class_ids(arrays.get("unseen_classes")),
                validation_classes=_class_ids(arrays.get("validation_classes")),
                class_names=tuple(str(name) for name in arrays.get("class_names", np.empty(0, dtype=str)).ravel()),
                fingerprint=str(arrays.get("fingerprint", "")),
                protocol=str(arrays.get("protocol", "")),
                query_logits=arrays.get("query_logits"),
            )
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error


READ = {"codes", "labels", *(field.name for field in fields(Codes))}
ALIKE = (
    ("query_codes", "query_labels", "query_index", "query_logits"),
    ("database_codes", "database_labels", "database_index"),
    ("codes", "labels"),
)


def _check_rows(headers: Mapping[str, ArrayHeader]) -> None:
    """Refuse arrays whose numbers of rows differ before they take memory: a few MB of zeros unpack to gigabytes."""
    for names in ALIKE:
        rows = {name: headers[name].shape[0] for name in names if name in headers and headers[name].shape}
        if len(set(rows.values())) > 1:
            raise ValueError(", ".join(f"{name} has {count} rows" for name, count in rows.items()))


def _one_set(arrays: Mapping[str, NDArray[Any]], source: str) -> Mapping[str, NDArray[Any]]:
    """Return a single set of codes, as `razh encode` writes it, as queries and database: each against all others."""
    if "labels" not in arrays:
        raise ValueError(
            f"{source} has codes but no labels; encode a folder with a sub-folder for each class, or add labels (n,)"
        )
    rows = np.arange(len(arrays["codes"]))
    sides = {f"{side}_{name}": arrays[name] for side in ("query", "database") for name in ("codes", "labels")}
    return {**arrays, **sides, "query_index": rows, "database_index": rows}


def _labels(labels: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.ndim not in (1, 2) or array.dtype.kind not in "biu":
        raise ValueError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; pass integer class ids (n,) or multi-hot (n, C)"
        )
    if array.ndim == 1:
        if array.size and not 0 <= int(array.min()) <= int(array.max()) <= LARGEST_LABEL:
            raise ValueError(f"{name} holds {array.min()} to {array.max()}; class ids begin at 0 and fit into int64")
        return np.ascontiguousarray(array, dtype=np.int64)
    if array.size and (array.min() < 0 or array.max() > 1):
        raise ValueError(f"{name} holds values from {array.min()} to {array.max()}; multi-hot labels are 0 or 1")
    return np.ascontiguousarray(array, dtype=np.uint8)


def _class_ids(ids: NDArray[Any] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(int(i) for i in ids.ravel())


def _index(index: ArrayLike, rows: int, name: str) -> NDArray[np.int64]:
    array = np.asarray(index)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} has shape {array.shape} and dtype {array.dtype}; pass one integer a code, ({rows},)")
    if len(np.unique(array)) != rows:
        raise ValueError(f"{name} has {rows} rows but {len(np.unique(array))} different indices; remove the duplicates")
    return np.ascontiguousarray(array, dtype=np.int64)
