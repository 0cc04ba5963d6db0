"""Audit of split lists as papers publish them: overlaps, repetitions, and unseen classes that were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from razh.retrieval.reading import is_text, read_array

__all__ = ["Audit", "SplitList", "audit", "read_list"]


@dataclass(frozen=True)
class SplitList:
    """The items of one list in order, and the class of every item, "" where the list does not tell."""

    items: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def class_set(self) -> set[str]:
        """The classes that the list names."""
        return set(self.classes) - {""}


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        facts: names to counts, in the order of a report.
        leaks: one sentence for every finding that makes the protocol's figures too high.
        notes: one sentence for every finding that is unusual but leaks nothing.
        overlaps: number of items two lists share, by "query/database" and so on.
    """

    facts: dict[str, int]
    leaks: tuple[str, ...]
    notes: tuple[str, ...]
    overlaps: dict[str, int] = field(default_factory=dict)


def read_list(source: str, by_name: bool = False) -> SplitList:
    """Read a list: text with one item a line (also .gz), or an index array (.npy, .npz:key, .mat:variable).

    A line is a path, `class_folder/image.jpg`, or a path followed by a class id or by 0/1 labels. The class is what
    follows the path, else the folder. A path may be a number, too.

    Args:
        source: the file.
        by_name: compare file names alone, for lists whose folders differ.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty, cannot be read, or is an array of more than one dimension.
    """
    array = read_array(source)
    if array.ndim > 1 and is_text(source):
        rows = [[f"{cell:g}" if cell % 1 else str(int(cell)) for cell in row] for row in array.tolist()]
        return SplitList(tuple(item for item, *_ in rows), tuple(" ".join(labels) for _, *labels in rows))
    if array.ndim > 1 and 1 not in array.shape:
        raise ValueError(f"{source} holds an array of shape {array.shape}; a list of items has one dimension")
    if array.dtype.kind not in "US":
        return SplitList(tuple(str(int(item)) for item in array.ravel()), ("",) * array.size)
    lines = [str(line).replace("\\", "/") for line in array]
    items, classes = zip(*(_split_line(line) for line in lines), strict=True)
    if by_name:
        items = tuple(PurePosixPath(item).name for item in items)
    return SplitList(tuple(items), tuple(classes))


def _split_line(line: str) -> tuple[str, str]:
    """Return (item, class) of a line."""
    fields = line.replace(",", " ").split()
    labels = 0
    while labels < len(fields) - 1 and fields[-1 - labels].lstrip("-").isdigit():
        labels += 1
    path = line
    for label in reversed(fields[len(fields) - labels :]):
        path = path.rstrip(" \t,").removesuffix(label)
    path = str(PurePosixPath(path.strip(" \t,\"'")))
    return path, " ".join(fields[len(fields) - labels :]) if labels else _folder(path)


def _folder(path: str) -> str:
    name = PurePosixPath(path).parent.name
    return "" if name in ("", ".") else name


def audit(query: SplitList, database: SplitList, train: SplitList | None = None) -> Audit:
    """Compare the lists of a zero-shot retrieval protocol, in which queries are of classes without training images.

    Leaks: a query that is in the database (it retrieves itself first), a query that is in the training list, a query
    class with training images. Notes: repetitions in a list, and query classes that the database lacks. That seen
    training images are in the database is usual, and only counted.
    """
    lists: dict[str, SplitList] = {"query": query, "database": database}
    if train is not None:
        lists["train"] = train
    facts = {f"{name} items": len(one.items) for name, one in lists.items()}
    facts |= {f"{name} classes": len(one.class_set) for name, one in lists.items() if one.class_set}
    notes = [
        f"{name}: {len(one.items) - len(set(one.items))} of {len(one.items)} items are repetitions"
        for name, one in lists.items()
        if len(set(one.items)) < len(one.items)
    ]
    overlaps = _overlaps(lists)
    facts |= {f"{pair.replace('/', ' items that are in ')}": count for pair, count in overlaps.items()}
    leaks = _image_leaks(lists, overlaps)
    if query.class_set and database.class_set and (missing := query.class_set - database.class_set):
        notes.append(f"{len(missing)} query classes have no database image: {_some(missing)}")
    if train is not None and query.class_set and train.class_set:
        shared = query.class_set & train.class_set
        facts["query classes that are in train"] = len(shared)
        if shared:
            leaks.append(f"{len(shared)} of {len(query.class_set)} query classes were trained on: {_some(shared)}")
    return Audit(facts, tuple(leaks), tuple(notes), overlaps)


def _overlaps(lists: Mapping[str, SplitList]) -> dict[str, int]:
    """Return how many items of the first list of each pair are in the second."""
    pairs = [("query", "database")] + [("query", "train"), ("train", "database")] * ("train" in lists)
    found = {}
    for left, right in pairs:
        other = set(lists[right].items)
        found[f"{left}/{right}"] = sum(item in other for item in lists[left].items)
    return found


def _image_leaks(lists: Mapping[str, SplitList], overlaps: Mapping[str, int]) -> list[str]:
    size = len(lists["query"].items)
    return [
        f"{overlaps[pair]} of {size} queries ({overlaps[pair] / size:.0%}) are {words}"
        for pair, words in (
            ("query/database", "in the database: each retrieves itself first"),
            ("query/train", "training images"),
        )
        if overlaps.get(pair)
    ]


def _some(names: set[str], count: int = 5) -> str:
    shown = sorted(names)[:count]
    return ", ".join(shown) + (", …" if len(names) > count else "")
