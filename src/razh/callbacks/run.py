"""What a run leaves behind: configuration, split, metrics, codes, and who may write where."""

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from razh import __version__
from razh.callbacks.cache import FeatureCache
from razh.callbacks.checkpoint import BestCheckpoint
from razh.callbacks.measures import PartMeasures
from razh.callbacks.result import RunResult, Stage, Writer
from razh.callbacks.retrieval import RetrievalEvaluation
from razh.datamodules.base import ZeroShotDataModule
from razh.method import HashingMethod
from razh.run.checkpoint import NO_PROGRESS, SCHEMA
from razh.run.config import plain, saved_config
from razh.run.folder import STATUS, SUBFOLDERS, busy
from razh.run.history import History
from razh.run.refit import Choice
from razh.support import environment
from razh.support.files import remove_leftovers, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParts:
    """What a result is made from, and who gets it.

    Attributes:
        cache: knows how long it took to fill.
        evaluation: has codes and figures at the end of a stage.
        checkpoint: knows which epoch was chosen.
        measures: measures parts and attributes at the end of a test.
        writers: by stage, in the order in which they get the result.
        choice: of the selection that the run is a refit after; None for a usual run.
    """

    cache: FeatureCache
    evaluation: RetrievalEvaluation
    checkpoint: BestCheckpoint
    measures: PartMeasures
    writers: Mapping[Stage, Sequence[Writer]]
    choice: Choice | None = None


