"""Lightning's Trainer with one more verb: train."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer

log = logging.getLogger(__name__)


class Trainer(LightningTrainer):
    """Lightning's Trainer, and `train`: fit, then test the best checkpoint."""

    def train(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
    ) -> list[Any]:
        """Train, then test the best checkpoint and write the run folder.

        Args:
            model: what to train.
            datamodule: what to train on.
            ckpt_path: a checkpoint to go on from; `last` for that of the run folder.
        """
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        checkpoint = self.checkpoint_callback
        best = str(getattr(checkpoint, "best_model_path", "") or getattr(checkpoint, "last_model_path", ""))
        if not best and not self.fast_dev_run:  # type: ignore[attr-defined]
            log.warning("no checkpoint was written; the weights of the last step are tested")
        tested = self.strategy.broadcast(best if best and Path(best).is_file() else None)
        return list(self.test(model, datamodule=datamodule, ckpt_path=tested, verbose=False))
