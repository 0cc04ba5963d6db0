"""`razh data`: fetches a public data set into the layout that its data module reads."""

from __future__ import annotations

from pathlib import Path

from razh.datamodules.download.fetch import DATASETS, fetch
from razh.support.files import given_path
from razh.support.terminal import Parser, Status, console, suggest

__all__ = ["main"]

_EPILOG = """\
An interrupted download goes on where it stopped; a second call does nothing. An archive that you
got some other way is used if it lies in the data folder under its own name.

The data belong to their authors; all four are for research. Sizes with images:
cub 1.2 GB, awa2 14 GB, sun 2 GB, cifar10 0.2 GB; the proposed split adds 0.9 GB.

example:
  razh data cub
  razh data awa2 --root /disk/awa2 --keep-archive
"""


def main(argv: list[str]) -> int:
    """Run `razh data NAME`, and say what to run next.

    Args:
        argv: Arguments after `razh data`.

    Returns:
        0 once the data set is there.

    Raises:
        ValueError: There is no such data set, or what was fetched is damaged, unsafe or not the expected archive.
        OSError: The network or the disk failed.
    """
    options = _parser().parse_args(argv)
    name: str = options.name
    root = options.root or Path("data") / name
    if fetch(name, root, keep_archive=options.keep_archive):
        news = f"{name} is in {root}"
    else:
        news = f"{name} was already in {root}, nothing to do"
    console().print(news)
    suggest("train", f"--dataset={name}", *([] if root == Path("data") / name else [f"--data_root={root}"]))
    return Status.DONE


def _parser() -> Parser:
    parser = Parser("data", "Fetch a public data set, check it and unpack it.", _EPILOG)
    parser.add_argument("name", help=f"data set: {', '.join(DATASETS)}")
    parser.add_argument("--root", type=given_path, metavar="FOLDER", help="where to put it (default: data/NAME)")
    parser.add_argument("--keep-archive", action="store_true", help="do not delete archives once they are unpacked")
    return parser
