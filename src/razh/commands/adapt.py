"""`razh adapt`: codes that fit a collection of unlabelled images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from razh.index.options import add_encoding_options
from razh.support.bounds import Bits, CountOrZero, Seed, within
from razh.support.files import given_path
from razh.support.terminal import Parser, Status, UsageError, console, counted, did_you_mean, suggest

if TYPE_CHECKING:
    import torch

    from razh.collection.code import Known
    from razh.datamodules.base import ZeroShotDataModule
    from razh.datamodules.splits import Rows
    from razh.index.descriptions import Descriptions, Pictures
    from razh.run.adapted import FittedTo
    from razh.run.checkpoint import Loaded

__all__ = ["main", "read_described"]

_EPILOG = """\
The codes of a checkpoint are fitted to the images that are to be searched: no label of them is needed. Its training
images, found by the configuration of the run that it lies in, are the seen classes; classes that may occur and have no
training image can be described by their attributes (--describe), in a table `class,attribute,…` with the attributes
that the checkpoint was trained with, values from 0 to 1. Free clusters stand for what is neither.

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
    from razh.collection.judge import FEWEST_IMAGES
    from razh.index.descriptions import describe, pictures_of
    from razh.index.encoding import device_named
    from razh.index.sources import find_images
    from razh.run import adapted, checkpoint
    from razh.support.files import digest_of

    paths = list(options.paths)
    if options.backbone is None:
        path = paths.pop(0)
        content, loaded = checkpoint.read(path), checkpoint.load(path)
        if "collection" in loaded.info:
            raise ValueError(
                f"{path} was adapted already, to {counted(loaded.info['collection']['images'], 'image')}; adapt the "
                f"checkpoint it was made from ({loaded.info['collection']['origin'][:12] or 'a bare network'})"
            )
        origin = digest_of(path)
    else:
        path, origin = None, ""
        content, loaded = adapted.bare(options.backbone, options.weights, options.bits)
    trained = [loaded.info["class_names"][at] for at in loaded.method.train_classes.tolist()]
    described = read_described(options.describe, loaded.info, trained) if options.describe else None
    source = find_images(paths)
    method = loaded.method.to(device_named(options.device))
    size = method.backbone.image_size
    pictures, problems = pictures_of(source, size, options.max_megapixels, options.workers)
    out = console()
    for problem in problems:
        out.print(f"left out: {problem}")
    if len(pictures.signatures) < FEWEST_IMAGES:
        raise ValueError(
            f"the collection has {counted(len(pictures.signatures), 'different image')} that can be read; codes cannot "
            f"be fitted to fewer than {FEWEST_IMAGES}: give more, or keep the codes as they are"
        )
    data = None if path is None else adapted.data_of(path, loaded.info)
    if described is not None and data is None:
        raise ValueError(
            f"--describe={options.describe} needs the training images, from which descriptions become directions; "
            "adapt the checkpoint where its run and data are, or leave --describe out"
        )
    known = None
    if data is not None:
        known, shared = _known(loaded, data, described, pictures)
        if shared:
            out.print(f"{counted(shared, 'image')} of the collection are training images of the checkpoint")
    rows = describe(method, pictures, "describing the collection")
    return _fit(options, content, loaded, rows, known, described, origin, bool(problems))


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


