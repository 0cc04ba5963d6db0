"""Sections of a results document: listed and folded for its readers, and kept where their cells are gone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from razh.benchmark.tables import MEAN

__all__ = ["begin", "contents", "end", "figure_in", "folded", "sections_of"]

begin, end = "<!-- razh report: begin, generated -->", "<!-- razh report: end -->"
_FACTS = re.compile(r"^\d+ of \d+ cells, .*?`razh (?:benchmark|ablate) (\S+) [^`]*?( --tune \d+)?`", re.MULTILINE)
_MARKS = re.compile(r"\*\*|</?u>| †")
_FOLD = "<details>\n<summary>{}</summary>\n\n"
_UNFOLD = "\n\n</details>"


def folded(section: str) -> str:
    """Return a section with all but its first table folded away; one of a single part, or folded before, as it is."""
    if "<details>" in section:
        return section
    facts, *parts = re.split(r"^(?=### )", section.strip(), flags=re.MULTILINE)
    if len(parts) < 2:
        return section
    titles = [re.sub(r":.*| at \d+ bits.*", "", part.partition("\n")[0].removeprefix("### ")) for part in parts[1:]]
    summary = re.sub("`", "", "; ".join(dict.fromkeys(titles)))
    return f"{facts}{parts[0]}{_FOLD.format(summary)}{''.join(parts[1:])}{_UNFOLD}"


def contents(sections: Iterable[str]) -> str:
    """Return a list of links to sections, by the anchors that GitHub gives their headings."""
    titles = [section.lstrip().partition("\n")[0].removeprefix("## ") for section in sections]
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return "\n".join(f"- [{title}](#{anchor})" for title, anchor in zip(titles, anchors, strict=True))


def sections_of(document: str) -> dict[str, str]:
    """Return the sections of a document of `razh report`, by the name of their benchmark, in its order."""
    found = {}
    for part in re.split(r"^(?=## )", document, flags=re.MULTILINE):
        if facts := _FACTS.search(part):
            found[facts[1] + ("-tuned" if facts[2] else "")] = part.partition(end)[0].strip()
    return found


def figure_in(section: str, method: str, protocol: str, bits: int, names: dict[str, str], metric: str) -> str | None:
    """Return a figure, mean ± deviation, from the tables of a section; None if it is not there.

    Args:
        section: as `sections_of` returns it.
        method: a row.
        protocol: of the figure; `mean` is the mean over protocols.
        bits: code length.
        names: what tables call the metrics that have columns of their own, by metric.
        metric: of the figure; one that is not among `names` is taken for that of the main tables.
    """
    name = names.get(metric)
    where = "mean over protocols" if protocol == MEAN else f"`{protocol}`"
    for title, table in _tables(section):
        if title.startswith("Mean over protocols") and protocol == MEAN:
            column = f"{name}, {bits} bits" if name and name != "unseen" else f"{bits} bits"
        elif title.startswith(f"Protocol `{protocol}`") and name in (None, "unseen"):
            column = f"{bits} bits"
        elif title.endswith(f"at {bits} bits, {where}") and name:
            column = name
        else:
            continue
        if text := table.get(method, {}).get(column):
            return text
    return None


def _tables(section: str) -> list[tuple[str, dict[str, dict[str, str]]]]:
    """Return title and table of each part of a section; a table by row and column."""
    found = []
    for part in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
        title, *lines = part.splitlines()
        rows = [_cells(line) for line in lines if line.startswith("|")]
        if len(rows) > 2:
            header = rows[0]
            found.append((title, {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows[2:]}))
    return found


def _cells(line: str) -> list[str]:
    """Return the cells of a table's line without what makes them bold, underlined or marked."""
    return [_MARKS.sub("", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
