"""What codes gain by fitting a collection: few and many unseen images, descriptions that are missing or wrong.

    razh train --dataset=cub --backbone=lite0-frozen --run_dir=runs/own
    razh train --dataset=cub --backbone=lite0-frozen --run_dir=runs/permuted --model.permuted_attributes=true
    python benchmarks/collection.py runs/own runs/permuted

Each run gives the trained codes, the split, and what codes of a collection are fitted to. The trial that `razh adapt`
holds decides whether fitted codes are used; "fitted" is the share of the collections where they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from razh.collection.code import CollectionCode, Known, fit_collection
from razh.collection.judge import trial
from razh.datamodules.base import ZeroShotDataModule
from razh.index.descriptions import Pictures, describe
from razh.measures.described import naming
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import measure
from razh.retrieval.packing import pack
from razh.retrieval.tasks import retrieval_task
from razh.run import adapted, checkpoint
from razh.support.files import digest_of
from razh.support.progress import track

SHARES = (0.01, 0.03, 0.06, 0.15, 0.3, 0.5)
FEW = 0.1  # with fewer unseen images than this the training images are in the collection, too
SIZES = (0.5, 0.25, 0.1)
NOISE = 0.15
DESCRIPTIONS = 4
CELLS = 3 * (len(SHARES) + len(SIZES)) + DESCRIPTIONS

Rows = NDArray[np.int64]


class World(NamedTuple):
    """A run: rows (n, E) and hash logits (n, L) of all images, labels (n,), attributes (C, M), and which are what.

    `others` (K, M) are attributes of classes of which the data set has no image here.
    """

    name: str
    rows: NDArray[np.float32]
    before: Tensor
    labels: Rows
    attributes: Tensor
    others: Tensor
    seen: Rows
    unseen: Rows
    train: Rows
    query: Rows
    database: Rows

    def known(self, described: Rows | None = None, others: int = 0, noise: float = 0.0, seed: int = 0) -> Known:
        """Return what is known: training images, and attributes of `described` and of `others` that do not occur."""
        attributes, ids, told = self.attributes, self.seen, None
        if described is not None:
            generator = torch.Generator().manual_seed(seed)
            told = torch.cat([attributes[described], self.others[:others]])
            told = (told + noise * torch.randn(told.shape, generator=generator)).clamp(0, 1)
            ids = np.concatenate([ids, described, np.full(len(self.others[:others]), -1)])
        return Known(
            torch.from_numpy(self.rows[self.train]),
            torch.from_numpy(np.searchsorted(self.seen, self.labels[self.train])),
            attributes[self.seen],
            told,
            torch.from_numpy(ids),
        )


def opened(run: Path) -> World:
    """Return what a run's best checkpoint makes of the images of its data."""
    path = run / "checkpoints" / "best.ckpt"
    loaded = checkpoint.load(path)
    data = adapted.data_of(path, loaded.info)
    if data is None:
        raise SystemExit(f"{run} is no run whose images are there")
    method = loaded.method.eval()
    every = np.arange(len(data.labels))
    rows = describe(method, Pictures(data.image_signatures(), data.evaluation_image, 0), f"{run}", digest_of(path))
    split, name = data.split, type(method).__name__.lower()
    return World(
        f"{name} permuted" if _permuted(loaded.info) else name, rows[every], rows.logits(every), data.labels,
        method.class_attributes.float(), _others(data), method.train_classes.numpy(),
        np.array(split.unseen_classes), split.train, split.query, split.database,
    )  # fmt: skip


def _permuted(info: dict) -> bool:
    return bool(info["model"].get("init_args", {}).get("permuted_attributes"))


def _others(data: ZeroShotDataModule) -> Tensor:
    """Return attributes of the data set's classes without images here, in order."""
    complete = data.read_annotations()
    absent = [row for row, name in enumerate(complete.class_names) if name not in set(data.class_names)]
    return torch.from_numpy(complete.class_attributes[absent]).float()


def collections(world: World, seed: int) -> Iterator[tuple[str, Rows]]:
    """Yield names and rows of collections; each has an image of every unseen class."""
    strange = np.isin(world.labels[world.database], world.unseen)
    seen, unseen = world.database[~strange], world.database[strange]
    generator = np.random.default_rng(seed)
    for share in SHARES:
        around = np.concatenate([seen, world.train]) if share < FEW else seen
        each = round(share / (1 - share) * len(around) / len(world.unseen))
        few = [generator.permutation(unseen[world.labels[unseen] == c])[: max(each, 1)] for c in world.unseen]
        strangers = unseen if share == SHARES[-1] else np.concatenate(few)  # the whole database
        yield f"{share:.0%} unseen", np.sort(np.concatenate([around, strangers]))
    for size in SIZES:
        some = [generator.permutation(of)[: max(round(size * len(of)), 1)] for of in _by_class(world, world.database)]
        yield f"{size:.0%} of the images", np.sort(np.concatenate(some))


