"""What a run leaves behind: configuration, split, metrics, codes, and who may write where."""

import csv
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from rich.console import Console

from razh import __version__
from razh.callbacks.cache import FeatureCache
from razh.callbacks.retrieval import RetrievalEvaluation
from razh.checkpoint import SCHEMA
from razh.cli import plain
from razh.retrieval.report import table

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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the folder, then save the configuration and the split."""
        self.folder = Path(trainer.default_root_dir)
        problem = self._claim() if trainer.is_global_zero else None
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise OSError(problem)
        super().setup(trainer, pl_module, stage)
        self._stage_begun = time.perf_counter()

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
            return f"another run works in run_dir={self.folder}; wait for it, or pass another RUN_DIR"
        except OSError as error:
            return f"cannot write to run_dir={self.folder}: {error.strerror or error}; pass another RUN_DIR"
        return None

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the configuration, complete, and the split (first rank only)."""
        config = self.config.clone()
        config.run_dir, config.trainer.default_root_dir, config.checkpoint.dirpath = None, None, None
        config.search = None  # a space to choose from; what was chosen stands in the rest
        if "ckpt_path" in config and stage == "fit":
            config.ckpt_path = None
        write(self.folder / "config.yaml", self.parser.dump(config, skip_none=False))
        split = getattr(trainer.datamodule, "split", None)  # type: ignore[attr-defined]
        if split is not None:
            write(self.folder / "split.json", json.dumps(split.as_dict(), indent=1))
            log.info(
                "split %s (%s…): %s", split.protocol, split.fingerprint[:12],
                ", ".join(f"{name} {count:,}" for name, count in split.counts().items()),
            )  # fmt: skip

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the rows of epochs that are about to be run again (a resumed run knows its epoch from here on)."""
        if trainer.is_global_zero:
            kept = [row for row in read_rows(self.folder / "metrics.csv") if int(row["epoch"]) < trainer.current_epoch]
            _write_rows(self.folder / "metrics.csv", kept)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a row to `metrics.csv`: everything that was logged in this epoch."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **values}
        _write_rows(self.folder / "metrics.csv", [*read_rows(self.folder / "metrics.csv"), row])

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the time."""
        self._take_time("fit", trainer)

    def _take_time(self, stage: str, trainer: Trainer) -> None:
        """Note how long a stage took since `setup`; the cache is filled before that, in its own callback's `setup`."""
        cache = _callback(trainer, FeatureCache)
        self.seconds[stage] = time.perf_counter() - self._stage_begun
        self.seconds["cache"] = cache.seconds if cache is not None else 0.0

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write codes and metrics, and show the table."""
        evaluation = _callback(trainer, RetrievalEvaluation)
        self._take_time("test", trainer)
        if evaluation is None or evaluation.result is None or not trainer.is_global_zero:
            return
        assert evaluation.codes is not None
        evaluation.codes.save(self.folder / "codes.npz")
        metrics = evaluation.result.metrics | {
            "time/cache_seconds": round(self.seconds.get("cache", 0.0), 3),
            "time/fit_seconds": round(self.seconds.get("fit", 0.0), 3),
            "time/test_seconds": round(self.seconds.get("test", 0.0), 3),
            "time/total_seconds": round(time.perf_counter() - self._begun, 3),
        }
        split = getattr(trainer.datamodule, "split", None)  # type: ignore[attr-defined]
        facts = {
            "split/fingerprint": getattr(split, "fingerprint", None),
            "split/protocol": getattr(split, "protocol", None),
            "environment/razh": __version__,
            "environment/torch": torch.__version__,
            "environment/python": platform.python_version(),
            "environment/device": str(pl_module.device),
        }
        write(self.folder / "metrics.json", json.dumps(metrics | facts, indent=1))
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
        }

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the folder back after the last stage."""
        if stage != "fit":
            self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the folder back, so that the run can go on."""
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


HEADLINES = ("unseen/map", "unseen/map@", "unseen/precision@", "zsl/map", "seen/map", "harmonic/map", "unseen/chance")
HEALTH = ("codes/bit_balance", "codes/unique_fraction", "codes/effective_bits")


def shown(key: str) -> bool:
    """Tell whether a metric is shown after a run; all of them are in metrics.json."""
    name = key.removeprefix("test/")
    if key.startswith("time/"):
        return True
    return key in HEALTH or "/chance" in key or (name.startswith(HEADLINES) and not name.endswith("/all"))


def _callback(trainer: Trainer, kind: type[Any]) -> Any:
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def write(path: Path, text: str) -> None:
    """Write a text file so that it is either the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file; none if it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or ["epoch", "step"])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
