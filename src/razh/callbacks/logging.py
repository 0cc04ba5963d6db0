"""What a run measured and drew, handed to its loggers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib import image as pictures

import razh
from razh.callbacks.checkpoint import BestCheckpoint
from razh.callbacks.result import RunResult, Selection
from razh.callbacks.shown import main_task
from razh.run.folder import FIGURES
from razh.run.loggers import RunLogger
from razh.support import environment

COLUMNS: list[str | int] = ["class", "queries", "map", "chance"]
RESULT_FILES = ("codes.npz", "metrics.json", "config.yaml", "split.json")


class LogResult(Callback):
    """Give the loggers the configuration at the start, and the result at the end.

    Every logger gets the configuration, the split's fingerprint and the versions of code and packages as plain values,
    and every number of `metrics.json`. W&B and TensorBoard also get the figures and a table of each unseen class's
    mean AP. W&B online gets the checkpoint, the codes and the code as artifacts.

    The monitored value (`val/map`) stands in W&B's summary as that of the chosen epoch, not of the last: it is what a
    sweep compares. The first rank does all this; as a writer it comes after those of files and figures.
    """

    def __init__(self, config: dict[str, Any], checkpoint: BestCheckpoint) -> None:
        """Take the run's configuration as plain values, and what chooses the epoch."""
        self.config, self._checkpoint = config, checkpoint
        self._loggers: list[Logger] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the configuration, once."""
        if self._loggers or not trainer.is_global_zero:
            return
        self._loggers = trainer.loggers
        split = trainer.datamodule.split  # type: ignore[attr-defined]
        facts = {
            **self.config,
            "split": {"fingerprint": split.fingerprint, "protocol": split.protocol, **split.counts()},
        }
        for name, value in environment.facts().items():
            group, _, key = name.partition("/")
            if group in ("environment", "git"):
                facts.setdefault(group, {})[key] = value
        for logger in self._loggers:
            logger.log_hyperparams(facts)
        code = str(Path(razh.__file__).parent)
        for logger in self._of_wandb():
            if logger.online:
                logger.attempt(lambda logger=logger: logger.experiment.log_code(root=code))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let W&B's summary show the chosen epoch."""
        self._summarise(self._checkpoint.selection())

    def write(self, result: RunResult) -> None:
        """Log metrics, figures, the table of classes, and artifacts."""
        numbers, table = _numbers(result), _class_table(result)
        for logger in self._loggers:
            logger.log_metrics(numbers, step=result.step)
            if isinstance(logger, RunLogger):
                _to_wandb(logger, result, table)
            elif isinstance(logger, TensorBoardLogger):
                _to_tensorboard(logger, result, table)
        self._summarise(result.selection)

    def _summarise(self, chosen: Selection) -> None:
        if chosen.monitor is None or chosen.score is None:
            return
        for logger in self._of_wandb():
            logger.attempt(lambda logger=logger: logger.experiment.summary.update({chosen.monitor: chosen.score}))

    def _of_wandb(self) -> list[RunLogger]:
        return [logger for logger in self._loggers if isinstance(logger, RunLogger)]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say in W&B that the run failed."""
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.finish(exit_code=1)

    def finish(self) -> None:
        """End the run in W&B; the command has come to its end."""
        for logger in self._of_wandb():
            logger.finish()


def _numbers(result: RunResult) -> dict[str, float]:
    """Return the numbers that were not logged yet; what is not finite is left out, loggers stumble over it."""
    if result.evaluation is None:
        return {}
    logged = {*result.evaluation.metrics, *result.measures}
    number = {k: v for k, v in (result.metrics | dict(result.facts)).items() if k not in logged}
    return {
        k: v for k, v in number.items() if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
    }


def _class_table(result: RunResult) -> list[list[Any]]:
    """Return rows of `COLUMNS`, one for each class that was asked for."""
    task = main_task(result.evaluation) if result.evaluation is not None else None
    if task is None or result.codes is None or result.codes.multi_label:
        return []
    names = result.codes.class_names
    rows: list[list[Any]] = []
    for label, value in sorted(task.class_map.items()):
        own = task.labels == label
        name = names[label] if label < len(names) else str(label)
        rows.append([name, int(own.sum()), float(value), float(task.values["chance"][own].mean())])
    return rows


def _to_wandb(logger: RunLogger, result: RunResult, table: list[list[Any]]) -> None:
    import wandb

    run: Any = logger.experiment
    media: dict[str, Any] = {f"{FIGURES}/{path.stem}": path for path in sorted(result.figures)}
    steps: list[Callable[[], Any]] = []
    if media:
        steps.append(lambda: run.log({name: wandb.Image(str(path)) for name, path in media.items()}))
    if table:
        steps.append(lambda: run.log({"test/classes": wandb.Table(columns=COLUMNS, data=table)}))
    if logger.online:
        steps.append(lambda: _artifacts(run, result))
    for step in steps:
        logger.attempt(step)


def _artifacts(run: Any, result: RunResult) -> None:
    """Upload the chosen checkpoint, and the codes with what they came from."""
    import wandb

    if result.selection.path is not None:
        model = wandb.Artifact(f"model-{run.id}", type="model")
        model.add_file(str(result.selection.path))
        run.log_artifact(model, aliases=["latest", "best"])
    there = [path for name in RESULT_FILES if (path := result.folder / name).is_file()]
    if there:
        codes = wandb.Artifact(f"codes-{run.id}", type="codes")
        for path in there:
            codes.add_file(str(path))
        run.log_artifact(codes)


def _to_tensorboard(logger: TensorBoardLogger, result: RunResult, table: list[list[Any]]) -> None:
    writer, step = logger.experiment, result.step
    for path in sorted(result.figures):
        writer.add_image(f"{FIGURES}/{path.stem}", pictures.imread(path)[..., :3], step, dataformats="HWC")
    if table:
        lines = [f"| {' | '.join(map(str, COLUMNS))} |", "|---" * len(COLUMNS) + "|"]
        lines += [f"| {name} | {queries} | {value:.4f} | {chance:.4f} |" for name, queries, value, chance in table]
        writer.add_text("test/classes", "\n".join(lines), step)
    writer.flush()