def _by_class(world: World, rows: Rows) -> list[Rows]:
    return [of for c in np.unique(world.labels) if len(of := rows[world.labels[rows] == c])]


def descriptions(world: World, seed: int) -> Iterator[tuple[str, Known]]:
    """Yield what may be known of the unseen classes beside nothing and all, of the whole database."""
    half = np.sort(np.random.default_rng(seed).permutation(world.unseen)[: len(world.unseen) // 2])
    yield "half of them described", world.known(half)
    for more in (len(world.unseen), min(100, len(world.others))):
        yield f"{more} more that do not occur", world.known(world.unseen, others=more)
    yield f"noise of {NOISE} on each value", world.known(world.unseen, noise=NOISE, seed=seed)


def figures(world: World, database: Rows, logits: Tensor, code: CollectionCode | None) -> dict[str, float]:
    """Return mAP of unseen queries by logits (n, L) of all images, and what described queries find by a code."""
    signs, bits = (logits >= 0).numpy(), logits.shape[1]
    packed = pack(signs)
    asked = {"": (packed[world.query], world.labels[world.query])}
    found = {}
    if code is not None and (code.classes[:, None] == torch.from_numpy(world.unseen)).any():
        ids = code.classes.tolist()
        told = code.of_directions(code.centres)
        queries = torch.stack([told[ids.index(c)] if c in ids else 0 * told[0] for c in world.unseen.tolist()])
        described = (queries >= 0).numpy()
        asked["described "] = pack(described), world.unseen
        distance = (signs[world.query][:, None] != described[None]).sum(axis=2)
        right = np.searchsorted(world.unseen, world.labels[world.query])
        found["named"] = float(naming(distance, right)["accuracy"])
    for prefix, (rows, labels) in asked.items():
        every = Codes(
            query_codes=rows, query_labels=labels, database_codes=packed[database],
            database_labels=world.labels[database], bits=bits, unseen_classes=tuple(world.unseen.tolist()),
        )  # fmt: skip
        task = retrieval_task(every, "unseen")
        assert task is not None
        found[f"{prefix}unseen"] = float(measure(task).values["map"].mean())
    return found


def fitted(world: World, database: Rows, known: Known, seed: int) -> dict[str, float]:
    """Return figures of codes that are fitted to a collection if the trial says so."""
    rows, before = world.rows[database], world.before[torch.from_numpy(database.copy())]
    bits = before.shape[1]
    labelled = np.flatnonzero(np.isin(database, world.train))
    verdict = trial(rows, lambda at: before[torch.from_numpy(at)], bits, known, labelled=labelled, seed=seed)
    code = fit_collection(rows, bits, known, labelled=labelled, seed=seed).code
    in_any_case = figures(world, database, code(torch.from_numpy(world.rows)), code)
    used = in_any_case if verdict.better else figures(world, database, world.before, None)
    return used | {"fitted": float(verdict.better), "in any case": in_any_case["unseen"]}


def cells(world: World, seed: int) -> Iterator[dict[str, float | str]]:
    """Yield the figures of each collection with nothing and with all described, and of the faults of descriptions."""
    for name, database in collections(world, seed):
        yield {"collection": name, "setting": "inductive", **figures(world, database, world.before, None)}
        yield {"collection": name, "setting": "collection", **fitted(world, database, world.known(), seed)}
        yield {"collection": name, "setting": "both", **fitted(world, database, world.known(world.unseen), seed)}
    for name, known in descriptions(world, seed):
        yield {"collection": name, "setting": "both", **fitted(world, world.database, known, seed)}


def main() -> None:
    """Print a table, the mean over runs and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the draws")
    parser.add_argument("--out", type=Path, help="file for every cell, as CSV")
    options = parser.parse_args()
    found = []
    with torch.inference_mode():
        for run in options.runs:
            world = opened(run)
            for seed in options.seeds:
                every = track(cells(world, seed), f"fitting {run}", CELLS, "cells")
                found += [{"of": world.name, "run": str(run), "seed": seed, **cell} for cell in every]
    table = pd.DataFrame(found)
    if options.out:
        table.to_csv(options.out, index=False)
    mean = table.drop(columns=["run", "seed"]).groupby(["collection", "setting", "of"], sort=False).mean()
    print(mean.round(3).to_markdown())


if __name__ == "__main__":
    main()
