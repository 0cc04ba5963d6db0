"""What a benchmark computes: a run for each cell and each trial, and the plan that lists the cells."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from razh.benchmark.grid import About, Cell, Grid, Method, safe
from razh.run import recipe
from razh.run.folder import at_work
from razh.run.history import logged
from razh.support.files import flat, read_json, write_json
from razh.support.processes import last_error
from razh.tuning.space import SearchSpace
from razh.tuning.space import options as written

__all__ = ["LOG", "NOTHING", "TUNING", "Job", "Plan", "Trial", "choose", "config_hash", "draw_trials", "train_job"]

LOG, PLAN, STATE, TUNING = "log.txt", "plan.json", "cell.json", "tuning"
NOTHING = "nothing to search"  # what a method without a search space was tuned on
KEY = ("label", "protocol", "bits", "seed")  # what tells a cell from the others
QUIET = {"figures.enabled": False, "trainer.enable_progress_bar": False}


# -------------------------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """A run of a benchmark in its folder.

    Attributes:
        name: for people.
        folder: where it works.
        hash: of its configuration.
        command: `train` (fit and test; done with metrics.json) or `fit` (never tests; done when it says so).
        arguments: of the command.
    """

    name: str
    folder: Path
    hash: str
    command: str = "train"
    arguments: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """`done`, `failed`, `interrupted` or `missing`."""
        if not (about := self.about()):
            return "missing"
        done = (self.folder / "metrics.json").is_file()
        if self.command == "fit":
            done = read_json(self.folder / "status.json").get("state") == "finished"
        return "done" if done else "failed" if about.get("state") == "failed" else "interrupted"

    @property
    def busy(self) -> bool:
        """Whether a process is at work in the folder: one that an earlier start of the benchmark left behind."""
        return at_work(self.folder)

    def about(self) -> dict[str, Any]:
        """Return what cell.json says of this configuration; nothing if it is of another one."""
        about = read_json(self.folder / STATE)
        return about if about.get("hash") == self.hash else {}

    def note(self, **changes: Any) -> None:
        """Change what cell.json says."""
        write_json(self.folder / STATE, {**self.about(), "hash": self.hash, **changes})

    def clear(self) -> None:
        """Move a failed attempt aside, so that the next one starts from nothing; its log stays readable there."""
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.failed{number}")).exists():
            number += 1
        self.folder.rename(aside)

    def reason(self, start: int = 0) -> str:
        """Return why the job failed, by what its log says behind byte `start`."""
        return last_error(self.folder / LOG, start) or "no output"


def train_job(cell: Cell, out: Path) -> Job:
    """Return the job of a cell below the benchmark's folder `out`."""
    name, protocol, bits, seed = cell.key
    return _job(cell, out / "cells" / safe(name) / safe(protocol) / str(bits) / f"seed{seed}", "train")


def _job(cell: Cell, folder: Path, command: str, trial: str = "") -> Job:
    """Return a job; where another configuration has its folder already, the hash is added to the folder's name."""
    label, protocol, bits, seed = cell.key
    digest = config_hash(cell)
    if read_json(folder / STATE).get("hash", digest) != digest:
        folder = folder.with_name(f"{folder.name}-{digest[:8]}")
    axes = {**_files(cell), "bits": str(bits), "seed": str(seed), **cell.options, **QUIET, "run_dir": str(folder)}
    name = f"{label} · {trial}{protocol} · {bits} bits · seed {seed}"
    return Job(name, folder, digest, command, tuple(written(axes)))


def _files(cell: Cell) -> dict[str, str]:
    """Return the names of the files that configure a cell, by the option that takes each."""
    return {"dataset": cell.dataset, "method": cell.method.method, "backbone": cell.backbone}


