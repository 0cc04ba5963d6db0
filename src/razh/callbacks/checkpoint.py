"""The best epoch by validation classes, and the last one."""

import logging

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

log = logging.getLogger(__name__)


class BestCheckpoint(ModelCheckpoint):
    """Write `best.ckpt` by `val/map`, and `last.ckpt` after every epoch and on Ctrl-C.

    Without validation classes there is nothing to select by: the last epoch is the best then, and a line says so.
    """

    def __init__(self, monitor: str = "val/map", mode: str = "max", dirpath: str | None = None) -> None:
        """Build the callback.

        Args:
            monitor: logged value to select by.
            mode: `max` or `min`.
            dirpath: folder of the checkpoints; the run's, if not given.
        """
        super().__init__(
            dirpath=dirpath, filename="best", monitor=monitor, mode=mode, save_last=True, enable_version_counter=False
        )
        self.CHECKPOINT_NAME_LAST = "last"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Select by the last epoch where the split has no validation classes."""
        split = getattr(trainer.datamodule, "split", None)  # type: ignore[attr-defined]
        if stage == "fit" and split is not None and len(split.validation_query) == 0:
            log.warning("no validation classes: the last epoch is taken as the best")
            self.monitor = None
        super().setup(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what there is when a run is stopped before its first epoch ended."""
        if isinstance(exception, KeyboardInterrupt) and trainer.global_step > 0 and trainer.training:
            if not self.last_model_path:
                self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            log.info("stopped; go on with --ckpt_path=last --run_dir=%s", trainer.default_root_dir)
