"""Which differences of a column are more than chance: paired over the queries, seeds averaged, corrected by Holm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.benchmark.rows import Row
from razh.retrieval.codes import Codes
from razh.retrieval.comparison import check_same_queries, paired_difference
from razh.retrieval.evaluation import Settings, measure, retrieval_tasks

__all__ = ["Difference", "against", "holm", "query_values"]

SAMPLES = 5000
LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A method minus the reference: mean over queries, 95 % interval, and p after Holm's correction."""

    difference: float
    low: float
    high: float
    p_value: float


def query_values(out: Path, rows: Sequence[Row], metric: str) -> dict[str, NDArray[np.float64]]:
    """Return per-query values (Q,) by method, averaged over its seeds, of the cells of one column.

    Args:
        out: the benchmark's folder.
        rows: done cells of one protocol and code length.
        metric: `test/TASK/map` or `test/TASK/map@R`; others have no per-query values, and nothing is returned.

    Raises:
        ValueError: cells were measured on different queries or databases.
    """
    parts = metric.split("/")
    if len(parts) != 3 or not (parts[2] == "map" or parts[2].startswith("map@")):
        return {}
    task, name = parts[1], parts[2]
    settings = Settings(cutoffs=(int(name.partition("@")[2]),) if "@" in name else (), precision_ks=())
    values: dict[str, list[NDArray[np.float64]]] = {}
    first: Codes | None = None
    for row in rows:
        codes = Codes.load(out / row["folder"] / "codes.npz")
        first = codes if first is None else first
        check_same_queries(first, codes)
        found = next((t for t in retrieval_tasks(codes) if t.name == task), None)
        if found is None:
            return {}
        values.setdefault(row["label"], []).append(measure(found, settings).values[name])
    return {label: np.mean(of_seeds, axis=0) for label, of_seeds in values.items()}


def against(
    reference: str, values: Mapping[str, NDArray[np.float64]], labels: NDArray[Any] | None = None
) -> dict[str, Difference]:
    """Compare every method with the reference; p-values are corrected for how many there are.

    Args:
        reference: a key of `values`.
        values: per-query values by method.
        labels: class ids of the queries (Q,), to swap whole classes instead of queries.
    """
    found = {
        label: paired_difference(values[reference], of_method, labels, samples=SAMPLES)
        for label, of_method in values.items()
        if label != reference
    }
    corrected = holm({label: one.p_value for label, one in found.items()})
    return {label: Difference(one.difference, one.low, one.high, corrected[label]) for label, one in found.items()}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values after Holm's step-down correction, for the chance of any false difference."""
    corrected, running = {}, 0.0
    for place, (label, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - place) * p_value))
        corrected[label] = running
    return {label: corrected[label] for label in p_values}
