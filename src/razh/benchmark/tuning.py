"""The same number of trials for every method, and the best of them by validation classes."""

from __future__ import annotations

import csv
import hashlib
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from razh import recipe
from razh.benchmark.cells import Job, fit_job
from razh.benchmark.grid import Grid, Method, safe
from razh.files import write_json
from razh.search_space import SearchSpace

__all__ = ["Trial", "Tuned", "best_validation", "choose", "draw_trials", "space_of"]

log = logging.getLogger(__name__)
FOLDER = "tuning"


@dataclass(frozen=True)
class Trial:
    """Options to try and the fits that try them, one a seed; number 0 is the defaults."""

    number: int
    options: dict[str, Any]
    jobs: tuple[Job, ...]

    def value(self) -> float | None:
        """Return the mean over seeds of the best epoch's validation mAP; None if a fit is not done."""
        if any(job.state != "done" for job in self.jobs):
            return None
        values = [best_validation(job.folder / "metrics.csv") for job in self.jobs]
        return float(np.mean([value for value in values if value is not None])) if None not in values else None


@dataclass(frozen=True)
class Tuned:
    """What was chosen for a method.

    Attributes:
        options: to give to its cells; empty where the defaults were best, or where there is nothing to search.
        default: validation mAP of the defaults.
        best: validation mAP of what was chosen.
        tried: number of trials that have a value.
        problem: why there is no choice; "" if there is one.
    """

    options: dict[str, Any]
    default: float | None
    best: float | None
    tried: int
    problem: str = ""


def space_of(grid: Grid, method: Method) -> SearchSpace | None:
    """Return the search space that a method's configuration declares, without options that the benchmark fixes."""
    path = recipe.config_file("method", method.method)
    if not yaml.safe_load(path.read_text(encoding="utf-8")).get("search"):
        return None
    space = SearchSpace.read(path)
    fixed = {*grid.options, *grid.tuning.protocol.options, *method.options}
    free = {name: parameter for name, parameter in space.parameters.items() if name not in fixed}
    return SearchSpace(free) if free else None


def draw_trials(grid: Grid, method: Method, count: int, out: Path) -> list[Trial]:
    """Return `count` trials of a method, the defaults first; the same ones at every start.

    More trials later keep the first ones. A method with nothing to search has none.
    """
    space = space_of(grid, method)
    if space is None:
        return []
    name = method.label.encode()
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:8], "little"))
    drawn = [{}, *(space.sample(generator) for _ in range(count - 1))]
    trials = []
    for number, options in enumerate(drawn):
        tried = replace(method, options={**options, **method.options})
        jobs = []
        for seed in grid.tuning.seeds:
            cell = grid.cell(tried, grid.tuning.protocol, grid.tuning.bits, seed)
            jobs.append(fit_job(cell, out / FOLDER / safe(method.label) / f"trial{number}-seed{seed}", number))
        trials.append(Trial(number, options, tuple(jobs)))
    return trials


def choose(label: str, trials: list[Trial], out: Path) -> Tuned:
    """Return the options of the trial with the highest validation mAP, the earliest of equals, and write it down."""
    values = [trial.value() for trial in trials]
    known = [value for value in values if value is not None]
    if not trials:
        return Tuned({}, None, None, 0)
    rows = [{"trial": t.number, "validation_map": v, "options": t.options} for t, v in zip(trials, values, strict=True)]
    write_json(out / FOLDER / safe(label) / "trials.json", {"method": label, "trials": rows})
    if not known:
        return Tuned({}, None, None, 0, f"none of {len(trials)} trials has a validation mAP")
    best = max(known)
    return Tuned(trials[values.index(best)].options, values[0], best, len(known))


def best_validation(path: Path) -> float | None:
    """Return the highest `val/map` in a run's metrics.csv; None if it has none."""
    with path.open(newline="", encoding="utf-8") as file:
        found = [float(row["val/map"]) for row in csv.DictReader(file) if row.get("val/map")]
    found = [value for value in found if math.isfinite(value)]
    return max(found) if found else None
