"""A results document: its sections listed, folded, kept where their cells are gone, and figures put into its words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from razh.benchmark.report_tables import DETAILS, PARTS
from razh.benchmark.summary import Identity, Summary
from razh.benchmark.tables import MEAN, columns, over_protocols, spread
from razh.files import write_text

__all__ = [
    "begin",
    "contents",
    "document",
    "end",
    "figure_in",
    "fill",
    "folded",
    "names_of",
    "replace_block",
    "sections_of",
]

begin, end = "<!-- razh report: begin, generated -->", "<!-- razh report: end -->"
_FACTS = re.compile(
    r"^\d+ of \d+ cells, .*?`razh (?:benchmark|ablate) ([^`]+?) --dataset=(\S+) --backbone=([^`\s]+)( --tune \d+)?`",
    re.MULTILINE,
)
_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")
_MARKS = re.compile(r"\*\*|</?u>| †")
_FOLD = "<details>\n<summary>{}</summary>\n\n"
_UNFOLD = "\n\n</details>"


def document(sections: Sequence[str], notes: str, title: str = "Results") -> str:
    """Return the whole document: what tables there are, the hand-written notes, then what was generated."""
    words = notes.strip()
    tables = [f"Tables:\n\n{contents(sections)}"] if len(sections) > 1 else []
    found = [folded(section.strip()) for section in sections]
    return "\n\n".join([f"# {title}", begin, *tables, *([words] if words else []), *found, end]) + "\n"


def names_of(identities: Iterable[Identity]) -> dict[Identity, str]:
    """Return what a document calls its benchmarks: by name, by name, data set and backbone where the name is shared."""
    different = list(dict.fromkeys(identities))
    count = Counter(name for name, _, _ in different)
    return {one: one[0] if count[one[0]] == 1 else " ".join(one) for one in different}


def fill(text: str, by_name: Mapping[str, Summary], where: str, kept: Mapping[str, str] | None = None) -> str:
    """Put figures into hand-written text: `{{BENCHMARK|METHOD|PROTOCOL|BITS|METRIC}}` becomes mean ± deviation.

    PROTOCOL `mean` is the mean over protocols. Figures of benchmarks that are not at hand are read from their sections,
    `kept` by name; BENCHMARK is a name of `names_of`.

    Raises:
        ValueError: a placeholder names nothing that was measured.
    """
    sections = {name: text for name, text in (kept or {}).items() if name not in by_name}
    names = {metric: name for name, metric in {**DETAILS, **PARTS}.items()}

    def figure(found: re.Match[str]) -> str:
        parts = [part.strip() for part in found[1].split("|")]
        problem = (
            f"{where}: {found[0]} names nothing that was measured; write {{{{BENCHMARK|METHOD|PROTOCOL|BITS|METRIC}}}}"
        )
        if len(parts) != 5 or not parts[3].isdigit():
            raise ValueError(problem)
        if parts[0] in sections:
            text = figure_in(sections[parts[0]], parts[1], parts[2], int(parts[3]), names, parts[4])
            if text is None:
                raise ValueError(problem)
            return text
        if parts[0] not in by_name:
            raise ValueError(problem)
        measured = columns(by_name[parts[0]].rows, parts[4])
        bits = int(parts[3])
        column = over_protocols(measured).get(bits) if parts[2] == MEAN else measured.get((parts[2], bits))
        entry = column.entries.get(parts[1]) if column is not None else None
        if entry is None or not entry.values:
            raise ValueError(problem)
        return spread(entry)

    return _PLACEHOLDER.sub(figure, text)


def replace_block(path: Path, block: str) -> None:
    """Replace what stands between the markers in a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the markers are not there, once each and in order.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; create it with the lines {begin!r} and {end!r}")
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{path} lacks a place for the table; put the lines {begin!r} and {end!r} where it belongs")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    write_text(path, f"{before}{begin}\n\n{block.strip()}\n\n{end}{after}")


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


def sections_of(document: str) -> dict[Identity, str]:
    """Return the sections of a document of `razh report`, by what their benchmarks are, in its order."""
    found = {}
    for part in re.split(r"^(?=## )", document, flags=re.MULTILINE):
        if facts := _FACTS.search(part):
            found[facts[1] + ("-tuned" if facts[4] else ""), facts[2], facts[3]] = part.partition(end)[0].strip()
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
