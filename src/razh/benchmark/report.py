"""A benchmark in words, tables and pictures: Markdown for people, LaTeX for papers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from razh.benchmark.cells import safe
from razh.benchmark.curves import curves_figure, dots_figure
from razh.benchmark.kept import begin, contents, end, figure_in, folded
from razh.benchmark.plan import NOTHING
from razh.benchmark.summary import Summary
from razh.benchmark.tables import (
    MEAN,
    Cell,
    Column,
    Entry,
    columns,
    latex,
    markdown,
    number,
    over_protocols,
    spread,
    value_cell,
)
from razh.benchmark.tuning import FOLDER as TUNING
from razh.figures.canvas import save
from razh.files import read_json, write_text
from razh.progress import readable_time

__all__ = ["begin", "document", "draw", "end", "fill", "headline", "markdown_section", "replace_block", "tex"]

DETAILS = {
    "unseen": "test/unseen/map",
    "unseen only (ZSL)": "test/zsl/map",
    "seen": "test/seen/map",
    "harmonic": "test/harmonic/map",
}
PARTS = {  # docs/measures.md says what they are
    "NMI": "parts/nmi",
    "ARI": "parts/ari",
    "NMI, foreground": "parts/nmi_foreground",
    "ARI, foreground": "parts/ari_foreground",
    "IoU": "parts/iou",
    "same part in the mirror image": "parts/flip_consistency_foreground",
    "part's attribute is the class's": "attributes/part_accuracy",
    "… shuffled": "attributes/part_accuracy_shuffled",
    "exact attribute": "attributes/exact_accuracy",
    "… shuffled (exact)": "attributes/exact_accuracy_shuffled",
    "AUC of attributes: parts": "attributes/auc",
    "feature": "attributes/auc_feature",
    "hash logits": "attributes/auc_hash",
    "parts that name classes": "attributes/auc_naming",
    "codes": "attributes/auc_codes",
    "unseen class named by such parts": "attributes/zero_shot/naming",
    "by the feature": "attributes/zero_shot/feature",
    "by the hash logits": "attributes/zero_shot/hash",
    "chance": "attributes/zero_shot/chance",
}
PLACEHOLDER = re.compile(r"\{\{\s*([^{}]+?)\s*\}\}")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()


def _chance(summary: Summary, protocol: str) -> float | None:
    head, _, rest = summary.plan.metric.rpartition("map")
    found = [r[f"{head}chance{rest}"] for r in summary.rows if r["protocol"] == protocol and f"{head}chance{rest}" in r]
    return float(np.mean(found)) if found and not rest.endswith("/all") else None


def _what(summary: Summary) -> str:
    parts = summary.plan.metric.split("/")
    return f"{parts[-1].replace('map', 'mAP')}, {parts[1]} queries" if len(parts) == 3 else summary.plan.metric


# ---------------------------------------------------------------------------------------------------------- pictures


def draw(summary: Summary, folder: Path) -> dict[str, Path]:
    """Write a picture for each protocol that has any result; return their files by protocol.

    Raises:
        OSError: the folder cannot be written.
    """
    drawn = {}
    for protocol in summary.protocols:
        found = [column for (name, _), column in summary.columns.items() if name == protocol and column.ranked]
        if not found:
            continue
        settings = summary.plan.settings
        title = f"{settings['dataset']} · {protocol} · {settings['backbone']}"
        chance = _chance(summary, protocol)
        path = folder / f"{_slug(' '.join((summary.name, settings['dataset'], protocol)))}.png"
        if len(found) > 1 and not summary.plan.reference:
            figure = curves_figure(found, chance, _what(summary), title)
        else:
            column = found[-1]
            reference, alike = summary.reference(column), summary.alike((protocol, column.bits))
            if summary.plan.reference:
                mark, marked = "*", {label for label in column.ranked if label not in (*alike, reference)}
                words = f"; * p ≤ .05 against {reference}"
            else:
                mark, marked, words = "†", alike, "; † cannot be told from the best"
            near = chance if chance is not None and chance > 0.5 * min(column.ranked.values()) else None
            figure = dots_figure(
                column, near, f"{_what(summary)}{words}", f"{title} · {column.bits} bits", reference,
                dict.fromkeys(marked, mark),
            )  # fmt: skip
        save(figure, path)
        drawn[protocol] = path
    return drawn


# ------------------------------------------------------------------------------------------------------------ tables


def _main_table(summary: Summary, protocol: str) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: a column a code length, and the mean rank over everything."""
    bits = summary.bits_of(protocol)
    many = len(summary.columns) > 1
    rows = []
    for label in summary.labels:
        found = [(key, summary.columns[key]) for key in ((protocol, b) for b in bits)]
        if not any(label in column.entries for _, column in found):
            continue
        cells: list[Any] = [value_cell(column, label, summary.alike(key)) for key, column in found]
        rank = [f"{summary.ranks[label]:.1f}" if label in summary.ranks else "–"] if many else []
        rows.append([label, *cells, *rank])
    return ["method", *(f"{b} bits" for b in bits), *(["mean rank"] if many else [])], rows


