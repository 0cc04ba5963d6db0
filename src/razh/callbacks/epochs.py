"""A line an epoch for a log file, where no bar can be seen."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["EpochLines", "StopAfter"]

log = logging.getLogger(__name__)
TOLD = ("train/loss", "val/map")


class EpochLines(Callback):
    """Says after every epoch of training what it came to."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch, its loss, and the mAP of the validation where there is one."""
        figures = [f"{name} {trainer.callback_metrics[name]:.4f}" for name in TOLD if name in trainer.callback_metrics]
        of_all = f" of {trainer.max_epochs}" if trainer.max_epochs else ""
        log.info("epoch %d%s: %s", trainer.current_epoch + 1, of_all, ", ".join(figures) or "done")


class StopAfter(Callback):
    """Ends a training before its last epoch, on a schedule that is that of all of them."""

    def __init__(self, epochs: int) -> None:
        """Build the callback.

        Args:
            epochs: after which training ends.
        """
        self.epochs = epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End at once if the run goes on from behind its end."""
        trainer.fit_loop.min_epochs = 0
        self._stop(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End after the last epoch."""
        self._stop(trainer, trainer.current_epoch + 1)

    def _stop(self, trainer: Trainer, done: int) -> None:
        trainer.should_stop = trainer.should_stop or done >= self.epochs
