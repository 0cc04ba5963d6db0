"""What codes gain by fitting a collection: settings beside each other, with permuted attributes and few unseen images.

    python benchmarks/collection.py --data-root=data/cub --weights=lite0.safetensors --partitions 0 1 --seeds 0 1 2

Everything is closed form on the cached features of a frozen network; nothing is trained by gradient.
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

from razh.backbones.timm import TimmBackbone
from razh.collection.code import CollectionCode, Known, fit_collection
from razh.collection.judge import trial
from razh.datamodules.cub import CUBDataModule
from razh.index.descriptions import Pictures, describe
from razh.layers.hash import HashHead, within_class_whitening
from razh.measures.described import naming
from razh.method import HashingMethod
from razh.methods.itq import ITQ
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import measure
from razh.retrieval.packing import pack
from razh.retrieval.tasks import retrieval_task


class World(NamedTuple):
    """A partition: features (n, D) and labels (n,) of all images, and which of them are what."""

    features: Tensor
    labels: NDArray[np.int64]
    attributes: Tensor
    seen: NDArray[np.int64]
    unseen: NDArray[np.int64]
    train: NDArray[np.int64]
    query: NDArray[np.int64]
    database: NDArray[np.int64]

    def known(self, described: bool, permuted: int | None = None) -> Known:
        """Return what is known; with attributes permuted among all classes, by a seed."""
        attributes = self.attributes
        if permuted is not None:
            generator = torch.Generator().manual_seed(permuted)
            attributes = attributes[torch.randperm(len(attributes), generator=generator)]
        return Known(
            self.features[self.train],
            torch.from_numpy(np.searchsorted(self.seen, self.labels[self.train])),
            attributes[self.seen],
            attributes[self.unseen] if described else None,
            torch.from_numpy(np.concatenate([self.seen, self.unseen]) if described else self.seen),
        )


def worlds(root: Path, weights: Path, partition: int) -> Iterator[tuple[str, World]]:
    """Yield a partition with half of the unseen images in its collection, and with so few that they are 6 % of it."""
    data = CUBDataModule(
        str(root), "unseen-30%", split_seed=partition, validation_class_share=0, validation_image_share=0,
        allow_partial=True,
    )  # fmt: skip
    features = torch.from_numpy(_features(data, weights))
    split, labels = data.split, data.labels
    unseen = np.array(split.unseen_classes)
    world = World(
        features, labels, data.class_attributes, np.array(split.seen_classes), unseen, split.train, split.query,
        split.database,
    )  # fmt: skip
    yield "half of the unseen images", world
    strange = np.isin(labels[split.database], unseen)
    seen_rows = split.database[~strange]
    fewer = max(round(0.06 / 0.94 * len(seen_rows) / len(unseen)), 1)
    few = [rows[:fewer] for label in unseen if len(rows := split.database[labels[split.database] == label])]
    yield f"{fewer} a class", world._replace(database=np.sort(np.concatenate([seen_rows, *few])))


def _features(data: CUBDataModule, weights: Path) -> NDArray[np.float32]:
    backbone = TimmBackbone("tf_efficientnet_lite0", split=6, checkpoint=str(weights), freeze="all")
    nothing = torch.zeros(0, 0)
    method: HashingMethod = ITQ(
        backbone=backbone, class_attributes=nothing, attribute_vectors=nothing, train_classes=torch.zeros(0).long()
    )
    pictures = Pictures(data.image_signatures(), data.evaluation_image, 0)
    return describe(method.eval(), pictures, "describing images")[np.arange(len(data.labels))]


def figures(world: World, codes: Tensor, queries: Tensor | None = None) -> dict[str, float]:
    """Return mAP of unseen and seen queries by logits (n, L) of all images; of described queries (U, L), if any."""
    packed, bits = pack((codes >= 0).numpy()), codes.shape[1]
    found = {}
    asked = [(packed[world.query], world.labels[world.query], "", ("unseen", "seen"))]
    if queries is not None:
        own = pack((queries >= 0).numpy())
        asked += [(own, world.unseen, "described ", ("unseen",))]
        asked += [(own, np.roll(world.unseen, 1), "others' ", ("unseen",))]
        distance = ((codes[world.query] >= 0)[:, None] != (queries >= 0)[None]).sum(dim=2).numpy()
        named = naming(distance, np.searchsorted(world.unseen, world.labels[world.query]))
        found["named"] = named["accuracy"]
    for rows, labels, prefix, names in asked:
        every = Codes(
            query_codes=rows, query_labels=labels, database_codes=packed[world.database],
            database_labels=world.labels[world.database], bits=bits, unseen_classes=tuple(world.unseen.tolist()),
        )  # fmt: skip
        for name in names:
            task = retrieval_task(every, name)
            assert task is not None
            found[f"{prefix}{name}"] = float(measure(task).values["map"].mean())
    return found


def described(world: World, code: CollectionCode) -> Tensor:
    """Return logits (U, L) of the unseen classes' centres; of one that lapsed, 0."""
    ids = code.classes.tolist()
    logits = code.of_directions(code.centres)
    return torch.stack([logits[ids.index(c)] if c in ids else 0 * logits[0] for c in world.unseen.tolist()])


def rows(world: World, bits: int, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the figures of each code."""
    collection = world.features[torch.from_numpy(world.database.copy())].numpy()
    head = HashHead(world.features.shape[1], bits).requires_grad_(False)
    labels = torch.from_numpy(world.labels[world.train])
    known = world.known(described=False)
    for name, whitening in (("ITQ", None), ("whitened ITQ", within_class_whitening(known.descriptions, labels))):
        head.initialise(known.descriptions, whitening, seed=seed)
        yield f"{name} of training images", figures(world, head(world.features))
    before = head(world.features[world.database])
    head.initialise(torch.from_numpy(collection), seed=seed)
    yield "ITQ of the collection", figures(world, head(world.features))
    given = {
        "unlabelled": None,
        "collection": known,
        "both": world.known(described=True),
        "both, permuted attributes": world.known(described=True, permuted=seed),
    }
    for name, what in given.items():
        code = fit_collection(collection, bits, what, seed=seed).code
        asked = described(world, code) if name.startswith("both") else None
        verdict = trial(collection, lambda at: before[at], bits, what, seed=seed)
        yield name, figures(world, code(world.features), asked) | {"trial": float(verdict.better)}


def main() -> None:
    """Print a table, the mean over partitions and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--partitions", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bits", type=int, default=64)
    options = parser.parse_args()
    found = [
        {"collection": kind, "code": name, **values}
        for partition in options.partitions
        for kind, world in worlds(options.data_root, options.weights, partition)
        for seed in options.seeds
        for name, values in rows(world, options.bits, seed)
    ]
    table = pd.DataFrame(found).groupby(["collection", "code"], sort=False).mean()
    print(table.round(3).to_markdown())


if __name__ == "__main__":
    main()
