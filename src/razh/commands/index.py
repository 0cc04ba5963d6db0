"""`razh index`: an archive of encoded images that grows."""

from __future__ import annotations

import argparse
import fnmatch
import functools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from razh.datamodules.files.walk import printable
from razh.export.facts import weights_of
from razh.index.archive import ArchiveWriter, Snapshot, is_archive
from razh.index.options import Encoding, add_encoding_options
from razh.index.updating import Report, read_columns, update
from razh.support.bounds import Count, within
from razh.support.files import digest_of, given_path, given_text
from razh.support.terminal import Parser, Status, console, counted, suggest

if TYPE_CHECKING:
    from razh.index.network import Network

__all__ = ["main"]

_EPILOG = """\
usage:
  razh index FOLDER… --checkpoint CHECKPOINT --out ARCHIVE    make an archive, or add folders to one
  razh index add ARCHIVE FOLDER…                              the same
  razh index update ARCHIVE [--prune]                         its own folders again
  razh index remove ARCHIVE PATTERN…                          take images out; their files stay
  razh index stats ARCHIVE                                    what is in it
  razh index verify ARCHIVE                                   read every byte and compare it with its checksum

Images that are in the archive already are left alone; those whose file has another size or time are encoded again.
Images are kept under the name of their folder and the path below it, `photos/cats/17.jpg`; where they lie in
sub-folders, the first is their class. Every few seconds what is encoded is committed, so a command that was killed goes
on where it was when it is started again, and searches see what is there. One process writes at a time.

--columns=FILE.csv has a header, a column `path` and others of your own; `razh search --where camera=hall` takes one.
A pattern is a path, a folder, or has *, ? and [ ] as in a shell; @FILE is a file with a pattern a line.

exit status: 0 done, 3 some images were left out, 1 an error or (verify) damage.

examples:
  razh index photos/ --checkpoint runs/cub/razh/64/seed0/checkpoints/best.ckpt --out archive/
  razh index update archive/ --prune
  razh search archive/ photos/cats/17.jpg
"""


def main(argv: list[str]) -> int:
    """Run `razh index` and return its exit status.

    Raises:
        FileNotFoundError: no such folder, archive or checkpoint, or a folder without images.
        ValueError: the archive is damaged or does not belong to the checkpoint, or an option is wrong.
        OSError: the archive cannot be written, or another process writes to it.
    """
    actions: dict[str, Callable[[list[str]], int]] = {
        "add": _add, "update": _update, "remove": _remove, "stats": _stats, "verify": _verify
    }  # fmt: skip
    action = actions.get(argv[0]) if argv else None
    return action(argv[1:]) if action is not None else _make(argv)


# ------------------------------------------------------------------------------------------------------------ adding


def _parser() -> Parser:
    parser = Parser("index", "Make an archive of encoded images, and keep it up to date.", _EPILOG)
    parser.add_argument("folders", type=given_path, nargs="+", metavar="FOLDER", help="with images, or folders of them")
    parser.add_argument("--out", type=given_path, required=True, metavar="ARCHIVE", help="folder of the archive")
    return _with_options(parser)


def _make(argv: list[str]) -> int:
    return _index(_parser().parse_args(argv))


def _add(argv: list[str]) -> int:
    parser = Parser("index add", "Add folders to an archive.", _EPILOG)
    parser.add_argument("out", type=given_path, metavar="ARCHIVE")
    parser.add_argument("folders", type=given_path, nargs="+", metavar="FOLDER")
    return _index(_with_options(parser).parse_args(argv))


def _update(argv: list[str]) -> int:
    parser = Parser("index update", "Encode what is new or changed in the folders of an archive.", _EPILOG)
    parser.add_argument("out", type=given_path, metavar="ARCHIVE")
    options = _with_options(parser).parse_args(argv)
    options.folders = [Path(folder) for folder in Snapshot(options.out).sources.values()]
    return _index(options)


def _with_options(parser: Parser) -> Parser:
    parser.add_argument(
        "--checkpoint",
        type=given_path,
        help="that `razh train` wrote, or what `razh export` made of one; an archive remembers its own",
    )
    parser.add_argument("--prune", action="store_true", help="remove images whose file is not there any more")
    parser.add_argument("--columns", type=given_path, metavar="FILE.csv", help="own columns of the images")
    parser.add_argument(
        "--features", action="store_true",
        help="keep real-valued features, too, 2 bytes a number, for `razh search --rerank=features`",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, action=within(Count), help="images at once (default: 64 on a GPU, else 16)"
    )
    add_encoding_options(parser)
    return parser


def _index(options: argparse.Namespace) -> int:
    from razh.run import preemption

    for folder in options.folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder at {printable(folder)}; name folders with images")
    old = Snapshot(options.out) if is_archive(options.out) else None
    checkpoint, digest = _checkpoint(options, old)

    @functools.cache
    def network() -> Network:
        from razh.index.loading import open_network

        return open_network(checkpoint, options.device)

    bits = old.bits if old is not None and len(old.codes) else network().bits
    how = Encoding(options.batch_size, options.workers, options.max_megapixels, options.precision)
    made = (bits, digest, str(checkpoint.absolute()))
    with preemption.Listener(), ArchiveWriter(options.out, made, options.features) as writer:
        report = update(writer, options.folders, network, how, options.prune)
        if not len(writer.now.codes):
            raise ValueError(f"no file is a readable image; the first: {report.problem}")
        if options.columns:
            found = writer.set_columns(read_columns(options.columns, writer))
            console().print(f"{options.columns}: columns of {counted(found, 'image')}")
        now = writer.now
    _tell(report, now, options.prune)
    name = next((name for _, name in now.names()), "")
    suggest("search", options.out, name)
    return Status.LEFT_OUT if report.left_out else Status.DONE


