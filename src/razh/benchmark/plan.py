"""What a benchmark's folder holds: settings that all its cells share, and every cell that was ever asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from razh.benchmark.cells import Job, portable, train_job
from razh.benchmark.grid import Cell, Grid
from razh.files import flat, read_json, write_json

__all__ = ["NOTHING", "Plan", "PlannedCell", "tuned_words"]

PLAN = "plan.json"
NOTHING = "nothing to search"  # what a method without a search space was tuned on


@dataclass(frozen=True)
class PlannedCell:
    """A cell of the plan; `folder` is relative to the benchmark's."""

    label: str
    method: str
    protocol: str
    bits: int
    seed: int
    hash: str
    folder: str
    options: dict[str, Any] = field(default_factory=dict)
    tuned_on: str = ""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Label, protocol, bits and seed."""
        return self.label, self.protocol, self.bits, self.seed

    def job(self, out: Path) -> Job:
        """Return the job in its folder, to ask what became of it."""
        return Job(" · ".join(str(part) for part in self.key), out / self.folder, "train", [], self.hash, self.label)


@dataclass(frozen=True)
class Plan:
    """The cells of a folder, in the order of the benchmark's file.

    Attributes:
        settings: what may not differ among the cells of a folder: data, backbone, common options, protocols.
        title: of the benchmark.
        name: of its file.
        metric: that the tables are about.
        reference: the method that the others are compared with; "": the best one.
        trials: of tuning for each method; 0 for none.
        order: all methods of the file, also those that were not asked for.
        cells: by key.
    """

    settings: dict[str, Any]
    title: str
    name: str
    metric: str
    reference: str
    trials: int
    order: tuple[str, ...]
    cells: dict[tuple[str, str, int, int], PlannedCell]

    @classmethod
    def of(cls, grid: Grid, order: tuple[str, ...], trials: int) -> Plan:
        """Return the plan of a grid, without cells."""
        settings = {
            "dataset": grid.dataset,
            "backbone": grid.backbone,
            "options": portable(grid.options),
            "protocols": {protocol.name: portable(protocol.options) for protocol in grid.protocols},
        }
        return cls(settings, grid.title, grid.name, grid.metric, grid.reference, trials, order, {})

    @classmethod
    def read(cls, out: Path) -> Plan:
        """Read the plan of a folder.

        Raises:
            FileNotFoundError: the folder is no benchmark's.
            ValueError: its plan cannot be read.
        """
        content = read_json(out / PLAN)
        if not content:
            raise FileNotFoundError(f"no {PLAN} in {out}; give the folder of a `razh benchmark` or `razh ablate`")
        try:
            cells = [PlannedCell(**cell) for cell in content.pop("cells")]
            return cls(**{**content, "order": tuple(content["order"])}, cells={cell.key: cell for cell in cells})
        except (TypeError, KeyError) as error:
            raise ValueError(f"{out / PLAN} is not as this version writes it ({error}); take another --out") from None

    def write(self, out: Path) -> None:
        """Write the plan."""
        content = {**asdict(self), "cells": [asdict(cell) for cell in self.cells.values()]}
        write_json(out / PLAN, content)

    def with_cells(self, cells: list[Cell], tuned_on: dict[str, str], out: Path) -> tuple[Plan, list[Job]]:
        """Return the plan with these cells, and their jobs in order.

        Args:
            cells: of the grid, options of tuning included.
            tuned_on: by method label, what its options were chosen on.
            out: the benchmark's folder.
        """
        merged, jobs = dict(self.cells), []
        for cell in cells:
            job = train_job(cell, out)
            merged[cell.key] = PlannedCell(
                label=cell.method.label,
                method=cell.method.method,
                protocol=cell.protocol,
                bits=cell.bits,
                seed=cell.seed,
                hash=job.hash,
                folder=job.folder.relative_to(out).as_posix(),
                options=cell.options,
                tuned_on=tuned_on.get(cell.method.label, ""),
            )
            jobs.append(job)
        places = {label: place for place, label in enumerate(self.order)}
        ordered = sorted(merged.values(), key=lambda c: (places.get(c.label, len(places)), c.protocol, c.bits, c.seed))
        plan = Plan(**{**vars(self), "cells": {cell.key: cell for cell in ordered}})
        return plan, jobs

    def merged_into(self, out: Path) -> Plan:
        """Return this plan with the cells that the folder's plan has already.

        Raises:
            ValueError: the folder's cells have other settings; tables of both together would compare nothing.
        """
        if not read_json(out / PLAN):
            return self
        old = Plan.read(out)
        ours, theirs = flat(self.settings, "/"), flat(old.settings, "/")
        # A protocol that only one of them has adds columns, and changes none.
        both = set(self.settings["protocols"]) & set(old.settings["protocols"])
        for name in dict.fromkeys([*theirs, *ours]):
            of_one = name.startswith("protocols/") and name.split("/")[1] not in both
            if not of_one and ours.get(name) != theirs.get(name):
                raise ValueError(
                    f"out={out} holds a benchmark with {name}={theirs.get(name)}, this one has {ours.get(name)}; "
                    "pass another --out"
                )
        if old.trials != self.trials:
            raise ValueError(
                f"out={out} holds a benchmark with --tune {old.trials}, this one has {self.trials}, and all methods "
                "get the same budget; pass another --out"
            )
        settings = {**self.settings, "protocols": {**old.settings["protocols"], **self.settings["protocols"]}}
        order = tuple(dict.fromkeys([*self.order, *old.order]))
        return Plan(**{**vars(self), "settings": settings, "order": order, "cells": old.cells})


def tuned_words(grid: Grid, trials: int) -> str:
    """Return what tuning chose on, in words."""
    seeds = ", ".join(str(seed) for seed in grid.tuning.seeds)
    return (
        f"validation classes of {grid.dataset} {grid.tuning.protocol.name}, {grid.tuning.bits} bits, seed {seeds}, "
        f"{trials} trials"
    )