def _mean_table(summary: Summary, sort: bool = False) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the mean over protocols: unseen at each length, then seen at the headline's."""
    found = over_protocols(summary.columns)
    bits = summary.headline[1]
    seen = over_protocols(columns(summary.rows, DETAILS["seen"])).get(bits)
    at = found.get(bits)
    labels = summary.labels
    if sort and at is not None:
        labels.sort(key=lambda label: -at.entries[label].mean if at.entries[label].values else 1.0)
    extra = {f"seen, {bits} bits": seen} if seen is not None else {}
    header = ["method", *(f"{b} bits" for b in found), *extra]
    shown = [*found.values(), *extra.values()]
    return header, [[label, *(value_cell(column, label) for column in shown)] for label in labels]


def _mean_words(summary: Summary) -> str:
    """Return what the mean's deviation is, and how far the best method is from the next one at each length."""
    text = (
        f"{len(summary.protocols)} protocols; mean ± standard deviation of the protocols' means over seeds "
        "(how hard a draw is makes most of it)."
    )
    for bits, column in over_protocols(summary.columns).items():
        order = sorted(column.ranked.items(), key=lambda item: -item[1])
        if len(order) > 1:
            (best, high), (second, low) = order[:2]
            text += f" At {bits} bits `{best}` is {high / low - 1:+.1%} from `{second}`."
    return text


def _reference_table(summary: Summary, protocol: str) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows: value, difference to the reference and its p for each code length."""
    header = ["variant"]
    rows: list[list[Any]] = [[label] for label in summary.labels]
    for bits in summary.bits_of(protocol):
        header += [f"{bits} bits", "Δ", "95 %", "p"]
        column, differences = summary.columns[protocol, bits], summary.differences[protocol, bits]
        for row in rows:
            one = differences.get(row[0])
            row.append(value_cell(column, row[0]))
            if one is None:
                row += ["", "", ""]
            else:
                sure = "" if one.p_value > 0.05 else "**"
                row += [
                    Cell(number(one.difference, sign=True), 1 if sure else None),
                    f"{number(one.low, sign=True)} … {number(one.high, sign=True)}",
                    _p(one.p_value),
                ]
    return header, rows


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else number(value)


def _details(summary: Summary, sort: bool = False) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the headline column: unseen, seen, harmonic, and the band of tie orders."""
    protocol, bits = summary.headline
    rows_of = [row for row in summary.rows if (row["protocol"], row["bits"]) == (protocol, bits)]
    found = {name: columns(rows_of, metric).get((protocol, bits)) for name, metric in DETAILS.items()}
    shown = {name: column for name, column in found.items() if column is not None and column.ranked}
    low, high = (columns(rows_of, f"test/unseen/map_{end_}").get((protocol, bits)) for end_ in ("worst", "best"))
    first = next(iter(shown.values()), None)
    labels = [label for label in summary.labels if first is not None and label in first.entries]
    if sort and first is not None:
        labels.sort(key=lambda label: -first.entries[label].mean if first.entries[label].values else 1.0)
    alike = summary.alike(summary.headline) if summary.plan.metric == DETAILS["unseen"] else set()
    rows = []
    for label in labels:
        cells = [value_cell(c, label, alike if name == "unseen" else ()) for name, c in shown.items()]
        rows.append([label, *cells, _band(low, high, label)])
    return ["method", *shown, "worst – best order of ties (unseen)"], rows


