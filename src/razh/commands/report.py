"""`razh report`: runs side by side on one page; tables and curves of benchmarks, from their folders or a kept table."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from razh.support.files import given_path
from razh.support.terminal import Parser, Status, counted, suggest

__all__ = ["main"]

log = logging.getLogger(__name__)
PLAN = "plan.json"  # of a benchmark; those who write it take a second to import
MOST_NAMED = 10

_EPILOG = """\
Runs: a folder of runs, or one above them, becomes one HTML file that needs nothing beside it (FOLDER/report.html):
metrics by data set, split and setting with means over seeds, curves, retrieval grids and parts, what configurations
differ in, cost. Runs that are not finished are named with the reason.

Benchmarks: a folder of `razh benchmark` or `razh ablate` has its tables and curves written again; the page of its runs
is that of FOLDER/cells. Figures are never typed. A document has blocks for them, which --into fills with the headline
table of a benchmark:
  <!-- razh report: NAME -->
  <!-- razh report: end -->

examples:
  razh report runs/                                                   # runs side by side: runs/report.html
  razh report runs/cub/razh runs/cub/ce --write two.html              # those of two methods
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
        FileNotFoundError: a folder has neither a plan nor runs, or there is no such table or document.
        ValueError: nothing to report on, results do not go together, or a document's block names nothing.
        OSError: a file cannot be written.
    """
    options = _parser().parse_args(argv)
    if not options.out and not options.cells:
        raise ValueError("there is nothing to report on; name the folder of a benchmark, or a table by --cells")
    if options.out and not any((folder / PLAN).is_file() for folder in options.out):
        return _runs(options, argv)
    return _benchmarks(options, argv)


def _benchmarks(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Write tables and curves to wherever the options say."""
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


def _runs(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Write the page of runs, and name those that are in no table."""
    from razh.benchmark.runs import find_runs
    from razh.benchmark.runs_page import collect, write_page

    if not find_runs(folder for folder in options.out if folder.is_dir()):
        raise FileNotFoundError(
            f"no {PLAN} in {options.out[0]}, and no run in or below it; give a folder of runs, such as runs/, or of a "
            "`razh benchmark` or `razh ablate`"
        )
    given = {"--cells": options.cells, "--keep": options.keep, "--into": options.into, "--by": options.by != "query"}
    if unfit := [name for name, value in given.items() if value]:
        raise ValueError(f"{unfit[0]} is for benchmarks, and {options.out[0]} holds runs; leave it out")
    file = options.write or options.out[0] / "report.html"
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--write={file} is no .html file; runs side by side are one page, such as report.html")
    found = collect(options.out)
    write_page(found, file)
    runs, ones = counted(len(found.runs), "run"), counted(len(found.configurations), "configuration")
    log.info("written: %s (%.1f MB), %s of %s", file, file.stat().st_size / 1e6, runs, ones)
    for run in found.left_out[:MOST_NAMED]:
        log.info("left out: %s, %s", run.folder, run.reason)
    if more := len(found.left_out[MOST_NAMED:]):
        log.info("left out: %s more, see the end of the page", f"{more:,}")
    pairs = [group.configurations[:2] for group in found.groups if len(group.configurations) > 1]
    files = [one.first.folder / "codes.npz" for one in (pairs[0] if pairs else ())]
    if files and all(one.is_file() for one in files):
        suggest("compare", *files)
    return Status.DONE


def _parser() -> Parser:
    parser = Parser("report", "Runs side by side on one page; tables and curves of benchmarks.", _EPILOG)
    add = parser.add_argument
    about = "folder of runs, or above them; or of a `razh benchmark` or `razh ablate`"
    add("out", type=given_path, nargs="*", metavar="FOLDER", help=about)
    add("--cells", type=given_path, metavar="FILE.csv.xz", help="benchmarks whose runs are gone: their cells")
    add("--keep", type=given_path, metavar="FILE.xz", help="put the cells of benchmarks into such a table")
    add(
        "--write",
        type=given_path,
        metavar="DIR",
        help="of benchmarks: report.md with all tables and curves there; of runs: FILE.html",
    )
    add("--into", type=given_path, nargs="+", default=[], metavar="FILE.md", help="fill the blocks of these documents")
    add("--by", choices=("query", "class"), default="query", help="what significance swaps (query)")
    return parser
