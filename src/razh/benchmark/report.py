"""A benchmark in words, tables and pictures: Markdown for people, LaTeX for papers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from razh.benchmark.grid import safe
from razh.benchmark.jobs import NOTHING, TUNING, best_trial
from razh.benchmark.results import BAND, LEVEL, TASKS, Key, Results, column, over_protocols, summarise
from razh.figures.benchmark import curves_figure, dots_figure
from razh.figures.canvas import png
from razh.support.files import read_json, write_bytes, write_text
from razh.support.progress import readable_time

__all__ = ["draw", "fill_blocks", "headline", "section", "write_report", "write_tables"]

BLOCK = re.compile(r"(<!-- razh report: (?P<name>[^>]+?) -->\n).*?(<!-- razh report: end -->)", re.DOTALL)
PARTS = {  # docs/reference/measures.md says what they are
    "NMI": "parts/nmi", "ARI": "parts/ari", "NMI, foreground": "parts/nmi_foreground",
    "ARI, foreground": "parts/ari_foreground", "IoU": "parts/iou",
    "same part in the mirror image": "parts/flip_consistency_foreground",
    "part's attribute is the class's": "attributes/part_accuracy", "… permuted": "attributes/part_accuracy_permuted",
    "exact attribute": "attributes/exact_accuracy", "… permuted (exact)": "attributes/exact_accuracy_permuted",
    "AUC of attributes: parts": "attributes/auc", "feature": "attributes/auc_feature",
    "hash logits": "attributes/auc_hash", "parts that name classes": "attributes/auc_naming",
    "codes": "attributes/auc_codes", "unseen class named by such parts": "attributes/zero_shot/naming",
    "by the feature": "attributes/zero_shot/feature", "by the hash logits": "attributes/zero_shot/hash",
    "chance": "attributes/zero_shot/chance", "different attributes": "attributes/distinct_nearest",
}  # fmt: skip
MACHINE = {
    "device": "environment/device", "processor": "environment/cpu", "GPU": "environment/gpus",
    "threads": "environment/threads", "razh": "environment/razh", "torch": "environment/torch", "commit": "git/commit",
}  # fmt: skip
LATEX = {
    "<u>": r"\underline{", "</u>": "}", "&lt;": "$<$", r"\|": "|",
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$^\dagger$", "−": "$-$", "–": "--",
    "×": r"$\times$", "Δ": r"$\Delta$", "<": "$<$", ">": "$>$", "…": r"\dots{}", "·": r"$\cdot$",
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ tables


def markdown(table: pd.DataFrame) -> str:
    """Return a table of Markdown text, methods down."""
    aligned = ["left", *["right"] * len(table.columns)]
    return str(table.rename(_plain).to_markdown(tablefmt="pipe", colalign=aligned, disable_numparse=True))


def latex(table: pd.DataFrame, caption: str) -> str:
    """Return a table of Markdown text, methods down, for LaTeX's booktabs."""
    shown = table.rename(_latex, axis="index").rename(_latex, axis="columns").map(_latex).rename_axis(None)
    columns = "l" + "r" * len(shown.columns)
    return str(shown.style.to_latex(hrules=True, column_format=columns, caption=_latex(caption)))