def _parts(summary: Summary, protocol: str) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the measures of parts and attributes at the headline's length, where there are any.

    The protocol `mean` is the mean over protocols.
    """
    bits = summary.headline[1]

    def column_of(metric: str) -> Column:
        measured = columns(summary.rows, metric)
        found = over_protocols(measured).get(bits) if protocol == MEAN else measured.get((protocol, bits))
        return found or Column(protocol, bits, {})

    shown = {name: column for name, metric in PARTS.items() if (column := column_of(metric)).ranked}
    nearest = column_of("attributes/distinct_nearest")
    rows = []
    for label in summary.labels:
        entries = [column.entries.get(label, Entry({}, 0)) for column in shown.values()]
        if any(entry.values for entry in entries):
            different = nearest.entries.get(label, Entry({}, 0))
            count = f"{different.mean:.1f}" if different.values else "–"
            rows.append([label, *(spread(entry) for entry in entries), count])
    return ["method", *shown, "different attributes"], rows


def _band(low: Column | None, high: Column | None, label: str) -> str:
    ends = [column.entries.get(label) if column is not None else None for column in (low, high)]
    means = [entry.mean for entry in ends if entry is not None and entry.values]
    return f"{number(means[0])} – {number(means[1])}" if len(means) == 2 else "–"


def _cost(summary: Summary) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of seconds a cell and minutes together."""
    rows: list[list[Any]] = []
    for label in summary.labels:
        of_label = [row for row in summary.rows if row["label"] == label]
        done = [row for row in of_label if row["status"] == "done"]
        means = [
            f"{np.mean([row.get(f'time/{stage}_seconds', 0.0) for row in done]):.1f}" if done else "–"
            for stage in ("fit", "test")
        ]
        together = sum(float(row["cost/wall_seconds"] or 0) for row in of_label)
        rows.append([label, f"{len(done)}/{len(of_label)}", *means, f"{together / 60:.1f}"])
    return ["method", "cells", "fit, s a cell", "test, s a cell", "all cells, minutes"], rows


def _tuning(summary: Summary) -> tuple[list[str], list[list[Any]]]:
    rows: list[list[Any]] = []
    for label in summary.labels:
        found = read_json(summary.out / TUNING / safe(label) / "trials.json")
        trials = [trial for trial in found.get("trials", []) if trial["validation_map"] is not None]
        if not trials:
            rows.append([label, "–", "–", "–", "nothing to search" if not found else "no trial has a value"])
            continue
        best = max(trials, key=lambda trial: trial["validation_map"])
        words = ", ".join(f"{k.removeprefix('model.')}={_short(v)}" for k, v in best["options"].items()) or "defaults"
        default = next((t["validation_map"] for t in trials if t["trial"] == 0), None)
        before = number(default) if default is not None else "–"
        rows.append([label, str(len(trials)), before, number(best["validation_map"]), words])
    return ["method", "trials", "validation mAP of the defaults", "of the chosen", "chosen"], rows


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------------------- words


def markdown_section(summary: Summary, pictures: Mapping[str, str], level: int = 2) -> str:
    """Return a benchmark as a section of a Markdown document.

    Args:
        summary: of the benchmark.
        pictures: by protocol, what a picture's link points to.
        level: of its heading.
    """
    head, settings = "#" * level, summary.plan.settings
    tuned = ", tuned" if summary.plan.trials else ""
    parts = [f"{head} {summary.plan.title}{tuned}: {settings['dataset']}, {settings['backbone']}", _facts(summary)]
    for protocol in summary.protocols:
        counted = len({row["seed"] for row in summary.rows if row["protocol"] == protocol})
        prints = {
            str(r["split/fingerprint"])[:12]
            for r in summary.rows
            if r["protocol"] == protocol and "split/fingerprint" in r
        }
        chance = _chance(summary, protocol)
        note = f"Split {', '.join(sorted(prints)) or 'unknown'}…, {counted} seed{'s' if counted > 1 else ''}"
        note += f", random ranking {number(chance)}." if chance is not None else "."
        parts.append(f"{head}# Protocol `{protocol}`: {_what(summary)}\n\n{note}")
        table = _reference_table if summary.plan.reference else _main_table
        parts += [markdown(*table(summary, protocol)), _legend(summary)]
        if protocol in pictures:
            parts.append(f"![{_what(summary)} by method, {settings['dataset']} {protocol}]({pictures[protocol]})")
    if len(summary.protocols) > 1:
        words = f"{head}# Mean over protocols: {_what(summary)}\n\n{_mean_words(summary)}"
        parts[2:2] = [words, markdown(*_mean_table(summary))]
    protocol, bits = summary.headline
    details = _details(summary)
    if details[1]:
        parts += [f"{head}# All tasks at {bits} bits, `{protocol}`", markdown(*details)]
    words = (
        "Unseen queries; no label is used to find anything (docs/measures.md). What counts is how far a figure is from "
        "its shuffled one."
    )
    for name in [MEAN, protocol] if len(summary.protocols) > 1 else [protocol]:
        if (measured := _parts(summary, name))[1]:
            where = "mean over protocols" if name == MEAN else f"`{name}`"
            parts += [f"{head}# Parts and attributes at {bits} bits, {where}", words, markdown(*measured)]
    parts += [f"{head}# Cost", _machine(summary), markdown(*_cost(summary))]
    if summary.plan.trials:
        found = [cell.tuned_on for cell in summary.plan.cells.values() if cell.tuned_on not in ("", NOTHING)]
        words = f"Options were chosen on {found[0]}." if found else "No method here has anything to search."
        parts += [f"{head}# Tuning", words, markdown(*_tuning(summary))]
    elif words := _tuned_defaults(summary):
        parts.append(words)
    if problems := _problems(summary):
        parts += [f"{head}# What is missing", problems]
    return "\n\n".join(parts) + "\n"


