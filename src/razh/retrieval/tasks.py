"""The tasks of a codes file: which queries search which part of the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.codes import Codes

__all__ = ["Task", "retrieval_tasks", "seen_rows_are_queries"]


@dataclass(frozen=True, eq=False)
class Task:
    """One set of queries against one database; `exclude` (Q,) is the database row of the query itself, or −1.

    `name` is "" (a file without unseen classes), "unseen", "seen" or "zsl"; `thorough` asks for every metric, not for
    mAP alone.
    """

    name: str
    query_codes: NDArray[np.uint8]
    query_labels: NDArray[Any]
    database_codes: NDArray[np.uint8]
    database_labels: NDArray[Any]
    exclude: NDArray[np.int64]
    bits: int
    thorough: bool

    def __len__(self) -> int:
        return len(self.query_codes)


def retrieval_tasks(codes: Codes) -> list[Task]:
    """Return the tasks that a codes file allows, in a fixed order.

    With unseen classes: `unseen` (unseen queries against the whole database), `zsl` (the same queries against the
    unseen part of the database) and `seen` (query rows of seen classes where the file has them, else the seen database
    rows, each left out of its own ranking, against the whole database). Otherwise one task named "".

    Raises:
        ValueError: there are no queries at all.
    """
    if not len(codes.query_codes):
        raise ValueError("query_codes is empty; retrieval needs at least one query")
    own = codes.own_rows()
    if codes.unseen_classes is None:
        return [_task(codes, "", np.arange(len(codes.query_codes)), None, own, True)]
    unseen_query = np.isin(codes.query_labels, codes.unseen_classes)
    unseen_rows = np.isin(codes.database_labels, codes.unseen_classes)
    tasks = []
    if unseen_query.any():
        rows = np.flatnonzero(unseen_query)
        tasks.append(_task(codes, "unseen", rows, None, own, True))
        if unseen_rows.any():
            tasks.append(_task(codes, "zsl", rows, np.flatnonzero(unseen_rows), own, False))
    if not seen_rows_are_queries(codes):
        tasks.append(_task(codes, "seen", np.flatnonzero(~unseen_query), None, own, False))
    elif not unseen_rows.all():
        seen = np.flatnonzero(~unseen_rows)
        tasks.append(
            Task(
                "seen",
                codes.database_codes[seen],
                codes.database_labels[seen],
                codes.database_codes,
                codes.database_labels,
                seen,
                codes.bits,
                False,
            )
        )
    return tasks


def seen_rows_are_queries(codes: Codes) -> bool:
    """Whether the task `seen` takes its queries from the database: the file has none of seen classes."""
    unseen = codes.unseen_classes
    return unseen is not None and bool(np.isin(codes.query_labels, unseen).all())


def _task(
    codes: Codes,
    name: str,
    queries: NDArray[np.int64],
    database: NDArray[np.int64] | None,
    own: NDArray[np.int64],
    thorough: bool,
) -> Task:
    exclude = own[queries]
    database_codes, database_labels = codes.database_codes, codes.database_labels
    if database is not None:
        place = np.full(len(database_codes) + 1, -1, dtype=np.int64)  # the last entry answers −1
        place[database] = np.arange(len(database))
        exclude = place[exclude]
        database_codes, database_labels = database_codes[database], database_labels[database]
    return Task(
        name,
        codes.query_codes[queries],
        codes.query_labels[queries],
        database_codes,
        database_labels,
        exclude,
        codes.bits,
        thorough,
    )