def _plain(text: str) -> str:
    """Return text that means nothing to Markdown."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def _latex(text: str) -> str:
    escaped = re.sub("|".join(re.escape(sign) for sign in LATEX), lambda found: LATEX[found[0]], text)
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", escaped)


def _table(columns: Mapping[str, Mapping[str, str]], labels: Iterable[str], head: str = "method") -> pd.DataFrame:
    """Return a table from its columns: text by label; what is missing is empty."""
    return pd.DataFrame(dict(columns), index=list(labels), dtype=object).fillna("").rename_axis(head)


def number(value: float, sign: bool = False) -> str:
    """Return a figure with three decimals and no leading zero."""
    text = f"{abs(value):.3f}"
    minus = value < 0 and float(text) > 0
    return ("−" if minus else "+" if sign else "") + text.removeprefix("0" if text.startswith("0.") else "")


def spread(entry: Any) -> str:
    """Return mean ± deviation of a row of `summarise`, and how many seeds of how many where some are missing."""
    if not entry["count"]:
        return "–"
    text = number(entry["mean"]) + (f" ± {number(entry['std'])}" if np.isfinite(entry["std"]) else "")
    return text if entry["count"] == entry["planned"] else f"{text} ({entry['count']:.0f}/{entry['planned']:.0f})"


def _cells(table: pd.DataFrame, key: Key, alike: Iterable[str] = (), places: bool = True) -> dict[str, str]:
    """Return a column of `summarise` as text by method: the best bold, the second underlined, `alike` with a dagger."""
    marks = {1.0: "**{}**", 2.0: "<u>{}</u>"} if places else {}
    return {
        str(label): marks.get(row["place"], "{}").format(spread(row)) + (" †" if label in alike else "")
        for label, row in column(table, key).iterrows()
    }


def _sorted(labels: Sequence[str], table: pd.DataFrame, key: Key) -> list[str]:
    """Return labels by their means in a column, the highest first, those without one last."""
    means = column(table, key)["mean"].dropna()
    return sorted(labels, key=lambda label: -float(means.get(label, -1.0)))


def metric_table(results: Results, protocol: str) -> pd.DataFrame:
    """Return the metric of a protocol: a column a code length, and the mean rank over everything.

    With a reference: the difference to it, its interval and p for each code length.
    """
    columns: dict[str, Mapping[str, str]] = {}
    lengths, compared = results.bits_of(protocol), bool(results.reference)
    for bits in lengths:
        key = (protocol, bits)
        columns[f"{bits} bits"] = _cells(results.table, key, () if compared else results.alike(key), not compared)
        if compared and (found := results.differences[key]):
            behind = f", {bits} bits" if len(lengths) > 1 else ""
            columns[f"Δ{behind}"] = {
                label: ("**{}**" if one.p_value <= LEVEL else "{}").format(number(one.difference, sign=True))
                for label, one in found.items()
            }
            columns[f"95 %{behind}"] = {
                m: f"{number(one.low, True)} … {number(one.high, True)}" for m, one in found.items()
            }
            columns[f"p{behind}"] = {
                label: "&lt; .001" if one.p_value < 0.001 else number(one.p_value) for label, one in found.items()
            }
    if compared:
        return _table(columns, results.labels, "variant")
    labels = [label for label in results.labels if any(label in found for found in columns.values())]
    if len(results.table.index.droplevel("label").unique()) > 1:
        columns["mean rank"] = dict.fromkeys(labels, "–") | {str(m): f"{rank:.1f}" for m, rank in results.ranks.items()}
    return _table(columns, labels)


def mean_table(results: Results, sort: bool = False) -> pd.DataFrame:
    """Return the means over protocols of one setting: unseen at each length, then seen at the headline's."""
    means, bits = over_protocols(results.table, results.means), results.headline[1]
    seen = over_protocols(summarise(results.cells, TASKS["seen"]), results.means)
    names = list(dict.fromkeys(results.means.values()))
    columns: dict[str, Mapping[str, str]] = {}
    for name in names:
        behind = f", {name}" if len(names) > 1 else ""
        for length in means.loc[[name]].index.unique("bits"):
            columns[f"{length} bits{behind}"] = _cells(means, (name, length))
        if found := _cells(seen, (name, bits)):
            columns[f"seen, {bits} bits{behind}"] = found
    return _table(columns, _sorted(results.labels, means, (names[0], bits)) if sort else results.labels)


def task_table(results: Results, sort: bool = False) -> pd.DataFrame:
    """Return the headline column: the groups of queries, their harmonic mean, and the band of tie orders."""
    key, cells = results.headline, results.cells
    at = cells[(cells["protocol"] == key[0]) & (cells["bits"] == key[1])]
    tables = {name: table for name, metric in TASKS.items() if (table := summarise(at, metric))["ranked"].any()}
    if not tables:
        return _table({}, [])
    alike = results.alike(key) if results.metric == TASKS["unseen"] else set()
    columns = {name: _cells(table, key, alike if name == "unseen" else ()) for name, table in tables.items()}
    first = next(iter(tables.values()))
    labels = [label for label in results.labels if label in first.loc[key].index]
    low, high = (summarise(at, metric).loc[key]["mean"].dropna() for metric in BAND)
    band = {
        label: f"{number(low[label])} – {number(high[label])}" for label in labels if label in low and label in high
    }
    columns["worst–best order of ties (unseen)"] = dict.fromkeys(labels, "–") | band
    return _table(columns, _sorted(labels, first, key) if sort else labels)


