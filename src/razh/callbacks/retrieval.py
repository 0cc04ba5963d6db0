"""Codes from all devices to one evaluation: the unseen classes in test, the validation classes in validation.

`predict` gathers the codes of a test without ranking them.
"""

import logging
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch import distributed as dist

from razh.distributed import gather_by_index, world
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Evaluation, Settings, combine, measure, retrieval_tasks, summarise
from razh.retrieval.packing import pack

log = logging.getLogger(__name__)


class RetrievalEvaluation(Callback):
    """Rank by Hamming distance at the end of validation and test.

    Codes are gathered by dataset index: repeated rows fall out, and a missing one is an error. Every device then ranks
    its share of the queries against the whole database, and the figures are the same on any number of devices, bit for
    bit.

    Logged in validation: `val/map` (validation classes against the validation database, expected over ties) and the
    rest under `val/…`. After a test, `codes` and `result` hold what was measured; after a prediction, `codes` alone.
    `validation` holds the last epoch's figures, all of them; None where a limit left nothing to rank.
    """

    def __init__(
        self,
        cutoffs: list[int] | None = None,
        precision_ks: list[int] | None = None,
        radius: int = 2,
        route: str = "auto",
    ) -> None:
        """Build the callback.

        Args:
            cutoffs: ranks R of mAP@R; default 5000.
            precision_ks: ranks k of precision@k; default 100.
            radius: Hamming radius of precision within a ball.
            route: how distances are counted: auto, numba, faiss, numpy or torch.
        """
        self.settings = Settings(tuple(cutoffs or (5000,)), tuple(precision_ks or (100,)), radius, route)  # type: ignore[arg-type]
        self.codes: Codes | None = None
        self.result: Evaluation | None = None
        self.validation: Evaluation | None = None
        self._rows: list[dict[str, Tensor]] = []

    def _start(self) -> None:
        self._rows = []

    def _collect(self, outputs: dict[str, Tensor]) -> None:
        packed = torch.from_numpy(pack(outputs["code"].cpu().numpy()))
        self._rows.append({"index": outputs["index"].cpu(), "label": outputs["label"].cpu(), "packed": packed})

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's codes."""
        self._start()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier codes."""
        self._start()

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier codes."""
        self._start()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the codes of a batch."""
        self._collect(outputs)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the codes of a batch."""
        self._collect(outputs)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the codes of a batch."""
        self._collect(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank the validation classes; log the same value on all devices."""
        if trainer.sanity_checking:
            return
        split = trainer.datamodule.split  # type: ignore[attr-defined]
        limited = _is_limit(trainer.limit_val_batches) or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        codes = self._gather(trainer, pl_module, split.validation_query, split.validation_database, limited)
        self.validation = self._evaluate(codes, "val/") if codes is not None else None
        if self.validation is None:
            return
        figures = self.validation.metrics
        pl_module.log("val/map", figures["val/unseen/map"], prog_bar=True)
        for name in ("unseen/map_worst", "unseen/map_best", "unseen/chance", "zsl/map", "seen/map", "harmonic/map"):
            if f"val/{name}" in figures:
                pl_module.log(f"val/{name.removeprefix('unseen/')}", figures[f"val/{name}"])
        pl_module.log("val/bit_balance", figures["codes/bit_balance"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank the unseen classes; keep codes and result for those who write and draw them."""
        split = trainer.datamodule.split  # type: ignore[attr-defined]
        limited = _is_limit(trainer.limit_test_batches) or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        self.codes = self._gather(trainer, pl_module, split.query, split.database, limited)
        self.result = self._evaluate(self.codes, "test/") if self.codes is not None else None
        if self.result is not None:
            for logger in trainer.loggers:
                logger.log_metrics(self.result.metrics, step=trainer.global_step)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the codes of all devices together; nothing is ranked."""
        split = trainer.datamodule.split  # type: ignore[attr-defined]
        limited = _is_limit(trainer.limit_predict_batches) or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        self.codes = self._gather(trainer, pl_module, split.query, split.database, limited)

    def _gather(
        self, trainer: Trainer, pl_module: LightningModule, query: np.ndarray, database: np.ndarray, limited: bool
    ) -> Codes | None:
        """Return the codes of query and database rows, the same on all devices; None if a limit left one side empty."""
        width = -(-int(pl_module.bits) // 8)  # type: ignore[arg-type]
        empty = {
            "index": torch.zeros(0, dtype=torch.int64),
            "label": torch.zeros(0, dtype=torch.int64),
            "packed": torch.zeros((0, width), dtype=torch.uint8),
        }
        rows = {name: torch.cat([empty[name], *(r[name] for r in self._rows)]) for name in empty}
        self._rows = []
        index, packed = gather_by_index(rows["index"], rows["packed"])
        _, labels = gather_by_index(rows["index"], rows["label"])
        at_query, at_database = _positions(index, query), _positions(index, database)
        lacking = (at_query < 0).sum() + (at_database < 0).sum()
        if lacking and not limited:
            raise RuntimeError(f"{lacking} of {len(query) + len(database)} rows have no code; a batch was lost")
        if lacking:
            log.warning("limited batches: the result is partial, %d rows have no code", lacking)
        at_query, at_database = at_query[at_query >= 0], at_database[at_database >= 0]
        if not len(at_query) or not len(at_database):
            cause = "limited batches left" if limited else "the split has"
            log.warning("%s no query or no database: there is no result", cause)
            return None
        data = trainer.datamodule  # type: ignore[attr-defined]
        split = data.split
        held_out = split.unseen_classes if query is split.query else split.validation_classes
        return Codes(
            query_codes=packed[at_query],
            database_codes=packed[at_database],
            query_labels=labels[at_query],
            database_labels=labels[at_database],
            bits=int(pl_module.bits),  # type: ignore[arg-type]
            query_index=index[at_query],
            database_index=index[at_database],
            unseen_classes=tuple(int(c) for c in held_out),
            class_names=tuple(data.class_names),
            fingerprint=split.fingerprint,
            protocol=split.protocol,
        )

    def _evaluate(self, codes: Codes, prefix: str) -> Evaluation:
        """Measure this device's share of the queries, exchange the shares, and summarise them in query order."""
        rank, size = world()
        tasks = retrieval_tasks(codes)
        mine = [measure(task, self.settings, np.arange(len(task))[rank::size]) for task in tasks]
        gathered = [mine]
        if size > 1:
            received: list[Any] = [None] * size
            dist.all_gather_object(received, mine)
            gathered = received
        return summarise(codes, [combine(parts) for parts in zip(*gathered, strict=True)], prefix)


def _is_limit(batches: int | float) -> bool:
    """Tell whether a limit leaves batches out; to Lightning 1 is one batch and 1.0 all of them."""
    return isinstance(batches, int) or batches < 1.0


def _positions(index: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where each wanted index stands in the sorted index; -1 where it does not."""
    if not len(index):
        return np.full(len(wanted), -1)
    at = np.searchsorted(index, wanted).clip(max=len(index) - 1)
    return np.where(index[at] == wanted, at, -1)
