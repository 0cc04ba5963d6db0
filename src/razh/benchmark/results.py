"""The cells of a benchmark as one table, and what is computed from it: means, places, ranks."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from razh.benchmark.grid import About
from razh.benchmark.jobs import Plan
from razh.retrieval.codes import Codes
from razh.retrieval.comparison import Comparison
from razh.retrieval.report import check_fingerprints
from razh.retrieval.significance import against, query_values
from razh.retrieval.tasks import retrieval_task
from razh.support.files import read_json, replacing

__all__ = [
    "BAND", "LEVEL", "MEAN", "TASKS", "Key", "Results", "column", "keep_table", "over_protocols", "read_tables",
    "summarise", "write_table",
]  # fmt: skip

Key = tuple[str, int]  # protocol and bits: a column of a table
COLUMN = ["protocol", "bits"]
MEAN = "mean"  # the name of a column over all protocols, which are alike in what methods were given
LEVEL = 0.05  # of significance
TASKS = {
    "unseen": "test/unseen/map",
    "unseen, start only": "start/unseen/map",
    "unseen only (ZSL)": "test/zsl/map",
    "validation": "test/validation/map",
    "trained": "test/trained/map",
    "seen": "test/seen/map",
    "harmonic": "test/harmonic/map",
}
BAND = ("test/unseen/map_worst", "test/unseen/map_best")
# Of a table that outlives its runs: what a benchmark is, which cell a row is, and its figures.
ABOUT = [field.name for field in fields(About)]
KEPT = (
    "label", "protocol", "bits", "seed", "status", *TASKS.values(), *BAND, "test/unseen/chance", "split/fingerprint",
    "split/setting", "split/refit",    "git/commit", "cost/wall_seconds",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Results(About):
    """A benchmark as measured; after `--tune` its name has `-tuned` behind it.

    Attributes:
        cells: a row a cell, in the order of the tables: what the plan, its state and its metrics.json say.
        out: its folder; None where the runs are gone.
        by: what is swapped in the test of significance, `query` or `class`.
    """

    cells: pd.DataFrame
    out: Path | None = None
    by: str = "query"

    @classmethod
    def of(cls, out: Path, by: str = "query") -> Results:
        """Collect the cells of a benchmark's folder.

        Raises:
            FileNotFoundError: the folder has no plan.
            ValueError: the folder has no cells, or cells of one protocol have different splits.
        """
        plan = Plan.read(out)
        whole, at, _ = plan.metric.partition("@")
        rows = []
        for cell, job in zip(plan.cells, plan.jobs(out), strict=True):
            about, state = job.about(), job.state
            row = {
                **cell, "dataset": plan.dataset, "backbone": plan.backbone, "status": state,
                "error": about.get("error", "") if state != "done" else "",
                "cost/wall_seconds": about.get("seconds"), "cost/attempts": about.get("attempts", 0),
            }  # fmt: skip
            found = read_json(job.folder / "metrics.json") if state == "done" else {}
            if at and whole in found:
                found.setdefault(plan.metric, found[whole])  # map@R is map where the database is no larger than R
            rows.append(row | found)
        if not rows:
            raise ValueError(f"{out} has no cells; start its benchmark again")
        facts = {name: getattr(plan, name) for name in ABOUT}
        facts["name"] += "-tuned" if plan.trials else ""
        return cls(**facts, cells=pd.DataFrame(rows), out=out, by=by)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells it from other benchmarks: name, data set and backbone."""
        return self.name, self.dataset, self.backbone

    @cached_property
    def table(self) -> pd.DataFrame:
        """What `summarise` says of the metric."""
        return summarise(self.cells, self.metric)

    @property
    def protocols(self) -> list[str]:
        """Protocols in the order of the columns."""
        return list(self.table.index.unique("protocol"))

    @property
    def labels(self) -> list[str]:
        """Methods in the order of the benchmark."""
        return list(self.cells["label"].unique())

    @cached_property
    def means(self) -> dict[str, str]:
        """The column that a protocol's figures are averaged in, by protocol: one for each setting, and for refit runs.

        Where all are alike it is just `mean`. What setting a protocol has its results say: without any it is in none.
        """
        done = self.cells[self.cells["status"] == "done"]
        facts = done.reindex(columns=["protocol", "split/setting", "split/refit"])
        found = {}
        for protocol, cells in facts.groupby("protocol", sort=False):
            setting = next(iter(cells["split/setting"].dropna()), "inductive")
            found[str(protocol)] = str(setting) + (", refit" if cells["split/refit"].eq(True).any() else "")
        return found if len(set(found.values())) > 1 else dict.fromkeys(found, MEAN)

    def bits_of(self, protocol: str) -> list[int]:
        """Return the code lengths of a protocol, ascending."""
        return list(self.table.loc[protocol].index.unique("bits"))

    @property
    def headline(self) -> Key:
        """The column that single tables are about: the first protocol, at 64 bits if there are any."""
        protocol = self.protocols[0]
        every = self.bits_of(protocol)
        return protocol, 64 if 64 in every else every[-1]

    @property
    def ranks(self) -> pd.Series[float]:
        """Mean rank over all columns of the methods that compete in each; equal means share their ranks."""
        means = self.table["mean"].where(self.table["ranked"]).round(12).unstack(COLUMN)
        return means.rank(ascending=False).mean(axis=1, skipna=False).reindex(self.labels).dropna()

    def competing(self, key: Key) -> pd.Series[float]:
        """Return the means of a column by method, without those that compete for nothing."""
        column = self.table.loc[key]
        return column["mean"][column["ranked"]]

    def best(self, key: Key) -> str | None:
        """Return the method with the highest mean of a column, the first of equals."""
        means = self.competing(key)
        return str(means.idxmax()) if len(means) else None

    def compared_with(self, key: Key) -> str | None:
        """Return what the others are compared with: the benchmark's reference, else the best method of the column."""
        return self.reference if self.reference in self.competing(key).index else self.best(key)

    @cached_property
    def differences(self) -> dict[Key, dict[str, Comparison]]:
        """Each column's methods against what they are compared with; empty where values are not paired.

        Raises:
            ValueError: cells of one column were measured on different queries.
        """
        return {key: self._differences(key) for key in self.table.index.droplevel("label").unique()}

    def _differences(self, key: Key) -> dict[str, Comparison]:
        competing, reference = self.competing(key).index, self.compared_with(key)
        if self.out is None or reference is None or len(competing) < 2:
            return {}
        done = self.done(key)
        folders = {method: [self.out / f for f in done["folder"][done["label"] == method]] for method in competing}
        values, classes = query_values(folders, self.metric), None
        if reference not in values:
            return {}
        if self.by == "class":
            task = retrieval_task(Codes.load(folders[reference][0] / "codes.npz"), self.metric.split("/")[1])
            assert task is not None  # its values were compared just now
            classes = task.query_labels
        return against(reference, values, classes)

    def alike(self, key: Key) -> set[str]:
        """Return the methods of a column that are not significantly different from what they are compared with."""
        return {label for label, one in self.differences[key].items() if one.p_value > LEVEL}

    def done(self, key: Key) -> pd.DataFrame:
        """Return the rows of a column that have a result."""
        cells = self.cells
        return cells[(cells["status"] == "done") & (cells["protocol"] == key[0]) & (cells["bits"] == key[1])]

    def chance(self, protocol: str) -> float | None:
        """Return the metric of a random ranking, where it is known."""
        head, _, rest = self.metric.rpartition("map")
        if (name := f"{head}chance{rest}") not in self.cells or rest.endswith("/all"):
            return None
        found = self.cells.loc[self.cells["protocol"] == protocol, name].dropna()
        return float(found.mean()) if len(found) else None