class RunRecord(SaveConfigCallback):
    """Write `config.yaml`, `split.json` and `metrics.csv`; at the end of a stage, make its result and hand it on.

    The folder is locked while a run works in it: a second run in the same folder is refused. Only the first rank
    writes. Files appear whole: they are written beside their place and moved into it.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, parts: RunParts) -> None:
        """Take the parser and the merged configuration from LightningCLI, and what the run is made of."""
        super().__init__(parser, config, save_to_log_dir=False)
        self._parts = parts
        self._measured: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._begun = self._stage_begun = time.perf_counter()
        self._lock: FileLock | None = None
        self._batch_begun = self._begun
        self._validated = -1
        self._progress: dict[str, Any] = dict(NO_PROGRESS)
        self._chosen = {} if parts.choice is None else asdict(parts.choice)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the folder, then save the configuration and the split."""
        self.folder = Path(trainer.default_root_dir)
        problem = self._claim() if trainer.is_global_zero else None
        problem = trainer.strategy.broadcast(problem) or self._same_on_all_ranks(trainer)
        if problem is not None:
            raise OSError(problem)
        if trainer.is_global_zero:
            self._write_status("running")
        super().setup(trainer, pl_module, stage)
        self._stage_begun = time.perf_counter()

    @cached_property
    def _history(self) -> History:
        """Rows of the epochs; those of an earlier process are read before the first is written."""
        return History(self.folder / "metrics.csv")

    def _same_on_all_ranks(self, trainer: Trainer) -> str | None:
        """Return what is wrong if ranks see different folders: some would go on with a run, others start one."""
        mine = (str(self.folder), str(self.config.get("ckpt_path")))
        same = mine == trainer.strategy.broadcast(mine)
        if trainer.strategy.reduce_boolean_decision(same, all=True):
            return None
        return f"run_dir={self.folder} does not look the same on all nodes; put it on a disk that they share"

    def _write_status(self, state: str, reason: str = "") -> None:
        """Say in the folder whether the run has come to its end; a run that has not goes on."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        fields = {"state": state, "reason": reason, "time": stamp, "host": platform.node(), "process": os.getpid()}
        write_text(self.folder / STATUS, json.dumps(fields, indent=1))

    def finish(self) -> None:
        """Note that the command has come to its end, and give the folder back."""
        if self._lock is not None:
            self._write_status("finished")
            self._release()

    def _claim(self) -> str | None:
        """Lock the folder; return what is wrong if that cannot be done."""
        if self._lock is not None:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            self._lock = None
            return busy(self.folder)
        except OSError as error:
            return f"cannot write to run_dir={self.folder}: {error.strerror or error}; pass another RUN_DIR"
        for folder in (self.folder, *(self.folder / name for name in SUBFOLDERS)):
            remove_leftovers(folder)  # of a run that was killed
        return None

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the configuration, complete, and the split (first rank only)."""
        write_text(self.folder / "config.yaml", saved_config(self.parser, self.config, fitting=stage == "fit"))
        split = trainer.datamodule.split  # type: ignore[attr-defined]
        write_text(self.folder / "split.json", json.dumps(split.as_dict(), indent=1))
        log.info(
            "split %s (%s…): %s", split.protocol, split.fingerprint[:12],
            ", ".join(f"{name} {count:,}" for name, count in split.counts().items()),
        )  # fmt: skip

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the rows of epochs that are about to be run again (a resumed run knows its epoch from here on)."""
        if trainer.is_global_zero:
            self._batch_begun = time.perf_counter()
            self._history.keep(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row to `metrics.csv`: everything that was logged in this epoch."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        validated = self._validated == trainer.current_epoch  # else the figures are those of an epoch before
        values = {
            name: value for name, value in sorted(_logged(trainer).items()) if validated or not name.startswith("val/")
        }
        self._history.add({"epoch": trainer.current_epoch, "step": trainer.global_step, **values})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of training."""
        self._batch_begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all devices, and the time that they took: loading included, validation not."""
        now = time.perf_counter()
        self._progress["images"] += len(batch["index"]) * trainer.world_size
        self._progress["train_seconds"] += now - self._batch_begun
        self._batch_begun = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of training again; `razh validate` has its result here."""
        self._batch_begun = time.perf_counter()
        if not trainer.sanity_checking:
            self._validated = trainer.current_epoch
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._finish_stage("validate", trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure parts and attributes, once there are codes."""
        self._measured = self._parts.measures.measure(
            trainer, cast("HashingMethod", pl_module), self._parts.evaluation.codes
        )

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the result of a test written and shown."""
        self._finish_stage("test", trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the codes written."""
        self._finish_stage("predict", trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count on where the run that goes on had come to; a test says what its checkpoint was chosen by."""
        self._chosen = checkpoint.get("razh", {}).get("refit", {})
        if trainer.state.fn == TrainerFn.FITTING:
            self._progress = dict(checkpoint["razh"]["progress"])
            self._progress["resumed"] += 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self.seconds["fit"] = self._fit_seconds()

    def _fit_seconds(self) -> float:
        """Return how long training took, all parts of a run that was interrupted together."""
        return float(self._progress["fit_seconds"]) + time.perf_counter() - self._stage_begun

    def _images_per_second(self) -> float | None:
        seconds = self._progress["train_seconds"]
        return round(self._progress["images"] / seconds, 1) if seconds else None

    def _finish_stage(self, stage: Stage, trainer: Trainer) -> None:
        """Make the result of a stage, and hand it to the stage's writers (first rank only)."""
        # The cache is filled in its own callback's `setup`, before the clock of the stage starts.
        self.seconds[stage] = time.perf_counter() - self._stage_begun
        if not trainer.is_global_zero:
            return
        result = self._result(stage, trainer)
        for writer in self._parts.writers[stage]:
            writer.write(result)

    def _result(self, stage: Stage, trainer: Trainer) -> RunResult:
        evaluation, method = self._parts.evaluation, cast("HashingMethod", trainer.lightning_module)
        data: ZeroShotDataModule = trainer.datamodule  # type: ignore[attr-defined]
        stages = {"test": ("fit", "test"), "validate": ("validate",), "predict": ("predict",)}[stage]
        return RunResult(
            stage=stage,
            folder=self.folder,
            title=f"{self.config.get('dataset')} · {self.config.get('method')} · {method.bits} bits",
            method=method,
            data=data,
            settings=evaluation.settings,
            codes=evaluation.codes,
            evaluation={"test": evaluation.result, "validate": evaluation.validation, "predict": None}[stage],
            start=evaluation.before,
            measures=self._measured,
            class_logits=self._parts.measures.class_logits,
            logged=_logged(trainer) if stage == "validate" else {},
            seconds={
                "cache": self._parts.cache.seconds,
                **{name: self.seconds.get(name, 0.0) for name in stages},
                "total": time.perf_counter() - self._begun,
            },
            facts=self._facts(trainer, method, data),
            epochs=self._history.rows,
            selection=self._parts.checkpoint.selection(),
            step=trainer.global_step,
        )

    def _facts(self, trainer: Trainer, method: HashingMethod, data: ZeroShotDataModule) -> dict[str, Any]:
        return {
            "split/fingerprint": data.split.fingerprint,
            "split/protocol": data.split.protocol,
            "split/setting": data.split.setting,
            "split/refit": data.split.refit,
            **{f"refit/{name}": value for name, value in self._chosen.items()},
            "collection/adapted": method.collection is not None,
            "collection/fitted": method.of_collection and len(data.split.unlabelled) > 0,
            "model/parameters": sum(p.numel() for p in method.parameters()),
            "model/trained_parameters": sum(p.numel() for p in method.parameters() if p.requires_grad),
            "environment/device": str(method.device),
            "environment/devices": trainer.num_devices,
            "environment/nodes": trainer.num_nodes,
            "environment/precision": str(trainer.precision),
            "throughput/train_images": self._progress["images"],
            "throughput/train_images_per_second": self._images_per_second(),
            "run/resumed": self._progress["resumed"],
            **environment.facts(),
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put into a checkpoint what is needed to build the model again: plain values only."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["razh"] = {
            "schema": SCHEMA,
            "version": __version__,
            "model": plain(self.config.model),
            "dataset": self.config.get("dataset"),
            "image_size": int(data.image_size),
            "class_names": [str(name) for name in data.class_names],
            "attribute_names": [str(name) for name in data.attribute_names],
            "part_synonyms": dict(data.part_synonyms),
            "split_fingerprint": str(data.split.fingerprint),
            "split_protocol": str(data.split.protocol),
            "progress": self._progress | {"fit_seconds": self._fit_seconds()},
        }
        if self._chosen:
            checkpoint["razh"]["refit"] = self._chosen

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note the end after the last stage; `fit` may be followed by `test`, so its own end comes from outside."""
        if stage != "fit":
            self.finish()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the folder back, so that the run can go on."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # a full disk must not hide what stopped the run
                self._write_status("stopped", str(exception) or type(exception).__name__)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _logged(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}
