"""Codes fitted to a collection of images: what is read, tried, judged and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from razh.collection.code import Fitted, Known, fit_collection
from razh.collection.judge import FEWEST_IMAGES, Verdict, trial
from razh.datamodules.base import ZeroShotDataModule
from razh.datamodules.files.tables import read_class_table
from razh.datamodules.splits import Rows
from razh.index.descriptions import Pictures, describe, pictures_of
from razh.index.encoding import device_named
from razh.index.options import Encoding
from razh.index.sources import Source
from razh.run import adapted, checkpoint
from razh.run.adapted import FittedTo
from razh.run.checkpoint import Loaded
from razh.support.files import digest_of
from razh.support.terminal import counted, did_you_mean

__all__ = ["Adapted", "Start", "adapt", "in_units", "read_described"]


@dataclass(frozen=True)
class Start:
    """What is adapted.

    Attributes:
        checkpoint: that `razh train` wrote; None for a bare network.
        backbone: name of a bare network.
        weights: of a bare network; None for its own.
        bits: code length L of a bare network.
    """

    checkpoint: Path | None = None
    backbone: str = ""
    weights: str | None = None
    bits: int = 64

    def read(self) -> tuple[dict[str, Any], Loaded]:
        """Return the content of a checkpoint, and its method.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it cannot be used, or was adapted already.
        """
        if self.checkpoint is None:
            return adapted.bare(self.backbone, self.weights, self.bits)
        content, loaded = checkpoint.read(self.checkpoint), checkpoint.load(self.checkpoint)
        if "collection" in loaded.info:
            fitted = loaded.info["collection"]
            raise ValueError(
                f"{self.checkpoint} was adapted already, to {counted(fitted['images'], 'image')}; adapt the checkpoint "
                f"it was made from ({fitted['origin'][:12] or 'a bare network'})"
            )
        return content, loaded


@dataclass(frozen=True)
class Adapted:
    """What came of it.

    Attributes:
        fitted: what the codes were fitted to; None: they stay as they are, and nothing was written.
        verdict: of the trial; None for a bare network, which has no codes to compare with.
        left_out: why images were left out, a line each.
        shared: how many images of the collection are training images.
    """

    fitted: FittedTo | None
    verdict: Verdict | None = None
    left_out: list[str] = field(default_factory=list)
    shared: int = 0


def adapt(
    start: Start,
    source: Source,
    out: Path,
    described: Path | None = None,
    clusters: int | None = None,
    seed: int = 0,
    device: str | None = None,
    how: Encoding | None = None,
) -> Adapted:
    """Fit the codes of a checkpoint to images, and write a checkpoint of them, if they are better than the ones there.

    Args:
        start: what is adapted.
        source: the images.
        out: file to write.
        described: table of classes that may occur, see `read_described`.
        clusters: number of free clusters; None: by the number of images.
        seed: of clusters and rotation.
        device: see `razh.load`.
        how: workers, and the largest image.

    Raises:
        FileNotFoundError: no such checkpoint or table.
        ValueError: the checkpoint or the table cannot be used, or there are too few images.
        OSError: the file or the cache cannot be written.
    """
    how = how or Encoding()
    content, loaded = start.read()
    method = loaded.method
    trained = [loaded.info["class_names"][at] for at in method.train_classes.tolist()]
    table, new = read_described(described, loaded.info, trained) if described else None, None
    data = None if start.checkpoint is None else adapted.data_of(start.checkpoint, loaded.info)
    if table is not None:
        if data is None:
            raise ValueError(
                f"--describe={described} needs the training images, from which descriptions become directions; "
                "adapt the checkpoint where its run and data are, or leave --describe out"
            )
        new = table[0], in_units(f"--describe={described}", table[1], data.annotations.attribute_limits)
    method.to(device_named(device))
    pictures, problems = pictures_of(source, method.backbone.image_size, how.max_megapixels, how.workers)
    if len(pictures.signatures) < FEWEST_IMAGES:
        raise ValueError(
            f"the collection has {counted(len(pictures.signatures), 'different image')} that can be read; codes cannot "
            f"be fitted to fewer than {FEWEST_IMAGES}: give more, or keep the codes as they are"
        )
    origin = "" if start.checkpoint is None else digest_of(start.checkpoint)
    nothing = np.zeros(0, dtype=np.int64)
    known, labelled = (None, nothing) if data is None else _known(loaded, data, new, pictures, origin)
    rows = describe(method, pictures, "describing the collection", origin)
    verdict = None
    if start.checkpoint is not None:
        verdict = trial(rows, rows.logits, method.bits, known, clusters=clusters, labelled=labelled, seed=seed)
        if not verdict.better:
            return Adapted(None, verdict, problems, len(labelled))
    fit = fit_collection(rows, method.bits, known, clusters=clusters, labelled=labelled, seed=seed)
    fitted = _fitted_to(fit, rows.shape[0], known, new[0] if new else [], origin, seed)
    adapted.save(out, content, method, fit.code, fitted)
    return Adapted(fitted, verdict, problems, len(labelled))


def read_described(
    path: Path, info: dict[str, Any], trained: Sequence[str] = ()
) -> tuple[list[str], NDArray[np.float32]]:
    """Return names and attributes (U, M) of the described classes, in the order of the checkpoint's attributes.

    Args:
        path: of a table `class,attribute,…`.
        info: of the checkpoint, which names its attributes.
        trained: classes that it was trained on: they are known by their images, and left out.

    Raises:
        FileNotFoundError: no such table.
        ValueError: it is damaged, names an attribute that the checkpoint does not have or lacks one, or describes
            nothing.
    """
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
    new = [row for row, name in enumerate(classes) if name not in set(trained)]
    if not new:
        raise ValueError(f"--describe={path} describes training classes alone, which are known; add others to it")
    return [classes[row] for row in new], values[new][:, [attributes.index(name) for name in wanted]]


def in_units(table: str, values: NDArray[np.float32], limits: NDArray[np.float32] | None) -> torch.Tensor:
    """Return attributes (U, M) as numbers from 0 to 1.

    What has more of an attribute than all classes of the table that was trained with, or less, counts as they do.

    Args:
        table: its name, for errors.
        values: (U, M) in the units of the table that was trained with.
        limits: (2, M) what is 0 and what is 1 there; None: 0 and 1.

    Raises:
        ValueError: they are in other units.
    """
    lowest, highest = np.array([[0.0], [1.0]]) if limits is None else limits
    large, shares = highest > 1, values.max() <= 1
    # Shares where the other table is in per cent, or the other way round; a column of counts among shares is neither.
    if (large.mean() > 0.5 and shares) or (not large.any() and not (shares and values.min() >= lowest.min())):
        raise ValueError(
            f"{table} has values from {values.min():g} to {values.max():g}, the table that was trained with has "
            f"{lowest.min():g} to {highest.max():g}; write them alike"
        )
    return torch.from_numpy(np.clip((values - lowest) / (highest - lowest), 0, 1)).float()


def _known(
    loaded: Loaded,
    data: ZeroShotDataModule,
    described: tuple[list[str], torch.Tensor] | None,
    pictures: Pictures,
    origin: str,
) -> tuple[Known, Rows]:
    """Return what is known of the seen classes, and which images of the collection are training images."""
    method, train = loaded.method, data.split.train
    signatures = [data.image_signatures()[row] for row in train]
    load = partial(_load, data, train)
    rows = describe(method, Pictures(signatures, load, 0), "describing the training images", origin)
    classes, names = method.train_classes.cpu(), list(loaded.info["class_names"])
    new, strengths = described or ([], None)
    names += [name for name in new if name not in names]
    known = Known(
        torch.from_numpy(rows[np.arange(len(train))]),
        torch.from_numpy(np.searchsorted(classes.numpy(), data.labels[train])),
        method.class_attributes.cpu().float()[classes],
        strengths,
        torch.cat([classes, torch.tensor([names.index(name) for name in new]).long()]),
    )
    trained = set(signatures)
    return known, np.array([at for at, one in enumerate(pictures.signatures) if one in trained], dtype=np.int64)


def _load(data: ZeroShotDataModule, rows: Rows, at: int) -> torch.Tensor:
    return data.evaluation_image(int(rows[at]))


def _fitted_to(fit: Fitted, images: int, known: Known | None, names: list[str], origin: str, seed: int) -> FittedTo:
    return FittedTo(
        setting="both" if names else "collection" if known is not None else "unlabelled",
        images=images,
        seen=0 if known is None else len(known.attributes),
        described=names,
        lapsed=[names[at] for at in fit.lapsed],
        clusters=fit.clusters,
        origin=origin,
        seed=seed,
    )
