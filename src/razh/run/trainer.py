"""Lightning's Trainer with one more verb: train."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch import Trainer as LightningTrainer

from razh.support.bounds import MANY, Bounded, Bounds, Count, CountOrZero, NonNegative, Share

log = logging.getLogger(__name__)
Batches: TypeAlias = CountOrZero | Share


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


class Trainer(Bounded, LightningTrainer):
    """Lightning's Trainer, and `train`: fit, then test the best checkpoint."""

    option_bounds: ClassVar[Mapping[str, Any]] = {
        "fast_dev_run": CountOrZero | bool,
        "num_nodes": Annotated[int, Bounds(1, 65_536)],
        "max_epochs": Annotated[int, Bounds(1, MANY, also=-1)],
        "min_epochs": CountOrZero,
        "max_steps": Annotated[int, Bounds(1, 1_000_000_000, also=-1)],
        "min_steps": CountOrZero,
        "check_val_every_n_epoch": Count,
        "num_sanity_val_steps": Annotated[int, Bounds(0, MANY, also=-1)],
        "log_every_n_steps": CountOrZero,
        "accumulate_grad_batches": Count,
        "gradient_clip_val": NonNegative,
        "reload_dataloaders_every_n_epochs": CountOrZero,
    }

    def __init__(
        self,
        *,
        limit_train_batches: Batches | None = None,
        limit_val_batches: Batches | None = None,
        limit_test_batches: Batches | None = None,
        limit_predict_batches: Batches | None = None,
        overfit_batches: Batches = 0.0,
        val_check_interval: Batches | None = None,
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
