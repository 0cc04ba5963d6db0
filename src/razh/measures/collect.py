"""From a method and a data module to the figures of its parts and attributes; nothing here sees a label too early."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from razh.backbones.views import View, show
from razh.layers.attributes import positive_attributes
from razh.layers.parts import spherical_kmeans, spread_centres
from razh.layers.regression import ridge
from razh.measures.abilities import FindsParts, ScoresAttributes
from razh.measures.attributes import Accuracy, attribute_accuracy, attribute_auc, named
from razh.measures.parts import (
    Pointing,
    adjusted_rand_index,
    agreement,
    contingency,
    flip_agreement,
    foreground_overlap,
    hard_parts,
    matched_overlap,
    near_points,
    normalised_mutual_information,
    on_masks,
    part_pixels,
    parts_at,
    point,
)
from razh.retrieval.codes import Codes
from razh.retrieval.packing import unpack

__all__ = ["can_be_measured", "measure_codes", "measure_parts_and_attributes"]

PROBE_PENALTY = 0.1  # of the ridge from codes to attributes, in units of the bits' mean variance
POINTING_RADIUS = 0.1  # in sides of the image: a strongest patch as near as that to a key point has found it
MIDDLE = View(0.7)  # of an image, shown as large as the whole: parts should stay what they are
LIVE = 4  # images at a time: on a CPU a network's first maps of more than that do not stay in its cache

Ids = NDArray[np.int64]
Batch = dict[str, Tensor]


def can_be_measured(module: object) -> bool:
    """Tell whether a method finds parts, or scores attributes."""
    return _finds_parts(module) or (isinstance(module, ScoresAttributes) and bool(module.attribute_sources))


def _finds_parts(module: object) -> bool:
    return isinstance(module, FindsParts) and module.finds_parts


@torch.no_grad()
def measure_parts_and_attributes(
    module: Any, data: Any, images: int = 2000, flip_images: int = 64, positive_threshold: float = 0.5
) -> dict[str, float]:
    """Return the figures of a method's parts and attributes by name; what is not defined is left out.

    Images are unseen queries (`parts/…`, `attributes/…`), and images of training classes that were not trained on
    (`parts/seen/…`, `attributes/seen/…`). Parts and attributes are found without the label; labels only tell what is
    right. The one exception is named `matched`: the match of training, which is given the class's attributes.

    Args:
        module: a `HashingMethod` that `can_be_measured`; it is left in the mode it was in, and no random state moves.
        data: the data module.
        images: how many images of each kind are measured at most, spread over all.
        flip_images: the same for consistency under mirroring and enlarging, which no cache has.
        positive_threshold: an attribute of a class is positive from this share of its strongest attribute on.
    """
    labels, split = data.labels, data.split
    unseen = split.query[np.isin(labels[split.query], split.unseen_classes)]
    trained = np.setdiff1d(split.database, split.train)
    trained = trained[np.isin(labels[trained], data.train_classes.numpy())]
    positive = positive_attributes(data.class_attributes, positive_threshold).numpy()
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
                    metrics |= {f"parts/{place}{name}": value for name, value in _of_parts(found, data).items()}
                    of_attributes = _of_attributes(found, data, positive, seen=bool(place))
                    metrics |= {f"attributes/{place}{name}": value for name, value in of_attributes.items()}
            if _finds_parts(module) and len(unseen):
                metrics |= _of_views(module, data, _spread(unseen, flip_images))
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
        pointing: where the strongest patches of parts lie that are groups of attributes.
        clusters: centres (K + 1, D) of a k-means of the same patches.
        clustered: places by cluster and true part (K + 2, P + 1).
        table: places by found and true part (K + 1, P + 1); None where true parts are not known.
    """

    labels: list[Ids] = field(default_factory=list)
    parts: list[Ids] = field(default_factory=list)
    nearest: list[Ids] = field(default_factory=list)
    matched: list[Ids] = field(default_factory=list)
    true: list[Ids] = field(default_factory=list)
    scores: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    pointing: list[Pointing] = field(default_factory=list)
    count: int = 0
    table: Ids | None = None
    clusters: Tensor | None = None
    clustered: Ids | None = None

    def add(self, table: Ids) -> None:
        """Count more places."""
        self.table = table if self.table is None else self.table + table

    def add_clustered(self, table: Ids) -> None:
        """Count more places of clusters."""
        self.clustered = table if self.clustered is None else self.clustered + table

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
        if _finds_parts(module):
            moved = _with_patches(module, data, moved)
        found.labels.append(batch["label"].numpy())
        if isinstance(module, ScoresAttributes):
            for name, scores in module.attribute_scores(moved).items():
                # of unit length, as their cosine with a class is what is trained
                unit = F.normalize(scores.float(), dim=-1).cpu().numpy()
                found.scores.setdefault(f"auc_{name}", []).append(unit)
        if _finds_parts(module):
            _observe_parts(found, module, data, moved)
    return found