def read_described(path: Path, info: dict[str, Any], trained: Sequence[str] = ()) -> tuple[list[str], torch.Tensor]:
    """Return names and attributes (U, M) of the described classes, in the order of the checkpoint's attributes.

    Args:
        path: of a table `class,attribute,…`.
        info: of the checkpoint, which names its attributes.
        trained: classes that it was trained on: they are known by their images, and left out.

    Raises:
        FileNotFoundError: no such table.
        ValueError: it is damaged, names an attribute that the checkpoint does not have or lacks one, has values out of
            0 to 1, or describes nothing.
    """
    import torch

    from razh.datamodules.files.tables import read_class_table

    classes, attributes, values = read_class_table(path)
    wanted = [str(name) for name in info["attribute_names"]]
    if unknown := [name for name in attributes if name not in wanted]:
        hint = did_you_mean(unknown[0], wanted, quote="'")
        raise ValueError(
            f"--describe={path} has {counted(len(unknown), 'attribute')} that the checkpoint was not trained with, "
            f"{unknown[0]!r}; {hint}it has {len(wanted)}, which `razh inspect` lists"
        )
    if missing := [name for name in wanted if name not in attributes]:
        raise ValueError(
            f"--describe={path} lacks {counted(len(missing), 'attribute')} of the checkpoint's {len(wanted)}, "
            f"{missing[0]!r}; add a column for each"
        )
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f"--describe={path} has values from {values.min():g} to {values.max():g}; they must be in 0 to 1"
        )
    new = [row for row, name in enumerate(classes) if name not in set(trained)]
    if not new:
        raise ValueError(f"--describe={path} describes training classes alone, which are known; add others to it")
    order = [attributes.index(name) for name in wanted]
    return [classes[row] for row in new], torch.from_numpy(values[new][:, order]).float()


def _known(
    loaded: Loaded, data: ZeroShotDataModule, described: tuple[list[str], torch.Tensor] | None, pictures: Pictures
) -> tuple[Known, int]:
    """Return what is known of the seen classes, and how many images of the collection are training images."""
    import numpy as np
    import torch

    from razh.collection.code import Known
    from razh.index.descriptions import Pictures, describe

    method, train = loaded.method, data.split.train
    signatures = [data.image_signatures()[row] for row in train]
    load = partial(_load, data, train)
    rows = describe(method, Pictures(signatures, load, 0), "describing the training images")
    classes, names = method.train_classes.cpu(), loaded.info["class_names"]
    new, strengths = described or ([], None)
    known = Known(
        torch.from_numpy(rows[np.arange(len(train))]),
        torch.from_numpy(np.searchsorted(classes.numpy(), data.labels[train])),
        method.class_attributes.cpu().float()[classes],
        strengths,
        torch.cat([classes, torch.tensor([names.index(name) if name in names else -1 for name in new]).long()]),
    )
    return known, len(set(signatures) & set(pictures.signatures))


def _load(data: ZeroShotDataModule, rows: Rows, at: int) -> torch.Tensor:
    return data.evaluation_image(int(rows[at]))


def _fit(
    options: argparse.Namespace,
    content: dict[str, Any],
    loaded: Loaded,
    rows: Descriptions,
    known: Known | None,
    described: tuple[list[str], torch.Tensor] | None,
    origin: str,
    left_out: bool,
) -> int:
    """Try, judge, fit and write; say what came of it."""
    from razh.collection.code import fit_collection
    from razh.collection.judge import trial
    from razh.run import adapted

    method, out = loaded.method, console()
    names = [] if described is None else described[0]
    if origin:
        verdict = trial(rows, rows.logits, method.bits, known, clusters=options.clusters, seed=options.seed)
        share = f"{verdict.before:.0%} of the nearest images, and {verdict.after:.0%} where fitted to the collection,"
        share += " belong together"
        if not verdict.better:
            out.print(f"the codes stay as they are, and nothing is written: {share}")
            return Status.DIFFERENT
        out.print(f"by the codes as they are, {share}")
    fit = fit_collection(rows, method.bits, known, clusters=options.clusters, seed=options.seed)
    lapsed = [names[at] for at in fit.lapsed]
    fitted = adapted.FittedTo(
        setting="both" if names else "collection" if known is not None else "unlabelled",
        images=rows.shape[0],
        seen=0 if known is None else len(known.attributes),
        described=names,
        lapsed=lapsed,
        clusters=fit.clusters,
        origin=origin,
        seed=options.seed,
    )
    adapted.save(options.out, content, method, fit.code, fitted)
    out.print(f"{counted(fitted.images, 'image')}, {_classes(fitted)}: {options.out}")
    if lapsed:
        out.print(f"described, but not found in the collection: {', '.join(lapsed)}")
    suggest("encode", *options.paths[(options.backbone is None) :], f"--checkpoint={options.out}")
    return Status.LEFT_OUT if left_out else Status.DONE


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
