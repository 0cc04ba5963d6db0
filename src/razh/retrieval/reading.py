"""Codes made elsewhere: arrays from .npy, .npz, .mat and text files, and what they mean.

Every reader says what it took the numbers for, so that a wrong guess is seen: `ReadCodes.notes`.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.files.matlab import read_variables, shapes_of
from razh.datamodules.files.tables import is_number, no_number, parse_numbers
from razh.datamodules.files.text import cells, decode, name_list
from razh.retrieval.codes import LARGEST_LABEL, Codes
from razh.retrieval.health import health_warnings
from razh.retrieval.packing import check_packed, pack
from razh.support.files import ArrayFile
from razh.support.processes import free_memory

__all__ = ["FORMS", "ReadCodes", "binary_codes", "class_list", "is_text", "read_array", "read_codes"]

FORMS = ("auto", "bits", "signs", "real", "packed")
Array = NDArray[Any]


@dataclass(frozen=True)
class ReadCodes:
    """Codes from foreign files; `notes` says how they were understood, `warnings` what looks wrong."""

    codes: Codes
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------- arrays


def read_array(source: str) -> Array:
    """Read one array: `file.npy`, `file.npz:key`, `file.mat:variable`, or a text file (.csv, .txt, .tsv, also .gz).

    The key of an .npz or .mat file may be left out where it holds one array. Text is split at commas, semicolons, tabs,
    bars or blanks; a first line that is no number is a header. Text that holds no numbers is returned as strings (n,).
    See `razh.datamodules.files.text` for encodings and separators, `razh.datamodules.files.matlab` for the versions of
    MATLAB files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, the key is missing, or it has several arrays and none was named.
    """
    path, key = _path_and_key(source)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file at {path}; give .npy, .npz:key, .mat:variable or a text file")
    if is_text(path):
        return _read_text(path)
    if path.lower().endswith(".mat"):
        return _read_mat(path, key)
    try:
        return _read_numpy(path, key)
    except _NameError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"{path} cannot be read ({error}); is it complete, and does its suffix fit?") from error


def is_text(source: str) -> bool:
    """Whether `read_array` takes the file for text."""
    return Path(_path_and_key(source)[0].removesuffix(".gz")).suffix.lower() not in (".npy", ".npz", ".mat")


def _path_and_key(source: str) -> tuple[str, str]:
    """Return path and key of `path:key`; a path may have colons itself."""
    if os.path.exists(source) or ":" not in source:
        return source, ""
    path, _, key = source.rpartition(":")
    return path, key


class _NameError(ValueError):
    """The file is whole, but does not say which of its arrays is meant."""


def _read_numpy(path: str, key: str) -> Array:
    with ArrayFile(path) as file:
        return file.read(_pick(file.headers, key, path))


def _pick(names: Collection[str], key: str, path: str) -> str:
    """Return the name of the array that is meant."""
    if key and key in names:
        return key
    if not key and len(names) == 1:
        return next(iter(names))
    if not names:
        raise _NameError(f"{path} holds no array; is it complete, and does its suffix fit?")
    asked = f"lacks {key!r}" if key else "holds several arrays"
    raise _NameError(f"{path} {asked}; name one of {', '.join(sorted(names))} as {path}:NAME")


def _read_mat(path: str, key: str) -> Array:
    shapes = shapes_of(Path(path))  # of the headers, before anything is unpacked
    name = _pick(shapes, key, path)
    if (size := 8 * math.prod(shapes[name])) > free_memory():
        raise ValueError(f"{path} cannot be read ({name} takes up to {size / 1e9:.1f} GB of memory)")
    return read_variables(Path(path), [name])[name]


def _read_text(path: str) -> Array:
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            content = file.read(most := free_memory() // 16)  # lists of cells take many times the space of text
            if len(content) == most:
                raise OSError(f"it is longer than {most / 1e9:.1f} GB of text, the most that memory has room for")
        text, _ = decode(content, path)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as text ({error}); is it complete, and does its suffix fit?"
        ) from error
    rows, _ = cells(text, path, blanks=True)
    if not rows:
        raise ValueError(f"{path} is empty; it should hold one row a line")
    if not is_number(rows[0][0]) and len(rows) > 1 and is_number(rows[1][0]):
        rows = rows[1:]
    if not all(is_number(row[0]) for row in rows):
        return np.array([stripped for line in text.split("\n") if (stripped := line.strip())])
    if len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"{path} has rows of {min(map(len, rows))} to {max(map(len, rows))} columns; all must be alike"
        )
    table = parse_numbers(rows)
    if wrong := no_number(rows, table):
        raise ValueError(f"{path} holds words among numbers ({wrong}); one row a line, numbers only")
    whole = (table == np.round(table)).all() and np.abs(table).max() < 1 << 53
    table = table.astype(np.int64) if whole else table
    return table[:, 0] if table.shape[1] == 1 else table


# ----------------------------------------------------------------------------------------------------------- codes


def detect_form(query: Array, database: Array) -> str:
    """Return what two code arrays hold: `bits` (0, 1), `signs` (−1, 1), `packed` (bytes) or `real` (to be signed).

    Raises:
        ValueError: neither fits.
    """
    if query.dtype == np.bool_ and database.dtype == np.bool_:
        return "bits"
    values = [np.unique(array) for array in (query, database)]
    held = np.unique(np.concatenate(values)).tolist()
    if set(held) <= {0, 1}:
        return "bits"
    if set(held) <= {-1, 1}:
        return "signs"
    if query.dtype == np.uint8 and database.dtype == np.uint8:
        return "packed"
    if set(held) <= {-1, 0, 1} or any(np.issubdtype(array.dtype, np.floating) for array in (query, database)):
        return "real"
    raise ValueError(
        f"codes hold integers from {held[0]} to {held[-1]}; say what they are with --form {'|'.join(FORMS[1:])}"
    )


def binary_codes(
    query: Array, database: Array, form: str = "auto", bits: int | None = None, threshold: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], int, str]:
    """Return packed query and database codes, the code length, and one line that says what the numbers were.

    Args:
        query: (Q, L) numbers or (Q, ceil(L / 8)) bytes.
        database: the same for the database.
        form: `auto`, or one of `bits` (0/1), `signs` (±1), `real` (1 where ≥ threshold), `packed` (bytes).
        bits: code length L; needed for packed codes whose length is no multiple of 8.
        threshold: of the form `real`; 0 for logits, 0.5 for probabilities.

    Raises:
        ValueError: NaN, widths that differ, values that do not fit the form, or bits that do not match.
    """
    for name, array in (("query codes", query), ("database codes", database)):
        _check_numbers(array, name, "repair the codes first")
        if array.ndim != 2:
            raise ValueError(f"{name} have shape {array.shape} and dtype {array.dtype}; pass one row a code, (n, L)")
    if query.shape[1] != database.shape[1]:
        raise ValueError(
            f"query codes have {query.shape[1]} columns but database codes {database.shape[1]}; both need L"
        )
    found = detect_form(query, database) if form == "auto" else form
    _check_form(found, query, database)
    said = {
        "bits": "bits 0/1",
        "signs": "signs −1/+1",
        "packed": "packed bytes",
        "real": f"real numbers, 1 where ≥ {threshold:g}",
    }[found]
    if found == "packed":
        length = query.shape[1] * 8 if bits is None else bits
        packed = [
            check_packed(array.astype(np.uint8), length, name)
            for name, array in (("query codes", query), ("database codes", database))
        ]
    else:
        length = query.shape[1]
        if bits is not None and bits != length:
            raise ValueError(f"bits is {bits} but the codes have {length} columns; leave --bits out or correct it")
        limit = {"bits": 0.5, "signs": 0.0, "real": threshold}[found]
        packed = [pack(array >= limit) for array in (query, database)]
    return packed[0], packed[1], length, f"codes: {said} ({query.dtype}), {length} bits"


def _check_numbers(array: Array, name: str, way_out: str) -> None:
    """Refuse what is no array of real numbers (complex ones, words, dates, objects, records), and NaN and infinity."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} have shape {array.shape} and dtype {array.dtype}; pass real numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        missing = int(np.isnan(array).sum())
        raise ValueError(f"{name} hold {f'{missing} NaN' if missing else 'infinite numbers'}; {way_out}")


