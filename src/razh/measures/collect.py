"""From a method and a data module to the figures of its parts and attributes; nothing here sees a label too early."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from razh.layers.regression import ridge
from razh.losses.attributes import own_attributes
from razh.measures.attributes import Accuracy, attribute_accuracy, attribute_auc, named
from razh.measures.parts import (
    adjusted_rand_index,
    contingency,
    flip_agreement,
    foreground_overlap,
    hard_parts,
    matched_overlap,
    normalised_mutual_information,
    part_pixels,
    parts_at,
)
from razh.retrieval.codes import Codes
from razh.retrieval.packing import unpack

__all__ = ["can_be_measured", "measure_codes", "measure_parts_and_attributes"]

PROBE_PENALTY = 0.1  # of the ridge from codes to attributes, in units of the bits' mean variance
LIVE = 4  # images at a time: on a CPU a network's first maps of more than that do not stay in its cache

Ids = NDArray[np.int64]
Batch = dict[str, Tensor]


def can_be_measured(module: Any) -> bool:
    """Tell whether a method has parts (`clustering`), or heads that predict attributes."""
    return hasattr(module, "clustering") or bool(_heads(module))


@torch.no_grad()
def measure_parts_and_attributes(
    module: Any, data: Any, images: int = 2000, flip_images: int = 64, own_threshold: float = 0.5
) -> dict[str, float]:
    """Return the figures of a method's parts and attributes by name; what is not defined is left out.

    Images are unseen queries (`parts/…`, `attributes/…`), and images of training classes that were not trained on
    (`parts/seen/…`, `attributes/seen/…`). Parts and attributes are found without the label; labels only tell what is
    right. The one exception is named `matched`: the match of training, which is given the class's attributes.

    Args:
        module: a `HashingMethod` that `can_be_measured`; it is left in the mode it was in, and no random state moves.
        data: the data module.
        images: how many images of each kind are measured at most, spread over all.
        flip_images: the same for consistency under mirroring, which no cache has.
        own_threshold: an attribute is a class's own from this share of its strongest attribute on.
    """
    labels, split = data.labels, data.split
    unseen = split.query[np.isin(labels[split.query], split.unseen_classes)]
    trained = np.setdiff1d(split.database, split.train)
    trained = trained[np.isin(labels[trained], data.train_classes.numpy())]
    own = own_attributes(data.class_attributes, own_threshold).numpy()
    was_training = module.training
    module.eval()
    devices = [module.device] if module.device.type == "cuda" else []
    metrics: dict[str, float] = {}
    try:
        with torch.random.fork_rng(devices):  # the random match of a control must not move the run's generator
            torch.manual_seed(0)
            for rows, place in ((unseen, ""), (trained, "seen/")):
                if len(rows):
                    found = _observe(module, data, _spread(rows, images))
                    metrics |= {f"parts/{place}{name}": value for name, value in _of_parts(found).items()}
                    of_attributes = _of_attributes(found, data, own, seen=bool(place))
                    metrics |= {f"attributes/{place}{name}": value for name, value in of_attributes.items()}
            if hasattr(module, "clustering") and len(unseen):
                metrics |= _of_flips(module, data, _spread(unseen, flip_images))
    finally:
        module.train(was_training)
    return {name: value for name, value in sorted(metrics.items()) if np.isfinite(value)}


def measure_codes(codes: Codes, data: Any, images: int = 2000) -> dict[str, float]:
    """Return how well the attributes of unseen classes can be read off their codes, whatever the method.

    A ridge regression from the bits, as ±1, to class attributes is fitted on database codes of the training classes,
    and ranks the unseen queries: `attributes/auc_codes`. Images of the classes that it ranks are not in the fit.

    Args:
        codes: of a test.
        data: the data module.
        images: how many codes are fitted on, and ranked, at most, spread over all.
    """
    if codes.unseen_classes is None:
        return {}
    fitted = _spread(np.flatnonzero(np.isin(codes.database_labels, data.train_classes.numpy())), images)
    ranked = _spread(np.flatnonzero(np.isin(codes.query_labels, codes.unseen_classes)), images)
    if not len(fitted) or not len(ranked):
        return {}
    bits = [
        torch.from_numpy(unpack(packed, codes.bits)).float() * 2 - 1
        for packed in (codes.database_codes[fitted], codes.query_codes[ranked])
    ]
    strengths = data.class_attributes[torch.from_numpy(codes.database_labels[fitted])].float()
    weight, bias = ridge(bits[0], strengths, PROBE_PENALTY)
    found = _Found(labels=[codes.query_labels[ranked]], scores={"auc_codes": [(bits[1] @ weight.T + bias).numpy()]})
    return {f"attributes/{name}": value for name, value in _areas(found, found.labels[0], data).items()}


def _spread(rows: Ids, most: int) -> Ids:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


# ------------------------------------------------------------------------------------------------- what is found


@dataclass
class _Found:
    """What was found in n images; lists have an entry a batch.

    Attributes:
        labels: class ids (n,).
        parts: part of every patch (n, N).
        nearest: attribute ids (n, K) nearest to each part, of all M.
        matched: attribute ids (n, K) of the training match, which knows the class.
        true: true part under each found part (n, K), −1 where there is none.
        scores: by source, attribute scores (n, M).
        table: places by found and true part (K + 1, P + 1); None where true parts are not known.
    """

    labels: list[Ids] = field(default_factory=list)
    parts: list[Ids] = field(default_factory=list)
    nearest: list[Ids] = field(default_factory=list)
    matched: list[Ids] = field(default_factory=list)
    true: list[Ids] = field(default_factory=list)
    scores: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    count: int = 0
    table: Ids | None = None

    def add(self, table: Ids) -> None:
        """Count more places."""
        self.table = table if self.table is None else self.table + table

    def present(self) -> NDArray[np.bool_]:
        """Return which parts an image shows (n, K): those that have a patch."""
        return _present(np.concatenate(self.parts), self.count)


def _present(parts: Ids, count: int) -> NDArray[np.bool_]:
    present: NDArray[np.bool_] = (parts[:, :, None] == np.arange(count)).any(axis=1)
    return present


def _observe(module: Any, data: Any, rows: Ids) -> _Found:
    found = _Found()
    for batch in data.evaluation_dataloader(rows):
        moved = {name: value.to(module.device) for name, value in batch.items()}
        found.labels.append(batch["label"].numpy())
        for name, scores in _head_scores(module, moved).items():
            found.scores.setdefault(f"auc_{name}", []).append(scores)
        if hasattr(module, "clustering"):
            _observe_parts(found, module, data, moved)
    return found


def _observe_parts(found: _Found, module: Any, data: Any, batch: Batch) -> None:
    vectors, assignment = module.clustering(_spatial(module, data, batch))
    found.count = assignment.shape[-1] - 1
    found.parts.append(hard_parts(assignment))
    if hasattr(module, "matcher"):
        similarity = module.matcher.similarity(vectors, module.attribute_vectors)  # (B, K, M), no label
        found.nearest.append(similarity.argmax(dim=-1).cpu().numpy())
        present = torch.from_numpy(_present(found.parts[-1], found.count))
        best = similarity.float().cpu().masked_fill(~present.unsqueeze(-1), -1.0).amax(dim=1)
        found.scores.setdefault("auc", []).append(best.numpy())
        match = module.matcher(vectors, module.attribute_vectors, module.own[batch["label"]])
        found.matched.append(match.choice.argmax(dim=-1).cpu().numpy())
    index = batch["index"].tolist()
    masks, points = [data.part_masks(i) for i in index], [data.part_points(i) for i in index]
    if masks[0] is not None:
        _compare_with_masks(found, assignment, module.backbone.grid, np.stack(masks).astype(np.int64) - 1, data)
    elif points[0] is not None:
        _compare_with_points(found, assignment, module.backbone.grid, np.stack(points), data)


def _compare_with_masks(found: _Found, assignment: Tensor, grid: tuple[int, int], true: Ids, data: Any) -> None:
    pixels, true_parts = part_pixels(assignment, grid, data.image_size), data.part_attributes.shape[1]
    tables = np.stack([contingency(p, t, found.count, true_parts) for p, t in zip(pixels, true, strict=True)])
    found.add(tables.sum(axis=0))
    under = tables[:, :-1, :-1]  # (B, K, P)
    found.true.append(np.where(under.any(axis=-1), under.argmax(axis=-1), -1))


def _compare_with_points(
    found: _Found, assignment: Tensor, grid: tuple[int, int], points: NDArray[np.float32], data: Any
) -> None:
    there, visible = parts_at(assignment, points, grid, data.image_size), points[..., 2] > 0  # (B, P)
    true = np.broadcast_to(np.arange(points.shape[1]), there.shape)
    found.add(contingency(there[visible], true[visible], found.count, points.shape[1]))


def _spatial(module: Any, data: Any, batch: Batch) -> Tensor:
    """Return the patches (B, N, D) of images; of live ones, where no cache has them because training needs none."""
    if not {"patches", "image"} & set(batch):
        images = torch.stack([data.evaluation_image(i) for i in batch["index"].tolist()])
        patches = torch.cat([module.patches({"image": few.to(module.device)}) for few in torch.split(images, LIVE)])
    else:
        patches = module.patches(batch)
    return patches[:, module.backbone.prefix :]


def _heads(module: Any) -> tuple[str, ...]:
    """Return what scores attributes in RAZH: heads of the hash logits and of the feature, and parts that name classes.

    Baselines have a layer named `semantic`, which takes something else than the logits and is not looked at.
    """
    there = {
        "hash": hasattr(module, "hash_semantic"),
        "feature": getattr(module, "semantic", None) is True and hasattr(module, "classifier"),
        "naming": hasattr(module, "namer"),
    }
    return tuple(name for name, is_there in there.items() if is_there)


def _head_scores(module: Any, batch: Batch) -> dict[str, NDArray[np.float32]]:
    """Return attribute scores (B, M) of each head; of unit length, as their cosine with a class is what is trained."""
    compute = {
        "hash": lambda: module.hash_semantic(module.hash_logits(batch)),
        "feature": lambda: module.classifier(module.described(batch)),
        "naming": lambda: module.attribute_scores(batch),
    }
    return {name: F.normalize(compute[name]().float(), dim=-1).cpu().numpy() for name in _heads(module)}


# ------------------------------------------------------------------------------------------------- what it is worth


def _of_parts(found: _Found) -> dict[str, float]:
    if not found.parts:
        return {}
    metrics = {"background_patches": float((np.concatenate(found.parts) < 0).mean())}
    table = found.table
    if table is None or not table[:, :-1].any():
        return metrics
    on_parts, foreground = table[:, :-1], table[:-1, :-1]  # background that truly is none counts for the overlap alone
    metrics["background_share"] = float(table[-1, :-1].sum() / on_parts.sum())
    metrics["places"] = int(on_parts.sum())
    for places, suffix in ((on_parts, ""), (foreground, "_foreground")):
        if places.any(axis=0).sum() > 1:  # a single true part agrees with anything that is one part, too
            metrics[f"nmi{suffix}"] = normalised_mutual_information(places)
            metrics[f"ari{suffix}"] = adjusted_rand_index(places)
    if found.true:
        metrics["iou"] = float(np.nanmean(matched_overlap(table)))
        metrics["foreground_iou"] = foreground_overlap(table)
    return metrics


def _of_attributes(found: _Found, data: Any, own: NDArray[np.bool_], *, seen: bool) -> dict[str, float]:
    labels = np.concatenate(found.labels)
    metrics: dict[str, float] = {}
    if found.nearest:
        present = found.present()
        image, part = np.nonzero(present)
        nearest = np.concatenate(found.nearest)[present]
        if len(nearest):
            metrics |= _accuracy("part_accuracy", attribute_accuracy(nearest, own[labels[image]]))
            metrics["distinct_nearest"] = len(np.unique(nearest))
        if found.true and len(nearest):
            right = _right_attributes(data, labels[image], np.concatenate(found.true)[image, part])
            metrics |= _accuracy("exact_accuracy", attribute_accuracy(nearest, right))
            if seen:
                matched = attribute_accuracy(np.concatenate(found.matched)[present], right)
                among_own = (right & own[labels[image]]).sum(axis=1) / own[labels[image]].sum(axis=1)
                metrics |= _accuracy("matched_exact_accuracy", matched)
                metrics["matched_exact_accuracy_chance"] = float(among_own.mean())  # the match only takes own ones
    if not seen:
        metrics |= _areas(found, labels, data) | _zero_shot(found, labels, data)
    return metrics


def _accuracy(name: str, accuracy: Accuracy) -> dict[str, float]:
    return {
        name: accuracy.value,
        f"{name}_chance": accuracy.chance,
        f"{name}_shuffled": accuracy.shuffled,
    }


def _right_attributes(data: Any, labels: Ids, true: Ids) -> NDArray[np.bool_]:
    """Return (R, M) which attributes the true part of a class has; none where true (R,) is −1."""
    right = np.zeros((len(true), len(data.attribute_names)), dtype=bool)
    np.put_along_axis(right, data.part_attributes[labels, true], True, axis=1)
    right[true < 0] = False
    return right


def _areas(found: _Found, labels: Ids, data: Any) -> dict[str, float]:
    attributes = data.class_attributes.numpy()[np.unique(labels)]
    if not (attributes.max(axis=0) > attributes.min(axis=0)).any():
        return {}
    metrics: dict[str, float] = {}
    for name, scores in found.scores.items():
        result = attribute_auc(np.concatenate(scores), labels, data.class_attributes.numpy())
        metrics |= {name: result.mean, f"{name}_chance_deviation": result.chance_deviation}
        metrics |= {"auc_chance": 0.5, "auc_attributes": result.attributes}
    return metrics


def _zero_shot(found: _Found, labels: Ids, data: Any) -> dict[str, float]:
    """Return how often an image's class is, of those that occur, the one whose attributes are nearest to its scores."""
    classes, position = np.unique(labels, return_inverse=True)
    heads = {name.removeprefix("auc_"): scores for name, scores in found.scores.items() if name != "auc"}
    if not heads or len(classes) < 2:
        return {}
    strengths = data.class_attributes.numpy()
    centre = strengths[data.train_classes.numpy()].mean(axis=0)
    metrics = {"zero_shot/chance": 1 / len(classes)}
    for name, scores in heads.items():
        chosen = named(np.concatenate(scores), strengths[classes], centre)
        metrics[f"zero_shot/{name}"] = float((chosen == position).mean())
    return metrics


def _of_flips(module: Any, data: Any, rows: Ids) -> dict[str, float]:
    first: list[Ids] = []
    second: list[Ids] = []
    for batch in data.evaluation_dataloader(rows):
        first.append(_parts_of(module, data, batch))
        mirrored = torch.stack([data.evaluation_image(i) for i in batch["index"].tolist()]).flip(-1)
        second += [_parts_of(module, data, {"image": few}) for few in torch.split(mirrored, LIVE)]
    everywhere, foreground = flip_agreement(np.concatenate(first), np.concatenate(second), module.backbone.grid)
    return {"parts/flip_consistency": everywhere, "parts/flip_consistency_foreground": foreground}


def _parts_of(module: Any, data: Any, batch: Batch) -> Ids:
    """Return the parts (B, N) that are found in a batch."""
    moved = {name: value.to(module.device) for name, value in batch.items()}
    return hard_parts(module.clustering(_spatial(module, data, moved))[1])
