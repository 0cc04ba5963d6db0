"""Vectors of attributes: from a file, from a text encoder, or from the training classes."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.files.tables import is_number, no_number, parse_numbers, read_array, read_cells, some
from razh.datamodules.files.text import nfc
from razh.datamodules.seeded import draw_uniform

__all__ = ["attribute_vectors", "named_groups", "vectors_from_classes"]

log = logging.getLogger(__name__)

MATRIX = "the class-attribute matrix"

Matrix = NDArray[np.float32]


def attribute_vectors(source: str | None, attribute_names: Sequence[str], train_rows: Matrix) -> Matrix:
    """Return one vector for each attribute, (M, V) float32.

    Args:
        source: None: made from `train_rows`. `text:MODEL`: the sentence-transformers model MODEL encodes the
            attributes' names. Otherwise a file: .npy, .npz (`file.npz:key`) or text, a table with commas, semicolons,
            tabs, bars or blanks between its cells, and perhaps a first column of the attributes' names, which may then
            come in any order.
        attribute_names: M names.
        train_rows: (classes, M), the class-attribute matrix of the training classes alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file does not hold M rows of finite numbers, or the encoder is not installed.
    """
    if source is None:
        vectors, source = vectors_from_classes(train_rows), MATRIX
    elif source.startswith("text:"):
        vectors = _encoded(source.removeprefix("text:"), attribute_names)
    else:
        vectors = _from_file(source, attribute_names)
    if vectors.ndim != 2 or len(vectors) != len(attribute_names):
        raise ValueError(
            f"attribute_vectors_file is {source!r} with shape {vectors.shape}, but there are {len(attribute_names)} "
            "attributes; give one row for each, in their order"
        )
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(
            f"attribute_vectors_file is {source!r}, whose row {row} ({attribute_names[row]!r}) is not finite; "
            "replace the missing vectors"
        )
    return _without_zero_rows(vectors, source)


def named_groups(names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]] | None:
    """Return the group (M,) of each attribute, by the part that its name names, and their names; None without any.

    A name such as `has_bill_shape::hooked`, `head colour: red` or `tail length=long` has a value behind the last of
    `::`, `:` or `=`; what is before it, without its last word (the property) and without `has`, is the part. Where that
    leaves nothing, as of `size: small`, the one word is a group of its own. Groups are numbered as they come.

    Args:
        names: M names.
    """
    parts = []
    for name in names:
        before, mark, value = re.sub("::|=", ":", name).rpartition(":")
        words = [word for word in re.split(r"[\W_]+", before.casefold()) if word and word != "has"]
        if not mark or not words or not value.strip():
            return None
        parts.append(" ".join(words[:-1] or words))
    order = {part: number for number, part in enumerate(dict.fromkeys(parts))}
    return (np.array([order[part] for part in parts], dtype=np.int64), tuple(order)) if len(order) > 1 else None


def vectors_from_classes(rows: Matrix, dims: int = 64) -> Matrix:
    """Return vectors (M, V ≤ `dims`) of attributes from how they vary over classes.

    An attribute is its column of the matrix, standardised over the classes; a singular value decomposition keeps the
    directions that explain most. Two attributes that the same classes have are near to each other.

    Args:
        rows: (classes, M), of training classes alone: nothing of an unseen class may enter.
        dims: Largest V.
    """
    columns = rows.astype(np.float64).T  # (M, classes)
    columns = columns - columns.mean(axis=1, keepdims=True)
    deviation = columns.std(axis=1, keepdims=True)
    columns = np.where(deviation > 1e-6, columns / np.maximum(deviation, 1e-6), 0.0)
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    rank = max(int((values > 1e-6 * max(values[0], 1e-12)).sum()), 1)
    vectors = left[:, : min(rank, dims)] * values[: min(rank, dims)]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    signed: Matrix = (vectors * np.where(largest < 0, -1, 1)).astype(np.float32)  # an SVD's signs are arbitrary
    return signed


def _from_file(source: str, attribute_names: Sequence[str]) -> Matrix:
    path = Path(source)
    if path.suffix == ".npy" or ".npz" in source:
        return read_array(source, "attribute_vectors_file")
    if not path.is_file():
        raise FileNotFoundError(f"attribute_vectors_file is {source!r}, but there is no such file; correct the path")
    rows = read_cells(path, blanks=True)
    if rows and not is_number(rows[0][0]):
        rows = _by_name(source, rows, attribute_names)
    if len({len(row) for row in rows}) != 1:
        counts = sorted({len(row) for row in rows})[:3]
        raise ValueError(
            f"attribute_vectors_file is {source!r}, which is no table of numbers: its rows have "
            f"{' or '.join(map(str, counts)) or 'no'} columns; write all alike"
        )
    values = parse_numbers(rows)
    if wrong := no_number(rows, values):
        raise ValueError(
            f"attribute_vectors_file is {source!r}, which is no table of numbers ({wrong}); correct the cells"
        )
    return values.astype(np.float32)


def _by_name(source: str, lines: list[list[str]], attribute_names: Sequence[str]) -> list[list[str]]:
    """Return the rows in the order of the attributes' names; each row starts with its name."""
    rows = {nfc(line[0]): line[1:] for line in lines}
    if missing := [name for name in attribute_names if nfc(name) not in rows]:
        raise ValueError(
            f"attribute_vectors_file is {source!r}, which has no row for {len(missing)} attributes "
            f"({some(missing)}); write the names as the data set does, or leave them out"
        )
    return [rows[nfc(name)] for name in attribute_names]


def _encoded(model: str, attribute_names: Sequence[str]) -> Matrix:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(
            f"attribute_vectors_file is 'text:{model}', which needs a package; "
            'pip install "sentence-transformers>=3.0"'
        ) from None
    names = [name.replace("::", " ").replace("_", " ").replace("+", " ") for name in attribute_names]
    return np.asarray(SentenceTransformer(model).encode(names), dtype=np.float32)


def _without_zero_rows(vectors: Matrix, source: str) -> Matrix:
    """Replace all-zero rows, which have no direction, by a fixed random one of average length."""
    lengths = np.linalg.norm(vectors, axis=1)
    zero = np.flatnonzero(lengths == 0)
    if len(zero) == 0:
        return vectors
    level = logging.INFO if source == MATRIX else logging.WARNING  # a constant column is no fault of the user
    log.log(level, "attribute vectors from %s: rows %s are all zero and get a random direction", source, zero.tolist())
    vectors, length = vectors.copy(), float(lengths.sum()) / max(len(vectors) - len(zero), 1) or 1.0
    for row in zero:
        direction = draw_uniform(vectors.shape[1], int(row)) - 0.5
        vectors[row] = direction / np.linalg.norm(direction) * length
    return vectors
