"""How much would perfect parts gain? Attributes are read anew where a run found its parts, and where they truly are.

    razh train --dataset=cub --backbone=lite0-frozen --run_dir=runs/own
    python benchmarks/oracle.py runs/own

Everything but the parts is the same: the run's patches and descriptions, a reader trained from random initialisation by
the same loss, codes started (not trained) from the description and what was read. True parts are masks where the data
set has some, else the patches near the points of a part; an attribute of no part that is known is read from all of
them. Last come the attributes of each image's class itself, which nothing can beat. All figures are of unseen classes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from razh.datamodules.base import ZeroShotDataModule
from razh.layers.hash import HashHead, within_class_whitening
from razh.layers.reading import AttributeReader
from razh.losses.attributes import semantic_logits
from razh.measures.abilities import reads_parts
from razh.measures.attributes import named
from razh.measures.parts import near_points, on_masks
from razh.method import HashingMethod
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import measure
from razh.retrieval.metrics import average_precision_ranked
from razh.retrieval.packing import pack
from razh.retrieval.tasks import retrieval_task
from razh.run import adapted, checkpoint
from razh.support.progress import track

BATCH = 64
TOLD = 0.5  # length of what was read, beside a description of length 1
ROTATIONS = 10  # of ITQ, whose start is random

Rows = NDArray[np.int64]


class World(NamedTuple):
    """A run: patches (n, N, D), descriptions (n, E), found and true assignments (n, N, K + 1), labels (n,), data."""

    patches: Tensor
    described: Tensor
    found: Tensor
    true: Tensor
    labels: Tensor
    attributes: Tensor
    groups: Tensor
    train_classes: Tensor
    bits: int
    data: ZeroShotDataModule


def opened(run: Path, radius: float) -> World:
    """Return what a run's best checkpoint makes of all images of its data."""
    path = run / "checkpoints" / "best.ckpt"
    loaded = checkpoint.load(path)
    data = adapted.data_of(path, loaded.info)
    if data is None:
        raise SystemExit(f"the images of {run} are not there")
    return looked_at(loaded.method.eval(), data, radius)


@torch.no_grad()
def looked_at(method: HashingMethod, data: ZeroShotDataModule, radius: float) -> World:
    """Return what a method makes of all images of some data."""
    groups = method.attribute_groups
    if groups is None or not reads_parts(method):
        raise SystemExit("the run reads no attributes part by part, by their names")
    rows: list[tuple[Tensor, ...]] = []
    starts = range(0, len(data.labels), BATCH)
    for start in track(starts, "reading images", len(starts)):
        at = range(start, min(start + BATCH, len(data.labels)))
        batch = {"image": torch.stack([data.evaluation_image(i) for i in at])}
        batch["patches"] = method.patches(batch)
        found, true = method.read_attributes(batch).assignment, true_parts(data, at, method.backbone.grid, radius)
        patches = batch["patches"][:, method.backbone.prefix :]
        rows.append((patches.half(), method.description(batch), found.half(), true))
    patches, described, found, true = (torch.cat(column) for column in zip(*rows, strict=True))
    return World(
        patches, described, found, true, torch.from_numpy(np.array(data.labels)),
        data.class_attributes, groups, method.train_classes, method.bits, data,
    )  # fmt: skip


def true_parts(data: ZeroShotDataModule, at: range, grid: tuple[int, int], radius: float) -> Tensor:
    """Return the true assignment (B, N, K + 1) of images; a part that is not seen is sought on the whole object."""
    parts = [list(own) for own in data.group_parts]
    anywhere = list(range(len(data.part_names)))
    if data.part_masks(at[0]) is not None:
        masks = np.stack([data.part_masks(i) for i in at]).astype(np.int64) - 1  # type: ignore[misc]
        right = on_masks(masks, [*parts, anywhere], grid)[0]
    elif data.part_points(at[0]) is not None:
        points = np.stack([data.part_points(i) for i in at])  # type: ignore[misc]
        right = near_points(points, [*parts, anywhere], grid, data.image_size, radius)[0]
    else:
        raise SystemExit(f"{data.root} has neither masks nor points of parts")
    own, whole = right[:, :-1], right[:, -1:]
    own = np.where(own.any(axis=2, keepdims=True), own, whole)
    return torch.from_numpy(np.concatenate([own, ~whole], axis=1)).float().transpose(1, 2)