def _check_form(form: str, query: Array, database: Array) -> None:
    if form not in FORMS[1:]:
        raise ValueError(f"form is {form!r}; choose one of {', '.join(FORMS)}")
    allowed = {"bits": (0, 1), "signs": (-1, 1)}.get(form)
    for name, array in (("query codes", query), ("database codes", database)):
        if allowed is not None and not np.isin(array, allowed).all():
            raise ValueError(f"{name} hold other values than {allowed[0]} and {allowed[1]}; choose another --form")
        if form == "packed" and (array < 0).any() | (array > 255).any() | (array != np.round(array)).any():
            raise ValueError(f"{name} hold no bytes 0 … 255; choose another --form")


# ---------------------------------------------------------------------------------------------------------- labels


def _label_side(labels: Array, size: int, name: str) -> Array:
    """Return labels as (n,) or (n, C), turned where they are stored the other way round."""
    if labels.dtype.kind not in "US":
        _check_numbers(labels, name, "leave out the rows without a label")
    if labels.dtype.kind == "f":
        if (labels != np.round(labels)).any() or (np.abs(labels) > LARGEST_LABEL).any():
            raise ValueError(f"{name} hold numbers that are not whole; labels are class ids or 0/1 rows")
        labels = labels.astype(np.int64)
    if labels.ndim == 2 and 1 in labels.shape and labels.size == size:
        labels = labels.ravel()
    if labels.ndim == 2 and labels.shape[0] != size and labels.shape[1] == size:
        labels = labels.T
    if labels.ndim not in (1, 2) or len(labels) != size:
        raise ValueError(f"{name} have shape {labels.shape} but there are {size} codes; give one label a code")
    return labels


