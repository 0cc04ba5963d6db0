"""The long table: a row a cell, whatever became of it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from razh.benchmark.plan import Plan
from razh.files import read_json, write_text

__all__ = ["Row", "long_table", "write_csv", "write_record"]

Row = dict[str, Any]
FIRST = (
    "method", "label", "dataset", "protocol", "backbone", "bits", "seed", "status", "error", "config_hash", "options",
    "tuned_on", "folder", "cost/wall_seconds", "cost/attempts",
)  # fmt: skip
RECORD = (
    "label", "protocol", "bits", "seed", "status", "test/unseen/map", "test/unseen/map_worst", "test/unseen/map_best",
    "test/zsl/map", "test/seen/map", "test/harmonic/map", "split/fingerprint", "config_hash", "git/commit",
    "environment/torch", "cost/wall_seconds",
)  # fmt: skip


def long_table(out: Path, plan: Plan) -> list[Row]:
    """Return a row for each cell of the plan: what it is, its state, and all that its metrics.json says."""
    rows = []
    for cell in plan.cells.values():
        job = cell.job(out)
        about, state = job.about(), job.state
        row: Row = {
            "method": cell.method,
            "label": cell.label,
            "dataset": plan.settings["dataset"],
            "protocol": cell.protocol,
            "backbone": plan.settings["backbone"],
            "bits": cell.bits,
            "seed": cell.seed,
            "status": state,
            "error": "" if state == "done" else about.get("error", ""),
            "config_hash": cell.hash,
            "options": cell.options,
            "tuned_on": cell.tuned_on,
            "folder": cell.folder,
            "cost/wall_seconds": about.get("seconds"),
            "cost/attempts": about.get("attempts", 0),
        }
        if state == "done":
            row |= read_json(job.folder / "metrics.json")
        rows.append(row)
    return rows


def write_csv(rows: list[Row], path: Path) -> None:
    """Write rows as CSV; lists and mappings as JSON."""
    named = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in FIRST]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIRST, *named], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: json.dumps(v, sort_keys=True) if isinstance(v, dict | list) else v for k, v in row.items()})
    write_text(path, text.getvalue())


def write_record(rows: list[Row], path: Path) -> None:
    """Write what the tables of a document rest on as CSV: a row a cell, the columns of `RECORD`, six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RECORD)
    for row in rows:
        values = (row.get(name, "") for name in RECORD)
        writer.writerow([round(value, 6) if isinstance(value, float) else value for value in values])
    write_text(path, text.getvalue())
