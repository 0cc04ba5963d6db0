"""`razh search`: the nearest images in an archive or a file of codes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from razh.datamodules.files.walk import printable, suffixes
from razh.index.archive import ArchiveGallery, Snapshot, is_archive
from razh.index.duplicates import groups
from razh.index.engines import ENGINES, Engine
from razh.index.gallery import RERANKED, Gallery, Hits
from razh.index.opening import MIN_RECALL, open_engine
from razh.index.options import Encoding, add_encoding_options
from razh.index.output import FORMATS, as_text, because
from razh.index.queries import Queries, Ranking, find_each, find_together, load_for, resolve
from razh.support.bounds import PositiveShare, Radius, Rank, within
from razh.support.files import given_path, given_text, write_bytes, write_text
from razh.support.terminal import Parser, Status, UsageError, console, counted, suggest

if TYPE_CHECKING:
    from razh.index.why import Shared, Why

__all__ = ["main"]

Reasons: TypeAlias = "Mapping[str, Sequence[Shared]]"  # by the path of a hit

_EPILOG = """\
A query is a path as it stands in the archive (or in a file of codes), or that of a file which is in the archive: this
needs no model. Any other image, or folder of images, is encoded by the checkpoint that made the codes, which an archive
remembers. An image that is itself there is left out of its own list.

Images are ordered by Hamming distance, equal ones as they stand in the archive. Codes of L bits have L + 1 distances
only, so a list often ends among equals: how many more there are at its last distance is said.