def _labels(query: Array, database: Array, rows: tuple[int, int]) -> tuple[Array, Array, tuple[str, ...], str]:
    """Return class ids (n,) or multi-hot labels (n, C) of both sides, class names if there are any, what they were."""
    left, right = _label_side(query, rows[0], "query labels"), _label_side(database, rows[1], "database labels")
    if left.ndim != right.ndim:
        raise ValueError(f"query labels have shape {left.shape} but database labels {right.shape}; use one kind")
    if left.dtype.kind in "US" or right.dtype.kind in "US":
        names, ids = np.unique(np.concatenate([left.astype(str), right.astype(str)]), return_inverse=True)
        return ids[: len(left)], ids[len(left) :], tuple(names.tolist()), f"labels: {len(names)} class names"
    if left.ndim == 1:
        return left, right, (), f"labels: class ids, {len(np.unique(np.concatenate([left, right])))} classes"
    if left.shape[1] != right.shape[1] or not (np.isin(left, (0, 1)).all() and np.isin(right, (0, 1)).all()):
        raise ValueError(
            f"label rows have {left.shape[1]} and {right.shape[1]} columns; multi-hot labels are 0/1, (n, C)"
        )
    if (left.sum(axis=1) == 1).all() and (right.sum(axis=1) == 1).all():
        said = f"labels: one-hot over {left.shape[1]} classes, read as ids"
        return left.argmax(axis=1), right.argmax(axis=1), (), said
    return left.astype(np.uint8), right.astype(np.uint8), (), f"labels: multi-hot over {left.shape[1]} classes"


def class_list(text: str, names: Sequence[str] = ()) -> tuple[int, ...]:
    """Return class ids from `150-199,3,7`, from names, or from a text, .npy or .mat file with one of them a row.

    Args:
        text: ids and ranges, or names, with commas between them; or a file.
        names: by class id, where classes have names.

    Raises:
        ValueError: neither, a range that runs backwards, or a name that no class has.
    """
    if not os.path.exists(_path_and_key(text)[0]):  # also False for a list too long to be a name
        given = name_list(text)
        if set(given) <= set(names):
            return tuple(sorted({names.index(name) for name in given}))
        try:
            return tuple(sorted({number for part in given for number in _id_range(part)}))
        except ValueError as error:
            known = f"; class names here: {', '.join(names[:5])}, …" if names else ""
            raise ValueError(f"unseen-classes is {text!r}; write e.g. 150-199,3 or name a file{known}") from error
    listed = read_array(text).ravel()
    if listed.dtype.kind in "US" and set(listed.tolist()) <= set(names):
        return tuple(sorted({names.index(name) for name in listed.tolist()}))
    if listed.dtype.kind not in "iuf" or not np.isfinite(listed).all() or (listed != np.round(listed)).any():
        known = " or one of the labels' class names" if names else ""
        raise ValueError(f"unseen-classes file {text} holds no class ids; write one integer{known} a line")
    return tuple(sorted({int(number) for number in listed}))


