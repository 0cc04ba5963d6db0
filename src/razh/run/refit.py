"""A refit: what a run with validation classes has chosen, for the run on all seen classes that comes after it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from razh.run import checkpoint
from razh.run.folder import SELECTION, state

__all__ = ["Choice", "check", "chosen_in", "has_chosen"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What validation classes have chosen; nothing for a method that is fitted, not trained.

    Attributes:
        epochs: after which the selected checkpoint was written, counted from 1.
        monitor: name of the value that it was selected by.
        score: that value.
        split: fingerprint of the split with validation classes.
    """

    epochs: int | None = None
    monitor: str | None = None
    score: float | None = None
    split: str | None = None


def check(command: str, ckpt_path: str | None, options: Any) -> None:
    """Refuse a refit that cannot be.

    Args:
        command: that is asked for it.
        ckpt_path: of the command line.
        options: of the trainer.

    Raises:
        ValueError: another command than `train`, a start from a checkpoint, or a run without validation.
    """
    if command in ("fit", "validate"):
        raise ValueError(
            f"data.refit=true: `razh {command}` works with validation classes, and a refit holds none out; take "
            "`razh train`, or leave it out"
        )
    if command != "train":
        return
    if ckpt_path not in (None, "last"):
        raise ValueError(f"ckpt_path={ckpt_path}: data.refit=true trains twice from the seed; leave one of them out")
    for name, off in (
        ("limit_val_batches", options.limit_val_batches == 0),
        ("fast_dev_run", bool(options.fast_dev_run)),
        ("check_val_every_n_epoch", 0 < (options.max_epochs or 0) < (options.check_val_every_n_epoch or 1)),
    ):
        if off:
            raise ValueError(
                f"trainer.{name}={options[name]} leaves no validation to choose an epoch by, which data.refit=true "
                f"needs; leave out --trainer.{name}"
            )


def has_chosen(folder: Path) -> bool:
    """Tell whether the selection of the refit in a folder has come to its end."""
    return state(folder / SELECTION).get("state") == "finished"


def chosen_in(folder: Path, monitor: str) -> Choice:
    """Return what the selection in the folder of a refit has chosen.

    Raises:
        FileNotFoundError, ValueError: its best checkpoint is not there, or cannot be read.
    """
    content = checkpoint.read(folder / SELECTION / "checkpoints" / "best.ckpt")
    scores = [c.get("best_model_score") for c in content.get("callbacks", {}).values() if isinstance(c, dict)]
    score = next((float(score) for score in scores if score is not None), None)
    return Choice(int(content["epoch"]) + 1, monitor, score, content["razh"]["split_fingerprint"])