def part_table(results: Results, protocol: str) -> pd.DataFrame:
    """Return the measures of parts and attributes at the headline's length, of a protocol or of a mean."""
    columns: dict[str, Mapping[str, str]] = {}
    for name, metric in PARTS.items():
        table = summarise(results.cells, metric)
        table = over_protocols(table, results.means) if protocol in results.means.values() else table
        found = _cells(table, (protocol, results.headline[1]), places=False)
        if any(text != "–" for text in found.values()):
            columns[name] = found
    labels = [m for m in results.labels if any(found.get(m, "–") != "–" for found in columns.values())]
    return _table(columns, labels)


def cost_table(results: Results) -> pd.DataFrame:
    """Return seconds a cell and minutes together."""
    rows = {}
    for label, cells in results.cells.groupby("label", sort=False):
        done = cells[cells["status"] == "done"]
        stages = done.reindex(columns=["time/fit_seconds", "time/test_seconds"]).astype(float).fillna(0).mean()
        seconds = [f"{mean:.1f}" if len(done) else "–" for mean in stages]
        rows[label] = [f"{len(done)}/{len(cells)}", *seconds, f"{_seconds(cells) / 60:.1f}"]
    names = ["cells", "fit, s a cell", "test, s a cell", "all cells, minutes"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names, dtype=object).rename_axis("method")


def _seconds(cells: pd.DataFrame) -> float:
    return float(cells["cost/wall_seconds"].astype(float).sum())


def tuning_table(results: Results, out: Path) -> pd.DataFrame:
    """Return what trials found and chose."""
    rows = {}
    for label in results.labels:
        trials = read_json(out / TUNING / safe(label) / "trials.json").get("trials", [])
        if (best := best_trial(trials)) is None:
            rows[label] = ["–", "–", "–", "no trial has a value" if trials else NOTHING]
            continue
        known = {
            trial["trial"]: number(trial["validation_map"]) for trial in trials if trial["validation_map"] is not None
        }
        short = {k: f"{v:.3g}" if isinstance(v, float) else v for k, v in best["options"].items()}
        words = ", ".join(f"{name.removeprefix('model.')}={value}" for name, value in short.items()) or "defaults"
        rows[label] = [str(len(known)), known.get(0, "–"), number(best["validation_map"]), words]
    names = ["trials", "validation mAP of the defaults", "of the chosen", "chosen"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names, dtype=object).rename_axis("method")


# ------------------------------------------------------------------------------------------------------------- words


def what(results: Results) -> str:
    """Return what the tables are about, in words."""
    parts = results.metric.split("/")
    return f"{parts[-1].replace('map', 'mAP')}, {parts[1]} queries" if len(parts) == 3 else results.metric


