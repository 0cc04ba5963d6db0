"""What the tables of a benchmark's report hold: header and rows, ready for Markdown and LaTeX."""

from __future__ import annotations

from typing import Any

import numpy as np

from razh.benchmark.grid import safe
from razh.benchmark.summary import Summary
from razh.benchmark.tables import (
    MEAN,
    Cell,
    Column,
    Entry,
    columns,
    number,
    over_protocols,
    spread,
    value_cell,
)
from razh.benchmark.tuning import FOLDER as TUNING
from razh.files import read_json

__all__ = [
    "DETAILS",
    "PARTS",
    "chance_of",
    "cost_table",
    "main_table",
    "mean_table",
    "mean_words",
    "part_table",
    "reference_table",
    "task_table",
    "tuning_table",
    "what",
]

DETAILS = {
    "unseen": "test/unseen/map",
    "unseen only (ZSL)": "test/zsl/map",
    "seen": "test/seen/map",
    "harmonic": "test/harmonic/map",
}
PARTS = {  # docs/measures.md says what they are
    "NMI": "parts/nmi",
    "ARI": "parts/ari",
    "NMI, foreground": "parts/nmi_foreground",
    "ARI, foreground": "parts/ari_foreground",
    "IoU": "parts/iou",
    "same part in the mirror image": "parts/flip_consistency_foreground",
    "part's attribute is the class's": "attributes/part_accuracy",
    "… shuffled": "attributes/part_accuracy_shuffled",
    "exact attribute": "attributes/exact_accuracy",
    "… shuffled (exact)": "attributes/exact_accuracy_shuffled",
    "AUC of attributes: parts": "attributes/auc",
    "feature": "attributes/auc_feature",
    "hash logits": "attributes/auc_hash",
    "parts that name classes": "attributes/auc_naming",
    "codes": "attributes/auc_codes",
    "unseen class named by such parts": "attributes/zero_shot/naming",
    "by the feature": "attributes/zero_shot/feature",
    "by the hash logits": "attributes/zero_shot/hash",
    "chance": "attributes/zero_shot/chance",
}


def chance_of(summary: Summary, protocol: str) -> float | None:
    """Return the headline metric of a random ranking, where it is known."""
    head, _, rest = summary.plan.metric.rpartition("map")
    found = [r[f"{head}chance{rest}"] for r in summary.rows if r["protocol"] == protocol and f"{head}chance{rest}" in r]
    return float(np.mean(found)) if found and not rest.endswith("/all") else None


def what(summary: Summary) -> str:
    """Return what the tables are about, in words."""
    parts = summary.plan.metric.split("/")
    return f"{parts[-1].replace('map', 'mAP')}, {parts[1]} queries" if len(parts) == 3 else summary.plan.metric


def main_table(summary: Summary, protocol: str) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: a column a code length, and the mean rank over everything."""
    bits = summary.bits_of(protocol)
    many = len(summary.columns) > 1
    rows = []
    for label in summary.labels:
        found = [(key, summary.columns[key]) for key in ((protocol, b) for b in bits)]
        if not any(label in column.entries for _, column in found):
            continue
        cells: list[Any] = [value_cell(column, label, summary.alike(key)) for key, column in found]
        rank = [f"{summary.ranks[label]:.1f}" if label in summary.ranks else "–"] if many else []
        rows.append([label, *cells, *rank])
    return ["method", *(f"{b} bits" for b in bits), *(["mean rank"] if many else [])], rows


def mean_table(summary: Summary, sort: bool = False) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the mean over protocols: unseen at each length, then seen at the headline's."""
    found = over_protocols(summary.columns)
    bits = summary.headline[1]
    seen = over_protocols(columns(summary.rows, DETAILS["seen"])).get(bits)
    at = found.get(bits)
    labels = summary.labels
    if sort and at is not None:
        means = {label: entry.mean for label, entry in at.entries.items() if entry.values}
        labels.sort(key=lambda label: -means.get(label, -1.0))
    extra = {f"seen, {bits} bits": seen} if seen is not None else {}
    header = ["method", *(f"{b} bits" for b in found), *extra]
    shown = [*found.values(), *extra.values()]
    return header, [[label, *(value_cell(column, label) for column in shown)] for label in labels]


def mean_words(summary: Summary) -> str:
    """Return what the mean's deviation is, and how far the best method is from the next one at each length."""
    text = (
        f"{len(summary.protocols)} protocols; mean ± standard deviation of the protocols' means over seeds "
        "(how hard a draw is makes most of it)."
    )
    for bits, column in over_protocols(summary.columns).items():
        order = sorted(column.ranked.items(), key=lambda item: -item[1])
        if len(order) > 1:
            (best, high), (second, low) = order[:2]
            text += f" At {bits} bits `{best}` is {high / low - 1:+.1%} from `{second}`."
    return text


