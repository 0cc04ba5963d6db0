"""The protocol on top of the metrics: unseen, seen and zero-shot tasks of a codes file, whole or in shares.

On one device `evaluate` does it all. On several, each takes the queries `r::world` of every task,

    shares = [measure(task, settings, rows=np.arange(len(task))[rank::world]) for task in retrieval_tasks(codes)]

the shares are gathered, and `summarise(codes, [combine(parts) for parts in zip(*gathered)])` computes the
figures. A share holds per-query values and integer counts, and means are taken over all queries in order at the end, so
any number of devices gives the same figures to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from razh.retrieval import asymmetric, metrics
from razh.retrieval.codes import Codes
from razh.retrieval.hamming import BackendName, grades, histogram, rank
from razh.retrieval.health import code_health, d_prime
from razh.retrieval.tasks import Task, retrieval_task, retrieval_tasks

__all__ = [
    "Evaluation",
    "Settings",
    "Share",
    "Task",
    "TaskResult",
    "combine",
    "evaluate",
    "measure",
    "retrieval_tasks",
    "summarise",
    "tie_band",
]

Counts: TypeAlias = NDArray[np.int64]
Values: TypeAlias = dict[str, NDArray[np.float64]]

CELLS = 1 << 21  # histogram cells held at once: 16 MB
FIRST_KS = (1, 10)  # ranks of precision@k that are always measured
_BANDS: dict[str, metrics.Ties] = {"": "expected", "_worst": "worst", "_best": "best"}


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        cutoffs: ranks R of mAP@R; one that is no smaller than the database is left out, as mAP@R is mAP there.
        precision_ks: ranks k of precision@k, recall@k and NDCG@k; precision@1 and precision@10 are always there.
        radius: Hamming radius of precision and recall within a ball.
        backend: see `razh.retrieval.hamming.histogram`.
        row_order: also the conventional mAP with ties in database order (slower: it needs ranked lists).

    Raises:
        ValueError: a rank below 1 or a negative radius.
    """

    cutoffs: tuple[int, ...] = (5000,)
    precision_ks: tuple[int, ...] = (100,)
    radius: int = 2
    backend: BackendName = "auto"
    row_order: bool = False

    def __post_init__(self) -> None:
        for name in ("cutoffs", "precision_ks"):
            if any(value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; ranks count from 1")
        if self.radius < 0:
            raise ValueError(f"radius is {self.radius}; a Hamming radius is 0 or more")


@dataclass(frozen=True, eq=False)
class Share:
    """What is known of some queries of a task: plain NumPy, ready to be pickled and sent.

    Attributes:
        task: name of the task.
        rows: positions of the queries in the task (q,).
        values: per-query values, each (q,), but for `curve_hits` (q, K): the expected hits at `curve_ranks`.
        counts: pairs by distance and relevance, summed over these queries (L + 1, 2).
    """

    task: str
    rows: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]
    counts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TaskResult:
    """Per-query values of a whole task, rows in query order.

    Attributes:
        values: per-query values (Q,), by the name they have in the metrics (`map`, `map@5000`, …).
        labels: the queries' class ids (Q,) or multi-hot labels (Q, C).
        counts: pairs by distance and relevance (L + 1, 2).
        ranks: of the precision–recall curve (K,).
        precision: mean precision at these ranks (K,).
        recall: mean recall at these ranks (K,).
        class_map: mean AP of the queries of every class.
        without_relevant: number of queries that have no relevant item; each counts 0.
        self_matches: number of queries that were left out of their own ranking.
    """

    values: dict[str, NDArray[np.float64]]
    labels: NDArray[Any]
    counts: NDArray[np.int64]
    ranks: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    class_map: dict[int, float]
    without_relevant: int
    self_matches: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All figures of a codes file.

    Attributes:
        metrics: flat names to values, the form in which they are logged.
        tasks: per-query and per-class results by task name.
        bits: code length.
        fingerprint: of the split, "" if unknown.
        protocol: name, "" if unknown.
        sizes: number of queries and database items.
    """

    metrics: dict[str, float]
    tasks: dict[str, TaskResult]
    bits: int
    fingerprint: str = ""
    protocol: str = ""
    sizes: dict[str, int] = field(default_factory=dict)

    def as_dict(self, class_names: Sequence[str] = (), per_query: bool = False) -> dict[str, Any]:
        """Return plain JSON values: metrics, mAP by class, pairs by distance, curves, and per-query AP on demand."""
        tasks: dict[str, Any] = {}
        for name, result in self.tasks.items():
            named = {_class_name(key, class_names): value for key, value in result.class_map.items()}
            tasks[name or "all"] = {
                "queries": len(result.values["map"]),
                "without_relevant": result.without_relevant,
                "self_matches": result.self_matches,
                "class_map": named,
                "distances": {"same_class": result.counts[:, 1].tolist(), "other_class": result.counts[:, 0].tolist()},
                "curve": {part: getattr(result, part).tolist() for part in ("ranks", "precision", "recall")},
            }
            if per_query:
                tasks[name or "all"]["query_ap"] = result.values["map"].tolist()
        figures = {key: value if math.isfinite(value) else None for key, value in self.metrics.items()}
        about = {"bits": self.bits, "fingerprint": self.fingerprint, "protocol": self.protocol, **self.sizes}
        return {**about, "metrics": figures, "tasks": tasks}


def _class_name(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


# ------------------------------------------------------------------------------------------------------ measurement


def measure(task: Task, settings: Settings | None = None, rows: NDArray[np.int64] | None = None) -> Share:
    """Return the per-query values of some queries of a task; none at all is fine.

    Args:
        task: from `retrieval_tasks`.
        settings: what to measure.
        rows: positions of the queries in the task; None for all.
    """
    settings = settings or Settings()
    rows = np.arange(len(task), dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64)
    step = max(1, CELLS // (2 * (task.bits + 1)))
    parts = [_measure(task, settings, rows[start : start + step]) for start in range(0, max(1, len(rows)), step)]
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values}
    return Share(task.name, rows, values, np.sum([part.counts for part in parts], axis=0))


def _measure(task: Task, settings: Settings, rows: NDArray[np.int64]) -> Share:
    hist = histogram(
        task.query_codes[rows],
        task.database_codes,
        task.query_labels[rows],
        task.database_labels,
        task.bits,
        exclude=task.exclude[rows],
        graded=True,
        backend=settings.backend,
    )
    size = len(task.database_codes)
    measures = (*MEASURES, *THOROUGH) if task.thorough else MEASURES
    values = {name: value for one in measures for name, value in one(hist, settings, size).items()}
    if task.thorough and settings.row_order:
        values["map_row"] = _row_order(task, settings, rows)
    if task.query_logits is not None:
        values["asymmetric/map"] = asymmetric.average_precision(
            task.query_logits[rows],
            task.database_codes,
            task.query_labels[rows],
            task.database_labels,
            task.bits,
            task.exclude[rows],
        )
    counts = np.stack([hist[:, :, 0].sum(axis=0), hist[:, :, 1:].sum(axis=(0, 2))], axis=1)
    return Share(task.name, rows, values, counts)


Measure: TypeAlias = Callable[[Counts, Settings, int], Values]


def _mean_average_precision(hist: Counts, settings: Settings, size: int) -> Values:
    values = {f"map{suffix}": metrics.average_precision(hist, ties=ties) for suffix, ties in _BANDS.items()}
    relevant = metrics.relevant_total(hist).astype(np.float64)
    return {**values, "chance": metrics.chance(hist), "relevant": relevant}


def _precision(hist: Counts, settings: Settings, size: int) -> Values:
    """Return precision@k, and beside it the best that a ranking could have and what a random one has."""
    values = {}
    ranks = sorted({*FIRST_KS, *settings.precision_ks})
    for k, hits in zip(ranks, metrics.expected_hits(hist, ranks).T, strict=True):
        values[f"precision@{k}"] = hits / k
        values[f"precision@{k}_ceiling"] = metrics.precision_ceiling(hist, k)
        values[f"precision@{k}_chance"] = metrics.chance_precision(hist, k)
    return values


def _curve(hist: Counts, settings: Settings, size: int) -> Values:
    return {"curve_hits": metrics.expected_hits(hist, metrics.curve_ranks(size))}


def _map_at_cutoffs(hist: Counts, settings: Settings, size: int) -> Values:
    values = {}
    for cutoff in (cutoff for cutoff in settings.cutoffs if cutoff < size):
        for suffix, ties in _BANDS.items():
            values[f"map{suffix}@{cutoff}"] = metrics.average_precision(hist, cutoff, "hits", ties)
        values[f"map@{cutoff}/all"] = metrics.average_precision(hist, cutoff, "all")
        values[f"chance@{cutoff}"] = metrics.chance(hist, cutoff)
    return values


def _recall_and_ndcg(hist: Counts, settings: Settings, size: int) -> Values:
    values = {}
    for k in settings.precision_ks:
        values[f"recall@{k}"] = metrics.recall_at(hist, k)
        values[f"recall@{k}_ceiling"] = metrics.recall_ceiling(hist, k)
        values[f"ndcg@{k}"] = metrics.ndcg_at(hist, k)
    return values


def _within_radius(hist: Counts, settings: Settings, size: int) -> Values:
    kinds = {
        "precision": metrics.precision_within,
        "recall": metrics.recall_within,
        "success": metrics.success_within,
    }
    return {f"{name}@radius{settings.radius}": of(hist, settings.radius) for name, of in kinds.items()}


# A metric is a function of the histogram (q, L + 1, S), the settings and the size of the database that returns
# per-query values by name, and an entry here: of every task, or of those that are asked for everything.
MEASURES: tuple[Measure, ...] = (_mean_average_precision, _precision, _curve)
THOROUGH: tuple[Measure, ...] = (_map_at_cutoffs, _recall_and_ndcg, _within_radius)


def _row_order(task: Task, settings: Settings, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the conventional AP (q,) with ties in database order."""
    backend: BackendName = settings.backend if settings.backend in ("numpy", "faiss") else "auto"
    result = np.empty(len(rows))
    step = max(1, CELLS // len(task.database_codes))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        _, order = rank(task.query_codes[part], task.database_codes, task.bits, backend=backend)
        relevant = np.take_along_axis(grades(task.query_labels[part], task.database_labels) > 0, order, axis=1)
        own = task.exclude[part]
        if (own >= 0).all():
            relevant = relevant[order != own[:, None]].reshape(len(part), -1)
            result[start : start + step] = metrics.average_precision_ranked(relevant) if relevant.shape[1] else 0.0
        elif (own < 0).all():
            result[start : start + step] = metrics.average_precision_ranked(relevant)
        else:
            kept = [row[places != row_own] for row, places, row_own in zip(relevant, order, own, strict=True)]
            singles = [metrics.average_precision_ranked(row[None])[0] if len(row) else 0.0 for row in kept]
            result[start : start + step] = singles
    return result


def combine(shares: Iterable[Share]) -> Share:
    """Put the shares of one task together, in query order.

    Raises:
        ValueError: no share, shares of different tasks, or queries that are missing or there twice.
    """
    parts = list(shares)
    if not parts or len({part.task for part in parts}) != 1:
        raise ValueError(f"shares are of the tasks {sorted({part.task for part in parts})}; combine one task at a time")
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows, kind="stable")
    if not np.array_equal(rows[order], np.arange(len(rows))):
        raise ValueError(f"shares of task {parts[0].task!r} hold {len(rows)} queries with gaps or repetitions")
    values = {name: np.concatenate([part.values[name] for part in parts])[order] for name in parts[0].values}
    return Share(parts[0].task, rows[order], values, np.sum([part.counts for part in parts], axis=0))


