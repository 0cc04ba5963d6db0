"""Readers of the text, CSV and numpy files that data sets and users write; each error names the file and the cell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.files import text
from razh.datamodules.files.matlab import read_variables

__all__ = [
    "ClassTable",
    "inspect_class_table",
    "is_number",
    "no_number",
    "one_line",
    "parse_numbers",
    "read_array",
    "read_cells",
    "read_class_table",
    "read_lines",
    "read_mat",
    "read_matrix",
    "read_numbered",
    "read_numbers",
    "some",
]

_WORDS = dict.fromkeys(("yes", "y", "true", "on", "ja", "wahr", "oui", "vrai"), "1")
_WORDS |= dict.fromkeys(("no", "n", "false", "off", "nein", "falsch", "non", "faux"), "0")
_MARKS = frozenset("x✓✔")
_NUMBER = r"[-+]?(?=\{0}?\d)(?:\d*|[1-9]\d{{0,2}}(?:\{1}\d{{3}})+)(?:\{0}\d*)?(?:[eE][-+]?\d+)?"
_NUMBERS = {sign: re.compile(_NUMBER.format(sign, other), re.ASCII) for sign, other in (".,", ",.")}
"""What a number looks like, by its decimal sign; the other sign may separate thousands."""


# ------------------------------------------------------------------------------------------------------ plain files


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text, see `razh.datamodules.files.text.decode`.
    """
    try:
        return text.lines(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"no annotation file {path}; unpack the data set again, it belongs to it") from None


def read_numbers(path: Path) -> NDArray[np.float64]:
    """Read a text file of blank-separated numbers, (rows, columns).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Its rows differ in length, or a cell is no number.
    """
    rows = read_lines(path)
    try:
        return np.loadtxt(rows, ndmin=2, comments=None) if rows else np.empty((0, 0))
    except ValueError as error:
        raise ValueError(f"{path} holds no matrix of numbers ({error}); fetch it again") from None


def read_matrix(path: Path, rows: int, columns: int) -> NDArray[np.float64]:
    """Read a text file of blank-separated numbers, (rows, columns).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another shape or a cell that is no number.
    """
    found = read_numbers(path)
    if found.shape != (rows, columns):
        raise ValueError(
            f"{path} has {found.shape[0]} rows of {found.shape[1]} columns, but {rows} of {columns} belong there; "
            "fetch it again"
        )
    return found


def read_numbered(path: Path) -> dict[int, str]:
    """Read lines `number text` by number; the text may hold blanks.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line does not start with a number, or a number comes twice.
    """
    pairs = [(*line.split(None, 1), "")[:2] for line in read_lines(path)]
    try:
        found = {int(number): name for number, name in pairs}
    except ValueError as error:
        raise ValueError(f"{path} has a line that does not start with a number ({error}); fetch it again") from None
    if len(found) < len(pairs):
        raise ValueError(f"{path} has {len(pairs)} lines, but {len(found)} different numbers; fetch it again")
    return found


def read_cells(path: Path, blanks: bool = False) -> list[list[str]]:
    """Return the cells of a table, stripped, without rows that hold nothing; see `razh.datamodules.files.text.cells`.

    Args:
        path: Of the file.
        blanks: Whether blanks separate the cells where nothing else does.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text, or a quote is not closed.
    """
    return text.cells(text.decode(_content(path), path)[0], path, blanks)[0]


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path} is a folder, no table; name a file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no table {path}; write it with a header and one row a name, or correct the path"
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