def _facts(summary: Summary) -> str:
    plan, settings = summary.plan, summary.plan.settings
    options = ", ".join(f"{k}={v}" for k, v in settings["options"].items())
    done = sum(row["status"] == "done" for row in summary.rows)
    command = "ablate" if plan.reference else "benchmark"
    tune = f" --tune {plan.trials}" if plan.trials else ""
    text = (
        f"{done} of {len(summary.rows)} cells, each a run of its own; best epoch by validation classes, figures from "
        f"the test classes. `razh {command} {plan.name} --dataset={settings['dataset']} "
        f"--backbone={settings['backbone']}{tune}`"
    )
    return text + (f"; options of all: {options}." if options else ".")


def _legend(summary: Summary) -> str:
    test = (
        f"paired permutation test over {'queries' if summary.by == 'query' else 'classes of queries'} of the seeds' "
        "mean, corrected by Holm"
    )
    if summary.plan.reference:
        return (
            f"Mean ± standard deviation over seeds. Δ: difference to `{summary.plan.reference}`, its 95 % interval "
            f"(bootstrap) and p ({test}); bold differences have p ≤ .05."
        )
    return (
        "Mean ± standard deviation over seeds; bold: best, underlined: second. "
        f"† cannot be told from the best (p > .05; {test}). The test is about other queries of this split, not about "
        "other splits."
    )


def _machine(summary: Summary) -> str:
    facts = {
        "device": summary.values("environment/device"),
        "processor": summary.values("environment/cpu"),
        "GPU": [gpu for gpu in summary.values("environment/gpus") if gpu != "[]"],
        "threads": summary.values("environment/threads"),
        "razh": summary.values("environment/razh"),
        "torch": summary.values("environment/torch"),
        "commit": _commits(summary),
    }
    words = "; ".join(f"{name} {', '.join(values)}" for name, values in facts.items() if values)
    time = f"Cells took {summary.seconds / 60:.0f} minutes together, start-up included"
    if summary.tuning_seconds:
        time += f"; tuning {summary.tuning_seconds / 60:.0f} minutes before that"
    mixed = ""
    if len(facts["razh"]) > 1 or len(facts["torch"]) > 1 or len(facts["commit"]) > 1:
        mixed = " **Cells of different versions of the code stand in these tables.**"
    return f"{time}. {words[:1].upper()}{words[1:]}.{mixed}" if words else f"{time}."


def _commits(summary: Summary) -> list[str]:
    """Return the commits of the code, each with a word if files differed from it."""
    found = [(r.get("git/commit"), r.get("git/changed")) for r in summary.rows if r["status"] == "done"]
    return [
        f"{commit[:12]} with changes" if changed else commit[:12] for commit, changed in dict.fromkeys(found) if commit
    ]


def _tuned_defaults(summary: Summary) -> str:
    found = {cell.label: cell.tuned_on for cell in summary.plan.cells.values() if cell.tuned_on}
    words = "; ".join(f"{label}: {text}" for label, text in found.items())
    return (
        f"No method was tuned here. Defaults that were chosen on data: {words}. The others are the papers' or guesses."
        if words
        else ""
    )


def _problems(summary: Summary) -> str:
    bad = [row for row in summary.rows if row["status"] != "done"]
    lines = []
    for row in bad:
        reason = f": {row['error']}" if row["error"] else ""
        where = f"{row['label']}, {row['protocol']}, {row['bits']} bits, seed {row['seed']}"
        lines.append(f"- {where}: {row['status']}{reason}".replace("<", "&lt;"))
    return "\n".join(lines)