# --------------------------------------------------------------------------------------------------------- summary


def summarise(
    codes: Codes,
    shares: Sequence[Share],
    prefix: str = "test/",
    health: bool = True,
    names: Mapping[str, str] | None = None,
) -> Evaluation:
    """Return the evaluation of a codes file from complete shares, one a task.

    Args:
        codes: the codes that were measured.
        shares: complete shares in the order of `retrieval_tasks(codes)`.
        prefix: put in front of every metric but those of code health (`codes/…`).
        health: whether to compute the health of the database codes.
        names: what metrics call a task, where that is not the task's own name.

    Raises:
        ValueError: shares that do not belong to these codes, or no query has a relevant item.
    """
    tasks = retrieval_tasks(codes)
    if [(share.task, len(share.rows)) for share in shares] != [(task.name, len(task)) for task in tasks]:
        raise ValueError("shares do not cover the tasks of these codes; measure and combine every task first")
    results = {task.name: _result(task, share) for task, share in zip(tasks, shares, strict=True)}
    if all(result.without_relevant == len(result.labels) for result in results.values()):
        raise ValueError("no query has a relevant database item; check that query and database labels use the same ids")
    seen = retrieval_task(codes, "seen")
    if seen is not None and "seen" not in results:
        results["seen"] = _result(seen, _joined(codes, seen, shares))
    figures: dict[str, float] = {}
    groups = {name: f"{prefix}{(names or {}).get(name, name)}/" if name else prefix for name in ("unseen", *results)}
    for name, result in results.items():
        start = groups[name]
        figures |= {f"{start}{key}": float(value.mean()) for key, value in result.values.items() if key != "relevant"}
        figures[f"{start}queries"] = float(len(result.labels))
        figures[f"{start}without_relevant"] = float(result.without_relevant)
        figures[f"{start}self_matches"] = float(result.self_matches)
    if "unseen" in results and "seen" in results:
        one, two = (figures[f"{groups[name]}map"] for name in ("seen", "unseen"))
        figures[f"{prefix}harmonic/map"] = 2 * one * two / (one + two) if one + two else 0.0
    if codes.unseen_classes is not None:
        unseen_rows = np.isin(codes.database_labels, codes.unseen_classes)
        figures[f"{groups['unseen']}database_share"] = float(unseen_rows.mean())
    if health:
        figures |= _health(codes, next(iter(results.values())))
    sizes = {"queries": len(codes.query_codes), "database": len(codes.database_codes)}
    return Evaluation(figures, results, codes.bits, codes.fingerprint, codes.protocol, sizes)


