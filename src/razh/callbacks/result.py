"""What a test, a validation or a prediction has come to, and who is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor

from razh.datamodules.base import ZeroShotDataModule
from razh.method import HashingMethod
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Evaluation, Settings

__all__ = ["RunResult", "Selection", "Stage", "Writer"]

Stage: TypeAlias = Literal["test", "validate", "predict"]


@dataclass(frozen=True)
class Selection:
    """How the checkpoint was chosen.

    Attributes:
        monitor: name of the value to select by; None for the last epoch.
        mode: `max` or `min`.
        score: the best value; None where nothing was chosen by it.
        path: of the best checkpoint; None where there is none.
    """

    monitor: str | None = None
    mode: str = "max"
    score: float | None = None
    path: Path | None = None


@dataclass(frozen=True, eq=False)
class RunResult:
    """Made once, at the end of a stage, on the first rank, and handed to the writers of that stage in their order.

    Attributes:
        stage: what has ended.
        folder: of the run.
        title: data set, method and code length in words.
        method: with the weights that were tested.
        data: whose images were encoded.
        settings: of the evaluation.
        codes: of queries and database; None where a limit left no query or no database.
        evaluation: their figures; None without codes, and in a prediction, which ranks nothing.
        start: those of the same images before the first training step, where that was kept.
        measures: of parts and attributes, by name.
        class_logits: ids (C,) of training classes and mean logits (C, L) of their images, where they were looked at.
        logged: what the method logged.
        seconds: by stage, and `total`.
        facts: about split, hardware, packages and the course of the run, by name.
        epochs: what was logged in each epoch.
        selection: how the checkpoint was chosen.
        step: of training.
        figures: pictures that a writer has drawn so far, for those after it.
    """

    stage: Stage
    folder: Path
    title: str
    method: HashingMethod
    data: ZeroShotDataModule
    settings: Settings
    codes: Codes | None = None
    evaluation: Evaluation | None = None
    start: Evaluation | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    class_logits: tuple[Tensor, Tensor] | None = None
    logged: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    epochs: Sequence[Mapping[str, Any]] = ()
    selection: Selection = Selection()
    step: int = 0
    figures: list[Path] = field(default_factory=list)

    @property
    def metrics(self) -> dict[str, float]:
        """Every figure by its name, the times of the stages last."""
        found = dict(self.logged)
        for evaluation in (self.evaluation, self.start):
            found |= evaluation.metrics if evaluation is not None else {}
        times = {f"time/{stage}_seconds": round(seconds, 3) for stage, seconds in self.seconds.items()}
        return found | dict(self.measures) | times


class Writer(Protocol):
    """Writes or shows something of a result."""

    def write(self, result: RunResult) -> None:
        """Write it."""
