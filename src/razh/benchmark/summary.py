"""Everything that the tables of a benchmark's folder are made from, computed once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from razh.benchmark.plan import Plan
from razh.benchmark.rows import Row, long_table
from razh.benchmark.significance import LEVEL, Difference, against, query_values
from razh.benchmark.tables import Column, Key, check_one_split, columns, mean_ranks
from razh.benchmark.tuning import FOLDER as TUNING
from razh.files import read_json
from razh.retrieval.codes import Codes

__all__ = ["Identity", "Summary"]

log = logging.getLogger(__name__)
Identity = tuple[str, str, str]  # name of the benchmark, data set, backbone


@dataclass(frozen=True)
class Summary:
    """A benchmark as measured.

    Attributes:
        out: its folder.
        plan: its plan.
        rows: the long table.
        columns: by protocol and code length.
        ranks: mean rank by method.
        differences: by column, each method against the column's reference; empty where values are not paired.
        by: what was swapped in the test: `query` or `class`.
    """

    out: Path
    plan: Plan
    rows: list[Row]
    columns: dict[Key, Column]
    ranks: dict[str, float]
    differences: dict[Key, dict[str, Difference]]
    by: str = "query"

    @classmethod
    def of(cls, out: Path, by: str = "query", rows: list[Row] | None = None) -> Summary:
        """Summarise a folder.

        Args:
            out: the benchmark's folder.
            by: swap `query` or `class` in the test of significance.
            rows: the long table, if it is known already.

        Raises:
            FileNotFoundError: the folder has no plan.
            ValueError: the folder has no cells, or cells of one protocol have different splits, or different queries.
        """
        plan = Plan.read(out)
        if not plan.cells:
            raise ValueError(f"{out} has no cells; start its benchmark again")
        rows = long_table(out, plan) if rows is None else rows
        check_one_split(rows)
        found = columns(rows, plan.metric)
        summary = cls(out, plan, rows, found, mean_ranks(found), {}, by)
        return cls(**{**vars(summary), "differences": {k: summary._differences(c) for k, c in found.items()}})

    @property
    def name(self) -> str:
        """The benchmark's name in pictures and placeholders: its file's, with `-tuned` behind it after `--tune`."""
        return self.plan.name + ("-tuned" if self.plan.trials else "")

    @property
    def identity(self) -> Identity:
        """What tells it from other benchmarks of a document."""
        return self.name, self.plan.settings["dataset"], self.plan.settings["backbone"]

    def _differences(self, column: Column) -> dict[str, Difference]:
        reference = self.reference(column)
        if reference is None or len(column.ranked) < 2:
            return {}
        done = [row for row in self.done(column.protocol, column.bits) if row["label"] in column.ranked]
        values = query_values(self.out, done, self.plan.metric)
        if reference not in values:
            return {}
        return against(reference, values, self._classes(done[0]) if self.by == "class" else None)

    def _classes(self, row: Row) -> Any:
        """Return the class ids (Q,) of the queries of the metric's task."""
        codes = Codes.load(self.out / row["folder"] / "codes.npz")
        task = self.plan.metric.split("/")[1]
        unseen = np.isin(codes.query_labels, codes.unseen_classes or ())
        if task == "seen":
            raise ValueError("by=class is for unseen queries; the metric is about seen ones, compare by query")
        return codes.query_labels[unseen] if codes.unseen_classes is not None else codes.query_labels

    def reference(self, column: Column) -> str | None:
        """Return what the others are compared with: the plan's reference, else the best method of the column."""
        named = self.plan.reference
        return named if named and named in column.ranked else column.best

    def alike(self, key: Key) -> set[str]:
        """Return the methods of a column that cannot be told from its reference."""
        return {label for label, one in self.differences[key].items() if one.p_value > LEVEL}

    def done(self, protocol: str, bits: int) -> list[Row]:
        """Return the rows of a column that have a result."""
        wanted = (protocol, bits)
        return [row for row in self.rows if row["status"] == "done" and (row["protocol"], row["bits"]) == wanted]

    @property
    def protocols(self) -> list[str]:
        """Protocols in the order of the columns."""
        return list(dict.fromkeys(protocol for protocol, _ in self.columns))

    @property
    def labels(self) -> list[str]:
        """Methods in the order of the benchmark."""
        return list(dict.fromkeys(row["label"] for row in self.rows))

    def bits_of(self, protocol: str) -> list[int]:
        """Return the code lengths of a protocol, ascending."""
        return [bits for p, bits in self.columns if p == protocol]

    @property
    def headline(self) -> Key:
        """The column that single tables are about: the first protocol, at 64 bits if there are any."""
        protocol = self.protocols[0]
        every = self.bits_of(protocol)
        return protocol, 64 if 64 in every else every[-1]

    @property
    def seconds(self) -> float:
        """Seconds that the cells took together, interrupted and failed attempts included."""
        return sum(float(row["cost/wall_seconds"] or 0) for row in self.rows)

    @property
    def tuning_seconds(self) -> float:
        """Seconds that the trials of tuning took together."""
        found = (self.out / TUNING).glob("*/*/cell.json")
        return sum(float(read_json(path).get("seconds") or 0) for path in found)

    def values(self, name: str) -> list[str]:
        """Return the different values that the done rows have under a name, as text."""
        return list(dict.fromkeys(str(r[name]) for r in self.rows if r["status"] == "done" and r.get(name) is not None))
