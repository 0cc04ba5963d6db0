"""From codes, a method and images to what the figures draw."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from razh.figures.choice import choose_queries
from razh.figures.grid import Group, Neighbour, RetrievalRow
from razh.figures.parts import PALETTE, SIDE, PartPicture, merge_by_attribute, part_map
from razh.measures.abilities import reads_parts
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Evaluation, TaskResult, retrieval_tasks
from razh.retrieval.hamming import rank

__all__ = ["MAIN", "Load", "main_task", "part_pictures", "retrieval_rows"]

MAIN = ("unseen", "")  # the task that figures show: unseen queries, or all of them where the split has none
MERGED = 8  # parts that are drawn of a method with more parts than there are colours

Load = Callable[[int], Tensor]
"""Dataset index to image, uint8 (3, S, S)."""


def main_task(result: Evaluation) -> TaskResult | None:
    """Return the result of the task that figures show, None if it was not measured."""
    return next((result.tasks[name] for name in MAIN if name in result.tasks), None)


def retrieval_rows(codes: Codes, task: TaskResult, load: Load, queries: int, neighbours: int) -> list[RetrievalRow]:
    """Choose queries of the main task and return them with their nearest images; ties in database order.

    Args:
        codes: with class ids, and with indices of both sets.
        task: result of the main task of these codes.
        load: gives the images.
        queries: number of rows.
        neighbours: number of images a row.

    Raises:
        ValueError: codes without indices.
    """
    if codes.query_index is None or codes.database_index is None:
        raise ValueError("codes have no indices; query_index and database_index say which images to show")
    asked = next(t for t in retrieval_tasks(codes) if t.name in MAIN)
    index = codes.query_index
    if codes.unseen_classes is not None:
        index = index[np.isin(codes.query_labels, codes.unseen_classes)]
    chosen = choose_queries(task.values["map"], task.labels, queries)
    # One more than is shown: an image never retrieves itself.
    near, order = rank(asked.query_codes[chosen], codes.database_codes, codes.bits, neighbours + 1, backend="numpy")
    rows = []
    for query, distances, places in zip(chosen, near, order, strict=True):
        label = int(task.labels[query])
        others = [(d, row) for d, row in zip(distances, places, strict=True) if row != asked.exclude[query]]
        found = [_neighbour(codes, int(row), int(d), label, load) for d, row in others[:neighbours]]
        image = _pixels(load(int(index[query])))
        rows.append(RetrievalRow(image, _class_name(codes, label), float(task.values["map"][query]), found))
    return rows


def _neighbour(codes: Codes, row: int, distance: int, label: int, load: Load) -> Neighbour:
    assert codes.database_index is not None
    other = int(codes.database_labels[row])
    image = _pixels(load(int(codes.database_index[row])))
    return Neighbour(image, _class_name(codes, other), distance, right=other == label, group=_group(codes, other))


def _group(codes: Codes, label: int) -> Group:
    if codes.unseen_classes is None or label in codes.unseen_classes:
        return "unseen"
    if codes.validation_classes is None:
        return "seen"
    return "validation" if label in codes.validation_classes else "trained"


def _class_name(codes: Codes, label: int) -> str:
    return codes.class_names[label] if label < len(codes.class_names) else str(label)


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = image.permute(1, 2, 0).numpy()
    return pixels


def part_pictures(
    module: Any,
    load: Load,
    index: Sequence[int],
    labels: Sequence[int],
    class_names: Sequence[str],
    attribute_names: Sequence[str],
    truth: Callable[[int], NDArray[np.uint8] | None] = lambda index: None,
) -> list[PartPicture]:
    """Return images with the parts that a method finds in them.

    Args:
        module: a method that `FindsParts`; it is left in the mode it was in, and no random state is touched.
        load: gives the images.
        index: dataset indices (n,) of the images.
        labels: their class ids (n,).
        class_names: by class id.
        attribute_names: by attribute id.
        truth: gives the true parts (S, S) of an image; None where they are not known.
    """
    images = torch.stack([load(int(i)) for i in index])
    batch = {"image": images.to(module.device), "label": torch.as_tensor(labels, device=module.device)}
    assignment, attributes = _find_parts(module, batch)
    seen = set(module.train_classes.tolist())
    pictures = []
    for number, (i, label) in enumerate(zip(index, labels, strict=True)):
        weights = assignment[number]
        matched = None if attributes is None else attributes[number].tolist()
        if matched is not None and len(matched) > len(PALETTE):
            weights, matched = merge_by_attribute(weights, matched, MERGED)
        pictures.append(
            PartPicture(
                image=_pixels(images[number]),
                name=class_names[label],
                seen=int(label) in seen,
                parts=part_map(weights, module.backbone.grid, SIDE, module.background_from),
                attributes={part: attribute_names[a] for part, a in enumerate(matched or ())},
                truth=truth(int(i)),
            )
        )
    return pictures


@torch.no_grad()
def _find_parts(module: Any, batch: dict[str, Tensor]) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Return weights (n, N, K + 1), and attribute ids (n, K) if the method reads attributes, or matches them."""
    was_training = module.training
    module.eval()
    devices = [batch["image"].device] if batch["image"].is_cuda else []
    try:
        with torch.random.fork_rng(devices):  # the random match of a control must not move the run's generator
            torch.manual_seed(0)
            _, assignment, match = module.find_parts(batch)
            if match is None:
                return assignment.float().cpu().numpy(), None
            chosen = match.similarity if reads_parts(module) else match.choice  # the match is told the class
            return assignment.float().cpu().numpy(), chosen.argmax(dim=-1).cpu().numpy()
    finally:
        module.train(was_training)
