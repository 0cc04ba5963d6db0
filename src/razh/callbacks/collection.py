"""In the settings that give a collection, codes are fitted to it after training, before they are tested."""

import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from razh.collection.code import CollectionCode, Known, fit_collection
from razh.collection.judge import FEWEST_IMAGES, trial
from razh.datamodules.base import ZeroShotDataModule
from razh.method import HashingMethod
from razh.run import adapted, checkpoint
from razh.support.files import digest_of

__all__ = ["CollectionAdaptation"]

log = logging.getLogger(__name__)
FILE = Path("checkpoints", "adapted.ckpt")


class CollectionAdaptation(Callback):
    """Fit the codes to the unlabelled images of the split, if its setting gives any, and keep the result.

    The collection is `split.unlabelled`; unseen classes are described by the attributes that the method has of them, if
    the setting gives those, too. Queries are not looked at. The tested checkpoint is written with the fitted code as
    `checkpoints/adapted.ckpt`.
    """

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adapt, unless the checkpoint is one that was, or of a method that fits itself to the collection."""
        method, data = cast("HashingMethod", pl_module), trainer.datamodule  # type: ignore[attr-defined]
        if not len(data.split.unlabelled) or method.collection is not None or method.of_collection:
            return
        adapt(method, data)
        if method.collection is None:
            return
        method.synchronise(method.collection)
        if trainer.is_global_zero and trainer.ckpt_path:
            tested = Path(trainer.ckpt_path)
            fitted = _fitted_to(method.collection, data, digest_of(tested))
            content = checkpoint.read(tested)
            adapted.save(Path(trainer.default_root_dir) / FILE, content, method, method.collection, fitted)

    on_predict_start = on_test_start


def adapt(method: HashingMethod, data: ZeroShotDataModule) -> None:
    """Give a method the code that fits the data's collection, unless a trial says that it brings nothing.

    Args:
        method: whose codes are to fit.
        data: in a setting with unlabelled images.
    """
    split = data.split
    rows = _made(method, data, split.unlabelled, method.collection_input)
    known = _known(method, data)
    labelled = np.flatnonzero(np.isin(split.unlabelled, split.train))
    if len(rows) >= FEWEST_IMAGES:
        before = _made(method, data, split.unlabelled, method.hash_logits)
        verdict = trial(rows, lambda at: torch.from_numpy(before[at]), method.bits, known, labelled=labelled)
        if verdict.better:
            fit = fit_collection(rows, method.bits, known, labelled=labelled)
            method.collection = fit.code.to(method.device)
            shares = f"{verdict.after:.0%} of the nearest images belong together, {verdict.before:.0%} did before"
            log.info("codes fitted to %d unlabelled images: %s", len(rows), shares)
            return
    log.warning("the codes stay as they are: %d unlabelled images give no reason to change them", len(rows))


def _known(method: HashingMethod, data: ZeroShotDataModule) -> Known:
    split, trained = data.split, method.train_classes.cpu()
    attributes = method.class_attributes.cpu().float()
    unseen = torch.tensor(split.described_classes, dtype=torch.int64)
    return Known(
        torch.from_numpy(_made(method, data, split.train, method.collection_input)),
        torch.from_numpy(np.searchsorted(trained.numpy(), data.labels[split.train])),
        attributes[trained],
        attributes[unseen] if len(unseen) else None,
        torch.cat([trained, unseen]),
    )


def _fitted_to(code: CollectionCode, data: ZeroShotDataModule, origin: str) -> adapted.FittedTo:
    found = set(code.classes.tolist())
    described = data.split.described_classes
    return adapted.FittedTo(
        setting=data.split.setting,
        images=len(data.split.unlabelled),
        seen=len(data.train_classes),
        described=[str(data.class_names[label]) for label in described],
        lapsed=[str(data.class_names[label]) for label in described if label not in found],
        clusters=int((code.classes < 0).sum()),
        origin=origin,
        seed=0,
    )


@torch.no_grad()
def _made(method: HashingMethod, data: ZeroShotDataModule, rows: NDArray[np.int64], function: Any) -> NDArray[Any]:
    """Return what a function makes of images (n, …), in order and the same on every device; labels are not shown."""
    was_training = method.training
    method.eval()
    found: list[Tensor] = []
    for batch in data.evaluation_dataloader(rows):
        shown = {name: value.to(method.device) for name, value in batch.items() if name != "label"}
        found.append(function(shown).float().cpu())
    method.train(was_training)
    return torch.cat(found).numpy()
