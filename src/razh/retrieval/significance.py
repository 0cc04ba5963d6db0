"""Several methods against one on the same queries, where each has several runs: what is more than chance?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.codes import Codes
from razh.retrieval.comparison import Comparison, check_same_queries, paired_difference
from razh.retrieval.evaluation import Settings, measure
from razh.retrieval.tasks import retrieval_task

__all__ = ["against", "holm", "query_values"]

SAMPLES = 5000


def query_values(runs: Mapping[str, Sequence[Path]], metric: str) -> dict[str, NDArray[np.float64]]:
    """Return per-query values (Q,) by method, averaged over its runs.

    Args:
        runs: folders with codes.npz by method, all of one split.
        metric: `test/TASK/map` or `test/TASK/map@R`; others have no per-query values, and nothing is returned.

    Raises:
        ValueError: runs were measured on different queries or databases.
    """
    _, _, rest = metric.partition("/")
    task, _, name = rest.partition("/")
    whole, at, cutoff = name.partition("@")
    if whole != "map":
        return {}
    settings = Settings(cutoffs=(int(cutoff),) if at else (), precision_ks=())
    values: dict[str, list[NDArray[np.float64]]] = {}
    first: Codes | None = None
    for label, folders in runs.items():
        for folder in folders:
            codes = Codes.load(folder / "codes.npz")
            first = codes if first is None else first
            check_same_queries(first, codes)
            found = retrieval_task(codes, task)
            if found is None:
                return {}
            measured = measure(found, settings).values
            # map@R is map where the database is no larger than R
            values.setdefault(label, []).append(measured.get(name, measured["map"]))
    return {label: np.mean(of_runs, axis=0) for label, of_runs in values.items()}


def against(
    reference: str, values: Mapping[str, NDArray[np.float64]], labels: NDArray[Any] | None = None
) -> dict[str, Comparison]:
    """Compare every other method with the reference; p-values are corrected for how many there are.

    Args:
        reference: a key of `values`.
        values: per-query values (Q,) by method.
        labels: class ids of the queries (Q,), to swap whole classes instead of queries.
    """
    found = {
        label: paired_difference(values[reference], of_method, labels, samples=SAMPLES)
        for label, of_method in values.items()
        if label != reference
    }
    corrected = holm({label: one.p_value for label, one in found.items()})
    return {label: replace(one, p_value=corrected[label]) for label, one in found.items()}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values after Holm's step-down correction, for the chance of any false difference."""
    corrected, running = {}, 0.0
    for place, (label, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - place) * p_value))
        corrected[label] = running
    return {label: corrected[label] for label in p_values}
