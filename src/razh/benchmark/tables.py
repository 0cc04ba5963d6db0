"""From rows to tables: mean and deviation over seeds, who is best, ranks; as Markdown and as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from razh.benchmark.rows import Row
from razh.retrieval.report import check_fingerprints

__all__ = ["Column", "Entry", "columns", "latex", "markdown", "mean_ranks", "number", "over_protocols", "spread"]

Key = tuple[str, int]  # protocol, bits


@dataclass(frozen=True)
class Entry:
    """A metric of a method in one column: values by seed, and how many seeds were asked for."""

    values: dict[int, float]
    planned: int

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN without any."""
        return float(np.mean(list(self.values.values()))) if self.values else float("nan")

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Column:
    """One protocol and code length: an entry a method, in the order of the benchmark."""

    protocol: str
    bits: int
    entries: dict[str, Entry]

    @property
    def ranked(self) -> dict[str, float]:
        """Means of the methods that have all seeds that any method has here: the others compete for nothing."""
        most = max((len(entry.values) for entry in self.entries.values()), default=0)
        return {label: e.mean for label, e in self.entries.items() if most and len(e.values) == most}

    def place(self, label: str) -> int | None:
        """Return 1 for the best mean, 2 for the next lower one, …; None for a method that is not ranked."""
        means = self.ranked
        if label not in means:
            return None
        return 1 + len({round(mean, 12) for mean in means.values() if round(mean, 12) > round(means[label], 12)})

    @property
    def best(self) -> str | None:
        """The method with the highest mean, the first of equals."""
        means = self.ranked
        return max(means, key=means.__getitem__) if means else None


def columns(rows: Sequence[Row], metric: str) -> dict[Key, Column]:
    """Return a column for each protocol and code length among the rows.

    Raises:
        ValueError: cells of one protocol have different split fingerprints.
    """
    check_one_split(rows)
    found: dict[Key, Column] = {}
    for row in rows:
        column = found.setdefault((row["protocol"], row["bits"]), Column(row["protocol"], row["bits"], {}))
        entry = column.entries.setdefault(row["label"], Entry({}, 0))
        value = row.get(metric) if row["status"] == "done" else None
        values = {**entry.values, row["seed"]: float(value)} if value is not None else entry.values
        column.entries[row["label"]] = Entry(values, entry.planned + 1)
    protocols = list(dict.fromkeys(protocol for protocol, _ in found))
    return dict(sorted(found.items(), key=lambda item: (protocols.index(item[0][0]), item[0][1])))


MEAN = "mean"  # the name of a column over all protocols


def over_protocols(found: Mapping[Key, Column]) -> dict[int, Column]:
    """Return, by code length, the means over seeds at each protocol as the values of one column.

    The deviation is that over protocols; a method competes if it has every protocol that has any result at that length.
    """
    whole: dict[int, Column] = {}
    for (_, bits), column in found.items():
        if not column.ranked:
            continue
        whole.setdefault(bits, Column(MEAN, bits, {}))
        entries = whole[bits].entries
        number_ = max((entry.planned for entry in entries.values()), default=0)
        for label in dict.fromkeys([*entries, *column.entries]):
            before = entries.get(label, Entry({}, number_))
            values = {number_: column.entries[label].mean} if label in column.ranked else {}
            entries[label] = Entry({**before.values, **values}, number_ + 1)
    return dict(sorted(whole.items()))


def check_one_split(rows: Iterable[Row]) -> None:
    """Demand one split fingerprint among the cells of a protocol.

    Raises:
        ValueError: there are several.
    """
    prints: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["status"] == "done":
            fingerprint = str(row.get("split/fingerprint") or "")
            prints.setdefault(row["protocol"], {}).setdefault(fingerprint, str(row["folder"]))
    for protocol, seen in prints.items():
        check_fingerprints({f"{protocol} in {folder}": fingerprint for fingerprint, folder in seen.items()})


def mean_ranks(found: Mapping[Key, Column]) -> dict[str, float]:
    """Return the mean rank over all columns of the methods that are ranked in each; equal means share their ranks."""
    labels = dict.fromkeys(label for column in found.values() for label in column.entries)
    ranks: dict[str, list[float]] = {label: [] for label in labels}
    for column in found.values():
        means = {label: round(mean, 12) for label, mean in column.ranked.items()}
        for label, mean in means.items():
            above = sum(other > mean for other in means.values())
            equal = sum(other == mean for other in means.values())
            ranks[label].append(above + (equal + 1) / 2)
    return {label: float(np.mean(places)) for label, places in ranks.items() if len(places) == len(found) and places}


def number(value: float, sign: bool = False) -> str:
    """Return a figure with three decimals and no leading zero."""
    text = f"{abs(value):.3f}"
    minus = value < 0 and float(text) > 0
    text = text[1:] if text.startswith("0.") else text
    return ("−" if minus else "+" if sign else "") + text


def spread(entry: Entry) -> str:
    """Return mean ± deviation, and how many seeds of how many where some are missing."""
    if not entry.values:
        return "–"
    text = number(entry.mean) + (f" ± {number(entry.deviation)}" if entry.deviation is not None else "")
    return text if len(entry.values) == entry.planned else f"{text} ({len(entry.values)}/{entry.planned})"


@dataclass(frozen=True)
class Cell:
    """A cell of a printed table: its text, whether it is the best or the second, and a mark behind it."""

    text: str
    place: int | None = None
    mark: str = ""


def value_cell(column: Column | None, label: str, alike: Iterable[str] = ()) -> Cell:
    """Return the printed cell of a method; `alike` are the methods that cannot be told from the best one."""
    entry = column.entries.get(label) if column is not None else None
    if column is None or entry is None:
        return Cell("")
    return Cell(spread(entry), column.place(label), "†" if label in alike else "")


Printed = Sequence[Sequence[Any]]


def markdown(header: Sequence[str], rows: Printed) -> str:
    """Return a Markdown table; best cells bold, second ones underlined."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    lines += [
        "| " + " | ".join(_printed(cell, _markdown_text, "**{}**", "<u>{}</u>") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def latex(header: Sequence[str], rows: Printed, caption: str) -> str:
    r"""Return a table of LaTeX's booktabs; best cells bold, second ones underlined."""
    body = [
        " & ".join(_printed(cell, _latex_text, r"\textbf{{{}}}", r"\underline{{{}}}") for cell in row) for row in rows
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(_latex_text(name) for name in header) + r" \\",
            r"\midrule",
            *(line + r" \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _printed(cell: Any, escape: Callable[[str], str], bold: str, underlined: str) -> str:
    if not isinstance(cell, Cell):
        return escape(str(cell))
    text = escape(cell.text)
    text = bold.format(text) if cell.place == 1 else underlined.format(text) if cell.place == 2 else text
    return text + (escape(f" {cell.mark}") if cell.mark else "")


def _markdown_text(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$^\dagger$", "−": "$-$", "–": "--",
    "×": r"$\times$", "Δ": r"$\Delta$", "<": "$<$", ">": "$>$", "…": r"\dots{}", "·": r"$\cdot$",
}  # fmt: skip


def _latex_text(text: str) -> str:
    return re.sub("|".join(re.escape(sign) for sign in LATEX), lambda found: LATEX[found[0]], text)
