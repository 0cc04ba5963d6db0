"""The writers of a run's own files, and of the table in the terminal."""

import json

from rich.console import Console

from razh.callbacks.result import RunResult
from razh.retrieval.report import START, left_out, notes, table
from razh.run.checkpoint import keep_class_logits
from razh.support.files import write_text

__all__ = ["ClassesFile", "CodesFile", "MetricsFile", "ResultTable", "WhereCodesAre", "shown"]

HEADLINES = (
    "unseen/map", "unseen/precision@", "unseen/success@", "zsl/map", "validation/map", "trained/map", "seen/map",
    "harmonic/map", "described/map", "described/permuted/map", "described/accuracy",
)  # fmt: skip
HEALTH = ("codes/bit_balance", "codes/unique_fraction", "codes/effective_bits")
PARTS = (
    "parts/nmi", "parts/ari", "parts/iou", "parts/background_share", "parts/flip_consistency_foreground",
    "attributes/part_accuracy", "attributes/part_accuracy_permuted", "attributes/exact_accuracy",
    "attributes/exact_accuracy_permuted", "attributes/auc", "attributes/auc_hash", "attributes/auc_codes",
    "attributes/zero_shot/naming", "attributes/zero_shot/hash",
)  # fmt: skip
CODES = "codes.npz"


class CodesFile:
    """Writes `codes.npz`."""

    def write(self, result: RunResult) -> None:
        """Write the codes, where there are any."""
        if result.codes is not None:
            result.codes.save(result.folder / CODES)


class ClassesFile:
    """Writes beside the checkpoint of a run what its codes make of the training classes.

    With it, attributes can be searched for where there is no image of a training class.
    """

    def write(self, result: RunResult) -> None:
        """Write it, where attributes are known; codes fitted to a collection say it themselves."""
        path, adapted = result.selection.path, result.method.collection is not None
        if result.class_logits and len(result.data.attribute_names) and path and path.is_file() and not adapted:
            keep_class_logits(path, *result.class_logits)


class WhereCodesAre:
    """Says how many codes were written, and where."""

    def write(self, result: RunResult) -> None:
        """Print one line."""
        codes = result.codes
        if codes is not None:
            sizes = f"{len(codes.query_codes):,} queries and {len(codes.database_codes):,} database items"
            line = f"codes of {sizes}, {codes.bits} bits: {result.folder / CODES}"
            Console(soft_wrap=True, highlight=False).print(line, markup=False)


class MetricsFile:
    """Writes `metrics.json`: figures, times of the stages, split and environment."""

    def write(self, result: RunResult) -> None:
        """Write it, where there is an evaluation."""
        if result.evaluation is not None:
            content = json.dumps(result.metrics | dict(result.facts), indent=1)
            write_text(result.folder / "metrics.json", content)


class ResultTable:
    """Shows the headline figures, what their words mean, and the run's folder."""

    def write(self, result: RunResult) -> None:
        """Print the table, where there is an evaluation."""
        if result.evaluation is None:
            return
        some = {key: value for key, value in result.metrics.items() if shown(key)}
        Console().print(table(some, result.title))
        lines = [*notes(some), *left_out(result.settings.cutoffs, result.evaluation.sizes["database"])]
        Console(highlight=False).print(*lines, sep="\n", style="dim", markup=False)
        Console(soft_wrap=True, highlight=False).print(f"run folder: {result.folder}", markup=False)


def shown(key: str) -> bool:
    """Tell whether a metric is shown after a run; all of them are in metrics.json."""
    if key.startswith("time/"):
        return True
    name = next((key.removeprefix(stage) for stage in ("test/", "val/", START) if key.startswith(stage)), key)
    headline = name.startswith(HEADLINES) and not name.endswith("/all")
    return headline or "/chance" in key or key.removesuffix("_chance") in (*HEALTH, *PARTS)
