"""The tasks of a codes file: which queries search which part of the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from razh.retrieval.codes import Codes

__all__ = ["WORDS", "Task", "retrieval_task", "retrieval_tasks", "seen_rows_are_queries"]

WORDS = {  # what tables and figures call the queries of a task
    "": "all classes",
    "unseen": "unseen classes",
    "zsl": "unseen classes among themselves",
    "validation": "validation classes (held out)",
    "trained": "trained classes",
    "seen": "seen classes",
}


@dataclass(frozen=True, eq=False)
class Task:
    """One set of queries against one database; `exclude` (Q,) is the database row of the query itself, or −1.

    `query_logits` (Q, L) are there where the codes file has them, see `Codes`. `name` is a key of `WORDS`; `thorough`
    asks for every metric, not for the few that tell the groups of queries apart.
    """

    name: str
    query_codes: NDArray[np.uint8]
    query_labels: NDArray[Any]
    database_codes: NDArray[np.uint8]
    database_labels: NDArray[Any]
    exclude: NDArray[np.int64]
    bits: int
    thorough: bool
    query_logits: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.query_codes)


def retrieval_tasks(codes: Codes) -> list[Task]:
    """Return the tasks that a codes file allows, in a fixed order; no query is in two of them but those of `zsl`.

    With unseen classes: `unseen` (unseen queries against the whole database), `zsl` (the same queries against the
    unseen part of the database) and the queries of seen classes against the whole database: `validation` (classes held
    out of training) and `trained` where the file tells them apart, else all as `seen`. Without: one task named "".

    Raises:
        ValueError: there are no queries at all.
    """
    seen = ("seen",) if codes.validation_classes is None else ("validation", "trained")
    names = ("",) if codes.unseen_classes is None else ("unseen", "zsl", *seen)
    return [task for name in names if (task := retrieval_task(codes, name)) is not None]


def retrieval_task(codes: Codes, name: str) -> Task | None:
    """Return one task of a codes file; None if the file has no such queries or, for `zsl`, no unseen database.

    Queries of seen classes are query rows where the file has any, else the seen database rows, each left out of its own
    ranking. `seen` is what `validation` and `trained` have together.

    Args:
        codes: the codes file.
        name: a key of `WORDS`.

    Raises:
        ValueError: there are no queries at all.
    """
    if not len(codes.query_codes):
        raise ValueError("query_codes is empty; retrieval needs at least one query")
    if (codes.unseen_classes is None) != (name == ""):
        return None
    database = np.arange(len(codes.database_codes))
    if name in ("", "unseen", "zsl"):
        rows = np.flatnonzero(_members(codes, name, codes.query_labels))
        searched = np.flatnonzero(_members(codes, name, codes.database_labels)) if name == "zsl" else database
        return _task(codes, name, rows, searched) if len(rows) and len(searched) else None
    if not seen_rows_are_queries(codes):
        rows = np.flatnonzero(_members(codes, name, codes.query_labels))
        return _task(codes, name, rows, database) if len(rows) else None
    rows = np.flatnonzero(_members(codes, name, codes.database_labels))
    found = codes.database_codes, codes.database_labels
    return Task(name, found[0][rows], found[1][rows], *found, rows, codes.bits, False) if len(rows) else None


def seen_rows_are_queries(codes: Codes) -> bool:
    """Whether queries of seen classes are taken from the database: the file has none of its own."""
    unseen = codes.unseen_classes
    return unseen is not None and bool(np.isin(codes.query_labels, unseen).all())


def _members(codes: Codes, name: str, labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which labels (n,) belong to the queries of a task."""
    if name == "":
        return np.ones(len(labels), dtype=bool)
    unseen, held_out = (np.isin(labels, classes or ()) for classes in (codes.unseen_classes, codes.validation_classes))
    kinds = {"validation": held_out, "trained": ~(unseen | held_out), "seen": ~unseen}
    return kinds.get(name, unseen)


def _task(codes: Codes, name: str, queries: NDArray[np.int64], database: NDArray[np.int64]) -> Task:
    """Return a task whose queries are rows (q,) of the query set, and whose database is rows (g,) of the database."""
    place = np.full(len(codes.database_codes) + 1, -1, dtype=np.int64)  # the last entry answers −1
    place[database] = np.arange(len(database))
    whole = len(database) == len(codes.database_codes)
    return Task(
        name,
        codes.query_codes[queries],
        codes.query_labels[queries],
        codes.database_codes if whole else codes.database_codes[database],
        codes.database_labels if whole else codes.database_labels[database],
        place[codes.own_rows()[queries]],
        codes.bits,
        name in ("", "unseen"),
        None if codes.query_logits is None else codes.query_logits[queries],
    )
