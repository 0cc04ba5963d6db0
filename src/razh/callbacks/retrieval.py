"""Codes from all devices to one evaluation: unseen, validation and trained classes in test, the last two in validation.

`predict` gathers the codes of a test without ranking them.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch import distributed as dist

from razh.callbacks.start import StartState
from razh.method import HashingMethod
from razh.retrieval.backends import BackendName
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Evaluation, Settings, combine, measure, retrieval_tasks, summarise
from razh.retrieval.health import health_warnings
from razh.retrieval.packing import pack
from razh.support.bounds import Bounded, Radius, Rank
from razh.support.distributed import gather_by_index, world

log = logging.getLogger(__name__)
IN_VALIDATION = {"unseen": "validation", "seen": "trained"}  # who asks there: never trained on, and trained on


class RetrievalEvaluation(Bounded, Callback):
    """Rank by Hamming distance at the end of validation and test.

    Codes are gathered by dataset index: repeated rows fall out, and a missing one is an error. Every device then ranks
    its share of the queries against the whole database, and the figures are the same on any number of devices, bit for
    bit.

    Logged in validation: `val/map` (validation classes against the validation database, expected over ties),
    `val/trained/map` (images of trained classes that were held out) and the rest under `val/…`. After a test, `codes`
    and `result` hold what was measured, and `before` the same of the codes before the first training step (`start/…`);
    after a prediction, `codes` alone. `validation` holds the last epoch's figures, all of them; None where a limit left
    nothing to rank.
    """

    def __init__(
        self,
        cutoffs: list[Rank] | None = None,
        precision_ks: list[Rank] | None = None,
        radius: Radius = 2,
        backend: BackendName = "auto",
        start: bool = True,
        ranking: Literal["hamming", "asymmetric"] = "hamming",
    ) -> None:
        """Build the callback.

        Args:
            cutoffs: ranks R of mAP@R; default 5000.
            precision_ks: ranks k of precision@k beside 1 and 10; default 100.
            radius: Hamming radius of precision within a ball.
            backend: how distances are counted: auto, numba, faiss, numpy or torch.
            start: keep the state before the first training step (`checkpoints/start.pt`), and encode the test images
                with it, too, so that the result says what training has brought.
            ranking: asymmetric: test also ranks by the queries' real-valued logits against stored bits, and reports it
                as `test/…/asymmetric/map`; codes.npz keeps the logits.
        """
        self.settings = Settings(tuple(cutoffs or (5000,)), tuple(precision_ks or (100,)), radius, backend)
        self.start, self.ranking = start, ranking
        self.codes: Codes | None = None
        self.before: Evaluation | None = None
        self.result: Evaluation | None = None
        self.validation: Evaluation | None = None
        self._rows: list[dict[str, Tensor]] = []
        self._rows_before: list[dict[str, Tensor]] = []
        self._state_before: StartState | None = None

    def _forget(self) -> None:
        self._rows, self._rows_before = [], []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state before the first step; a run that goes on has it already."""
        if self.start and trainer.ckpt_path is None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            StartState.save(trainer, cast("HashingMethod", pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for that state."""
        method = cast("HashingMethod", pl_module)
        found = StartState.load(trainer, method) if self.start and method.collection is None else None
        everywhere = trainer.strategy.reduce_boolean_decision(found is not None, all=True)
        self._state_before = found if everywhere else None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's codes."""
        self._forget()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier codes."""
        self._forget()

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier codes."""
        self._forget()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the codes of a batch."""
        self._rows.append(_packed(outputs))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the codes of a batch, and those that it had before training."""
        self._rows.append(_packed(outputs, ("logits",) if self.ranking == "asymmetric" else ()))
        if self._state_before is not None:
            self._rows_before.append(_packed(self._state_before.encode(trainer, batch, batch_idx)))

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Keep the codes of a batch."""
        self._rows.append(_packed(outputs))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank the validation classes; log the same value on all devices."""
        if trainer.sanity_checking:
            return
        split = trainer.datamodule.split  # type: ignore[attr-defined]
        limited = _is_limit(trainer.limit_val_batches) or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        codes = self._gather(trainer, pl_module, split.validation_query, split.validation_database, limited)
        self.validation = self._evaluate(codes, "val/", names=IN_VALIDATION) if codes is not None else None
        if self.validation is None:
            return
        figures = self.validation.metrics
        pl_module.log("val/map", figures["val/validation/map"], prog_bar=True)
        for name in ("map_worst", "map_best", "chance"):
            pl_module.log(f"val/{name}", figures[f"val/validation/{name}"])
        for name in ("zsl/map", "trained/map", "harmonic/map"):
            if f"val/{name}" in figures:
                pl_module.log(f"val/{name}", figures[f"val/{name}"])
        pl_module.log("val/bit_balance", figures["codes/bit_balance"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rank unseen and seen classes; keep codes and results for those who write and draw them."""
        split = trainer.datamodule.split  # type: ignore[attr-defined]
        limited = _is_limit(trainer.limit_test_batches) or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
        self.codes = self._gather(trainer, pl_module, split.query, split.database, limited)
        self.result = self._evaluate(self.codes, "test/") if self.codes is not None else None
        self.before = self._evaluate_before(self.codes) if self.codes is not None else None
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
        bits = int(pl_module.bits)  # type: ignore[arg-type]
        index, labels, packed = _gathered(self._rows, bits)
        logits = None
        if self.ranking == "asymmetric" and trainer.state.fn == TrainerFn.TESTING:
            logits = _gathered_logits(self._rows, bits)
        self._rows = []
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
        testing = query is split.query
        # What counts is what was trained on: a seen class without a training image was held out, too.
        held_out = tuple(sorted(set(split.seen_classes) - set(data.train_classes.tolist())))
        codes = Codes(
            query_codes=packed[at_query],
            database_codes=packed[at_database],
            query_labels=labels[at_query],
            database_labels=labels[at_database],
            bits=bits,
            query_index=index[at_query],
            database_index=index[at_database],
            unseen_classes=split.unseen_classes if testing else held_out,
            validation_classes=held_out if testing else None,
            class_names=tuple(data.class_names),
            fingerprint=split.fingerprint,
            protocol=split.protocol,
            query_logits=None if logits is None else logits[at_query],
        )
        if trainer.state.fn != TrainerFn.FITTING:  # while training, each epoch would say it
            for line in health_warnings(codes.database_codes, codes.bits):
                log.warning("codes: %s", line)
        return codes

    def _evaluate_before(self, codes: Codes) -> Evaluation | None:
        """Return the figures of the same queries and database by the codes that they had before training."""
        if self._state_before is None:
            return None
        assert codes.query_index is not None
        assert codes.database_index is not None
        index, _, packed = _gathered(self._rows_before, codes.bits)
        self._rows_before, self._state_before = [], None
        query, database = (packed[_positions(index, of)] for of in (codes.query_index, codes.database_index))
        before = replace(codes, query_codes=query, database_codes=database, query_logits=None)
        return self._evaluate(before, "start/", health=False)

    def _evaluate(self, codes: Codes, prefix: str, **more: Any) -> Evaluation:
        """Measure this device's share of the queries, exchange the shares, and summarise them in query order."""
        rank, size = world()
        tasks = retrieval_tasks(codes)
        mine = [measure(task, self.settings, np.arange(len(task))[rank::size]) for task in tasks]
        gathered = [mine]
        if size > 1:
            received: list[Any] = [None] * size
            dist.all_gather_object(received, mine)
            gathered = received
        return summarise(codes, [combine(parts) for parts in zip(*gathered, strict=True)], prefix, **more)


def _packed(outputs: dict[str, Tensor], more: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return index, label and packed code of a batch, and more of its outputs."""
    packed = torch.from_numpy(pack(outputs["code"].cpu().numpy()))
    return {name: outputs[name].cpu() for name in ("index", "label", *more)} | {"packed": packed}


def _gathered(rows: list[dict[str, Tensor]], bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the indices of all ranks' rows, sorted, each once, with their labels and packed codes."""
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = {"index": nothing, "label": nothing, "packed": torch.zeros((0, -(-bits // 8)), dtype=torch.uint8)}
    index, label, packed = (torch.cat([empty[name], *(row[name] for row in rows)]) for name in empty)
    return gather_by_index(index, label) + gather_by_index(index, packed)[1:]


def _gathered_logits(rows: list[dict[str, Tensor]], bits: int) -> np.ndarray:
    """Return the logits (n, L) of all ranks' rows in the order of `_gathered`."""
    index = torch.cat([torch.zeros(0, dtype=torch.int64), *(row["index"] for row in rows)])
    logits = torch.cat([torch.zeros(0, bits), *(row["logits"].float() for row in rows)])
    return gather_by_index(index, logits)[1]


def _is_limit(batches: int | float) -> bool:
    """Tell whether a limit leaves batches out; to Lightning 1 is one batch and 1.0 all of them."""
    return isinstance(batches, int) or batches < 1.0


def _positions(index: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where each wanted index stands in the sorted index; -1 where it does not."""
    if not len(index):
        return np.full(len(wanted), -1)
    at = np.searchsorted(index, wanted).clip(max=len(index) - 1)
    return np.where(index[at] == wanted, at, -1)