def read(world: World, assignment: Tensor, seed: int, epochs: int) -> Tensor:
    """Return what a reader (n, M) that is trained on these parts reads in all images."""
    torch.manual_seed(seed)
    wanted = world.attributes[world.train_classes]
    train = torch.from_numpy(np.array(world.data.split.train))
    targets = torch.searchsorted(world.train_classes, world.labels[train])
    reader = AttributeReader(world.patches.shape[-1], wanted, assignment.shape[-1] - 1, world.groups)
    reader.standardise.initialise(world.patches[train[torch.randperm(len(train))[:512]]].float())
    wanted = reader.standardised(wanted)
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3)
    steps = epochs * math.ceil(len(train) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(train)), BATCH):
            told = reader(world.patches[train[rows]].float(), assignment[train[rows]].float())
            loss = F.mse_loss(told, wanted[targets[rows]])
            loss = loss + F.cross_entropy(semantic_logits(told, wanted, 10.0), targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    reader.eval()
    with torch.inference_mode():
        chunks = zip(torch.split(world.patches, BATCH), torch.split(assignment, BATCH), strict=True)
        return torch.cat([reader(patches.float(), parts.float()) for patches, parts in chunks])


def figures(world: World, told: Tensor | None) -> dict[str, float]:
    """Return how well unseen classes are named and asked for by what was read (n, M), and what codes gain by it."""
    split, labels = world.data.split, world.labels.numpy()
    train, query, database = (np.array(rows) for rows in (split.train, split.query, split.database))
    unseen = np.array(split.unseen_classes)
    whitening = within_class_whitening(world.described[train], world.labels[train])
    white = world.described @ whitening
    seen = F.normalize(white - white[train].mean(dim=0), dim=1)
    found: dict[str, float] = {}
    if told is not None:
        told = F.normalize(told, dim=1)
        directions = standardised(world)
        nearest = named(told[query].numpy(), directions[unseen].numpy(), np.zeros(directions.shape[1]))
        found["naming"] = float((unseen[nearest] == labels[query]).mean())
        asked = F.normalize(directions[unseen], dim=1) @ told[database].T
        found["attribute queries"] = ranked(asked, unseen, labels[database])
        seen = torch.cat([seen, TOLD * told], dim=1)
    near = F.normalize(seen, dim=1)
    found["real-valued"] = ranked(near[query] @ near[database].T, labels[query], labels[database])
    maps = [map_of(world, seen, seed) for seed in range(ROTATIONS)]
    return found | {"codes": float(np.mean(maps))}


def standardised(world: World) -> Tensor:
    """Return the attributes (C, M) of all classes as a reader predicts them."""
    known = world.attributes[world.train_classes]
    return (world.attributes - known.mean(dim=0)) / known.std(dim=0, correction=0).clamp(min=1e-6)


def ranked(scores: Tensor, asked: Rows, labels: Rows) -> float:
    """Return the mAP of scores (Q, n) of a database with these labels (n,)."""
    order = scores.argsort(dim=1, descending=True, stable=True).numpy()
    return float(average_precision_ranked(labels[order] == asked[:, None]).mean())


def map_of(world: World, seen: Tensor, seed: int) -> float:
    """Return the mAP of unseen queries by codes that start from (n, E)."""
    split, labels = world.data.split, world.labels.numpy()
    head = HashHead(seen.shape[1], world.bits)
    head.initialise(seen[torch.from_numpy(np.array(split.train))], seed=seed)
    with torch.inference_mode():
        packed = pack((head(seen) >= 0).numpy())
    every = Codes(
        query_codes=packed[split.query], query_labels=labels[split.query], database_codes=packed[split.database],
        database_labels=labels[split.database], bits=world.bits, unseen_classes=split.unseen_classes,
    )  # fmt: skip
    task = retrieval_task(every, "unseen")
    assert task is not None
    return float(measure(task).values["map"].mean())


def cells(world: World, seed: int, epochs: int) -> Iterator[dict[str, float | str]]:
    """Yield the figures of each kind of parts."""
    yield {"attributes read": "not at all", **figures(world, None)}
    for name, assignment in (("at the parts that were found", world.found), ("at the true parts", world.true)):
        yield {"attributes read": name, **figures(world, read(world, assignment, seed, epochs))}
    yield {"attributes read": "those of the class itself", **figures(world, standardised(world)[world.labels])}


def main() -> None:
    """Print a table, the mean over runs and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the readers")
    parser.add_argument("--epochs", type=int, default=12, help="of the readers")
    parser.add_argument("--radius", type=float, default=0.1, help="of a part around its points, in sides of the image")
    options = parser.parse_args()
    found = []
    for run in options.runs:
        world = opened(run, options.radius)
        for seed in options.seeds:
            found += [{"run": str(run), **cell} for cell in cells(world, seed, options.epochs)]
    table = pd.DataFrame(found).drop(columns="run")
    print(table.groupby("attributes read", sort=False).mean().round(3).to_markdown())


if __name__ == "__main__":
    main()
