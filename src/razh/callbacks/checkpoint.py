"""The best epoch by validation classes, and the last one to go on from."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import distributed as dist

from razh.callbacks.result import Selection
from razh.run import preemption, random_state
from razh.run.folder import LAST, whole
from razh.support.distributed import world

log = logging.getLogger(__name__)
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class BestCheckpoint(ModelCheckpoint):
    """Write `best.ckpt` by `val/map`; and `last.ckpt` after every epoch, and when the run is told to stop.

    Without validation classes there is nothing to select by: the last epoch is the best then, and a line says so.
    A checkpoint has the random states of all ranks, so a run that goes on from it draws what it would have drawn.
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
        self.CHECKPOINT_NAME_LAST = LAST[0].removesuffix(self.FILE_EXTENSION)
        self._random: list[dict[str, Any]] | None = None
        self._group: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Select by the last epoch where the split has no validation classes."""
        split = trainer.datamodule.split  # type: ignore[attr-defined]
        if stage == "fit" and not len(split.validation_query):
            if not split.refit:
                log.warning("no validation classes: the last epoch is taken as the best")
            self.monitor = None
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the random numbers of the checkpoint, and listen for signals."""
        super().on_train_start(trainer, pl_module)
        rank, size = world()
        if self._random is not None and len(self._random) == size:
            random_state.put(self._random[rank])
        else:
            if trainer.ckpt_path is not None:
                log.warning("the checkpoint has no random states for %d processes: new random numbers are drawn", size)
            if size > 1:  # all were seeded alike, and would hide, drop and choose the same
                torch.manual_seed(torch.initial_seed() + rank)
        self._random = None
        # Asking all ranks after every batch must not wait for a GPU.
        self._group = dist.new_group(backend="gloo") if size > 1 and dist.get_backend() != "gloo" else None
        listener = preemption.listener()
        listener.install()
        listener.training = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop if any rank was told to; after the last batch of an epoch that waits for the epoch's end."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        signum = self._told()
        if not signum or batch_idx + 1 >= trainer.num_training_batches:
            return
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:  # else the gradient so far would be lost
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
            raise preemption.Stopped(signum)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; then stop if any rank was told to."""
        super().on_train_epoch_end(trainer, pl_module)
        last = self.format_checkpoint_name(self._monitor_candidates(trainer), self.CHECKPOINT_NAME_LAST)
        saved = self._last_checkpoint_saved == last and self._last_global_step_saved == trainer.global_step
        if not saved and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            # Lightning writes it only in epochs that are the best so far.
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        if signum := self._told():
            raise preemption.Stopped(signum)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once from here on: there is nothing to save."""
        preemption.listener().training = False
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals."""
        preemption.listener().install()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for signals."""
        preemption.listener().install()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say how to go on after a stop; after a failure, end the ranks that wait for this one."""
        if isinstance(exception, KeyboardInterrupt | preemption.Stopped):
            preemption.listener().training = False
            reason = str(exception) or "stopped"
            log.info(
                "%s; start the same command again to go on (or --ckpt_path=last --run_dir=%s)",
                reason,
                whole(Path(trainer.default_root_dir)),
            )
        else:
            preemption.end(getattr(trainer.strategy.launcher, "procs", []))

    def selection(self) -> Selection:
        """Return how the best checkpoint was chosen."""
        score = None if self.best_model_score is None else float(self.best_model_score)
        path = Path(self.best_model_path) if self.best_model_path else None
        return Selection(self.monitor, self.mode, score, path if path is not None and path.is_file() else None)

    def _told(self) -> int:
        """Return the signal that this or another rank was sent; 0 for none. All ranks get the same answer."""
        asked = preemption.listener().asked or 0
        if world()[1] == 1:
            return asked
        told = torch.tensor(asked)
        dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self._group)
        return int(told)

    def state_dict(self) -> dict[str, Any]:
        """Add the random states, one a rank; all ranks call it."""
        states = [random_state.take()]
        if world()[1] > 1:
            received: list[Any] = [None] * world()[1]
            dist.all_gather_object(received, states[0])
            states = received
        return super().state_dict() | {"random": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the random states out; find the checkpoints where the run folder is now."""
        self._random = state_dict.get("random")
        if self.dirpath is not None and Path(self._moved(state_dict["best_model_path"])).is_file():
            state_dict = {**state_dict, "dirpath": self.dirpath}
            state_dict |= {name: self._moved(state_dict.get(name, "")) for name in PATHS}
            best = state_dict.get("best_k_models", {})
            state_dict["best_k_models"] = {self._moved(path): score for path, score in best.items()}
        super().load_state_dict(state_dict)

    def _moved(self, path: str) -> str:
        assert self.dirpath is not None
        return os.path.join(self.dirpath, Path(path).name) if path else ""
