"""`razh report`: tables and curves of benchmarks into the documentation, never typed."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from razh.commands.benchmark import write_tables
from razh.files import write_text

__all__ = ["main"]

log = logging.getLogger(__name__)

_EPILOG = """\
Everything in FILE is generated. Words of one's own go into a second file, FILE with `.notes.md` for `.md`, which is
put in front of the tables; figures in it are placeholders, {{BENCHMARK|METHOD|PROTOCOL|BITS|METRIC}}, that become
mean ± deviation. BENCHMARK is its name; "NAME DATASET BACKBONE" where one document has several of that name.

examples:
  razh report runs/benchmark/default-cub                          # tables and curves of the folder again
  razh report runs/benchmark/default-cub runs/ablate/ablation-cub --write=docs/results.md --readme=README.md
  razh report --write=docs/results.md --keep                      # the notes have changed, nothing else
"""


def main(argv: list[str]) -> int:
    """Run `razh report`.

    Args:
        argv: arguments after `razh report`.

    Returns:
        0.

    Raises:
        FileNotFoundError: a folder has no plan, or the notes or the README are missing.
        ValueError: nothing to report on, results do not go together, a placeholder names nothing, or the README has
            no markers.
        OSError: a file cannot be written.
    """
    options = _parser().parse_args(argv)
    if options.rows and not options.write:
        raise ValueError(f"rows={options.rows} needs write: they are what the document's tables rest on")
    if options.readme and not options.write:
        raise ValueError("readme needs write; the table in it links to the document with all of them")
    folders = [Path(folder) for folder in options.out]
    if not folders and (options.readme or not (options.keep and options.write)):
        raise ValueError("no folder of a benchmark is named; only --write with --keep, for new notes, does without")
    if not options.write:
        for folder in folders:
            write_tables(folder, options.by)
        return 0
    _write(folders, options)
    return 0


def _write(folders: list[Path], options: argparse.Namespace) -> None:
    from razh.benchmark import report
    from razh.benchmark.document import document, fill, names_of, replace_block, sections_of
    from razh.benchmark.grid import safe
    from razh.benchmark.rows import write_record
    from razh.benchmark.summary import Identity, Summary

    target = Path(options.write)
    summaries: dict[Identity, Summary] = {}
    for folder in folders:
        summary = Summary.of(folder, options.by)
        if (other := summaries.setdefault(summary.identity, summary)) is not summary:
            raise ValueError(f"{other.out} and {folder} are both {' '.join(summary.identity)}; name one of them")
    beside = target.with_suffix(".notes.md")
    notes_file = Path(options.notes) if options.notes else beside if beside.is_file() else None
    kept = sections_of(target.read_text(encoding="utf-8")) if options.keep and target.is_file() else {}
    words = notes_file.read_text(encoding="utf-8") if notes_file else ""
    names = names_of([*kept, *summaries])
    by_name = {names[identity]: summary for identity, summary in summaries.items()}
    notes = fill(words, by_name, str(notes_file), {names[identity]: text for identity, text in kept.items()})
    pictures = Path(options.figures) if options.figures else target.parent / "figures"
    for name, summary in by_name.items():
        drawn = report.draw(summary, pictures, name)
        links = {protocol: Path(os.path.relpath(path, target.parent)).as_posix() for protocol, path in drawn.items()}
        kept[summary.identity] = report.markdown_section(summary, links)
        if options.rows:
            write_record(summary.rows, Path(options.rows) / f"{safe(name)}.csv")
    write_text(target, document(list(kept.values()), notes))
    log.info("written: %s, %d figures in %s", target, len(kept), pictures)
    if options.readme:
        readme = Path(options.readme)
        link = Path(os.path.relpath(target, readme.parent)).as_posix()
        replace_block(readme, report.headline(next(iter(by_name.values())), link))
        log.info("written: the table in %s", readme)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="razh report",
        description="Tables and curves of one or more benchmarks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", nargs="*", metavar="OUT", help="folder of a `razh benchmark` or `razh ablate`")
    parser.add_argument("--write", metavar="FILE.md", help="write one document of all of them there")
    parser.add_argument(
        "--keep", action="store_true", help="sections of other benchmarks that FILE.md has stay there, word by word"
    )
    parser.add_argument(
        "--notes", metavar="FILE.md", help="words in front of the tables (FILE.notes.md if it is there)"
    )
    parser.add_argument("--figures", metavar="DIR", help="folder of the pictures (figures/ beside FILE.md)")
    parser.add_argument(
        "--rows", metavar="DIR", help="write the cells behind the tables there, NAME.csv, a line a cell"
    )
    parser.add_argument(
        "--readme", metavar="README.md", help="put the headline table of the first OUT between its markers"
    )
    parser.add_argument("--by", choices=("query", "class"), default="query", help="what significance swaps (query)")
    return parser
