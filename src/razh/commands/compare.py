"""`razh compare`: two methods on the same queries, with a confidence interval and the band of tie orders."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from razh.retrieval.backends import BACKENDS
from razh.retrieval.codes import Codes
from razh.retrieval.comparison import Comparison, aligned, paired_difference
from razh.retrieval.evaluation import Settings, Share, Task, measure, retrieval_tasks, tie_band
from razh.support.bounds import Count, Seed, within
from razh.support.files import given_path, write_json
from razh.support.terminal import Parser, Status, console, suggest, told_apart

__all__ = ["main"]

_EPILOG = """\
Both files must hold the same queries in the same order, the same database items and the same split.
The difference is second minus first. The order of tied items is arbitrary: where the bands from worst to best order
overlap, an order exists in which the methods swap places.

examples:
  razh compare itq.npz razh.npz
  razh compare itq.npz razh.npz --metric map@5000 --by class --json difference.json
"""


@dataclass(frozen=True)
class _Verdict:
    task: str
    metric: str
    comparison: Comparison
    bands: tuple[tuple[float, float] | None, tuple[float, float] | None]

    @property
    def exceeds_ties(self) -> bool | None:
        """Whether the two bands are apart; None for a metric without bands."""
        first, second = self.bands
        if first is None or second is None:
            return None
        return first[1] < second[0] or second[1] < first[0]


def main(argv: list[str]) -> int:
    """Run `razh compare`: print the paired differences, and write JSON on demand.

    Args:
        argv: arguments after `razh compare`.

    Returns:
        0, whatever the outcome.

    Raises:
        FileNotFoundError: a codes file is missing.
        ValueError: the files do not hold the same queries, database and split, or an option is out of range.
        OSError: the JSON file cannot be written.
    """
    options = _parser().parse_args(argv)
    first = Codes.load(options.first)
    second = aligned(first, Codes.load(options.second))
    first, second = (_told_apart(codes, other) for codes, other in ((first, second), (second, first)))
    if options.by == "class" and first.multi_label:
        raise ValueError("by is 'class', but the labels are multi-hot; compare by query")
    verdicts = [_verdict(pair, options) for pair in zip(retrieval_tasks(first), retrieval_tasks(second), strict=True)]
    found = [verdict for verdict in verdicts if verdict is not None]
    if not found:
        items = len(first.database_codes)
        raise ValueError(
            f"metric is {options.metric!r}; no task of these files has it, try map or map@R (R below {items}, the size "
            "of the database)"
        )
    console().print(_table(found, options), soft_wrap=False)
    if options.json:
        rows = [
            {
                "task": v.task or "all",
                "metric": v.metric,
                **asdict(v.comparison),
                "exceeds_ties": v.exceeds_ties,
                "bands": v.bands,
            }
            for v in found
        ]
        content = {"first": options.first, "second": options.second, "by": options.by, "results": rows}
        write_json(Path(options.json), content)
    if options.by == "query" and not first.multi_label:
        suggest("compare", *argv, "--by=class")
    return Status.DONE


def _told_apart(codes: Codes, other: Codes) -> Codes:
    """Return a codes file that says which classes were held out for validation, where the other one does."""
    known = codes.validation_classes
    return replace(codes, validation_classes=other.validation_classes if known is None else known)


def _verdict(pair: tuple[Task, Task], options: argparse.Namespace) -> _Verdict | None:
    settings = _settings(options.metric, options.backend)
    left, right = (measure(task, settings) for task in pair)
    if options.metric not in left.values:
        return None
    groups = pair[0].query_labels if options.by == "class" else None
    comparison = paired_difference(
        left.values[options.metric], right.values[options.metric], groups, samples=options.samples, seed=options.seed
    )
    return _Verdict(
        pair[0].name, options.metric, comparison, (_band(left, options.metric), _band(right, options.metric))
    )


def _settings(metric: str, backend: str) -> Settings:
    """Return settings that measure `map@R`, `precision@k`, `recall@k`, `ndcg@k` for the rank in the name.

    Raises:
        ValueError: the rank is no number.
    """
    head, at, rank = metric.removesuffix("/all").partition("@")
    radius = rank.startswith("radius")
    if at and not rank.removeprefix("radius").isdigit():
        raise ValueError(f"metric is {metric!r}; write e.g. map, map@5000, precision@100 or precision@radius2")
    number = int(rank.removeprefix("radius")) if at else 0
    return Settings(
        cutoffs=(number,) if head == "map" and at else (),
        precision_ks=(number,) if head != "map" and at and not radius else (),
        radius=number if radius else 2,
        backend=backend,  # type: ignore[arg-type]  # argparse has checked it
    )


def _band(share: Share, metric: str) -> tuple[float, float] | None:
    return tie_band({name: float(value.mean()) for name, value in share.values.items() if value.ndim == 1}, metric)


def _table(verdicts: list[_Verdict], options: argparse.Namespace) -> Table:
    """Return one column a task, narrow enough for a terminal."""
    names = told_apart(options.first, options.second)
    shown = Table(title=f"{options.metric}: {names[1]} against {names[0]}")
    shown.add_column("")
    for verdict in verdicts:
        shown.add_column(verdict.task or "all queries", justify="right")
    found = [verdict.comparison for verdict in verdicts]
    interval = f"{found[0].confidence:.0%} interval"
    shown.add_row("classes" if options.by == "class" else "queries", *(str(c.units) for c in found))
    for number, name in enumerate(names):
        shown.add_row(name, *(f"{(c.first, c.second)[number]:.4f}" for c in found))
        shown.add_row("  worst–best", *(_text(verdict.bands[number]) for verdict in verdicts))
    shown.add_row("difference", *(f"{c.difference:+.4f}" for c in found))
    shown.add_row(interval, *(f"{c.low:+.4f} … {c.high:+.4f}" for c in found))
    shown.add_row("p (permutation)", *(f"{c.p_value:.4f}" for c in found))
    shown.add_row("beyond ties", *({True: "yes", False: "no", None: ""}[v.exceeds_ties] for v in verdicts))
    return shown


def _text(band: tuple[float, float] | None) -> str:
    return "" if band is None else f"{band[0]:.4f} – {band[1]:.4f}"


def _parser() -> Parser:
    parser = Parser(
        "compare",
        "Paired comparison of two methods: bootstrap interval, permutation test, band of tie orders.",
        _EPILOG,
    )
    parser.add_argument("first", metavar="FIRST.npz", help="codes file of one method")
    parser.add_argument("second", metavar="SECOND.npz", help="codes file of the other")
    parser.add_argument("--metric", default="map", help="map, map@R, map@R/all, precision@K, ndcg@K, … (map)")
    parser.add_argument(
        "--by", choices=("query", "class"), default="query", help="what is resampled and swapped (query)"
    )
    parser.add_argument(
        "--samples", type=int, action=within(Count), default=10_000, help="bootstrap samples and permutations (10000)"
    )
    parser.add_argument("--seed", type=int, action=within(Seed), default=0, help="of the random numbers (0)")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="how distances are counted; never changes a figure (numba where it is installed)",
    )
    parser.add_argument("--json", type=given_path, metavar="FILE", help="write the comparison there")
    return parser
