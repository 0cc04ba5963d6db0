"""Parts and attributes beside the annotated ones, measured after the test."""

import logging
import os
import time

from lightning.pytorch import Callback, LightningModule, Trainer

from razh.callbacks.retrieval import RetrievalEvaluation
from razh.measures.collect import can_be_measured, measure_codes, measure_parts_and_attributes
from razh.retrieval.codes import Codes

log = logging.getLogger(__name__)


class PartMeasures(Callback):
    """Measure parts and attributes of a method that has any, and what codes know of attributes, at the end of a test.

    docs/measures.md says how.

    `metrics` holds the figures by name (`parts/nmi`, `attributes/auc`, …); they go to the loggers, and with the
    retrieval figures to `metrics.json`. The first rank measures all images by itself and the others wait, so the
    figures do not depend on the number of devices. Patches are taken from the feature cache where there is one.

    Measures that fail are named in a warning and left out: results are not lost for them. With `RAZH_DEBUG=1` in the
    environment the error is raised.
    """

    def __init__(
        self, enabled: bool = True, images: int = 2000, flip_images: int = 64, own_threshold: float = 0.5
    ) -> None:
        """Build the callback.

        Args:
            enabled: False measures nothing.
            images: unseen queries, and images (or codes) of training classes, that are measured at most.
            flip_images: unseen queries whose mirror images are looked at; they are computed live.
            own_threshold: an attribute is a class's own from this share of its strongest attribute on.

        Raises:
            ValueError: a number below 1, or a threshold out of (0, 1].
        """
        for name, number in (("images", images), ("flip_images", flip_images)):
            if number < 1:
                raise ValueError(f"measures.{name}={number} must be at least 1; for none: --measures.enabled=false")
        if not 0 < own_threshold <= 1:
            raise ValueError(f"measures.own_threshold={own_threshold} must lie in (0, 1]; it is a share")
        self.enabled, self.images, self.flip_images, self.own_threshold = enabled, images, flip_images, own_threshold
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure on the first rank, log there, and let the others wait."""
        self.metrics = {}
        limited = trainer.fast_dev_run or trainer.limit_test_batches != 1.0  # type: ignore[attr-defined]
        evaluation = next((c for c in trainer.callbacks if isinstance(c, RetrievalEvaluation)), None)  # type: ignore[attr-defined]
        codes = evaluation.codes if evaluation is not None else None
        if not self.enabled or limited or not (codes or can_be_measured(pl_module)):
            return
        started = time.perf_counter()
        if trainer.is_global_zero:
            self._measure(trainer, pl_module, codes)
        trainer.strategy.barrier("parts and attributes measured")
        self.seconds = time.perf_counter() - started
        log.info("measured parts and attributes in %.1f s", self.seconds)

    def _measure(self, trainer: Trainer, module: LightningModule, codes: Codes | None) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        try:
            if codes is not None:
                self.metrics = measure_codes(codes, data, self.images)
            if can_be_measured(module):
                self.metrics |= measure_parts_and_attributes(
                    module, data, self.images, self.flip_images, self.own_threshold
                )
        except Exception as error:  # whatever a measure fails of, the results are worth more
            if os.environ.get("RAZH_DEBUG") == "1":
                raise
            reason = (str(error).splitlines() or [""])[0]
            log.warning("parts and attributes were not measured: %s: %s", type(error).__name__, reason)
            log.debug("parts and attributes", exc_info=True)
        for logger in trainer.loggers:
            logger.log_metrics(self.metrics, step=trainer.global_step)
