"""Tables of retrieval figures for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from razh.retrieval.evaluation import Evaluation, tie_band

__all__ = ["check_fingerprints", "comparison_table", "table"]


def _is_row(name: str) -> bool:
    """Whether a metric has a row of its own; bands and chance stand beside their metric."""
    last = name.rsplit("/", 1)[-1] if not name.endswith("/all") else name
    return not (last.startswith("chance") or "_worst" in last or "_best" in last)


def _chance(figures: Mapping[str, float], key: str) -> float | None:
    """Return the value of `chance` beside `map`, of `chance@R` beside `map@R`, and of that of a group without `map`."""
    group, slash, _ = key.rpartition("/")
    if f"{group}{slash}map" not in figures:
        return figures.get(f"{group}{slash}chance")
    head, found, rest = key.rpartition("map")
    return figures.get(f"{head}chance{rest}") if found and not key.endswith("/all") else None


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 10 and float(value).is_integer() else f"{value:.4f}"


def _count(name: str, value: float) -> str:
    whole = name.rsplit("/", 1)[-1] in ("queries", "without_relevant", "self_matches", "constant_bits")
    return f"{value:.0f}" if whole else _number(value)


def table(metrics: Mapping[str, float], title: str) -> Table:
    """Return a table of flat metrics: value, chance, and the worst and best order of ties beside each.

    Args:
        metrics: `Evaluation.metrics`, or any flat names to values.
        title: shown above.
    """
    result = Table(title=title)
    result.add_column("metric", no_wrap=True)
    for name in ("value", "chance", "worst – best"):
        result.add_column(name, justify="right", no_wrap=True)
    section = None
    for key, value in metrics.items():
        if not _is_row(key):
            continue
        group = key.rpartition("/")[0]
        if section is not None and group != section and not key.endswith("/all"):
            result.add_section()
        section = section if key.endswith("/all") else group
        band = tie_band(metrics, key)
        spread = "" if band is None else f"{band[0]:.4f} – {band[1]:.4f}"
        result.add_row(key, _count(key, value), _number(_chance(metrics, key)), spread)
    return result


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