def read_mat(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Read these variables, and no others, of a MATLAB file; version 7.3 needs h5py.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no MATLAB file, lacks a variable, or h5py is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file {path}; unpack the data set again, it belongs to it")
    content = read_variables(path, names)
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{path} has no variable {missing[0]!r}; it is another file than the published one")
    return content


# ---------------------------------------------------------------------------------------------------------- numbers


def is_number(cell: str) -> bool:
    """Return whether the cell is written as a number: with a decimal point or comma, in per cent, also nan and inf."""
    return bool(_readings(cell)) or cell.casefold().lstrip("+-") in ("nan", "inf", "infinity")


def parse_numbers(rows: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Return the values (rows, columns) of cells; NaN where a cell is no finite number, or may be one of two.

    Per cent are divided by 100. What `1,234` means, the other cells tell: beside `0,5` it is 1.234, beside `0.5` it is
    1234, and alone it may be either. `1.234` alone has a decimal point.
    """
    try:
        values = np.array(rows, dtype=np.float64)  # nearly always, and a hundred times as fast
    except ValueError:
        values = np.empty(0)
    if values.size and np.isfinite(values).all() and not any("_" in cell for row in rows for cell in row):
        return values
    read = [[_readings(cell) for cell in row] for row in rows]
    told = {next(iter(found)) for row in read for found in row if len(found) == 1}
    sign = next(iter(told)) if len(told) == 1 else None
    return np.array([[_chosen(found, sign, bool(told)) for found in row] for row in read]).reshape(len(rows), -1)


def no_number(rows: Sequence[Sequence[str]], values: NDArray[np.float64]) -> str | None:
    """Return the first cell that `parse_numbers` made NaN, its row and how many there are; None if there is none."""
    wrong = np.argwhere(np.isnan(values))
    if not len(wrong):
        return None
    row, column = wrong[0]
    return f"{rows[row][column]!r} in row {row + 1}, {len(wrong)} such"


def _readings(cell: str) -> dict[str, float]:
    """Return what a cell may mean, by the decimal sign; none for no number, both signs where the cell does not tell."""
    plain = cell.replace("−", "-")
    percent = plain.endswith(("%", "％"))
    plain = plain[:-1].rstrip() if percent else plain
    found = {}
    for sign, pattern in _NUMBERS.items():
        if pattern.fullmatch(plain):
            value = float(plain.replace(",.".replace(sign, ""), "").replace(sign, "."))
            found[sign] = value / 100 if percent else value
    return found if all(map(np.isfinite, found.values())) else {}


def _chosen(found: dict[str, float], sign: str | None, told: bool) -> float:
    """Return the one meaning of a cell, NaN for none or two."""
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    if sign is not None and found:
        return found[sign]
    pointed = not told and bool(found) and abs(found["."]) < abs(found[","])
    return found["."] if pointed else float("nan")


# ------------------------------------------------------------------------------------------------------ class tables


@dataclass(frozen=True)
class ClassTable:
    """A table `class,attribute,…` as far as it could be read.

    Attributes:
        classes: C names, in the order of the rows.
        attributes: M names.
        values: (C, M) float32 as they are written, per cent divided by 100; NaN where a cell is no number.
        problems: One clause for everything that keeps it from being used.
        notes: One clause for everything that was taken for something else than it says.
    """

    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    values: NDArray[np.float32]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_class_table(path: Path) -> tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float32]]:
    """Read a CSV with the header `class,attribute,…` and one row a class.

    Returns:
        Class names, attribute names, and the values (C, M) float32 as they are written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be used; the message names all that is wrong with it, see `inspect_class_table`.
    """
    table = inspect_class_table(path)
    if table.problems:
        raise ValueError(one_line(str(path), table.problems))
    return table.classes, table.attributes, table.values


def one_line(what: str, problems: Sequence[str], shown: int = 3) -> str:
    """Return problems as one line: the number of them, the first few, and how many more there are."""
    if len(problems) == 1:
        return f"{what}: {problems[0]}"
    rest = len(problems) - shown
    more = f"; and {rest} more" if rest > 0 else ""
    return f"{what} has {len(problems)} problems: {'; '.join(problems[:shown])}{more}"


def inspect_class_table(path: Path, expected: Collection[str] = ()) -> ClassTable:
    """Read a CSV with the header `class,attribute,…` and one row a class, and note all that is wrong with it.

    Cells are numbers, per cent, or words like yes and no; in a column of crosses an empty cell is a no. Columns and
    rows without any content, which spreadsheets append, are left out.

    Args:
        path: Of the file; commas, semicolons, tabs or bars separate the cells.
        expected: Names of classes, by which the code page of a table is told that is not in UTF-8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table at all.
    """
    content, encoding = text.decode(_content(path), path, expected)
    rows, separator = text.cells(content, path)
    if len(rows) < 2 or not separator:
        blame = "its cells are separated by none of comma, semicolon, tab and bar" if rows else "it is empty"
        raise ValueError(f"{path} holds no table ({blame}); write a header `class,attribute,…` and one row a class")
    notes = [] if encoding.startswith("utf") else [f"read in the code page {encoding}, under which class names fit"]
    rows = _without_blank_columns(rows)
    if _counts_rows(rows[1:], expected):
        rows = [row[1:] for row in rows]
        notes.append("its first column counts the rows, and is left out")
    problems = []
    if _is_data(rows[0], expected):
        problems.append("its first row holds numbers where the attributes' names belong; write a header above it")
        rows = [["class", *(f"column {number}" for number in range(2, len(rows[0]) + 1))], *rows]
    (_, *attributes), body = rows[0], rows[1:]
    problems += _name_problems(attributes, [text.nfc(row[0]) for row in body])
    problems += _long_rows(body, len(attributes))
    grid = [(row[1:] + [""] * len(attributes))[: len(attributes)] for row in body]
    classes = tuple(text.nfc(row[0]) for row in body)
    values, wrong = _read_cells(classes, attributes, grid)
    return ClassTable(classes, tuple(attributes), values, (*problems, *wrong), tuple(notes))


def _counts_rows(body: Sequence[Sequence[str]], expected: Collection[str]) -> bool:
    """Return whether the first column is 0, 1, 2 … or 1, 2, 3 …, as pandas writes it, and the second names classes."""
    counted = [row[0] for row in body] in ([str(n + first) for n in range(len(body))] for first in (0, 1))
    return counted and any(len(row) > 1 and row[1] in expected and row[0] not in expected for row in body)


def _is_data(first: Sequence[str], expected: Collection[str]) -> bool:
    """Return whether the first row is one of a class, no header: attributes may be named by numbers, too."""
    names = first[1:]
    counted = len(set(names)) == len(names) and all(name.isdigit() for name in names)
    return bool(names) and all(map(is_number, names)) and (first[0] in expected or not counted)


def _without_blank_columns(rows: list[list[str]]) -> list[list[str]]:
    """Return the rows without the columns that hold nothing, and without blank cells at their end."""
    used = [any(column) for column in zip_longest(*rows, fillvalue="")]
    kept = [[cell for cell, use in zip(row, used, strict=False) if use] for row in rows]
    return [row[: max((i for i, cell in enumerate(row, start=1) if cell), default=1)] for row in kept]


def _name_problems(attributes: Sequence[str], classes: Sequence[str]) -> list[str]:
    found = []
    for kind, names, place in (("attribute", attributes, "column"), ("class", classes, "row")):
        twice = [name for name, times in Counter(names).items() if times > 1 and name]
        found += [f"{kind} {name!r} comes twice; name each once" for name in twice]
        nameless = [f"{place} {number}" for number, name in enumerate(names, start=2) if not name]
        found += [f"{one} has values but no name; write it, or delete the {place}" for one in nameless]
    return found


def _long_rows(body: Sequence[Sequence[str]], width: int) -> list[str]:
    long = [row for row in body if len(row) - 1 > width]
    if len(long) > 1 and len(long) == sum(len(row) - 1 == 2 * width for row in body):
        return [f"{len(long)} rows have two values for each attribute: decimal commas; save it with semicolons"]
    return [f"class {row[0]!r} has {len(row) - 1} values, but the header names {width}" for row in long]


def _read_cells(
    classes: Sequence[str], attributes: Sequence[str], grid: Sequence[Sequence[str]]
) -> tuple[NDArray[np.float32], list[str]]:
    """Return the values (C, M) of the cells, and what is wrong with them."""
    columns = [_as_numbers(column) for column in zip(*grid, strict=True)]
    values = parse_numbers(list(zip(*columns, strict=True)))
    worded = [len(grid) > 1 and any(column) and not any(map(is_number, column)) for column in columns]
    problems = [
        f"column {name!r} holds words ({next(filter(None, column))!r}, …), no numbers; delete it, or write a column of "
        "yes and no for each word"
        for name, column, words in zip(attributes, columns, worded, strict=True)
        if words
    ]
    problems += [
        f"column {name!r} mixes per cent and plain numbers; write all cells alike"
        for name, column in zip(attributes, columns, strict=True)
        if {cell.endswith("%") for cell in column if cell.strip("0.,")} == {True, False}
    ]
    for name, cells, found in zip(classes, grid, values, strict=True):
        wrong = [column for column in np.flatnonzero(np.isnan(found)).tolist() if not worded[column]]
        if empty := [attributes[column] for column in wrong if not cells[column]]:
            problems.append(f"class {name!r} has no value for {some(empty)}; fill the empty cell")
        problems += [
            f"{cells[column]!r} in row {name!r}, column {attributes[column]!r} {_blame(cells[column])}"
            for column in wrong
            if cells[column]
        ]
    return values.astype(np.float32), problems


def _as_numbers(column: Sequence[str]) -> list[str]:
    """Return a column with words like yes and no as 1 and 0; where the words are crosses, an empty cell is a 0."""
    words = [cell.casefold() for cell in column]
    if set(words) - {"", "-"} and set(words) <= {*_MARKS, "", "-"}:
        return ["1" if word in _MARKS else "0" for word in words]
    return [_WORDS.get(word, cell) for word, cell in zip(words, column, strict=True)]


def _blame(cell: str) -> str:
    meanings = sorted(set(_readings(cell).values()))
    if not meanings:
        return "is not a number; correct the cell"
    return f"may be {meanings[0]:.15g} or {meanings[1]:.15g}; write it with a decimal point"


def some(names: Sequence[str], count: int = 3) -> str:
    """Return the first few names, quoted, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(repr, names[:count])) + more