def section(results: Results, pictures: Mapping[str, str], level: int = 2) -> str:
    """Return a benchmark as a section of a Markdown document.

    Args:
        results: of the benchmark.
        pictures: by protocol, what a picture's link points to.
        level: of its heading.
    """
    head, (protocol, bits), several = "#" * level, results.headline, len(results.protocols) > 1
    done, tune = int((results.cells["status"] == "done").sum()), f" --tune={results.trials}" if results.trials else ""
    command = f"razh {'ablate' if results.reference else 'benchmark'} {results.name.removesuffix('-tuned')}"
    facts = (
        f"{done} of {len(results.cells)} cells, each a run of its own; best epoch by validation classes, figures from "
        f"the test classes. `{command} --dataset={results.dataset} --backbone={results.backbone}{tune}`."
    )
    tuned = ", tuned" if results.trials else ""
    parts = [f"{head} {results.title}{tuned}: {results.dataset}, {results.backbone}", facts]
    if several:
        parts += [f"{head}# Mean over splits: {what(results)}", _mean_words(results), markdown(mean_table(results))]
    for name in results.protocols:
        prints = results.cells[results.cells["protocol"] == name].get("split/fingerprint", pd.Series(dtype=object))
        split = ", ".join(sorted({str(value)[:12] for value in prints.dropna()})) or "unknown"
        chance = results.chance(name)
        floor = f", random ranking {number(chance)}" if chance is not None else ""
        parts += [
            f"{head}# Protocol `{name}`: {what(results)}",
            f"Split {split}…, {_given(results, name)}{_seeds(results, name)}{floor}.",
        ]
        parts += [markdown(metric_table(results, name)), _legend(results)]
        if name in pictures:
            parts.append(f"![{what(results)} by method, {results.dataset} {name}]({pictures[name]})")
    if len(details := task_table(results)):
        parts += [f"{head}# All tasks at {bits} bits, `{protocol}`", markdown(details)]
    means = list(dict.fromkeys(results.means.values())) if several else []
    for name in [*means, protocol]:
        if len(measured := part_table(results, name)):
            of_setting = f", {name}" if len(means) > 1 else ""
            where = f"mean over splits{of_setting}" if name in means else f"`{name}`"
            words = "Unseen queries, no labels used; what counts is how far a figure is from its permuted one."
            parts += [f"{head}# Parts and attributes at {bits} bits, {where}", words, markdown(measured)]
    parts += [f"{head}# Cost", _machine(results), markdown(cost_table(results))]
    tuned_on = dict(zip(results.cells["label"], results.cells.get("tuned_on", ""), strict=False)) if results.out else {}
    if results.trials and results.out:
        found = [words for words in tuned_on.values() if words not in ("", NOTHING)]
        words = f"Options were chosen on {found[0]}." if found else "No method here has anything to search."
        parts += [f"{head}# Tuning", words, markdown(tuning_table(results, results.out))]
    elif chosen := "; ".join(f"{label}: {words}" for label, words in tuned_on.items() if words):
        words = f"No method was tuned here. Defaults that were chosen on data: {chosen}."
        parts.append(f"{words} The others are the papers' or guesses.")
    if missing := [
        f"- {row['label']}, {row['protocol']}, {row['bits']} bits, seed {row['seed']}: {row['status']}"
        + (f": {row['error']}" if row.get("error") else "").replace("<", "&lt;")
        for row in results.cells[results.cells["status"] != "done"].to_dict("records")
    ]:
        parts += [f"{head}# What is missing", "\n".join(missing)]
    return "\n\n".join(parts) + "\n"


SHOWN = 0.0005  # of a lead that is shown in tenths of a percent


def _mean_words(results: Results) -> str:
    """Return what the mean's deviation is, and how far the best method is from the next one at each length."""
    means, several = over_protocols(results.table, results.means), len(set(results.means.values())) > 1
    splits = "" if several else f"{len(results.protocols)} splits; mean"
    text = f"{splits or 'Mean over the splits of a setting'} ± standard deviation of the splits' means over seeds."
    for (name, bits), of_bits in means[means["ranked"]]["mean"].groupby(level=["protocol", "bits"], sort=False):
        order = of_bits.droplevel(["protocol", "bits"]).sort_values(ascending=False, kind="stable")
        lead = order.iloc[0] / order.iloc[1] - 1 if len(order) > 1 else 0.0
        if lead >= SHOWN:
            of_setting = f", {name}," if several else ""
            text += f" At {bits} bits{of_setting} `{order.index[0]}` is {lead:+.1%} from `{order.index[1]}`."
    return text


def _legend(results: Results) -> str:
    text = "Mean ± standard deviation over seeds"
    best = f"{text}; bold: best, underlined: second."
    if results.out is None:
        return best
    units = "queries" if results.by == "query" else "classes of queries"
    test = f"paired permutation test over {units} of the seeds' mean, corrected by Holm"
    if results.reference:
        return (
            f"{text}. Δ: difference to `{results.reference}`, its 95 % interval (bootstrap) and p ({test}); bold "
            "differences have p ≤ .05."
        )
    return (
        f"{best} † cannot be told from the best (p > .05; {test}). The test is about other queries of this split, not "
        "about other splits."
    )


