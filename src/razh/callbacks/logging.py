"""What a run measured and drew, handed to its loggers."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import image as pictures

import razh
from razh import environment
from razh.callbacks.figures import FOLDER
from razh.callbacks.measures import PartMeasures
from razh.callbacks.retrieval import RetrievalEvaluation
from razh.figures.collect import main_task
from razh.loggers import RunLogger

log = logging.getLogger(__name__)
COLUMNS: list[str | int] = ["class", "queries", "map", "chance"]
RESULT_FILES = ("codes.npz", "metrics.json", "config.yaml", "split.json")


class LogResult(Callback):
    """Give the loggers the configuration at the start, and the result at the end.

    Every logger gets the configuration, the split's fingerprint and the versions of code and packages as plain values,
    and every number of `metrics.json`. W&B and TensorBoard also get the figures and a table of each unseen class's
    mean AP. W&B online gets the checkpoint, the codes and the code as artifacts.

    The monitored value (`val/map`) stands in W&B's summary as that of the chosen epoch, not of the last: it is what a
    sweep compares. The first rank does all this, after `RunRecord` and `Figures`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the run's configuration as plain values."""
        self.config = config
        self._told = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the configuration, once."""
        if self._told or not trainer.is_global_zero:
            return
        self._told = True
        split = getattr(trainer.datamodule, "split", None)  # type: ignore[attr-defined]
        facts = dict(self.config)
        if split is not None:
            facts["split"] = {"fingerprint": split.fingerprint, "protocol": split.protocol, **split.counts()}
        for name, value in environment.facts().items():
            group, _, key = name.partition("/")
            if group in ("environment", "git"):
                facts.setdefault(group, {})[key] = value
        for logger in trainer.loggers:
            logger.log_hyperparams(facts)
        code = str(Path(razh.__file__).parent)
        for logger in _of(trainer, RunLogger):
            if logger.online:
                logger.attempt(lambda logger=logger: logger.experiment.log_code(root=code))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let W&B's summary show the chosen epoch."""
        self._summarise(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log metrics, figures, the table of classes, and artifacts."""
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        logged = _logged(trainer)
        numbers = {k: v for k, v in _numbers(folder / "metrics.json").items() if k not in logged}
        table = _class_table(trainer)
        figures = sorted((folder / FOLDER).glob("*.png"))
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)
            if isinstance(logger, RunLogger):
                _to_wandb(logger, trainer, figures, table)
            elif isinstance(logger, TensorBoardLogger):
                _to_tensorboard(logger, trainer.global_step, figures, table)
        self._summarise(trainer)

    def _summarise(self, trainer: Trainer) -> None:
        checkpoint = trainer.checkpoint_callback
        monitor, best = getattr(checkpoint, "monitor", None), getattr(checkpoint, "best_model_score", None)
        if monitor is None or best is None or not trainer.is_global_zero:
            return
        for logger in _of(trainer, RunLogger):
            logger.attempt(lambda logger=logger: logger.experiment.summary.update({monitor: float(best)}))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say in W&B that the run failed."""
        for logger in _of(trainer, RunLogger):
            logger.finish(exit_code=1)

    def finish(self, trainer: Trainer) -> None:
        """End the run in W&B; the command has come to its end."""
        for logger in _of(trainer, RunLogger):
            logger.finish()


def _of(trainer: Trainer, kind: type[Any]) -> list[Any]:
    return [logger for logger in trainer.loggers if isinstance(logger, kind)]


def _numbers(path: Path) -> dict[str, float]:
    """Return the numbers of a metrics file; what is not finite is left out, loggers stumble over it."""
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    number = {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: v for k, v in number.items() if math.isfinite(v)}


def _logged(trainer: Trainer) -> set[str]:
    """Return the names that other callbacks have logged when the test's last batch was done."""
    evaluation, measures = _callback(trainer, RetrievalEvaluation), _callback(trainer, PartMeasures)
    names = set(evaluation.result.metrics) if evaluation is not None and evaluation.result is not None else set()
    return names | set(measures.metrics if measures is not None else {})


def _callback(trainer: Trainer, kind: type[Any]) -> Any:
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def _class_table(trainer: Trainer) -> list[list[Any]]:
    """Return rows of `COLUMNS`, one for each class that was asked for."""
    evaluation = _callback(trainer, RetrievalEvaluation)
    if evaluation is None or evaluation.result is None or evaluation.codes is None or evaluation.codes.multi_label:
        return []
    task, names = main_task(evaluation.result), evaluation.codes.class_names
    rows: list[list[Any]] = []
    for label, value in sorted(task.class_map.items()) if task is not None else []:
        assert task is not None
        own = task.labels == label
        name = names[label] if label < len(names) else str(label)
        rows.append([name, int(own.sum()), float(value), float(task.values["chance"][own].mean())])
    return rows


def _to_wandb(logger: RunLogger, trainer: Trainer, figures: list[Path], table: list[list[Any]]) -> None:
    import wandb

    run: Any = logger.experiment
    media: dict[str, Any] = {f"{FOLDER}/{path.stem}": path for path in figures}
    steps: list[Callable[[], Any]] = []
    if media:
        steps.append(lambda: run.log({name: wandb.Image(str(path)) for name, path in media.items()}))
    if table:
        steps.append(lambda: run.log({"test/classes": wandb.Table(columns=COLUMNS, data=table)}))
    if logger.online:
        steps.append(lambda: _artifacts(run, trainer))
    for step in steps:
        logger.attempt(step)


def _artifacts(run: Any, trainer: Trainer) -> None:
    """Upload the chosen checkpoint, and the codes with what they came from."""
    import wandb

    folder = Path(trainer.default_root_dir)
    best = str(getattr(trainer.checkpoint_callback, "best_model_path", "") or "")
    if best and Path(best).is_file():
        model = wandb.Artifact(f"model-{run.id}", type="model")
        model.add_file(best)
        run.log_artifact(model, aliases=["latest", "best"])
    there = [folder / name for name in RESULT_FILES if (folder / name).is_file()]
    if there:
        codes = wandb.Artifact(f"codes-{run.id}", type="codes")
        for path in there:
            codes.add_file(str(path))
        run.log_artifact(codes)


def _to_tensorboard(logger: TensorBoardLogger, step: int, figures: list[Path], table: list[list[Any]]) -> None:
    writer: Any = logger.experiment
    for path in figures:
        writer.add_image(f"{FOLDER}/{path.stem}", pictures.imread(path)[..., :3], step, dataformats="HWC")
    if table:
        lines = [f"| {' | '.join(map(str, COLUMNS))} |", "|---" * len(COLUMNS) + "|"]
        lines += [f"| {name} | {queries} | {value:.4f} | {chance:.4f} |" for name, queries, value, chance in table]
        writer.add_text("test/classes", "\n".join(lines), step)
    writer.flush()
