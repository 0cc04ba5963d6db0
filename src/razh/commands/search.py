"""`razh search`: the nearest images in a file of codes."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from razh.files import write_text
from razh.retrieval.search import Gallery, Hits, find

__all__ = ["main"]

_EPILOG = """\
A query is a path as it stands in the codes file, which needs no model, or an image or a folder of images, which the
checkpoint that made the codes encodes. An image that is itself in the file by its path is left out of its own list.

Images are ordered by Hamming distance, equal ones as they stand in the file. Codes of L bits have L + 1 distances only,
so a list often ends among equals: how many more there are at its last distance is said.

examples:
  razh search photos.npz cats/17.jpg --top 20
  razh search photos.npz new.jpg --checkpoint runs/cub/razh/64/seed0/checkpoints/best.ckpt --within 12
  razh search photos.npz queries/ --checkpoint best.ckpt --out hits.csv --figure hits.png --images photos/
"""
FIGURE_ROWS, FIGURE_COLUMNS = 30, 20


def main(argv: list[str]) -> int:
    """Run `razh search`.

    Args:
        argv: arguments after `razh search`.

    Returns:
        0.

    Raises:
        FileNotFoundError: a file or a query is missing.
        ValueError: the codes and the checkpoint do not belong together, or an option is out of range.
        OSError: an output file cannot be written.
    """
    options = _parser().parse_args(argv)
    if options.top < 1:
        raise ValueError(f"--top={options.top} must be at least 1")
    if options.within is not None and options.within < 0:
        raise ValueError(f"--within={options.within} must be at least 0; it is a number of bits")
    if options.figure and not options.images:
        raise ValueError("--figure needs --images, the folder that was encoded: the codes file has no pictures")
    gallery = Gallery.read(options.codes)
    names, codes, rows, files = _queries(gallery, options)
    hits = find(gallery, names, codes, rows, options.top, options.within)
    out = Console(soft_wrap=True, highlight=False)
    if options.out:
        write_text(options.out, _table(hits))
        out.print(f"{sum(len(one.found) for one in hits):,} hits of {len(hits):,} queries: {options.out}", markup=False)
    else:
        _show(hits, gallery, options.within)
    if options.figure:
        _draw(hits, files, options)
        out.print(f"pictures: {options.figure}", markup=False)
    return 0


def _queries(
    gallery: Gallery, options: argparse.Namespace
) -> tuple[list[str], NDArray[np.uint8], list[int], list[Path]]:
    """Return names, codes, gallery rows (−1: none) and files of the queries, those that need a model last."""
    at = {path: row for row, path in enumerate(gallery.paths)}
    known = [query for query in options.queries if query in at]
    others = [Path(query) for query in options.queries if query not in at]
    rows = [at[query] for query in known]
    files = [(options.images or Path()) / query for query in known]
    codes = gallery.codes[rows]
    for query in others:
        if not query.exists():
            raise FileNotFoundError(f"{query} is neither a path in {gallery.source} nor an image or a folder here")
    if others:
        # torch takes seconds to import: paths in the file do without.
        from razh import checkpoint
        from razh.encoding import device_named, digest_of, encode, find_images

        if options.checkpoint is None:
            raise ValueError(
                f"{others[0]} is no path in {gallery.source}; to encode it, name the --checkpoint that made the codes"
            )
        source = find_images(others)
        loaded = checkpoint.load(options.checkpoint, device=device_named(options.device))
        if loaded.method.bits != gallery.bits:
            raise ValueError(
                f"{options.checkpoint} makes codes of {loaded.method.bits} bits, {gallery.source} has {gallery.bits}"
            )
        if gallery.checkpoint and digest_of(options.checkpoint) != gallery.checkpoint:
            raise ValueError(
                f"{gallery.source} was made with another checkpoint than {options.checkpoint}; its codes do not compare"
            )
        made, broken = encode(loaded.method, source, workers=options.workers)
        if len(broken) == len(source.files):
            raise ValueError(f"no query is a readable image; the first: {source.files[0]}")
        whole = [i for i in range(len(source.files)) if i not in broken]
        known += [source.names[i] for i in whole]
        rows += [-1] * len(whole)
        files += [source.files[i] for i in whole]
        codes = np.concatenate([codes, made[whole]])
    return known, codes, rows, files


def _show(hits: Sequence[Hits], gallery: Gallery, within: int | None) -> None:
    console = Console(highlight=False)
    for one in hits:
        limit = f", within {within}" if within is not None else ""
        table = Table(title=Text(f"{one.query}{limit}"), title_justify="left")
        table.add_column("", justify="right")
        table.add_column(f"bits of {gallery.bits}", justify="right")
        table.add_column("image", overflow="fold")
        for place, (distance, path) in enumerate(one.found, 1):
            table.add_row(str(place), str(distance), Text(path))
        if one.found:
            console.print(table)
        else:
            console.print(f"{one.query}: none of {len(gallery.paths):,} images{limit}", markup=False)
        if one.more:
            console.print(f"{one.more:,} more at distance {one.found[-1][0]}", style="dim")


def _table(hits: Sequence[Hits]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("query", "place", "distance", "path"))
    for one in hits:
        writer.writerows((one.query, place, *hit) for place, hit in enumerate(one.found, 1))
    return text.getvalue()


def _draw(hits: Sequence[Hits], files: Sequence[Path], options: argparse.Namespace) -> None:
    """Draw the first queries with their hits."""
    from datamodules.images import evaluation_view, read_image
    from razh.figures.canvas import save
    from razh.figures.grid import SIDE, Neighbour, RetrievalRow, retrieval_figure

    def picture(path: Path) -> NDArray[np.uint8]:
        if not path.is_file():
            raise FileNotFoundError(f"--images={options.images}: no file {path}; name the folder that was encoded")
        pixels: NDArray[np.uint8] = evaluation_view(read_image(path), SIDE).permute(1, 2, 0).numpy()
        return pixels

    rows = []
    for one, file in list(zip(hits, files, strict=True))[:FIGURE_ROWS]:
        shown = one.found[:FIGURE_COLUMNS]
        found = [Neighbour(picture(options.images / path), Path(path).stem, d) for d, path in shown]
        rows.append(RetrievalRow(picture(file), Path(one.query).stem, None, found))
    save(retrieval_figure(rows, f"nearest of {options.codes.name}"), options.figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="razh search",
        description="Find the images whose codes are nearest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("codes", type=Path, metavar="CODES.npz", help="a file that `razh encode` wrote")
    parser.add_argument("queries", nargs="+", metavar="QUERY", help="a path in the file, or an image or folder")
    parser.add_argument("--checkpoint", type=Path, help="that made the codes; for queries that are not in the file")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="hits a query (default: %(default)s)")
    parser.add_argument("--within", type=int, metavar="BITS", help="only hits up to this Hamming distance")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write query, place, distance, path there")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE.png", help=f"draw the first {FIGURE_ROWS} queries and their hits"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder that was encoded, for --figure")
    parser.add_argument("--workers", type=int, help="processes that decode images (default: one a core, up to 8)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    return parser