def _health(codes: Codes, result: TaskResult) -> dict[str, float]:
    figures = {f"codes/{key}": value for key, value in code_health(codes.database_codes, codes.bits).items()}
    other, same = result.counts[:, 0], result.counts[:, 1]
    return {**figures, "codes/d_prime": d_prime(same, other)}


def _joined(codes: Codes, seen: Task, shares: Sequence[Share]) -> Share:
    """Return the share of all seen queries, in their order, from those of the validation and the trained classes."""
    held_out = np.isin(seen.query_labels, codes.validation_classes or ())
    places = {"validation": np.flatnonzero(held_out), "trained": np.flatnonzero(~held_out)}
    return combine(replace(part, task="seen", rows=places[part.task]) for part in shares if part.task in places)


def _result(task: Task, share: Share) -> TaskResult:
    values = dict(share.values)
    ranks = metrics.curve_ranks(len(task.database_codes))
    precision, recall = metrics.precision_recall_curve(values.pop("curve_hits"), ranks, values["relevant"])
    return TaskResult(
        values=values,
        labels=task.query_labels,
        counts=share.counts,
        ranks=ranks,
        precision=precision,
        recall=recall,
        class_map=_class_map(task.query_labels, values["map"]),
        without_relevant=int((values["relevant"] == 0).sum()),
        self_matches=int((task.exclude >= 0).sum()),
    )


