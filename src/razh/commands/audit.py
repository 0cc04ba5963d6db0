"""`razh audit`: overlaps and class leaks in split lists as papers publish them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from razh.retrieval.split_lists import audit, read_list
from razh.support.files import given_path, write_json
from razh.support.terminal import Parser, Status, console, suggest

__all__ = ["main"]

_EPILOG = """\
A list is a text file (also .gz) with one image a line, optionally followed by a class id or 0/1 labels, or an index
array (.npy, .npz:key, .mat:variable). The class of an image is what follows its path, else its folder.

exit status: 0 a clean protocol; 4 a leak, which is a query that is in the database or in the training list, or a query
class that was trained on; 1 a list that is missing or cannot be read.

examples:
  razh audit --query test.txt --database database.txt --train train.txt
  razh audit --query splits.mat:query_loc --database splits.mat:database_loc --json audit.json
"""


def main(argv: list[str]) -> int:
    """Run `razh audit`: print sizes, overlaps and leaks.

    Args:
        argv: arguments after `razh audit`.

    Returns:
        0 for a clean protocol, 4 where something leaks.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a list is empty or cannot be read.
        OSError: the JSON file cannot be written.
    """
    options = _parser().parse_args(argv)
    lists = [
        None if path is None else read_list(path, options.by_name)
        for path in (options.query, options.database, options.train)
    ]
    query, database, train = lists
    if query is None or database is None:
        raise ValueError("query and database are needed; name both lists")
    found = audit(query, database, train)
    from rich.table import Table

    out = console()
    shown = Table(title="split lists")
    shown.add_column("what")
    shown.add_column("count", justify="right")
    for name, count in found.facts.items():
        shown.add_row(name, f"{count:,}")
    out.print(shown, soft_wrap=False)
    for note in found.notes:
        out.print(f"note: {note}")
    for leak in found.leaks:
        out.print(f"leak: {leak}", style="bold red")
    if not found.leaks:
        out.print("no leak found", style="green")
    if options.json:
        write_json(Path(options.json), asdict(found))
    else:
        suggest("audit", *argv, "--json=audit.json")
    return Status.LEAK if found.leaks else Status.DONE


def _parser() -> Parser:
    parser = Parser("audit", "Overlaps and class leaks in the split lists of a zero-shot retrieval protocol.", _EPILOG)
    parser.add_argument("--query", required=True, metavar="LIST", help="query (test) images, of unseen classes")
    parser.add_argument("--database", required=True, metavar="LIST", help="database images")
    parser.add_argument("--train", metavar="LIST", help="training images, of seen classes")
    parser.add_argument("--by-name", action="store_true", help="compare file names without folders")
    parser.add_argument("--json", type=given_path, metavar="FILE", help="write the findings there")
    return parser
