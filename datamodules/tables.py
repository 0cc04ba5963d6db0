"""Readers of the text, CSV and numpy files that data sets and users write; each error names the file and the cell."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_number", "read_array", "read_class_table", "read_csv", "read_lines", "read_mat", "read_matrix"]


def read_matrix(path: Path, rows: int, columns: int) -> NDArray[np.float64]:
    """Read a text file of blank-separated numbers, (rows, columns).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another shape or a cell that is no number.
    """
    lines = [line.split() for line in read_lines(path)]
    widths = {len(line) for line in lines}
    if len(lines) != rows or widths != {columns}:
        width = " or ".join(str(w) for w in sorted(widths)[:3])
        raise ValueError(
            f"{path} has {len(lines)} rows of {width} columns, but {rows} of {columns} belong there; fetch it again"
        )
    try:
        return np.array(lines, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path} has a cell that is no number ({error}); fetch it again") from None


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"no annotation file {path}; unpack the data set again, it belongs to it") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); fetch it again") from None
    return [stripped for line in text.splitlines() if (stripped := line.strip())]


def read_class_table(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float32]]:
    """Read a CSV with the header `class,attribute,…` and one row a class.

    Returns:
        Class names, attribute names, and the values (C, M) float32 as they are written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row has too few cells, a cell is no finite number, or a name comes twice.
    """
    table = read_csv(path)
    if len(table) < 2 or len(table[0]) < 2:
        raise ValueError(f"{path} holds no table; write a header `class,attribute,…` and one row a class")
    (_, *attributes), rows = table[0], table[1:]
    for line in rows:
        if len(line) != len(table[0]):
            raise ValueError(
                f"{path}: class {line[0]!r} has {len(line) - 1} values, but there are {len(attributes)} attributes"
            )
    classes = [row[0] for row in rows]
    for kind, names in (("class", classes), ("attribute", attributes)):
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{path}: {kind} {repeated!r} comes twice; name each once")
    values = np.array(
        [[_number(path, row[0], *cell) for cell in zip(attributes, row[1:], strict=True)] for row in rows]
    )
    return tuple(classes), tuple(attributes), values.astype(np.float32)


def _number(path: Path, row: str, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"{path}: {cell!r} in row {row!r}, column {column!r} is not a number; correct the cell")
    return value


def read_csv(path: Path) -> list[list[str]]:
    """Return the cells of a CSV, stripped; blank lines are left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no table {path}; write it with a header and one row a name, or correct the path"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as `CSV UTF-8`"
        ) from None


def read_array(source: str, argument: str) -> NDArray[np.float32]:
    """Read a .npy file, or one array of a .npz file (`file.npz:key`), as float32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The .npz file has several arrays and no key was given, or the array holds no numbers.
    """
    name, key = source, ""
    if ".npz:" in source:
        name, _, key = source.rpartition(":")
    if not Path(name).is_file():
        raise FileNotFoundError(f"{argument} is {source!r}, but there is no such file; correct the path")
    try:
        content = np.load(name, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content.astype(np.float32)
        with content as archive:
            keys = list(archive.files)
            if key not in keys and (key or len(keys) != 1):
                raise ValueError(f"it holds {', '.join(keys)}: pass {name}:KEY")
            return np.asarray(archive[key or keys[0]], dtype=np.float32)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{argument} is {source!r}, which cannot be read: {error}") from error


def is_number(cell: str) -> bool:
    """Return whether the cell is written as a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_mat(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Read these variables, and no others, of a MATLAB file (up to version 7.2).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no MATLAB file, or lacks a variable.
    """
    from scipy.io import loadmat  # only two data sets need it, and it is slow to import

    if not path.is_file():
        raise FileNotFoundError(f"no annotation file {path}; unpack the data set again, it belongs to it")
    try:
        content = loadmat(path, variable_names=names)
    except Exception as error:  # a broken file makes SciPy raise half a dozen types
        raise ValueError(f"{path} cannot be read as a MATLAB file ({error}); fetch it again") from error
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{path} has no variable {missing[0]!r}; it is another file than the published one")
    return {name: content[name] for name in names}
