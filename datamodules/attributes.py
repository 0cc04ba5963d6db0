"""Vectors of attributes: from a file, from a text encoder, or from the training classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.seeded import draw_uniform
from datamodules.tables import is_number, read_array, read_csv, read_lines

__all__ = ["attribute_vectors", "vectors_from_classes"]

log = logging.getLogger(__name__)

MATRIX = "the class-attribute matrix"

Matrix = NDArray[np.float32]


def attribute_vectors(source: str | None, attribute_names: Sequence[str], train_rows: Matrix) -> Matrix:
    """Return one vector for each attribute, (M, V) float32.

    Args:
        source: None: made from `train_rows`. `text:MODEL`: the sentence-transformers model MODEL encodes the
            attributes' names. Otherwise a file: .npy, .npz (`file.npz:key`), .csv (commas, perhaps a first column with
            the attributes' names, which may then come in any order) or .txt (blanks, numbers only).
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
    lines = read_csv(path) if path.suffix == ".csv" else [line.split() for line in read_lines(path)]
    if path.suffix == ".csv" and lines and not is_number(lines[0][0]):
        lines = _by_name(source, lines, attribute_names)
    try:
        return np.array(lines, dtype=np.float32)
    except ValueError as error:
        raise ValueError(f"attribute_vectors_file is {source!r}, which is no table of numbers: {error}") from error


def _by_name(source: str, lines: list[list[str]], attribute_names: Sequence[str]) -> list[list[str]]:
    """Return the rows in the order of the attributes' names; each row starts with its name."""
    rows = {line[0]: line[1:] for line in lines}
    if missing := [name for name in attribute_names if name not in rows]:
        raise ValueError(
            f"attribute_vectors_file is {source!r}, which has no row for {len(missing)} attributes "
            f"({', '.join(missing[:3])}); write the names as the data set does, or leave them out"
        )
    return [rows[name] for name in attribute_names]


def _encoded(model: str, attribute_names: Sequence[str]) -> Matrix:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(
            f"attribute_vectors_file is 'text:{model}', which needs sentence-transformers; pip install razh[text]"
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
