"""`razh report`: tables and curves of benchmarks, from their folders or from the table that outlives them."""

from __future__ import annotations

import logging
from pathlib import Path

from razh.support.files import given_path
from razh.support.terminal import Parser, Status, suggest

__all__ = ["main"]

log = logging.getLogger(__name__)

_EPILOG = """\
Figures are never typed. A document has blocks for them, which --into fills with the headline table of a benchmark:
  <!-- razh report: NAME -->
  <!-- razh report: end -->

examples:
  razh report runs/benchmark/default-cub                              # tables and curves of the folder again
  razh report runs/benchmark/default-cub --keep docs/cells.csv.xz     # its cells join the table that is kept
  razh report --cells docs/cells.csv.xz --write runs/report           # all tables and curves of that table
  razh report --cells docs/cells.csv.xz --into README.md docs/results.md
"""


def main(argv: list[str]) -> int:
    """Run `razh report`.

    Args:
        argv: arguments after `razh report`.

    Returns:
        0.

    Raises:
        FileNotFoundError: a folder has no plan, or there is no such table or document.
        ValueError: nothing to report on, results do not go together, or a document's block names nothing.
        OSError: a file cannot be written.
    """
    options = _parser().parse_args(argv)
    if not options.out and not options.cells:
        raise ValueError("there is nothing to report on; name the folder of a benchmark, or a table by --cells")
    if options.cells and not (options.write or options.into or options.out):
        raise ValueError("--cells needs --write or --into: where its tables go")
    from razh.benchmark.report import fill_blocks, write_report, write_tables
    from razh.benchmark.results import Results, keep_table, read_tables

    measured: dict[tuple[str, str, str], Results] = {}
    for folder in options.out:
        one = Results.of(folder, options.by)
        if (other := measured.setdefault(one.identity, one)) is not one:
            raise ValueError(f"{other.out} and {one.out} are both {' '.join(one.identity)}; name one of them")
    if options.keep:
        keep_table(options.keep, list(measured.values()))
        log.info("written: the cells of %d benchmarks into %s", len(measured), options.keep)
    kept = {one.identity: one for one in (read_tables(options.cells) if options.cells else [])}
    results = list((kept | measured).values())
    for document in options.into:
        log.info("written: the tables of %s in %s", ", ".join(fill_blocks(document, results)), document)
    if options.write:
        log.info("written: %s", write_report(results, options.write))
    if not (options.write or options.into or options.keep):
        for one in measured.values():
            log.info("%s", write_tables(one, Path(str(one.out))))
        suggest("report", *argv, "--write=report")
    return Status.DONE


def _parser() -> Parser:
    parser = Parser("report", "Tables and curves of benchmarks.", _EPILOG)
    add = parser.add_argument
    add("out", type=given_path, nargs="*", metavar="OUT", help="folder of a `razh benchmark` or `razh ablate`")
    add("--cells", type=given_path, metavar="FILE.csv.xz", help="benchmarks whose runs are gone: their cells")
    add("--keep", type=given_path, metavar="FILE.xz", help="put the cells of OUT into such a table")
    add("--write", type=given_path, metavar="DIR", help="write report.md with all tables and curves there")
    add("--into", type=given_path, nargs="+", default=[], metavar="FILE.md", help="fill the blocks of these documents")
    add("--by", choices=("query", "class"), default="query", help="what significance swaps (query)")
    return parser