def _class_map(labels: NDArray[Any], values: NDArray[np.float64]) -> dict[int, float]:
    """Return the mean AP of the queries of every class that has any."""
    if labels.ndim == 1:
        classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        sums = np.bincount(inverse, weights=values, minlength=len(classes))
        return {int(name): float(total / count) for name, total, count in zip(classes, sums, counts, strict=True)}
    counts = labels.sum(axis=0, dtype=np.int64)
    return {int(name): float(values[labels[:, name] > 0].mean()) for name in np.flatnonzero(counts)}


def evaluate(
    codes: Codes,
    cutoffs: Sequence[int] = (5000,),
    precision_ks: Sequence[int] = (100,),
    radius: int = 2,
    backend: BackendName = "auto",
    *,
    prefix: str = "test/",
    row_order: bool = False,
) -> Evaluation:
    """Evaluate a codes file: every metric of every task it allows.

    With unseen classes names begin with a group of queries: `unseen/`, `zsl/` (unseen ones among themselves),
    `validation/` and `trained/` where the file tells them apart, and `seen/`, both of them together. Every group has
    `map`, `map_worst`, `map_best`, `chance` (the expected AP of a random ranking), `precision@k` with
    `precision@k_ceiling` (the best that any ranking has) and `precision@k_chance`, and where the file has logits of the
    queries `asymmetric/map`, see `razh.retrieval.asymmetric`; `unseen/` also `map@R`, `map@R/all`,
    `recall@k`, `ndcg@k` and `precision@radius2`, `recall@radius2`, `success@radius2`. `harmonic/map` is that of
    `unseen/map` and `seen/map`. Without unseen classes: the same under no group. `codes/…` has the health of the
    database codes. A query without relevant items counts 0; `…/without_relevant` says how many there are, and
    `…/self_matches` how many queries were left out of their own ranking.

    Args:
        codes: queries and database.
        cutoffs: ranks R of mAP@R.
        precision_ks: ranks k of precision@k, recall@k, NDCG@k; precision@1 and precision@10 are always there.
        radius: Hamming radius of precision and recall within a ball.
        backend: see `razh.retrieval.hamming.histogram`.
        prefix: put in front of the metrics' names.
        row_order: also `map_row`, the conventional mAP with ties in database order.

    Raises:
        ValueError: settings out of range, no queries, or no query with a relevant item.
    """
    settings = Settings(tuple(cutoffs), tuple(precision_ks), radius, backend, row_order)
    return summarise(codes, [measure(task, settings) for task in retrieval_tasks(codes)], prefix)


def tie_band(figures: Mapping[str, float], key: str) -> tuple[float, float] | None:
    """Return (worst, best) of a metric such as `test/unseen/map@5000`, None where it has no band."""
    head, at, cutoff = key.partition("@")
    worst, best = f"{head}_worst{at}{cutoff}", f"{head}_best{at}{cutoff}"
    return (figures[worst], figures[best]) if worst in figures and best in figures else None
