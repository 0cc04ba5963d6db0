"""A benchmark in words, tables and pictures: Markdown for people, LaTeX for papers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from razh.benchmark.curves import curves_figure, dots_figure
from razh.benchmark.plan import NOTHING
from razh.benchmark.report_tables import (
    DETAILS,
    chance_of,
    cost_table,
    main_table,
    mean_table,
    mean_words,
    part_table,
    reference_table,
    task_table,
    tuning_table,
    what,
)
from razh.benchmark.summary import Summary
from razh.benchmark.tables import MEAN, Entry, latex, markdown, number, spread
from razh.figures.canvas import save
from razh.progress import readable_time

__all__ = ["draw", "headline", "markdown_section", "terminal", "tex"]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()


# ---------------------------------------------------------------------------------------------------------- pictures


def draw(summary: Summary, folder: Path, name: str = "") -> dict[str, Path]:
    """Write a picture for each protocol that has any result; return their files by protocol.

    Args:
        summary: of the benchmark.
        folder: of the pictures.
        name: that their names begin with; that of the benchmark if it is left out.

    Raises:
        OSError: the folder cannot be written.
    """
    drawn: dict[str, Path] = {}
    for protocol in summary.protocols:
        found = [column for (where, _), column in summary.columns.items() if where == protocol and column.ranked]
        if not found:
            continue
        settings = summary.plan.settings
        title = f"{settings['dataset']} · {protocol} · {settings['backbone']}"
        chance = chance_of(summary, protocol)
        path = folder / f"{_slug(' '.join((name or summary.name, settings['dataset'], protocol)))}.png"
        while path in drawn.values():  # names that differ in signs alone
            path = path.with_stem(f"{path.stem}_")
        if len(found) > 1 and not summary.plan.reference:
            figure = curves_figure(found, chance, what(summary), title)
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
                column, near, f"{what(summary)}{words}", f"{title} · {column.bits} bits", reference,
                dict.fromkeys(marked, mark),
            )  # fmt: skip
        save(figure, path)
        drawn[protocol] = path
    return drawn


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
        prints = {
            str(r["split/fingerprint"])[:12]
            for r in summary.rows
            if r["protocol"] == protocol and "split/fingerprint" in r
        }
        chance = chance_of(summary, protocol)
        note = f"Split {', '.join(sorted(prints)) or 'unknown'}…, {_seeds(summary, protocol)}"
        note += f", random ranking {number(chance)}." if chance is not None else "."
        parts.append(f"{head}# Protocol `{protocol}`: {what(summary)}\n\n{note}")
        table = reference_table if summary.plan.reference else main_table
        parts += [markdown(*table(summary, protocol)), _legend(summary)]
        if protocol in pictures:
            parts.append(f"![{what(summary)} by method, {settings['dataset']} {protocol}]({pictures[protocol]})")
    if len(summary.protocols) > 1:
        words = f"{head}# Mean over protocols: {what(summary)}\n\n{mean_words(summary)}"
        parts[2:2] = [words, markdown(*mean_table(summary))]
    protocol, bits = summary.headline
    details = task_table(summary)
    if details[1]:
        parts += [f"{head}# All tasks at {bits} bits, `{protocol}`", markdown(*details)]
    words = (
        "Unseen queries; no label is used to find anything (docs/measures.md). What counts is how far a figure is from "
        "its shuffled one."
    )
    for name in [MEAN, protocol] if len(summary.protocols) > 1 else [protocol]:
        if (measured := part_table(summary, name))[1]:
            where = "mean over protocols" if name == MEAN else f"`{name}`"
            parts += [f"{head}# Parts and attributes at {bits} bits, {where}", words, markdown(*measured)]
    parts += [f"{head}# Cost", _machine(summary), markdown(*cost_table(summary))]
    if summary.plan.trials:
        found = [cell.tuned_on for cell in summary.plan.cells.values() if cell.tuned_on not in ("", NOTHING)]
        words = f"Options were chosen on {found[0]}." if found else "No method here has anything to search."
        parts += [f"{head}# Tuning", words, markdown(*tuning_table(summary))]
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


def _seeds(summary: Summary, protocol: str = "") -> str:
    """Return how many seeds there are (of a protocol), for each number the code lengths that have it.

    The headline's length comes first.
    """
    lengths: dict[int, list[int]] = {}
    headline = summary.headline[1]
    rows = [row for row in summary.rows if protocol in ("", row["protocol"])]
    for bits in sorted({row["bits"] for row in rows}, key=lambda b: (b != headline, b)):
        lengths.setdefault(len({row["seed"] for row in rows if row["bits"] == bits}), []).append(bits)
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
    chance = chance_of(summary, protocol)
    floor = (
        f", random ranking {number(chance)}" if chance is not None and summary.plan.metric == DETAILS["unseen"] else ""
    )
    if len(summary.protocols) > 1:
        intro = (
            f"{summary.plan.title}: {settings['dataset']}, {settings['backbone']}, {what(summary)}, "
            f"{_seeds(summary)}. All tables: [{link}]({link})."
        )
        return f"{intro}\n\n{markdown(*mean_table(summary, sort=True))}\n\n{mean_words(summary)}"
    intro = (
        f"{summary.plan.title}: {settings['dataset']}, protocol `{protocol}`, {settings['backbone']}, {bits} bits, "
        f"{_seeds(summary)}, expected mAP{floor}. All tables: [{link}]({link})."
    )
    return f"{intro}\n\n{markdown(*task_table(summary, sort=True))}\n\n{_legend(summary)}"


def tex(summary: Summary) -> str:
    """Return the tables of all protocols in LaTeX."""
    settings = summary.plan.settings
    tables = ["% \\usepackage{booktabs}"]
    for protocol in summary.protocols:
        caption = (
            f"{what(summary)}: {settings['dataset']}, protocol {protocol}, {settings['backbone']}. {_legend(summary)}"
        )
        table = reference_table if summary.plan.reference else main_table
        tables.append(latex(*table(summary, protocol), caption))
    protocol, bits = summary.headline
    details = task_table(summary)
    if details[1]:
        tables.append(latex(*details, f"All tasks at {bits} bits: {settings['dataset']}, protocol {protocol}."))
    if (measured := part_table(summary, protocol))[1]:
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