def reference_table(summary: Summary, protocol: str) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: value, difference to the reference and its p for each code length."""
    header = ["variant"]
    rows: list[list[Any]] = [[label] for label in summary.labels]
    for bits in summary.bits_of(protocol):
        header += [f"{bits} bits", "Δ", "95 %", "p"]
        column, differences = summary.columns[protocol, bits], summary.differences[protocol, bits]
        for row in rows:
            one = differences.get(row[0])
            row.append(value_cell(column, row[0]))
            if one is None:
                row += ["", "", ""]
            else:
                sure = "" if one.p_value > 0.05 else "**"
                row += [
                    Cell(number(one.difference, sign=True), 1 if sure else None),
                    f"{number(one.low, sign=True)} … {number(one.high, sign=True)}",
                    _p(one.p_value),
                ]
    return header, rows


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else number(value)


def task_table(summary: Summary, sort: bool = False) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the headline column: unseen, seen, harmonic, and the band of tie orders."""
    protocol, bits = summary.headline
    rows_of = [row for row in summary.rows if (row["protocol"], row["bits"]) == (protocol, bits)]
    found = {name: columns(rows_of, metric).get((protocol, bits)) for name, metric in DETAILS.items()}
    shown = {name: column for name, column in found.items() if column is not None and column.ranked}
    low, high = (columns(rows_of, f"test/unseen/map_{end_}").get((protocol, bits)) for end_ in ("worst", "best"))
    first = next(iter(shown.values()), None)
    labels = [label for label in summary.labels if first is not None and label in first.entries]
    if sort and first is not None:
        labels.sort(key=lambda label: -first.entries[label].mean if first.entries[label].values else 1.0)
    alike = summary.alike(summary.headline) if summary.plan.metric == DETAILS["unseen"] else set()
    rows = []
    for label in labels:
        cells = [value_cell(c, label, alike if name == "unseen" else ()) for name, c in shown.items()]
        rows.append([label, *cells, _band(low, high, label)])
    return ["method", *shown, "worst – best order of ties (unseen)"], rows


def part_table(summary: Summary, protocol: str) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the measures of parts and attributes at the headline's length, where there are any.

    The protocol `mean` is the mean over protocols.
    """
    bits = summary.headline[1]

    def column_of(metric: str) -> Column:
        measured = columns(summary.rows, metric)
        found = over_protocols(measured).get(bits) if protocol == MEAN else measured.get((protocol, bits))
        return found or Column(protocol, bits, {})

    shown = {name: column for name, metric in PARTS.items() if (column := column_of(metric)).ranked}
    nearest = column_of("attributes/distinct_nearest")
    rows = []
    for label in summary.labels:
        entries = [column.entries.get(label, Entry({}, 0)) for column in shown.values()]
        if any(entry.values for entry in entries):
            different = nearest.entries.get(label, Entry({}, 0))
            count = f"{different.mean:.1f}" if different.values else "–"
            rows.append([label, *(spread(entry) for entry in entries), count])
    return ["method", *shown, "different attributes"], rows


def _band(low: Column | None, high: Column | None, label: str) -> str:
    ends = [column.entries.get(label) if column is not None else None for column in (low, high)]
    means = [entry.mean for entry in ends if entry is not None and entry.values]
    return f"{number(means[0])} – {number(means[1])}" if len(means) == 2 else "–"


def cost_table(summary: Summary) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of seconds a cell and minutes together."""
    rows: list[list[Any]] = []
    for label in summary.labels:
        of_label = [row for row in summary.rows if row["label"] == label]
        done = [row for row in of_label if row["status"] == "done"]
        means = [
            f"{np.mean([row.get(f'time/{stage}_seconds', 0.0) for row in done]):.1f}" if done else "–"
            for stage in ("fit", "test")
        ]
        together = sum(float(row["cost/wall_seconds"] or 0) for row in of_label)
        rows.append([label, f"{len(done)}/{len(of_label)}", *means, f"{together / 60:.1f}"])
    return ["method", "cells", "fit, s a cell", "test, s a cell", "all cells, minutes"], rows


def tuning_table(summary: Summary) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of what trials found and chose."""
    rows: list[list[Any]] = []
    for label in summary.labels:
        found = read_json(summary.out / TUNING / safe(label) / "trials.json")
        trials = [trial for trial in found.get("trials", []) if trial["validation_map"] is not None]
        if not trials:
            rows.append([label, "–", "–", "–", "nothing to search" if not found else "no trial has a value"])
            continue
        best = max(trials, key=lambda trial: trial["validation_map"])
        words = ", ".join(f"{k.removeprefix('model.')}={_short(v)}" for k, v in best["options"].items()) or "defaults"
        default = next((t["validation_map"] for t in trials if t["trial"] == 0), None)
        before = number(default) if default is not None else "–"
        rows.append([label, str(len(trials)), before, number(best["validation_map"]), words])
    return ["method", "trials", "validation mAP of the defaults", "of the chosen", "chosen"], rows


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
