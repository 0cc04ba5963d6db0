"""Bytes to text, and text to lines, cells and names: the one reader of what people and their programs write as text.

It reads what is unambiguous (byte order marks, UTF-16, the separators and line ends of every system) and names the
cause of everything else. It imports nothing beyond the standard library, so that commands which read a list start
at once.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

__all__ = ["cells", "decode", "lines", "name_list", "nfc", "slashes", "split_names"]

_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_PAGES = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp932", "gb18030", "cp949", "cp950", "mac_roman", "cp850")
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_SEPARATORS = "\t;|,"  # a comma is last: it is also a decimal sign
_SAMPLE = 200  # rows that tell the separator
_NAME = re.compile(r"\s*(?:\"([^\"]*)\"|'([^']*)'|([^,]*?))\s*(?:,|$)")


def nfc(name: str) -> str:
    """Return a name with its accents composed: a Mac writes umlauts as two characters, where a table has one."""
    return unicodedata.normalize("NFC", name)


def slashes(path: str) -> str:
    r"""Return a path of any system with slashes: `D:\birds\1.jpg` and `birds/1.jpg` end alike."""
    return path.replace("\\", "/")


def decode(content: bytes, where: object, expected: Collection[str] = ()) -> tuple[str, str]:
    """Return the text of a file, with a line feed at the end of lines, and the encoding that it is in.

    A byte order mark decides; without one, text is UTF-16 where every other byte is zero, else UTF-8. Text in a code
    page is read if names that must occur in it are found in it: under another page they would read otherwise.

    Args:
        content: The file's bytes.
        where: The file, for messages.
        expected: Names of which some should occur in the text.

    Raises:
        ValueError: It is no text, or its encoding cannot be told.
    """
    if content.startswith(_WORKBOOKS):
        raise ValueError(f"{where} is a workbook or an archive, no text; save its sheet as `CSV UTF-8`")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None) or _without_mark(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        found = _page(content, expected)
        if found is None:
            line = content.count(b"\n", 0, error.start) + 1
            raise ValueError(
                f"{where} is not UTF-8 (byte 0x{content[error.start]:02x} in line {line}); "
                "save it as UTF-8 (in Excel: `CSV UTF-8`)"
            ) from None
        text, encoding = found
    if "\0" in text:
        raise ValueError(f"{where} is no text (it holds zero bytes); give a text file, or correct its suffix")
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n").rstrip("\x1a"), encoding


def _without_mark(content: bytes) -> str:
    """Return the encoding of text without a byte order mark."""
    even, odd = content[::2].count(0), content[1::2].count(0)
    if len(content) % 2 or max(even, odd) < len(content) / 6 or min(even, odd) > len(content) / 60:
        return "utf-8"
    return "utf-16-le" if odd > even else "utf-16-be"


def _page(content: bytes, expected: Collection[str]) -> tuple[str, str] | None:
    """Return the text and the code page under which most of the expected names with other letters than ASCII occur."""
    names = [nfc(name) for name in expected if not name.isascii()]
    best: tuple[int, str, str] = (0, "", "")
    for page in _PAGES:
        try:
            text = content.decode(page)
        except UnicodeDecodeError:
            continue
        found = sum(name in nfc(text) for name in names)
        if found > best[0]:
            best = (found, text, page)
    return best[1:] if best[0] else None


def lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, stripped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text, see `decode`.
    """
    text, _ = decode(path.read_bytes(), path)
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def cells(text: str, where: object, blanks: bool = False) -> tuple[list[list[str]], str]:
    """Return the cells of a table, stripped, and what separates them; rows without content are left out.

    The separator is what Excel's first line `sep=;` says, else the first of tab, semicolon, bar and comma that cuts
    all rows alike, else the one that cuts the first row most.

    Args:
        text: Lines that end with a line feed; cells may be quoted.
        where: The file, for messages.
        blanks: Whether blanks separate the cells where nothing else does.

    Raises:
        ValueError: A quote is not closed.
    """
    first, _, rest = text.partition("\n")
    named = re.fullmatch(r'"?sep=(.)"?\1*', first.strip(" "))
    text, separator = (rest, named[1]) if named else (text, _separator(text))
    if separator is None:
        return [line.split() if blanks else [line.strip()] for line in text.split("\n") if line.strip()], ""
    return [row for row in _cut(text, separator, where) if any(row)], separator


def _separator(text: str) -> str | None:
    sample = "\n".join(text.split("\n", _SAMPLE)[:_SAMPLE])
    widest, found = 1, None
    for separator in _SEPARATORS:
        rows = [row for row in _cut(sample, separator) if any(row)]
        widths = {len(row) for row in rows}
        if len(widths) == 1 and max(widths) > 1:
            return separator
        if rows and len(rows[0]) > widest:
            widest, found = len(rows[0]), separator
    return found


def _cut(text: str, separator: str, where: object = None) -> list[list[str]]:
    """Return the stripped cells of each row; only a whole file (with its name, `where`) must close its quotes."""
    reader = csv.reader(
        io.StringIO(text), delimiter=separator, skipinitialspace=separator != "\t", strict=where is not None
    )
    try:
        return [[cell.replace("\n", " ").strip() for cell in row] for row in reader]
    except csv.Error as error:
        if where is not None and "expected after" in str(error):  # something between a closing quote and the separator
            return _cut(text, separator)
        raise ValueError(f"{where}: a quote is not closed, or a cell is endless, in line {reader.line_num}") from None


def split_names(text: str) -> list[str]:
    """Return names with commas between them; a name that holds a comma is quoted."""
    found, position = [], 0
    while position < len(text) and (match := _NAME.match(text, position)):
        found.append(next(group for group in match.groups() if group is not None))
        position = match.end()
    return found


def name_list(text: str) -> list[str]:
    """Return the names that an option holds: a file with one a line, or names with commas between them.

    Text that is the path of a file is that file; brackets around a list may be there.

    Raises:
        ValueError: The file is no text.
    """
    text = text.strip()
    if os.path.isfile(os.path.expanduser(text)):  # False, too, for a text too long to be a path
        return lines(Path(text).expanduser())
    if not (text.startswith("[") and text.endswith("]")):
        return split_names(text)
    try:
        listed = json.loads(text)
    except ValueError:
        listed = None
    if isinstance(listed, list) and all(isinstance(name, str) for name in listed):
        return listed
    return split_names(text[1:-1])