examples:
  razh search archive/ photos/cats/17.jpg --where class=cats
  razh search archive/ 1.jpg 2.jpg --together --not 3.jpg --out hits.html
  razh search archive/ --describe "crown color=red, bill shape=hooked:0.8"
  razh search archive/ photos/cats/17.jpg --why
  razh search archive/ --text "small red bird with a crest, no spots" --where folder=2024
  razh search archive/ --duplicates --within 2
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
    options = _parser().parse_intermixed_args(argv)  # queries may stand behind options
    _check(options)
    gallery = _gallery(options)
    if options.duplicates:
        return _duplicates(gallery, options)
    how = Encoding(workers=options.workers, max_megapixels=options.max_megapixels, precision=options.precision)
    ranking = Ranking(options.ranking == "asymmetric", options.rerank == "features")
    away = [query for query in options.unwanted if _is_image(query, gallery)]
    wanted, unwanted = (
        resolve(gallery, given, how, options.checkpoint, options.device, options.images, ranking)
        for given in (options.queries, away)
    )
    if len(away) < len(options.unwanted) or options.describe or options.text:
        words = [query for query in options.unwanted if query not in away]
        wanted, unwanted = _described(wanted, unwanted, words, gallery, options)
    if options.together or options.unwanted:
        hits = [find_together(gallery, wanted, unwanted, options.top, options.within)]
    else:
        hits = find_each(gallery, wanted, options.top, options.within, _engine(gallery, options), ranking)
    why = _why(hits, wanted.files, gallery, options) if options.why else []
    out = console()
    if options.out:
        _write(hits, gallery, options, why)
        found = counted(sum(len(one.found) for one in hits), "hit")
        out.print(f"{found} of {counted(len(hits), 'query', 'queries')}: {options.out}")
    else:
        _show(hits, gallery, options.within, why)
    if options.figure:
        _draw(hits, wanted.files, gallery, options, why)
        out.print(f"pictures: {options.figure}")
    if not options.out:
        suggest("search", *argv, "--out=hits.csv")
    return Status.DONE


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, and find which of the paths is the archive, whatever their order."""
    last = Path(options.queries[-1]) if options.queries else options.codes
    if not _is_searched(options.codes) and _is_searched(last):
        options.queries, options.codes = [str(options.codes), *options.queries[:-1]], last
    described = options.describe or options.text
    asked = options.queries or described
    if not asked and not options.duplicates:
        raise UsageError(
            "there is no QUERY; give a path in the archive or an image, --describe, --text or --duplicates"
        )
    if asked and options.duplicates:
        raise ValueError("--duplicates compares all images with each other; leave the queries out")
    archive = is_archive(options.codes)
    pictures = options.figure or (options.out and options.out.suffix == ".html")
    if pictures and not options.images and not archive:
        raise ValueError(f"{'--figure' if options.figure else '--out=….html'} needs --images, the folder that was "
                         "encoded: the codes file has no pictures")  # fmt: skip
    if described and (options.figure or not archive):
        name = "--describe" if options.describe else "--text"
        raise ValueError(f"{name} needs an archive (`razh index`), and no --figure: there is no image to draw; "
                         "write --out=hits.html")  # fmt: skip
    if options.why:
        _check_why(options, archive)
    if options.engine and options.ranking == "asymmetric":
        raise ValueError("--ranking=asymmetric looks at every code; leave --engine out")
    if options.engine and not archive:
        raise ValueError(f"--engine needs an archive, {options.codes} is none; make one with `razh index`")
    if options.engine and (options.together or options.unwanted):
        raise ValueError("--together and --not look at every code; leave --engine out")


def _check_why(options: argparse.Namespace, archive: bool) -> None:
    if options.describe or options.text or options.together or options.unwanted or options.duplicates:
        raise ValueError("--why compares one image with each of its hits; leave --describe, --text, --together, --not "
                         "and --duplicates out")  # fmt: skip
    if not options.images and not archive:
        raise ValueError("--why needs --images, the folder that was encoded: the codes file has no pictures")


def _is_image(query: str, gallery: Gallery) -> bool:
    """Whether a query that is not wanted is an image, or looks like a path that should be one; else it is words."""
    known = query in gallery.rows_of([query]) or Path(query).exists()
    return known or not isinstance(gallery, ArchiveGallery) or "/" in query or Path(query).suffix.lower() in suffixes()


def _described(
    wanted: Queries, unwanted: Queries, words: Sequence[str], gallery: Gallery, options: argparse.Namespace
) -> tuple[Queries, Queries]:
    """Return the queries with what is described, and say how that was understood."""
    assert isinstance(gallery, ArchiveGallery)  # see `_check`
    from razh.index.describing import Asked, asked, asked_in_words, described, known_classes, parse
    from razh.index.wording import sentence_vectors

    network = load_for(gallery, options.checkpoint, options.device, "words need a network")
    known = known_classes(network, gallery.archive)
    vectors = sentence_vectors(options.text_model) if options.text_model else None

    def understood(text: str) -> Asked:
        found, unknown = asked_in_words(text, known, vectors)
        console().print(f"described: {found.text}")
        if unknown:
            console().print(f"not understood: {', '.join(unknown)}")
        return found

    for text in options.describe:
        description = asked(parse(text), known.names)
        console().print(f"described: {description.text}")
        wanted = wanted.beside(text, described(description, known))
    for text in options.text:
        wanted = wanted.beside(text, described(understood(text), known))
    for text in words:
        unwanted = unwanted.beside(text, described(understood(text), known))
    return wanted, unwanted


def _engine(gallery: Gallery, options: argparse.Namespace) -> Engine | None:
    if options.engine is None or not isinstance(gallery, ArchiveGallery):
        return None
    return open_engine(gallery.archive, options.engine, options.uri, options.min_recall)


def _write(hits: Sequence[Hits], gallery: Gallery, options: argparse.Namespace, why: Sequence[Reasons] = ()) -> None:
    suffix = options.out.suffix.lower() if options.out.suffix.lower() in FORMATS else ".csv"
    file_of = partial(gallery.file_of, images=options.images)
    write_text(
        options.out,
        as_text(hits, suffix, file_of, str(options.codes), lambda row: gallery.codes[row].tobytes().hex(), why),
    )


def _why(hits: Sequence[Hits], files: Sequence[Path], gallery: Gallery, options: argparse.Namespace) -> list[Reasons]:
    """Return, for each query, what it shares with each of its hits."""
    from razh.index.loading import explainer

    loaded = explainer(load_for(gallery, options.checkpoint, options.device, "--why needs a network"))

    from razh.datamodules.images import read_image
    from razh.index.why import explain

    def told(file: Path) -> Why:
        return explain(loaded, read_image(file, max_megapixels=options.max_megapixels))

    reasons: list[Reasons] = []
    for one, file in zip(hits, files, strict=True):
        own = told(file)
        reasons.append({path: own.shared(told(gallery.file_of(path, options.images))) for _, path in one.found})
    return reasons


def _duplicates(gallery: Gallery, options: argparse.Namespace) -> int:
    """List the groups of images that are within a distance of each other."""
    within = options.within or 0
    hits = []
    for rows in groups(gallery, within):
        near = np.bitwise_count(gallery.codes[rows] ^ gallery.codes[rows[0]]).sum(axis=1, dtype=np.int64).tolist()
        names = [gallery.paths[row] for row in rows]
        hits.append(Hits(names[0], list(zip(near[1:], names[1:], strict=True)), 0, False, rows[1:]))
    out = console()
    images = sum(1 + len(one.found) for one in hits)
    if options.out:
        _write(hits, gallery, options)
    else:
        for one in hits:
            out.print(printable(one.query))
            for distance, name in one.found:
                out.print(f"  {distance:>3} {printable(name)}")
    where = f": {options.out}" if options.out else ""
    out.print(f"{counted(len(hits), 'group')} of {counted(images, 'image')} within {within} bits{where}")
    return Status.DONE


def _gallery(options: argparse.Namespace) -> Gallery:
    """Return what is searched."""
    where = _conditions(options.where)
    if is_archive(options.codes):
        return Snapshot(options.codes).gallery(where)
    if where:
        raise ValueError(f"--where needs an archive, {options.codes} is a file of codes; make one with `razh index`")
    return Gallery.read(options.codes)


def _is_searched(path: Path) -> bool:
    return is_archive(path) or (path.suffix == ".npz" and path.is_file())


def _conditions(given: Sequence[str]) -> dict[str, list[str]]:
    """Return the words that are wanted by column: `class=cats,class=dogs,camera=hall`."""
    found: dict[str, list[str]] = {}
    for condition in (part for option in given for part in re.split(r",(?=[^,=]+=)", option)):  # words may have commas
        name, equals, word = condition.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--where={condition} is no condition; write COLUMN=WORD, such as class=cats")
        found.setdefault(name.strip(), []).append(word.strip())
    return found


def _show(hits: Sequence[Hits], gallery: Gallery, within: int | None, why: Sequence[Reasons]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    for one, some in zip(hits, why or [{}] * len(hits), strict=True):
        limit = f", within {within}" if within is not None else ""
        table = Table(title=Text(f"{printable(one.query)}{limit}"), title_justify="left")
        table.add_column("", justify="right")
        table.add_column(f"bits of {gallery.bits}", justify="right")
        table.add_column("image", overflow="fold")
        if why:
            table.add_column("shared attributes (strength in query, in hit)", overflow="fold")
        for place, (distance, path) in enumerate(one.found, 1):
            reasons = [Text(because(some[path], most=3))] if path in some else []
            table.add_row(str(place), f"{distance:g}", Text(printable(path)), *reasons)
        if one.found:
            out.print(table, soft_wrap=False)
        else:
            out.print(f"{printable(one.query)}: none of {counted(len(gallery), 'image')}{limit}")
        if one.more:
            least = "at least " if one.at_least else ""
            out.print(f"{least}{one.more:,} more at distance {one.found[-1][0]:g}", style="dim")


def _draw(
    hits: Sequence[Hits], files: Sequence[Path], gallery: Gallery, options: argparse.Namespace, why: Sequence[Reasons]
) -> None:
    """Draw the first queries with their hits, and where what they share is, if that was asked for."""
    from razh.datamodules.pictures import picture_view, read_picture
    from razh.figures.canvas import png
    from razh.figures.grid import SIDE, Neighbour, RetrievalRow, retrieval_figure
    from razh.figures.why import Reason, WhyRow, why_figure

    def picture(path: Path) -> NDArray[np.uint8]:
        if not path.is_file():
            raise FileNotFoundError(f"--images={options.images}: no file {printable(path)}; name the folder that was "
                                    "encoded")  # fmt: skip
        return picture_view(read_picture(path, options.max_megapixels), SIDE).transpose(1, 2, 0)

    def reason(path: str, distance: float, shared: Sequence[Shared]) -> Reason:
        plain = Reason(picture(gallery.file_of(path, options.images)), path, distance)
        if not shared:
            return plain
        query, hit = shared[0]
        return replace(plain, attribute=hit.name, strengths=(query.strength, hit.strength), maps=(query.map, hit.map))

    title, drawn = f"nearest of {options.codes.name}", list(zip(hits, files, strict=True))[:FIGURE_ROWS]
    if why:
        told = [
            WhyRow(picture(file), one.query, [reason(path, d, some[path]) for d, path in one.found[:FIGURE_COLUMNS]])
            for (one, file), some in zip(drawn, why, strict=False)
        ]
        write_bytes(options.figure, png(why_figure(told, title)))
        return
    rows = []
    for one, file in drawn:
        shown = one.found[:FIGURE_COLUMNS]
        found = [Neighbour(picture(gallery.file_of(path, options.images)), path, d) for d, path in shown]
        rows.append(RetrievalRow(picture(file), one.query, None, found))
    write_bytes(options.figure, png(retrieval_figure(rows, title)))


def _parser() -> Parser:
    parser = Parser("search", "Find the images whose codes are nearest.", _EPILOG)
    parser.add_argument(
        "codes", type=given_path, metavar="ARCHIVE", help="that `razh index` made, or a file that `razh encode` wrote"
    )
    parser.add_argument(
        "queries", type=given_text, nargs="*", metavar="QUERY", help="a path in it, or an image or folder"
    )
    parser.add_argument(
        "--where", type=given_text, action="append", default=[], metavar="COLUMN=WORD,…",
        help="only images of which this is true: class=cats,camera=hall; of one column, any of its words; a folder=… "
        "stands for those below it, too",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=given_path, help="that made the codes; for queries that are not in the file"
    )
    parser.add_argument(
        "--top", type=int, action=within(Rank), default=10, metavar="N", help="hits a query (default: %(default)s)"
    )
    parser.add_argument(
        "--within", type=int, action=within(Radius), metavar="BITS", help="only hits up to this Hamming distance"
    )
    parser.add_argument(
        "--together", action="store_true", help="all queries are one question: what is near to each of them"
    )
    parser.add_argument(
        "--not", type=given_text, action="append", default=[], dest="unwanted", metavar="QUERY",
        help="what is not wanted, a path, an image or words: what is near to it comes later",
    )  # fmt: skip
    parser.add_argument(
        "--describe", type=given_text, action="append", default=[], metavar="ATTRIBUTES",
        help="attributes in the place of an image: 'crown color=red, bill shape=hooked:0.8'",
    )  # fmt: skip
    parser.add_argument(
        "--why", action="store_true", help="say which attributes a query and its hits share; of checkpoints with parts"
    )
    parser.add_argument(
        "--text", type=given_text, action="append", default=[], metavar="WORDS",
        help="words in the place of an image, matched with the names of attributes and classes: 'small red bird'",
    )  # fmt: skip
    parser.add_argument(
        "--text-model", type=given_text, metavar="MODEL",
        help="also match by the meaning of sentences: name or folder of a sentence-transformers model",
    )  # fmt: skip
    _add_ranking_options(parser)
    _add_output_options(parser)
    add_encoding_options(parser)
    return parser


def _add_ranking_options(parser: Parser) -> None:
    """Add how hits are found and put in order."""
    parser.add_argument(
        "--ranking", choices=("hamming", "asymmetric"), default="hamming",
        help="asymmetric: a bit counts by how sure the query's own logits are of it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--rerank", choices=("features",),
        help=f"put the first {RERANKED} in the order of real-valued features, which `razh index --features` keeps",
    )  # fmt: skip
    parser.add_argument(
        "--duplicates", action="store_true",
        help="no query, but groups of images with equal codes, or within so many bits of each other (--within)",
    )  # fmt: skip
    parser.add_argument(
        "--engine", choices=ENGINES,
        help="what searches an archive: flat and ivf are FAISS, milvus is a server (default: every code is looked at)",
    )  # fmt: skip
    parser.add_argument("--uri", type=given_text, help="of the Milvus server, http://localhost:19530")
    parser.add_argument(
        "--min-recall", type=float, action=within(PositiveShare), default=MIN_RECALL,
        help="share of the nearest that ivf must find when it is built (default: %(default)g)",
    )  # fmt: skip


def _add_output_options(parser: Parser) -> None:
    """Add where hits go."""
    parser.add_argument(
        "--out",
        type=given_path,
        metavar="FILE",
        help="write the hits there: .csv, .json, or .html, a page with pictures",
    )
    parser.add_argument(
        "--figure", type=given_path, metavar="FILE.png", help=f"draw the first {FIGURE_ROWS} queries and their hits"
    )
    parser.add_argument("--images", type=given_path, metavar="DIR", help="the folder that was encoded, for --figure")