def _observe_parts(found: _Found, module: Any, data: Any, batch: Batch) -> None:
    _, assignment, match = module.find_parts(batch)
    found.count = assignment.shape[-1] - 1
    clustered = _clustered(found, module.patches(batch)[:, module.backbone.prefix :].float().cpu())
    found.parts.append(hard_parts(assignment, module.background_from))
    if match is not None:
        found.nearest.append(match.similarity.argmax(dim=-1).cpu().numpy())  # of all attributes: no label
        present = torch.from_numpy(_present(found.parts[-1], found.count))
        best = match.similarity.float().cpu().masked_fill(~present.unsqueeze(-1), -1.0).amax(dim=1)
        found.scores.setdefault("auc", []).append(best.numpy())
        found.matched.append(match.choice.argmax(dim=-1).cpu().numpy())
    index = batch["index"].tolist()
    masks, points = [data.part_masks(i) for i in index], [data.part_points(i) for i in index]
    if masks[0] is not None:
        true = np.stack(masks).astype(np.int64) - 1
        _compare_with_masks(found, assignment, module, true, data)
        pixels = part_pixels(clustered, module.backbone.grid, data.image_size)
        found.add_clustered(contingency(pixels, true, found.count + 1, data.part_attributes.shape[1]))
    elif points[0] is not None:
        _compare_with_points(found, assignment, module, np.stack(points), data)
        there = parts_at(clustered, np.stack(points), module.backbone.grid, data.image_size)
        seen = np.stack(points)[..., 2] > 0
        names = np.broadcast_to(np.arange(seen.shape[1]), seen.shape)
        found.add_clustered(contingency(there[seen], names[seen], found.count + 1, seen.shape[1]))
    if module.parts_are_groups and any(data.group_parts):
        grid = module.backbone.grid
        if masks[0] is not None:
            right = on_masks(np.stack(masks).astype(np.int64) - 1, data.group_parts, grid)
        else:
            right = near_points(np.stack(points), data.group_parts, grid, data.image_size, POINTING_RADIUS)
        found.pointing.append(point(assignment, *right))


def _clustered(found: _Found, patches: Tensor) -> Tensor:
    """Return the assignment (B, N, K + 2) of patches to a k-means of theirs: what parts have to be better than."""
    rows = F.normalize(F.layer_norm(patches, patches.shape[-1:]), dim=-1)
    if found.clusters is None:
        every = rows.flatten(0, 1)
        found.clusters = spherical_kmeans(every, spread_centres(every, found.count + 1))
    nearest = (rows @ found.clusters.T).argmax(dim=-1)
    return F.one_hot(nearest, found.count + 2).float()  # nothing is background


def _compare_with_masks(found: _Found, assignment: Tensor, module: Any, true: Ids, data: Any) -> None:
    pixels = part_pixels(assignment, module.backbone.grid, data.image_size, module.background_from)
    true_parts = data.part_attributes.shape[1]
    tables = np.stack([contingency(p, t, found.count, true_parts) for p, t in zip(pixels, true, strict=True)])
    found.add(tables.sum(axis=0))
    under = tables[:, :-1, :-1]  # (B, K, P)
    found.true.append(np.where(under.any(axis=-1), under.argmax(axis=-1), -1))


def _compare_with_points(
    found: _Found, assignment: Tensor, module: Any, points: NDArray[np.float32], data: Any
) -> None:
    there = parts_at(assignment, points, module.backbone.grid, data.image_size, module.background_from)  # (B, P)
    visible = points[..., 2] > 0
    true = np.broadcast_to(np.arange(points.shape[1]), there.shape)
    found.add(contingency(there[visible], true[visible], found.count, points.shape[1]))


def _with_patches(module: Any, data: Any, batch: Batch) -> Batch:
    """Return a batch with patches; of live images, where no cache has them because training needs none."""
    if {"patches", "image"} & set(batch):
        return batch
    images = torch.stack([data.evaluation_image(i) for i in batch["index"].tolist()])
    patches = torch.cat([module.patches({"image": few.to(module.device)}) for few in torch.split(images, LIVE)])
    return {**batch, "patches": patches}


# ------------------------------------------------------------------------------------------------- what it is worth


def _of_parts(found: _Found, data: Any) -> dict[str, float]:
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
    if found.clustered is not None:
        places = found.clustered[:-1, :-1]
        if places.any(axis=0).sum() > 1:
            metrics["nmi_kmeans"] = normalised_mutual_information(places)
            metrics["ari_kmeans"] = adjusted_rand_index(places)
        if found.true:
            metrics["iou_kmeans"] = float(np.nanmean(matched_overlap(found.clustered)))
    metrics |= _of_pointing(found.pointing, data.group_names)
    if found.true:
        metrics["iou"] = float(np.nanmean(matched_overlap(table)))
        metrics["foreground_iou"] = foreground_overlap(table)
    return metrics