def _checkpoint(options: argparse.Namespace, old: Snapshot | None) -> tuple[Path, str]:
    """Return the checkpoint and its digest: the one that is named, or the archive's own."""
    if options.checkpoint is None:
        if old is None:
            raise ValueError(
                f"--checkpoint is missing: {options.out} is no archive yet; name the one that shall encode"
            )
        options.checkpoint = Path(old.checkpoint_path)
        if not options.checkpoint.is_file() or digest_of(options.checkpoint) != old.checkpoint:
            raise ValueError(f"{old.checkpoint_path}, which made {options.out}, is gone or another file now; "
                             "name it with --checkpoint")  # fmt: skip
        return options.checkpoint, old.checkpoint
    file = weights_of(options.checkpoint)
    return file, digest_of(file)


def _tell(report: Report, now: Snapshot, pruned: bool) -> None:
    out = console()
    words = {"added": report.added, "changed": report.changed, "unchanged": report.unchanged, "removed": report.pruned}
    did = ", ".join(f"{number:,} {word}" for word, number in words.items() if number or word == "added")
    out.print(f"{now.folder}: {counted(len(now), 'image')} of {now.bits} bits ({did})")
    if report.gone and not pruned:
        out.print(f"without a file now: {counted(report.gone, 'image')}; --prune removes them")
    if report.left_out:
        out.print(f"left out, each by its name above: {counted(report.left_out, 'image')}")


# ------------------------------------------------------------------------------------------- removing and looking


def _remove(argv: list[str]) -> int:
    parser = Parser("index remove", "Take images out of an archive; their files stay.", _EPILOG)
    parser.add_argument("archive", type=given_path, metavar="ARCHIVE")
    parser.add_argument("patterns", type=given_text, nargs="+", metavar="PATTERN")
    options = parser.parse_args(argv)
    with ArchiveWriter(options.archive) as writer:
        patterns = [line for pattern in options.patterns for line in _lines(pattern)]
        counts = Counter[str]()
        matches = {pattern: _matcher(pattern) for pattern in patterns}
        for row, name in writer.now.names():
            for pattern, match in matches.items():
                if match(name):
                    writer.remove([row])
                    counts[pattern] += 1
                    break
        if unmatched := [pattern for pattern in patterns if not counts[pattern]]:
            raise ValueError(f"{printable(unmatched[0])} matches no image of {options.archive}; nothing was removed")
        writer.commit()
        writer.pack()
        left = len(writer.now)
    console().print(f"{options.archive}: {counted(counts.total(), 'image')} removed, {left:,} left")
    return Status.DONE


def _lines(pattern: str) -> list[str]:
    """Return a pattern as a list, or those in the file behind an @."""
    if not pattern.startswith("@"):
        return [pattern]
    from razh.datamodules.files.text import lines

    path = Path(pattern[1:])
    if not path.is_file():
        raise FileNotFoundError(f"no list at {printable(path)}; @FILE is a file with a pattern a line")
    return lines(path)


def _matcher(pattern: str) -> Callable[[str], object]:
    """Return what tells whether a name is meant: the image, the folder that it is in, or what a shell would match."""
    folder = pattern.rstrip("/") + "/"
    if not re.search(r"[*?\[]", pattern):
        return lambda name: name == pattern or name.startswith(folder)
    whole = re.compile(fnmatch.translate(pattern))
    return lambda name: name == pattern or whole.match(name)


def _stats(argv: list[str]) -> int:
    parser = Parser("index stats", "Say what is in an archive.", _EPILOG)
    parser.add_argument("archive", type=given_path, metavar="ARCHIVE")
    parser.add_argument("--json", action="store_true", help="all of it, as JSON")
    options = parser.parse_args(argv)
    stats = Snapshot(options.archive).stats()
    out = console()
    if options.json:
        import json

        out.print(json.dumps(stats, ensure_ascii=False, indent=1))
        return Status.DONE
    out.print(f"{options.archive}: {counted(stats['images'], 'image')} of {stats['bits']} bits, "
              f"{stats['bytes'] / 1e6:.1f} MB, {stats['removed_rows']:,} removed rows")  # fmt: skip
    if stats["features"] is not None:
        out.print(f"features of {stats['features']:,} numbers an image")
    out.print(f"checkpoint: {stats['checkpoint_path']} (SHA-256 {stats['checkpoint'][:12]}…)")
    for name, folder in stats["sources"].items():
        out.print(f"folder {printable(name)}: {printable(folder)}")
    for name, counts in stats["columns"].items():
        some = [f"{printable(word) or '(none)'} {count:,}" for word, count in list(counts.items())[:10]]
        more = f", … {len(counts) - 10:,} more" if len(counts) > 10 else ""
        out.print(f"{name}: {', '.join(some)}{more}")
    return Status.DONE


def _verify(argv: list[str]) -> int:
    parser = Parser("index verify", "Read all of an archive and compare it with its checksums.", _EPILOG)
    parser.add_argument("archive", type=given_path, metavar="ARCHIVE")
    options = parser.parse_args(argv)
    snapshot = Snapshot(options.archive)
    if problems := snapshot.problems():
        raise ValueError(f"{options.archive} is damaged: {'; '.join(problems)}; make it again from its images")
    console().print(f"{options.archive}: {counted(len(snapshot), 'image')}, every byte as it was written")
    return Status.DONE