def config_hash(cell: Cell) -> str:
    """Return a SHA-256 of everything that a cell is configured by: files of `experiments/` and options.

    Comments and search spaces do not count, and neither does where files lie: of a path, only the name (and the size of
    a file) counts.
    """
    names = _files(cell)
    files = [recipe.experiments_folder() / "base.yaml", *(recipe.config_file(k, v) for k, v in names.items())]
    contents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    for content in contents:
        content.pop("search", None)
    facts = {**names, "files": contents, "bits": cell.bits, "seed": cell.seed, "options": _portable(cell.options)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _portable(options: Any) -> Any:
    """Return options with the names of files and folders in the place of their paths."""
    if isinstance(options, Mapping):
        return {name: _portable(value) for name, value in options.items()}
    if not isinstance(options, str) or not 0 < len(options) <= 1000:
        return options
    path = Path(options)
    if path.is_file():
        return f"{path.name} ({path.stat().st_size} bytes)"
    return path.resolve().name if path.is_dir() else options


# -------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True, eq=False)
class Plan(About):
    """What a benchmark's folder holds: what its cells share, and every cell that was ever asked for.

    Attributes:
        options: of all cells.
        protocols: their options by name.
        order: of the rows: all methods of the file, also those that were not asked for.
        cells: a mapping each, in the order of tables: what tells it apart, method, config_hash, folder, options,
            tuned_on.
    """

    options: dict[str, Any]
    protocols: dict[str, dict[str, Any]]
    order: list[str]
    cells: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, grid: Grid, order: Iterable[str], out: Path) -> Plan:
        """Return the plan of a grid, with the cells that its folder has already.

        Raises:
            ValueError: the folder's cells have other settings; tables of both together would compare nothing.
        """
        about = {name.name: getattr(grid, name.name) for name in fields(About)}
        protocols = {protocol.name: _portable(protocol.options) for protocol in grid.protocols}
        new = cls(**about, options=_portable(grid.options), protocols=protocols, order=list(dict.fromkeys(order)))
        if not (out / PLAN).is_file():
            return new
        old = cls.read(out)
        both = protocols.keys() & old.protocols.keys()  # one that only one of them has adds columns and changes none
        ours, theirs = (flat(plan._shared(both), "/") for plan in (new, old))
        for name in dict.fromkeys([*theirs, *ours]):
            if ours.get(name) != theirs.get(name):
                was, now = theirs.get(name), ours.get(name)
                raise ValueError(
                    f"out={out} holds a benchmark with {name}={was}, this one has {now}; pass another --out"
                )
        order = list(dict.fromkeys([*new.order, *old.order]))
        return replace(new, protocols=old.protocols | protocols, order=order, cells=old.cells)

    def _shared(self, protocols: Iterable[str]) -> dict[str, Any]:
        """Return what all cells of a folder have in common, as an error calls it; all methods get the same budget."""
        shared = {"dataset": self.dataset, "backbone": self.backbone, "--tune": self.trials, "options": self.options}
        return {**shared, "protocols": {name: self.protocols[name] for name in protocols}}

    @classmethod
    def read(cls, out: Path) -> Plan:
        """Read the plan of a folder.

        Raises:
            FileNotFoundError: the folder is no benchmark's.
            ValueError: its plan is not one of this version.
        """
        if not (content := read_json(out / PLAN)):
            raise FileNotFoundError(f"no {PLAN} in {out}; give the folder of a `razh benchmark` or `razh ablate`")
        try:
            return cls(**content)
        except TypeError as error:
            raise ValueError(f"{out / PLAN} is not as this version writes it ({error}); take another --out") from None

    def with_cells(self, cells: Iterable[Cell], tuned_on: Mapping[str, str], out: Path) -> tuple[Plan, list[Job]]:
        """Return the plan with these cells, and their jobs in order.

        Args:
            cells: of the grid, options of tuning included.
            tuned_on: by method, what its options were chosen on.
            out: the benchmark's folder.
        """
        merged, jobs = {tuple(cell[name] for name in KEY): cell for cell in self.cells}, []
        for cell in cells:
            jobs.append(job := train_job(cell, out))
            merged[cell.key] = dict(zip(KEY, cell.key, strict=True)) | {
                "method": cell.method.method, "config_hash": job.hash, "options": cell.options,
                "folder": job.folder.relative_to(out).as_posix(), "tuned_on": tuned_on.get(cell.method.name, ""),
            }  # fmt: skip
        labels, protocols = self.order.index, list(self.protocols).index
        ordered = sorted(merged, key=lambda key: (protocols(key[1]), key[2], labels(key[0]), key[3]))
        return replace(self, cells=[merged[key] for key in ordered]), jobs

    def write(self, out: Path) -> None:
        """Write the plan."""
        write_json(out / PLAN, asdict(self))

    def jobs(self, out: Path) -> list[Job]:
        """Return a job for each of `cells`, to ask what became of it."""
        return [Job(cell["folder"], out / cell["folder"], cell["config_hash"]) for cell in self.cells]


# ------------------------------------------------------------------------------------------------------------ trials


@dataclass(frozen=True)
class Trial:
    """Options to try, and the fit that tries them, which must not see the test classes; number 0 is the defaults."""

    number: int
    options: dict[str, Any]
    job: Job

    def value(self) -> float | None:
        """Return the validation mAP of the best epoch; None if the fit is not done, or has none."""
        values = logged(self.job.folder / "metrics.csv", "val/map") if self.job.state == "done" else []
        return max((value for value in values if math.isfinite(value)), default=None)


def search_space(grid: Grid, method: Method) -> SearchSpace:
    """Return the search space that a method's configuration declares, without options that the benchmark fixes."""
    path = recipe.config_file("method", method.method)
    if not yaml.safe_load(path.read_text(encoding="utf-8")).get("search"):
        return SearchSpace({})
    fixed = {*grid.options, *grid.tuning[0].options, *method.options}
    return SearchSpace({name: p for name, p in SearchSpace.read(path).parameters.items() if name not in fixed})


def draw_trials(grid: Grid, method: Method, out: Path) -> list[Trial]:
    """Return the trials of a method, the defaults first; the same ones at every start.

    More trials later keep the first ones. A method with nothing to search has none.
    """
    space = search_space(grid, method)
    seed = int.from_bytes(hashlib.sha256(method.name.encode()).digest()[:8], "little")
    generator = np.random.default_rng(seed)
    trials = []
    for number in range(grid.trials if space.names else 0):
        options = space.sample(generator) if number else {}
        cell = grid.cell(replace(method, options={**options, **method.options}), *grid.tuning)
        cell.options.pop("data.refit", None)  # a trial is judged on validation classes
        folder = out / TUNING / safe(method.name) / f"trial{number}"
        trials.append(Trial(number, options, _job(cell, folder, "fit", f"trial {number} · ")))
    return trials


def choose(method: str, trials: list[Trial], out: Path) -> dict[str, Any] | None:
    """Return the trial with the highest validation mAP, the earliest of equals, after writing all of them down.

    It is one entry of `trials` in trials.json: trial, validation_map and options. None: no trial has a value.
    """
    rows = [{"trial": trial.number, "validation_map": trial.value(), "options": trial.options} for trial in trials]
    write_json(out / TUNING / safe(method) / "trials.json", {"method": method, "trials": rows})
    return best_trial(rows)


def best_trial(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first of the best trials; None if none has a value."""
    known = [row for row in rows if row["validation_map"] is not None]
    return max(known, key=lambda row: float(row["validation_map"]), default=None)
