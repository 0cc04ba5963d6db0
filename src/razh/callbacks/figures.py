"""Figures of a run, drawn from its result."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from matplotlib.figure import Figure

from razh.callbacks.result import RunResult
from razh.callbacks.shown import main_task, part_pictures, retrieval_rows
from razh.datamodules.base import ZeroShotDataModule
from razh.figures.canvas import png
from razh.figures.choice import choose_images
from razh.figures.curves import best_epoch, classes_figure, distances, precision_recall, training_figure
from razh.figures.grid import retrieval_figure
from razh.figures.parts import parts_figure
from razh.measures.abilities import FindsParts, reads_parts
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Evaluation, TaskResult
from razh.retrieval.health import d_prime
from razh.retrieval.report import group_curves
from razh.run.folder import FIGURES
from razh.support.bounds import Bounded, Bounds
from razh.support.files import write_bytes

log = logging.getLogger(__name__)
Shown = Annotated[int, Bounds(1, 1_000, instead="for no figures: --figures.enabled=false")]


class Figures(Bounded):
    """Draws what a test measured into `figures/` of the run's folder, without a display.

    - `retrieval.png`: unseen queries and their nearest images, right and wrong ones told apart.
    - `parts.png`: the parts that were found in images of trained and unseen classes, and the attribute of each; only
      where the method has parts.
    - `precision_recall.png`: unseen, validation and trained classes against the whole database.
    - `distances.png`: unseen queries against the whole database.
    - `classes.png`: mean AP of every unseen class.
    - `training.png`: validation mAP and loss terms over the epochs, the chosen one marked.

    A figure that fails is named in a warning and left out: results are not lost for a picture. With `RAZH_DEBUG=1` in
    the environment its error is raised.
    """

    def __init__(
        self,
        enabled: bool = True,
        queries: Shown = 8,
        neighbours: Shown = 10,
        part_images: Shown = 8,
        photos: bool = True,
    ) -> None:
        """Choose what is drawn.

        Args:
            enabled: False draws nothing.
            queries: rows of `retrieval.png`.
            neighbours: retrieved images a row.
            part_images: images in `parts.png`, half of them of unseen classes.
            photos: False shows none of the images, whose licence may forbid it: `parts.png` has the parts alone, and
                there is no `retrieval.png`.
        """
        self.enabled, self.photos = enabled, photos
        self.queries, self.neighbours, self.part_images = queries, neighbours, part_images

    def write(self, result: RunResult) -> None:
        """Draw every figure that the result has something for."""
        if not self.enabled:
            return
        makers: dict[str, Callable[[], Figure | None]] = {
            "parts": lambda: self._parts(result),
            "training": lambda: _training(result),
        }
        if result.codes is not None and result.evaluation is not None:
            makers |= self._of_evaluation(result.codes, result.evaluation, result.data)
        folder = result.folder / FIGURES
        result.figures.extend(folder / f"{name}.png" for name in draw(folder, makers))

    def _of_evaluation(
        self, codes: Codes, result: Evaluation, data: ZeroShotDataModule
    ) -> dict[str, Callable[[], Figure | None]]:
        task = main_task(result)
        if task is None or codes.multi_label:
            return {}
        return {
            "retrieval": lambda: self._retrieval(codes, task, data) if self.photos else None,
            "precision_recall": lambda: _precision_recall(codes, result, task),
            "distances": lambda: _distances(codes, task),
            "classes": lambda: _classes(codes, task),
        }

    def _retrieval(self, codes: Codes, task: TaskResult, data: ZeroShotDataModule) -> Figure:
        rows = retrieval_rows(codes, task, data.evaluation_image, self.queries, self.neighbours)
        mean = task.values["map"].mean()
        return retrieval_figure(
            rows, f"{_queries(codes)} and their nearest images · {codes.bits} bits · mAP {mean:.3f}"
        )

    def _parts(self, result: RunResult) -> Figure | None:
        module, data = result.method, result.data
        if not (isinstance(module, FindsParts) and module.shows_parts):
            return None
        seen = choose_images(data.split.train, data.labels, -(-self.part_images // 2))
        unseen = choose_images(data.split.query, data.labels, self.part_images // 2)
        index = np.concatenate([seen, unseen])
        pictures = part_pictures(
            module,
            data.evaluation_image,
            index.tolist(),
            data.labels[index].tolist(),
            data.class_names,
            data.attribute_names,
            data.part_masks,
        )
        told = "that was read there" if reads_parts(module) else "of the image's class that it is matched with"
        return parts_figure(pictures, f"Found parts, each with the attribute {told}", data.part_names, self.photos)


def draw(folder: Path, makers: dict[str, Callable[[], Figure | None]]) -> list[str]:
    """Make and write figures `folder`/NAME.png; return the names of those that were written.

    Args:
        folder: made if it is not there.
        makers: by name, what makes a figure; None where there is nothing to draw.
    """
    drawn = []
    for name, make in makers.items():
        path = folder / f"{name}.png"
        try:
            path.unlink(missing_ok=True)  # the picture of an earlier test would tell lies about this one
            figure = make()
            if figure is not None:
                write_bytes(path, png(figure))
                drawn.append(name)
        except Exception as error:  # whatever a picture fails of, the results are worth more
            if os.environ.get("RAZH_DEBUG") == "1":
                raise
            reason = (str(error).splitlines() or [""])[0]
            log.warning("figure %s was not drawn: %s: %s", name, type(error).__name__, reason)
            log.debug("figure %s", name, exc_info=True)
    if drawn:
        log.info("figures in %s: %s", folder, ", ".join(sorted(drawn)))
    return drawn


def _queries(codes: Codes) -> str:
    return "Queries" if codes.unseen_classes is None else "Unseen queries"


def _training(result: RunResult) -> Figure | None:
    rows = result.epochs
    if not rows:
        return None
    best = best_epoch(rows, result.selection.monitor, result.selection.mode)
    count = f"{len(rows)} epoch{'s' if len(rows) > 1 else ''}"
    return training_figure(rows, best, f"Training, {count} (counted from 0); epoch {best} was chosen")


def _precision_recall(codes: Codes, result: Evaluation, task: TaskResult) -> Figure:
    chance = float(task.values["precision@1_chance"].mean()), float(task.values["chance"].mean())
    return precision_recall(group_curves(result), chance, f"Queries of each group, whole database, {codes.bits} bits")


def _distances(codes: Codes, task: TaskResult) -> Figure:
    separation = d_prime(task.counts[:, 1], task.counts[:, 0])
    return distances(task.counts, separation, f"{_queries(codes)}, whole database, {codes.bits} bits")


def _classes(codes: Codes, task: TaskResult) -> Figure:
    ids = sorted(task.class_map)
    names = [codes.class_names[c] if c < len(codes.class_names) else str(c) for c in ids]
    chance = [float(task.values["chance"][task.labels == c].mean()) for c in ids]
    kind = "Classes" if codes.unseen_classes is None else "Unseen classes"
    return classes_figure(names, [task.class_map[c] for c in ids], chance, f"{kind}, {codes.bits} bits")
