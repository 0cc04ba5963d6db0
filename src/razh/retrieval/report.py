"""Tables of retrieval figures for the terminal, what their words mean, and curves by the names of their groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray
from rich import box
from rich.table import Table

from razh.retrieval.evaluation import Evaluation, tie_band
from razh.retrieval.tasks import WORDS

__all__ = ["START", "chance_of", "check_fingerprints", "comparison_table", "group_curves", "left_out", "notes", "table"]


START = "start/"  # figures of a run before its first training step, named like those under "test/"
HEADER = ("value", "start", "chance", "ceiling", "worst–best")
MEANINGS = {
    "unseen": "classes without training images",
    "zsl": "the same among themselves",
    "validation": "seen classes held out of training",
    "trained": "classes trained on",
    "seen": "all seen classes",
    "harmonic": "mean of unseen and seen",
}
COMPANIONS = ("_worst", "_best", "_ceiling", "_chance")  # of what stands beside a metric


def _is_row(name: str) -> bool:
    """Whether a metric has a row of its own; bands, ceilings, chance and the start stand beside their metric."""
    last = name.rsplit("/", 1)[-1] if not name.endswith("/all") else name
    beside = last.startswith("chance") or last.partition("@")[0].endswith(COMPANIONS) or last.endswith(COMPANIONS)
    return not beside and not name.startswith(START)


def chance_of(figures: Mapping[str, float], key: str) -> float | None:
    """Return what a random ranking has: `KEY_chance`, or `chance` beside `map`, or that of a group without `map`."""
    if f"{key}_chance" in figures:
        return figures[f"{key}_chance"]
    group, slash, _ = key.rpartition("/")
    if f"{group}{slash}map" not in figures:
        return figures.get(f"{group}{slash}chance")
    head, found, rest = key.rpartition("map")
    return figures.get(f"{head}chance{rest}") if found and not key.endswith("/all") else None


def _number(value: float | None) -> str:
    if value is None:
        return ""
    whole = abs(value) >= 1000 or (abs(value) >= 10 and float(value).is_integer())
    return f"{value:.0f}" if whole else f"{value:.4f}"


def _count(name: str, value: float) -> str:
    whole = name.rsplit("/", 1)[-1] in ("queries", "without_relevant", "self_matches", "constant_bits")
    return f"{value:.0f}" if whole else _number(value)


def table(metrics: Mapping[str, float], title: str) -> Table:
    """Return a table of flat metrics, and beside each what it is to be held against, as far as that is known.

    The columns are the value; `start`, the same before the first training step (`start/…` for `test/…`); `chance`, that
    of a random ranking; `ceiling`, the best that any ranking has; and the worst and best order of ties. All seen
    classes have no rows where they are the trained ones.

    Args:
        metrics: `Evaluation.metrics`, or any flat names to values.
        title: shown above.
    """
    rows = {key: _row(metrics, key) for key in _rows(metrics)}
    used = [place for place, name in enumerate(HEADER) if place == 0 or any(row[place] for row in rows.values())]
    # Lean, so that a name of 32 characters and all columns fit into 80.
    result = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    result.add_column("metric", overflow="fold")
    for place in used:
        result.add_column(HEADER[place], justify="right", no_wrap=True)
    groups = {key: key.removesuffix("/all").rpartition("/")[0] for key in rows}
    many = {group for group, count in Counter(groups.values()).items() if count > 1}
    section = None
    for key, row in rows.items():
        if section is not None and groups[key] != section and {section, groups[key]} & many:
            result.add_section()
        section = groups[key]
        result.add_row(key, *(row[place] for place in used))
    return result


def _row(metrics: Mapping[str, float], key: str) -> tuple[str, ...]:
    before = metrics.get(START + key.removeprefix("test/")) if key.startswith("test/") else None
    beside = (before, chance_of(metrics, key), metrics.get(f"{key}_ceiling"))
    band = tie_band(metrics, key)
    spread = "" if band is None else f"{band[0]:.3f}–{band[1]:.3f}"  # so that long names have a line
    return (_count(key, metrics[key]), *(_number(one) for one in beside), spread)


def _rows(metrics: Mapping[str, float]) -> list[str]:
    """Return the metrics that have rows; those of all seen classes have none if no class was held out of training."""

    def twice(key: str) -> bool:
        start, group, _ = f"/{key}".rpartition("/seen/")
        return bool(group) and f"{start}/trained/map"[1:] in metrics and f"{start}/validation/map"[1:] not in metrics

    return [key for key in metrics if _is_row(key) and not twice(key)]


def notes(metrics: Mapping[str, float]) -> list[str]:
    """Return what the groups and the columns in a table of these metrics are, a line each."""
    groups = {key.split("/")[-2] for key in _rows(metrics) if "/" in key}
    words = [f"{name}: {meaning}" for name, meaning in MEANINGS.items() if name in groups]
    columns = "value: mean over orders of ties; worst–best: over all orders; chance: a random ranking"
    columns += "; ceiling: the best ranking"
    columns += "; start: before training" if any(key.startswith(START) for key in metrics) else ""
    return [*(["; ".join(words)] if words else []), columns]


def left_out(cutoffs: Iterable[int], items: int) -> list[str]:
    """Return a line that says which mAP@R are not in a table, as the database has no more than R items; else none."""
    ranks = [f"{cutoff:,}" for cutoff in cutoffs if cutoff >= items]
    return [f"map@R for R = {', '.join(ranks)} is map: the database has {items:,} items"] if ranks else []


def comparison_table(results: Mapping[str, Evaluation], title: str) -> Table:
    """Return a table with one column a result and one row a metric.

    Args:
        results: evaluations by name.
        title: shown above.

    Raises:
        ValueError: the results have different split fingerprints, or there are none.
    """
    check_fingerprints({name: result.fingerprint for name, result in results.items()})
    shown = Table(title=title)
    shown.add_column("metric", no_wrap=True)
    for name in results:
        shown.add_column(name, justify="right")
    keys = dict.fromkeys(key for result in results.values() for key in result.metrics if _is_row(key))
    for key in keys:
        cells = []
        for result in results.values():
            value = result.metrics.get(key)
            band = tie_band(result.metrics, key)
            text = "" if value is None else _count(key, value)
            cells.append(text if band is None else f"{text} ({band[0]:.4f} – {band[1]:.4f})")
        shown.add_row(key, *cells)
    return shown


def check_fingerprints(fingerprints: Mapping[str, str]) -> None:
    """Refuse results of different splits; an unknown fingerprint ("") fits only another unknown one.

    Raises:
        ValueError: the fingerprints differ, or there are none.
    """
    if not fingerprints:
        raise ValueError("results is empty; a table needs at least one result")
    if len(set(fingerprints.values())) > 1:
        named = ", ".join(f"{name}: {print_[:12] or 'unknown'}" for name, print_ in fingerprints.items())
        raise ValueError(f"results have different split fingerprints ({named}); evaluate them on the same split")


def group_curves(result: Evaluation) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return precision (K,) and recall (K,) of every group of queries of the whole database, named with its mAP.

    All seen classes together are left out where trained and validation classes have curves of their own.
    """
    untold = {"zsl", *(["seen"] if "trained" in result.tasks or "validation" in result.tasks else [])}
    return {
        f"{WORDS[name]}, mAP {task.values['map'].mean():.3f}": (task.precision, task.recall)
        for name, task in result.tasks.items()
        if name not in untold
    }