def _of_pointing(pointing: list[Pointing], names: tuple[str, ...]) -> dict[str, float]:
    """Return the mean over the parts that are seen, of the found parts, of chance and of the image's centre; and each.

    Args:
        pointing: of each batch.
        names: of the K parts.
    """
    if not pointing:
        return {}
    fields = (np.concatenate(values) for values in zip(*((p.hit, p.chance, p.centre) for p in pointing), strict=True))
    rates = Pointing(*fields).rates()
    known = np.flatnonzero(np.isfinite(rates["pointing"]))
    if not len(known):
        return {}
    metrics = {name: float(values[known].mean()) for name, values in rates.items()}
    return metrics | {f"pointing/{names[part]}": float(rates["pointing"][part]) for part in known}


def _of_attributes(found: _Found, data: Any, positive: NDArray[np.bool_], *, seen: bool) -> dict[str, float]:
    labels = np.concatenate(found.labels)
    metrics: dict[str, float] = {}
    if found.nearest:
        present = found.present()
        image, part = np.nonzero(present)
        nearest = np.concatenate(found.nearest)[present]
        if len(nearest):
            metrics |= _accuracy("part_accuracy", attribute_accuracy(nearest, positive[labels[image]]))
            metrics["distinct_nearest"] = len(np.unique(nearest))
        if found.true and len(nearest):
            right = _right_attributes(data, labels[image], np.concatenate(found.true)[image, part])
            metrics |= _accuracy("exact_accuracy", attribute_accuracy(nearest, right))
            if seen:
                matched = attribute_accuracy(np.concatenate(found.matched)[present], right)
                among_positive = (right & positive[labels[image]]).sum(axis=1) / positive[labels[image]].sum(axis=1)
                metrics |= _accuracy("matched_exact_accuracy", matched)
                metrics["matched_exact_accuracy_chance"] = float(among_positive.mean())  # the match takes no others
    if not seen:
        metrics |= _areas(found, labels, data) | _zero_shot(found, labels, data)
    return metrics


def _accuracy(name: str, accuracy: Accuracy) -> dict[str, float]:
    return {
        name: accuracy.value,
        f"{name}_chance": accuracy.chance,
        f"{name}_permuted": accuracy.permuted,
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


def _of_views(module: Any, data: Any, rows: Ids) -> dict[str, float]:
    """Return how far the parts of an image agree with those of its mirror image, and of its middle shown larger."""
    found: dict[str, list[Ids]] = {"image": [], "flip": [], "middle": [], "scale": []}
    for batch in data.evaluation_dataloader(rows):
        images = torch.stack([data.evaluation_image(i) for i in batch["index"].tolist()])
        assignment = _assignment(module, data, batch)
        found["image"].append(hard_parts(assignment, module.background_from))
        points, side = _middle(module.backbone.grid, images.shape[-1]), images.shape[-1]
        points = np.tile(points, (len(images), 1, 1))
        found["middle"].append(parts_at(assignment, points, module.backbone.grid, side, module.background_from))
        for name, view in (("flip", images.flip(-1)), ("scale", show(images, MIDDLE))):
            few = [_assignment(module, data, {"image": part}) for part in torch.split(view, LIVE)]
            found[name].append(hard_parts(torch.cat(few), module.background_from))
    image, flip, middle, scale = (np.concatenate(parts) for parts in found.values())
    metrics: dict[str, float] = {}
    flips, scales = flip_agreement(image, flip, module.backbone.grid), agreement(middle, scale)
    for name, (everywhere, foreground) in {"flip": flips, "scale": scales}.items():
        metrics |= {f"parts/{name}_consistency": everywhere, f"parts/{name}_consistency_foreground": foreground}
    return metrics


def _middle(grid: tuple[int, int], side: int) -> NDArray[np.float32]:
    """Return where in the image (N, 2) the patches of its shown middle lie, in pixels."""
    cut = round(MIDDLE.share * side)
    rows, columns = (((np.arange(n) + 0.5) / n * cut + (side - cut) // 2).astype(np.float32) for n in grid)
    x, y = np.meshgrid(columns, rows)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _assignment(module: Any, data: Any, batch: Batch) -> Tensor:
    """Return the weights (B, N, K + 1) of the parts that are found in a batch."""
    moved = {name: value.to(module.device) for name, value in batch.items()}
    assignment: Tensor = module.find_parts(_with_patches(module, data, moved)).assignment
    return assignment.float().cpu()