def _machine(results: Results) -> str:
    text = f"Cells took {_seconds(results.cells) / 60:.0f} minutes together, start-up included."
    if results.out and (of_tuning := [read_json(p) for p in (results.out / TUNING).glob("*/*/cell.json")]):
        text += f" Tuning took {sum(float(one.get('seconds') or 0) for one in of_tuning) / 60:.0f} minutes before that."
    done = results.cells[results.cells["status"] == "done"]
    facts = {
        name: list(dict.fromkeys(str(value)[: 12 if name == "commit" else None] for value in done[key].dropna()))
        for name, key in MACHINE.items()
        if key in done
    }
    if "git/changed" in done and done["git/changed"].eq(True).any():
        facts.setdefault("commit", []).append("with changes")
    facts["GPU"] = [gpu for gpu in facts.get("GPU", []) if gpu != "[]"]
    words = "; ".join(f"{name} {', '.join(facts[name])}" for name in MACHINE if facts.get(name))
    mixed = any(len(facts.get(name, ())) > 1 for name in ("razh", "torch", "commit"))
    text += f" {words[:1].upper()}{words[1:]}." if words else ""
    return text + (" **Cells of different versions of the code stand in these tables.**" if mixed else "")


def _given(results: Results, protocol: str) -> str:
    """Return what methods were given in a protocol beside the usual, in words; "" for nothing."""
    cells = results.cells[results.cells["protocol"] == protocol]
    settings = cells["split/setting"].dropna().unique() if "split/setting" in cells else ()
    words = [f"setting `{setting}`" for setting in settings if setting != "inductive"]
    if "split/refit" in cells and cells["split/refit"].eq(True).any():
        words.append("refit: trained again on all seen classes, up to the epoch that validation classes chose")
    return "".join(f"{word}, " for word in words)


def _seeds(results: Results, protocol: str = "") -> str:
    """Return how many seeds there are (of a protocol), for each number the code lengths that have it.

    The headline's length comes first.
    """
    cells = results.cells[results.cells["protocol"] == protocol] if protocol else results.cells
    counts = cells.groupby("bits")["seed"].nunique()
    lengths: dict[str, list[int]] = {}
    for bits in sorted(counts.index, key=lambda b: (b != results.headline[1], b)):
        lengths.setdefault(f"{counts[bits]} seed{'s' if counts[bits] > 1 else ''}", []).append(bits)
    if len(lengths) == 1:
        return next(iter(lengths))
    return ", ".join(f"{words} at {', '.join(map(str, of_words))} bits" for words, of_words in lengths.items())


def headline(results: Results) -> str:
    """Return the one table of a benchmark for a document of one's own, the best method first."""
    protocol, bits = results.headline
    where = f"{results.title}: {results.dataset}, {results.backbone}"
    if len(results.protocols) > 1:
        intro = f"{where}, {what(results)}, {_seeds(results)}."
        return f"{intro}\n\n{markdown(mean_table(results, sort=True))}\n\n{_mean_words(results)}"
    chance = results.chance(protocol) if results.metric == TASKS["unseen"] else None
    floor = f", random ranking {number(chance)}" if chance is not None else ""
    intro = f"{where}, protocol `{protocol}`, {bits} bits, {_seeds(results)}, expected mAP{floor}."
    table = metric_table(results, protocol) if results.reference else task_table(results, sort=True)
    return f"{intro}\n\n{markdown(table)}\n\n{_legend(results)}"


# ------------------------------------------------------------------------------------------------------------- files


