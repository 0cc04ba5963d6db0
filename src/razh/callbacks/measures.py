"""Parts and attributes beside the annotated ones, measured after the test."""

import logging
import os
import time
from typing import Annotated

from lightning.pytorch import Trainer
from torch import Tensor

from razh.measures.collect import can_be_measured, measure_codes, measure_parts_and_attributes
from razh.measures.described import look_at_trained, measure_described
from razh.method import HashingMethod
from razh.retrieval.codes import Codes
from razh.support.bounds import MANY, Bounded, Bounds, PositiveShare

log = logging.getLogger(__name__)
Measured = Annotated[int, Bounds(1, MANY, instead="for none: --measures.enabled=false")]


class PartMeasures(Bounded):
    """Measures parts and attributes of a method that has any, and what codes know of attributes, at the end of a test.

    docs/reference/measures.md says how.

    The figures have names (`parts/nmi`, `attributes/auc`, …); they go to the loggers, and with the retrieval figures to
    `metrics.json`. The first rank measures all images by itself and the others wait, so the
    figures do not depend on the number of devices. Patches are taken from the feature cache where there is one.

    Measures that fail are named in a warning and left out: results are not lost for them. With `RAZH_DEBUG=1` in the
    environment the error is raised.

    Attributes:
        class_logits: ids (C,) of training classes and their mean logits (C, L), of the last test, on the first rank.
    """

    def __init__(
        self,
        enabled: bool = True,
        images: Measured = 2000,
        flip_images: Measured = 64,
        positive_threshold: PositiveShare = 0.5,
    ) -> None:
        """Choose what is measured.

        Args:
            enabled: False measures nothing.
            images: unseen queries, and images (or codes) of training classes, that are measured at most.
            flip_images: unseen queries whose mirror images are looked at; they are computed live.
            positive_threshold: an attribute of a class is positive from this share of its strongest attribute on.
        """
        self.enabled, self.images, self.flip_images = enabled, images, flip_images
        self.positive_threshold = positive_threshold
        self.class_logits: tuple[Tensor, Tensor] | None = None

    def measure(self, trainer: Trainer, method: HashingMethod, codes: Codes | None) -> dict[str, float]:
        """Return the figures by name, none where nothing can be measured; all ranks call it.

        Args:
            trainer: whose test has come to its end.
            method: that was tested.
            codes: of that test.
        """
        limited = trainer.fast_dev_run or trainer.limit_test_batches != 1.0  # type: ignore[attr-defined]
        if not self.enabled or limited or not (codes or can_be_measured(method)):
            return {}
        started = time.perf_counter()
        found = self._measured(trainer, method, codes) if trainer.is_global_zero else {}
        trainer.strategy.barrier("parts and attributes measured")
        log.info("measured parts and attributes in %.1f s", time.perf_counter() - started)
        return found

    def _measured(self, trainer: Trainer, method: HashingMethod, codes: Codes | None) -> dict[str, float]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        found: dict[str, float] = {}
        try:
            if codes is not None:
                found = measure_codes(codes, data, self.images)
                trained = look_at_trained(method, data, self.images)
                found |= measure_described(method, data, codes, trained)
                self.class_logits = trained.classes, trained.means
            if can_be_measured(method):
                found |= measure_parts_and_attributes(
                    method, data, self.images, self.flip_images, self.positive_threshold
                )
        except Exception as error:  # whatever a measure fails of, the results are worth more
            if os.environ.get("RAZH_DEBUG") == "1":
                raise
            reason = (str(error).splitlines() or [""])[0]
            log.warning("parts and attributes were not measured: %s: %s", type(error).__name__, reason)
            log.debug("parts and attributes", exc_info=True)
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step)
        return found
