"""`razh check`: every problem of a folder of your own images and its table at once, before anything long."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from razh.datamodules.files.survey import Survey, class_ids, image_problems, remarks, survey
from razh.datamodules.files.text import name_list
from razh.datamodules.files.walk import printable
from razh.support.files import given_path
from razh.support.terminal import Parser, Status, console, counted, suggest

__all__ = ["main"]

_EPILOG = """\
ROOT holds a folder of images for each class, and attributes.csv: a header `class,attribute,...` and one row a class
with numbers, per cent, or yes and no. Commas, semicolons, tabs or bars separate its cells.

No image is decoded: headers alone are read, so a thousand images take a second. The exit status is 0 if nothing keeps
the folder from being trained on, and 1 with problems.

examples:
  razh check photos
  razh check photos --attributes traits.csv --unseen_classes zebra,okapi
  razh check photos --write-template
"""


def main(argv: list[str]) -> int:
    """Run `razh check ROOT`: list all problems, what else to know, a summary, and the line to type next.

    Args:
        argv: Arguments after `razh check`.

    Returns:
        0 without problems, 1 with some.

    Raises:
        FileNotFoundError: ROOT is no folder.
        FileExistsError: The template would replace a table.
        OSError: A file cannot be read or written.
    """
    options = _parser().parse_args(argv)
    root: Path = options.root
    table_file: Path = options.attributes or root / "attributes.csv"
    out = console()
    found = survey(root, table_file, options.allow_partial)
    if options.write_template:
        _write_template(table_file, list(found.images))
        out.print(f"{table_file}: fill in a header and a row of values for each class")
        suggest("check", root)
        return Status.DONE
    problems = [*found.problems, *image_problems(found), *_unseen_problems(options.unseen_classes, found)]
    for problem in problems:
        out.print(printable(f"problem: {problem}"), style="red")
    for line in (*found.notes, *remarks(found)):
        out.print(printable(f"note: {line}"), style="yellow")
    out.print(_summary(found))
    if not problems:
        suggest(*_next_words(options))
        return Status.DONE
    out.print(f"{counted(len(problems), 'problem')} in {root}; mend what is named, and check again")
    if not table_file.exists() and any(found.images.values()):
        out.print("without a table `razh encode` works all the same")
        suggest("check", root, "--write-template")
    return Status.REFUSED


def _unseen_problems(given: str | None, found: Survey) -> list[str]:
    if given is None or found.table is None:
        return []
    try:
        class_ids(name_list(given), found.table.classes)
    except ValueError as error:
        return [str(error)]
    return []


def _summary(found: Survey) -> str:
    counts = sorted(len(files) for files in found.images.values())
    if not counts:
        return "no classes"
    spread = f"{counts[0]} to {counts[-1]} a class, median {median(counts):g}"
    attributes = counted(len(found.table.attributes), "attribute") if found.table is not None else "no table"
    return f"{counted(len(counts), 'class', 'classes')}, {counted(sum(counts), 'image')} ({spread}), {attributes}"


def _next_words(options: argparse.Namespace) -> list[str]:
    words = ["train", "--dataset=folder", f"--data_root={options.root}"]
    if options.attributes:
        words.append(f"--data.attributes_file={options.attributes}")
    if options.unseen_classes:
        words.append(f"--data.unseen_classes={options.unseen_classes}")
    if options.allow_partial:
        words.append("--data.allow_partial=true")
    return words


def _write_template(table_file: Path, classes: Sequence[str]) -> None:
    """Write a table with the classes and no values; one that is there stays."""
    try:
        with table_file.open("x", newline="", encoding="utf-8-sig") as file:  # Excel needs the mark
            csv.writer(file).writerows([["class", "first attribute"], *([name, ""] for name in classes)])
    except FileExistsError:
        raise FileExistsError(f"{table_file} is there already, and stays; name another file by --attributes") from None


def _parser() -> Parser:
    parser = Parser(
        "check", "Every problem of a folder of your own images and its table of attributes, at once.", _EPILOG
    )
    parser.add_argument("root", type=given_path, metavar="ROOT", help="folder with one folder of images for each class")
    parser.add_argument(
        "--attributes", type=given_path, metavar="FILE", help="the table (default: ROOT/attributes.csv)"
    )
    parser.add_argument("--unseen_classes", metavar="NAMES|FILE", help="also check these names")
    parser.add_argument("--allow_partial", action="store_true", help="classes may lack images")
    parser.add_argument(
        "--write-template", action="store_true", help="write a table with the classes' names, to be filled in"
    )
    return parser