def fill_blocks(path: Path, results: Sequence[Results]) -> list[str]:
    """Put headline tables between the markers of a document; return the names of those that were filled.

    A block begins with `<!-- razh report: NAME -->` (or `NAME DATASET BACKBONE`) and ends with
    `<!-- razh report: end -->`, each on a line of its own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it has no block, or one names nothing that was measured.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no document {path}; create it with a block `<!-- razh report: NAME -->`")
    by_name = {one.name: one for one in reversed(results)} | {" ".join(one.identity): one for one in results}
    filled: list[str] = []

    def table(found: re.Match[str]) -> str:
        filled.append(name := found["name"].strip())
        if name not in by_name:
            raise ValueError(f"{path}: block {name!r} names nothing that was measured; there are {', '.join(by_name)}")
        return f"{found[1]}\n{headline(by_name[name])}\n\n{found[3]}"

    changed = BLOCK.sub(table, path.read_text(encoding="utf-8"))
    if not filled:
        raise ValueError(
            f"{path} has no place for a table; write the lines <!-- razh report: NAME --> and <!-- razh report: end -->"
        )
    write_text(path, changed)
    return filled


def write_tables(results: Results, out: Path) -> str:
    """Write tables.md, tables.tex and the curves of a benchmark's folder; return in a line who leads the headline."""
    pictures = draw(results, out / "curves")
    links = {protocol: path.relative_to(out).as_posix() for protocol, path in pictures.items()}
    write_text(out / "tables.md", section(results, links, level=1))
    write_text(out / "tables.tex", _tex(results))
    key = results.headline
    if (best := results.best(key)) is None:
        return "no cell has a result yet"
    found, time = spread(results.table.loc[(*key, best)]), readable_time(_seconds(results.cells))
    return f"best at {key[1]} bits, {key[0]}: {best} with {found}; all cells took {time}"


def write_report(results: Sequence[Results], folder: Path) -> Path:
    """Write report.md with all tables and curves of benchmarks into a folder; return its path."""
    sections = ["# Results"]
    for one in results:
        drawn = draw(one, folder / "figures")
        sections.append(section(one, {name: f"figures/{path.name}" for name, path in drawn.items()}))
    write_text(folder / "report.md", "\n\n".join(sections))
    return folder / "report.md"


def _tex(results: Results) -> str:
    """Return the tables of all protocols in LaTeX."""
    tables = ["% \\usepackage{booktabs}"]
    for protocol in results.protocols:
        caption = f"{what(results)}: {results.dataset}, protocol {protocol}, {results.backbone}. {_legend(results)}"
        tables.append(latex(metric_table(results, protocol), caption))
    protocol, bits = results.headline
    where = f"{results.dataset}, protocol {protocol}"
    if len(details := task_table(results)):
        tables.append(latex(details, f"All tasks at {bits} bits: {where}."))
    if len(measured := part_table(results, protocol)):
        tables.append(latex(measured, f"Parts and attributes: {where}."))
    return "\n\n".join(tables) + "\n"


def draw(results: Results, folder: Path) -> dict[str, Path]:
    """Write a picture for each protocol that has any result; return their files by protocol.

    Raises:
        OSError: the folder cannot be written.
    """
    drawn: dict[str, Path] = {}
    for protocol in results.protocols:
        lengths = [bits for bits in results.bits_of(protocol) if results.best((protocol, bits)) is not None]
        if not lengths:
            continue
        title, chance = f"{results.dataset} · {protocol} · {results.backbone}", results.chance(protocol)
        path = folder / f"{safe('_'.join((*results.identity, protocol)).replace('%', '')).lower()}.png"
        while path in drawn.values():  # names that differ in signs alone
            path = path.with_stem(f"{path.stem}_")
        if len(lengths) > 1 and not results.reference:
            figure = curves_figure(results.table.loc[protocol].loc[lengths], chance, what(results), title)
        else:
            figure = _dots(results, (protocol, lengths[-1]), chance, title)
        write_bytes(path, png(figure))
        drawn[protocol] = path
    return drawn


def _dots(results: Results, key: Key, chance: float | None, title: str) -> Any:
    reference, alike, competing = results.compared_with(key), results.alike(key), results.competing(key)
    if results.reference:
        mark, marked, words = "*", {*competing.index} - alike - {reference}, f"; * p ≤ .05 against {reference}"
    else:
        mark, marked, words = "†", alike, "; † cannot be told from the best"
    near = chance if chance is not None and chance > 0.5 * competing.min() else None
    values = {label: list(cells.dropna()) for label, cells in results.done(key).groupby("label")[results.metric]}
    means = results.table.loc[key]
    beside = {m: f"{number(mean)} {mark if m in marked else ''}".rstrip() for m, mean in means["mean"].items()}
    title = f"{title} · {key[1]} bits"
    return dots_figure(means, values, near, what(results) + words, title, reference, beside)