def _seeds(summary: Summary) -> str:
    """Return how many seeds there are, for each number the code lengths that have it, the headline's first."""
    lengths: dict[int, list[int]] = {}
    headline = summary.headline[1]
    for bits in sorted({row["bits"] for row in summary.rows}, key=lambda b: (b != headline, b)):
        lengths.setdefault(len({row["seed"] for row in summary.rows if row["bits"] == bits}), []).append(bits)
    words = [f"{count} seed{'s' if count > 1 else ''}" for count in lengths]
    if len(lengths) == 1:
        return words[0]
    return ", ".join(f"{w} at {', '.join(map(str, b))} bits" for w, b in zip(words, lengths.values(), strict=True))


def headline(summary: Summary, link: str) -> str:
    """Return the table for a README: the headline column, best method first.

    Args:
        summary: of the benchmark.
        link: to the whole document.
    """
    protocol, bits = summary.headline
    settings = summary.plan.settings
    chance = _chance(summary, protocol)
    floor = (
        f", random ranking {number(chance)}" if chance is not None and summary.plan.metric == DETAILS["unseen"] else ""
    )
    if len(summary.protocols) > 1:
        intro = (
            f"{summary.plan.title}: {settings['dataset']}, {settings['backbone']}, {_what(summary)}, "
            f"{_seeds(summary)}. All tables: [{link}]({link})."
        )
        return f"{intro}\n\n{markdown(*_mean_table(summary, sort=True))}\n\n{_mean_words(summary)}"
    intro = (
        f"{summary.plan.title}: {settings['dataset']}, protocol `{protocol}`, {settings['backbone']}, {bits} bits, "
        f"{_seeds(summary)}, expected mAP{floor}. All tables: [{link}]({link})."
    )
    return f"{intro}\n\n{markdown(*_details(summary, sort=True))}\n\n{_legend(summary)}"


def tex(summary: Summary) -> str:
    """Return the tables of all protocols in LaTeX."""
    settings = summary.plan.settings
    tables = ["% \\usepackage{booktabs}"]
    for protocol in summary.protocols:
        caption = (
            f"{_what(summary)}: {settings['dataset']}, protocol {protocol}, {settings['backbone']}. {_legend(summary)}"
        )
        table = _reference_table if summary.plan.reference else _main_table
        tables.append(latex(*table(summary, protocol), caption))
    protocol, bits = summary.headline
    details = _details(summary)
    if details[1]:
        tables.append(latex(*details, f"All tasks at {bits} bits: {settings['dataset']}, protocol {protocol}."))
    if (measured := _parts(summary, protocol))[1]:
        tables.append(latex(*measured, f"Parts and attributes: {settings['dataset']}, protocol {protocol}."))
    return "\n\n".join(tables) + "\n"


def terminal(summary: Summary) -> str:
    """Return in a line who leads the headline column."""
    column = summary.columns[summary.headline]
    if column.best is None:
        return "no cell has a result yet"
    entry: Entry = column.entries[column.best]
    return (
        f"best at {column.bits} bits, {column.protocol}: {column.best} with {spread(entry)}; "
        f"all cells took {readable_time(summary.seconds)}"
    )


# --------------------------------------------------------------------------------------------------------- documents


def document(sections: Sequence[str], notes: str, title: str = "Results") -> str:
    """Return the whole document: what tables there are, the hand-written notes, then what was generated."""
    words = notes.strip()
    tables = [f"Tables:\n\n{contents(sections)}"] if len(sections) > 1 else []
    found = [folded(section.strip()) for section in sections]
    return "\n\n".join([f"# {title}", begin, *tables, *([words] if words else []), *found, end]) + "\n"


def fill(text: str, summaries: Iterable[Summary], where: str, kept: Mapping[str, str] | None = None) -> str:
    """Put figures into hand-written text: `{{BENCHMARK|METHOD|PROTOCOL|BITS|METRIC}}` becomes mean ± deviation.

    PROTOCOL `mean` is the mean over protocols. Figures of benchmarks that are not at hand are read from their sections,
    `kept` by name.

    Raises:
        ValueError: a placeholder names nothing that was measured.
    """
    by_name = {summary.name: summary for summary in summaries}
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

    return PLACEHOLDER.sub(figure, text)


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
