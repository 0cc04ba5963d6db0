"""`razh adapt`: codes that fit a collection of unlabelled images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from razh.index.options import Encoding, add_encoding_options
from razh.support.bounds import Bits, CountOrZero, Seed, within
from razh.support.files import given_path
from razh.support.terminal import Parser, Status, UsageError, console, counted, suggest

if TYPE_CHECKING:
    from razh.run.adapted import FittedTo

__all__ = ["main"]

_EPILOG = """\
The codes of a checkpoint are fitted to the images that are to be searched: no label of them is needed. Its training
images, found by the configuration of the run that it lies in, are the seen classes; classes that may occur and have no
training image can be described by their attributes (--describe), in a table `class,attribute,…` with the attributes
that the checkpoint was trained with, in the same units. Free clusters stand for what is neither.

Without a checkpoint, --backbone=NAME takes a pretrained network as it is: no training set, no label, no attribute.

Half of the images judge a trial that is fitted to the others. Where it brings no more of what belongs together (by
clusters of that half) near than the codes that are there, nothing is written, and the codes stay as they are.

The result is a checkpoint for encode, search, test, evaluate and inspect; files of codes belong to one checkpoint, so
encode anew with it. What was computed of an image is cached: a command that was interrupted goes on.

exit status: 0 adapted, 3 some images were left out, 5 the codes stay as they are, 1 an error.

examples:
  razh adapt runs/cub/razh/64/seed0/checkpoints/best.ckpt photos/ --describe classes.csv --out adapted.ckpt
  razh adapt --backbone=lite0-frozen --weights=lite0.safetensors photos/ --bits=64
"""


def main(argv: list[str]) -> int:
    """Run `razh adapt` and return its exit status.

    Raises:
        FileNotFoundError: no such image, folder, table or checkpoint.
        ValueError: the checkpoint or the table cannot be used, or there are too few images.
        OSError: the output or the cache cannot be written.
    """
    options = _parser().parse_args(argv)
    _check(options)
    # torch takes seconds to import: options are read and refused without.
    from razh.index.adapting import Start, adapt
    from razh.index.sources import find_images

    paths = list(options.paths)
    start = Start(None if options.backbone else paths.pop(0), options.backbone or "", options.weights, options.bits)
    how = Encoding(workers=options.workers, max_megapixels=options.max_megapixels)
    found = adapt(
        start, find_images(paths), options.out, options.describe, options.clusters, options.seed, options.device, how
    )
    out = console()
    for problem in found.left_out:
        out.print(f"left out: {problem}")
    if found.shared:
        out.print(f"{counted(found.shared, 'image')} of the collection are training images of the checkpoint")
    if found.verdict is not None:
        before, after = (f"{share:.0%}" for share in (found.verdict.before, found.verdict.after))
        if found.fitted is None:
            out.print(f"the codes stay as they are, and nothing is written: {before} of the nearest images, and "
                      f"{after} where fitted to the collection, belong together")  # fmt: skip
            return Status.DIFFERENT
        out.print(f"by the codes as they are, {before} of the nearest images, and {after} where fitted to the "
                  "collection, belong together")  # fmt: skip
    assert found.fitted is not None
    fitted = found.fitted
    out.print(f"{counted(fitted.images, 'image')}, {_classes(fitted)}: {options.out}")
    if fitted.lapsed:
        out.print(f"described, but not found in the collection: {', '.join(fitted.lapsed)}")
    suggest("encode", *paths, f"--checkpoint={options.out}")
    return Status.LEFT_OUT if found.left_out else Status.DONE


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if options.out.is_dir():
        raise ValueError(f"--out={options.out} is a folder; give a file, such as {options.out / 'adapted.ckpt'}")
    if options.out.resolve() == options.paths[0].resolve():
        raise ValueError(f"--out={options.out} is the checkpoint itself, which is needed for later; name another file")
    if options.backbone is None:
        if len(options.paths) < 2:
            raise UsageError("give a checkpoint and then images, or --backbone=NAME and images")
        for name in ("weights", "bits"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name} goes with --backbone: a checkpoint has its own")
    elif options.describe is not None:
        raise UsageError("--describe needs a checkpoint: a bare network knows no attributes; leave out --backbone")
    elif options.paths[0].suffix == ".ckpt":
        raise UsageError(f"{options.paths[0]} has a network of its own; leave out --backbone, or the checkpoint")
    options.bits = options.bits or 64


def _classes(fitted: FittedTo) -> str:
    """Return what the images belong to, in words."""
    kinds = [(fitted.seen, "seen class"), (len(fitted.described) - len(fitted.lapsed), "described class")]
    words = [counted(count, word, f"{word}es") for count, word in kinds if count]
    return ", ".join([*words, counted(fitted.clusters, "free cluster")])


def _parser() -> Parser:
    parser = Parser("adapt", "Fit codes to a collection of unlabelled images.", _EPILOG)
    parser.add_argument(
        "paths", type=given_path, nargs="+", metavar="CHECKPOINT PHOTOS",
        help="a checkpoint that `razh train` wrote (without --backbone), then folders or image files",
    )  # fmt: skip
    parser.add_argument("--describe", type=given_path, metavar="FILE.csv", help="classes that may occur, by attributes")
    parser.add_argument("--backbone", metavar="NAME", help="a bare network instead: a name of experiments/backbone")
    parser.add_argument("--weights", metavar="FILE", help="its weights")
    parser.add_argument("--bits", type=int, action=within(Bits), help="code length of a bare network (default: 64)")
    parser.add_argument(
        "--clusters", type=int, action=within(CountOrZero), metavar="N",
        help="free clusters, for what is neither seen nor described (default: by the number of images)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, action=within(Seed), default=0, help="of clusters and rotation (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=given_path, default=Path("adapted.ckpt"), help="file to write (default: %(default)s)"
    )
    add_encoding_options(parser)
    return parser