def _id_range(text: str) -> range:
    """Return the ids of `3` or `150-199`."""
    low, dash, high = text.partition("-")
    found = range(int(low), int(high if dash else low) + 1)
    if not found:
        raise ValueError(f"{text} runs backwards")
    return found


# -------------------------------------------------------------------------------------------------------- together


def read_codes(
    query_codes: str,
    database_codes: str,
    query_labels: str,
    database_labels: str,
    query_index: str | None = None,
    database_index: str | None = None,
    unseen_classes: str | None = None,
    form: str = "auto",
    bits: int | None = None,
    threshold: float = 0.0,
) -> ReadCodes:
    """Read codes and labels from foreign files; see `read_array`, `binary_codes` and `class_list` for the arguments.

    Codes stored as (L, n) are turned where the number of labels shows it. Indices may be numbers or image names.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read, or the arrays do not fit together.
    """
    labels = read_array(query_labels), read_array(database_labels)
    raw = [_turned(read_array(path), side) for path, side in zip((query_codes, database_codes), labels, strict=True)]
    left, right, length, said = binary_codes(raw[0][0], raw[1][0], form, bits, threshold)
    notes = [said] + ["codes: stored as (L, n), turned"] * (raw[0][1] or raw[1][1])
    left_labels, right_labels, names, said = _labels(*labels, (len(left), len(right)))
    notes.append(said)
    index: tuple[Array | None, Array | None] = (None, None)
    if query_index and database_index:
        index = _indices(read_array(query_index), read_array(database_index))
    elif query_index or database_index:
        raise ValueError("one of --query-index and --database-index is missing; give both or neither")
    unseen = None if unseen_classes is None else class_list(unseen_classes, names)
    codes = Codes(left, right, left_labels, right_labels, length, *index, unseen_classes=unseen, class_names=names)
    return ReadCodes(codes, tuple(notes), tuple(code_warnings(codes, real="real numbers" in notes[0])))


def _turned(codes: Array, labels: Array) -> tuple[Array, bool]:
    rows = max(labels.shape) if labels.ndim == 2 and 1 in labels.shape else len(labels)
    turn = codes.ndim == 2 and codes.shape[0] != rows and codes.shape[1] == rows
    return (codes.T, True) if turn else (codes, False)


def _indices(query: Array, database: Array) -> tuple[Array, Array]:
    """Return integer indices of both sides; image names are numbered."""
    if query.dtype.kind in "US" or database.dtype.kind in "US":
        ids = np.unique(np.concatenate([query.astype(str), database.astype(str)]), return_inverse=True)[1]
        return ids[: len(query)], ids[len(query) :]
    return query.ravel(), database.ravel()


def code_warnings(codes: Codes, real: bool = False) -> list[str]:
    """Return what looks wrong in codes that can be evaluated: useless bits, labels that differ for one image."""
    warnings = health_warnings(codes.database_codes, codes.bits)
    if warnings and real:
        warnings.append("numbers that are probabilities need --threshold 0.5")
    own = codes.own_rows()
    rows = np.flatnonzero(own >= 0)
    if len(rows):
        warnings.append(f"{len(rows)} of {len(own)} queries are in the database; each is left out of its own ranking")
        differ = codes.query_labels[rows] != codes.database_labels[own[rows]]
        wrong = int(differ.reshape(len(rows), -1).any(axis=1).sum())
        if wrong:
            warnings.append(f"{wrong} of them have another label there; check that indices and labels belong together")
    return warnings
