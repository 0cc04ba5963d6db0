"""Lightning's Trainer with one more verb: train."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer

log = logging.getLogger(__name__)


def check_options(options: Any) -> None:
    """Refuse options of Lightning's Trainer that no method here can be trained with.

    Raises:
        ValueError: a run without an end, or batches taken from elsewhere.
    """
    if options.max_epochs == -1 and options.max_steps == -1:
        raise ValueError(
            "trainer.max_epochs=-1: the learning rate falls over the whole run, whose length must be known; pass "
            "--trainer.max_epochs or --trainer.max_steps (--trainer.max_time may end it before)"
        )
    if options.overfit_batches:
        raise ValueError(
            f"trainer.overfit_batches={options.overfit_batches}: it replaces the order in which images are drawn; pass "
            "--trainer.limit_train_batches, and --data.augment=false for images without crops"
        )


class Trainer(LightningTrainer):
    """Lightning's Trainer, and `train`: fit, then test the best checkpoint."""

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        """Build the trainer; see Lightning's for all arguments.

        Those that are named here mean one thing as a whole number (1 batch) and another as a share (1.0: all). The
        command line tries the types in the order in which they are written, and Lightning's own order can get lost:
        `typing` takes Union[int, float] and Union[float, int], which another package may have asked for, for equal.
        """
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            **kwargs,
        )

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