def summarise(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return mean and deviation over seeds of each protocol, code length and method.

    Returns:
        By (protocol, bits, label), in the order of the cells: `mean`, `std` (of the sample; NaN of one seed), `count`
        of seeds that have a value, `planned` seeds, `ranked` (it has all seeds that any method has there: the others
        compete for nothing) and `place` (1 for the best mean, NaN if it does not compete).

    Raises:
        ValueError: cells of one protocol have different split fingerprints.
    """
    done = cells["status"] == "done"
    if "split/fingerprint" in cells:
        for protocol, rows in cells[done].groupby("protocol"):
            first = rows.drop_duplicates("split/fingerprint").fillna({"split/fingerprint": ""})
            where = first["folder"] if "folder" in first else first["label"]
            prints = (str(one) for one in first["split/fingerprint"])
            check_fingerprints({f"{protocol} in {f}": p for f, p in zip(where, prints, strict=True)})
    value = pd.to_numeric(cells[metric]) if metric in cells else pd.Series(np.nan, cells.index)
    return _placed(cells.assign(value=value.where(done)))


def over_protocols(table: pd.DataFrame, means: Mapping[str, str]) -> pd.DataFrame:
    """Return, as `summarise` does, means of the protocols' means, weighed alike, under the names of the means.

    The deviation is that over protocols; a method competes if it has every protocol of a mean that has any result at
    that length.

    Args:
        table: that `summarise` returned.
        means: the name of the mean that each protocol counts in.
    """
    columns = table["ranked"].groupby(level=COLUMN, sort=False).any()
    table = table[columns.reindex(table.index.droplevel("label")).to_numpy()]
    values = table["mean"].where(table["ranked"]).rename("value").reset_index()
    values["protocol"] = values["protocol"].map(means)
    order = list(dict.fromkeys(means.values()))
    values = values.sort_values(
        COLUMN, key=lambda of: of.map(order.index) if of.name == "protocol" else of, kind="stable"
    )
    found = _placed(values)
    planned = columns.rename(means, level="protocol").groupby(level=COLUMN).sum()
    found["planned"] = planned.reindex(found.index.droplevel("label")).to_numpy()
    return found


def column(table: pd.DataFrame, key: Key) -> pd.DataFrame:
    """Return the rows of a column of `summarise`, by label; none where there is no such column."""
    return table[table.index.droplevel("label").isin([key])].droplevel(COLUMN)


def _placed(rows: pd.DataFrame) -> pd.DataFrame:
    groups = rows.groupby([*COLUMN, "label"], sort=False)["value"]
    table = groups.agg(mean="mean", std="std", count="count", planned="size")
    most = table["count"].groupby(level=COLUMN).transform("max")
    table["ranked"] = (table["count"] == most) & (most > 0)
    competing = table["mean"].where(table["ranked"]).round(12)
    table["place"] = competing.groupby(level=COLUMN).rank(method="dense", ascending=False)
    return table


def write_table(cells: pd.DataFrame, path: Path) -> None:
    """Write cells as CSV, lists and mappings as JSON."""
    plain = cells.map(lambda v: json.dumps(v, sort_keys=True) if isinstance(v, dict | list) else v)
    with replacing(path) as part:
        plain.to_csv(part, index=False, lineterminator="\n")


def keep_table(path: Path, results: Sequence[Results]) -> None:
    """Put benchmarks into a table that outlives their runs, in the place of those of the same name, data and network.

    Figures are kept to five decimals: thousands of cells are some 100 kB.
    """
    known = {one.identity: one for one in [*(read_tables(path) if path.is_file() else []), *results]}
    tables = [
        one.cells.reindex(columns=list(KEPT)).assign(**{name: getattr(one, name) for name in ABOUT})
        for one in known.values()
    ]
    with replacing(path) as part:
        pd.concat(tables).round(5).to_csv(part, index=False, compression="xz", lineterminator="\n")


def read_tables(path: Path) -> list[Results]:
    """Return the benchmarks of a table that `keep_table` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no table of cells at {path}; write one with `razh report FOLDER --keep={path}`")
    try:
        every = pd.read_csv(path, compression="xz", keep_default_na=False, na_values=[""])
        groups = every.astype({"reference": object}).fillna({"reference": ""}).groupby(ABOUT, sort=False)
    except (ValueError, KeyError, OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{path} is no table of cells ({error}); write it again with `razh report`") from None
    return [
        Results(**dict(zip(ABOUT, facts, strict=True)), cells=cells.reset_index(drop=True)) for facts, cells in groups
    ]
