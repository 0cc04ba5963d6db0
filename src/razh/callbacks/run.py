"""What a run leaves behind: configuration, split, metrics, codes, and who may write where."""

import contextlib
import csv
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from razh import __version__, environment
from razh.callbacks.cache import FeatureCache
from razh.callbacks.measures import PartMeasures
from razh.callbacks.retrieval import RetrievalEvaluation
from razh.checkpoint import NO_PROGRESS, SCHEMA
from razh.cli import plain
from razh.files import replacing, write_text
from razh.retrieval.report import table
from razh.run_folder import STATUS, busy

log = logging.getLogger(__name__)


class RunRecord(SaveConfigCallback):
    """Write `config.yaml`, `split.json`, `metrics.csv`, `metrics.json` and `codes.npz`, and show the result.

    The folder is locked while a run works in it: a second run in the same folder is refused. Only the first rank
    writes. Files appear whole: they are written beside their place and moved into it.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, **kwargs: Any) -> None:
        """Take the parser and the merged configuration from LightningCLI."""
        super().__init__(parser, config, save_to_log_dir=False, **kwargs)
        self.seconds: dict[str, float] = {}
        self._begun = self._stage_begun = time.perf_counter()
        self._lock: FileLock | None = None
        self._batch_begun = self._begun
        self._validated = -1
        self._progress: dict[str, Any] = dict(NO_PROGRESS)

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
        for part in self.folder.rglob(".*.part"):
            part.unlink(missing_ok=True)  # of a run that was killed
        return None

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the configuration, complete, and the split (first rank only)."""
        write_text(self.folder / "config.yaml", saved_config(self.parser, self.config, fitting=stage == "fit"))
        split = getattr(trainer.datamodule, "split", None)  # type: ignore[attr-defined]
        if split is not None:
            write_text(self.folder / "split.json", json.dumps(split.as_dict(), indent=1))
            log.info(
                "split %s (%s…): %s", split.protocol, split.fingerprint[:12],
                ", ".join(f"{name} {count:,}" for name, count in split.counts().items()),
            )  # fmt: skip

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the rows of epochs that are about to be run again (a resumed run knows its epoch from here on)."""
        if trainer.is_global_zero:
            self._batch_begun = time.perf_counter()
            kept = [row for row in read_rows(self.folder / "metrics.csv") if int(row["epoch"]) < trainer.current_epoch]
            _write_rows(self.folder / "metrics.csv", kept)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row to `metrics.csv`: everything that was logged in this epoch."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        validated = self._validated == trainer.current_epoch  # else the figures are those of an epoch before
        values = {
            name: float(value)
            for name, value in sorted(trainer.callback_metrics.items())
            if validated or not name.startswith("val/")
        }
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}
        _write_rows(self.folder / "metrics.csv", [*read_rows(self.folder / "metrics.csv"), row])

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
        """Start the clock of training again; `razh validate` writes its figures and shows them."""
        self._batch_begun = time.perf_counter()
        if not trainer.sanity_checking:
            self._validated = trainer.current_epoch
        evaluation = _callback(trainer, RetrievalEvaluation)
        if trainer.state.fn != TrainerFn.VALIDATING or not trainer.is_global_zero:
            return
        self._take_time("validate", trainer)
        if evaluation is not None and evaluation.validation is not None:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self._report(trainer, pl_module, logged | evaluation.validation.metrics, "validate")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the codes, and say where."""
        evaluation = _callback(trainer, RetrievalEvaluation)
        if evaluation is None or evaluation.codes is None or not trainer.is_global_zero:
            return
        codes, target = evaluation.codes, self.folder / "codes.npz"
        codes.save(target)
        out = Console(soft_wrap=True, highlight=False)
        sizes = f"{len(codes.query_codes):,} queries and {len(codes.database_codes):,} database items"
        out.print(f"codes of {sizes}, {codes.bits} bits: {target}", markup=False)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count on where the run that goes on had come to."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._progress = dict(checkpoint["razh"]["progress"])
            self._progress["resumed"] += 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._take_time("fit", trainer)

    def _take_time(self, stage: str, trainer: Trainer) -> None:
        """Note how long a stage took since `setup`; the cache is filled before that, in its own callback's `setup`."""
        cache = _callback(trainer, FeatureCache)
        self.seconds[stage] = self._fit_seconds() if stage == "fit" else time.perf_counter() - self._stage_begun
        self.seconds["cache"] = cache.seconds if cache is not None else 0.0

    def _fit_seconds(self) -> float:
        """Return how long training took, all parts of a run that was interrupted together."""
        return float(self._progress["fit_seconds"]) + time.perf_counter() - self._stage_begun

    def _images_per_second(self) -> float | None:
        seconds = self._progress["train_seconds"]
        return round(self._progress["images"] / seconds, 1) if seconds else None

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write codes and metrics, and show the table."""
        evaluation = _callback(trainer, RetrievalEvaluation)
        self._take_time("test", trainer)
        if evaluation is None or evaluation.result is None or not trainer.is_global_zero:
            return
        assert evaluation.codes is not None
        evaluation.codes.save(self.folder / "codes.npz")
        measures = _callback(trainer, PartMeasures)
        found = evaluation.result.metrics | (measures.metrics if measures is not None else {})
        self._report(trainer, pl_module, found, "fit", "test")

    def _report(self, trainer: Trainer, pl_module: LightningModule, found: dict[str, float], *stages: str) -> None:
        """Write `metrics.json`: figures, times of the stages, split and environment; show the table."""
        times = {f"time/{stage}_seconds": self.seconds.get(stage, 0.0) for stage in ("cache", *stages)}
        times["time/total_seconds"] = time.perf_counter() - self._begun
        metrics = found | {name: round(seconds, 3) for name, seconds in times.items()}
        split = getattr(trainer.datamodule, "split", None)  # type: ignore[attr-defined]
        facts = {
            "split/fingerprint": getattr(split, "fingerprint", None),
            "split/protocol": getattr(split, "protocol", None),
            "environment/device": str(pl_module.device),
            "environment/devices": trainer.num_devices,
            "environment/nodes": trainer.num_nodes,
            "environment/precision": str(trainer.precision),
            "throughput/train_images": self._progress["images"],
            "throughput/train_images_per_second": self._images_per_second(),
            "run/resumed": self._progress["resumed"],
        }
        facts |= environment.facts()
        write_text(self.folder / "metrics.json", json.dumps(metrics | facts, indent=1))
        name = f"{self.config.get('dataset')} · {self.config.get('method')} · {pl_module.bits} bits"
        Console().print(table({key: value for key, value in metrics.items() if shown(key)}, name))
        Console(soft_wrap=True, highlight=False).print(f"run folder: {self.folder}", markup=False)

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
            "split_fingerprint": str(data.split.fingerprint),
            "split_protocol": str(data.split.protocol),
            "progress": self._progress | {"fit_seconds": self._fit_seconds()},
        }

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


HEADLINES = ("unseen/map", "unseen/map@", "unseen/precision@", "zsl/map", "seen/map", "harmonic/map", "unseen/chance")
HEALTH = ("codes/bit_balance", "codes/unique_fraction", "codes/effective_bits")
PARTS = (
    "parts/nmi", "parts/ari", "parts/iou", "parts/background_share", "parts/flip_consistency_foreground",
    "attributes/part_accuracy", "attributes/part_accuracy_shuffled", "attributes/exact_accuracy",
    "attributes/exact_accuracy_shuffled", "attributes/auc", "attributes/auc_hash", "attributes/auc_codes",
    "attributes/zero_shot/naming", "attributes/zero_shot/hash",
)  # fmt: skip


def shown(key: str) -> bool:
    """Tell whether a metric is shown after a run; all of them are in metrics.json."""
    name = key.removeprefix("test/").removeprefix("val/")
    if key.startswith("time/"):
        return True
    return key in (*HEALTH, *PARTS) or "/chance" in key or (name.startswith(HEADLINES) and not name.endswith("/all"))


def _callback(trainer: Trainer, kind: type[Any]) -> Any:
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def saved_config(parser: LightningArgumentParser, config: Any, *, fitting: bool) -> str:
    """Return a configuration as it is saved: what a run depends on, without where it works."""
    config = config.clone()
    config.run_dir, config.trainer.default_root_dir, config.checkpoint.dirpath = None, None, None
    config.search = None  # a space to choose from; what was chosen stands in the rest
    config.logger = None  # where a run was reported says nothing about it
    if "ckpt_path" in config and fitting:
        config.ckpt_path = None
    text: str = parser.dump(config, skip_none=False)
    return text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file; none if it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or ["epoch", "step"])
        writer.writeheader()
        writer.writerows(rows)
