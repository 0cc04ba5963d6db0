"""Runs side by side, as a page that needs nothing beside it: no script, no address of anything outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from razh.benchmark.report import number
from razh.benchmark.runs import Configuration, Group, LeftOut, Mean, Run, find_runs, grouped, read_run
from razh.benchmark.runs_tables import (
    NONE,
    cost_table,
    differences,
    every_figure,
    has,
    head,
    metric_columns,
    metric_table,
    part_table,
)
from razh.figures.lines import OTHERS, Line, Style, chart, style_of
from razh.retrieval.codes import Codes
from razh.retrieval.evaluation import Settings, measure
from razh.retrieval.metrics import curve_ranks, precision_recall_curve
from razh.retrieval.report import notes
from razh.retrieval.tasks import WORDS, retrieval_task
from razh.run.folder import FIGURES
from razh.run.history import History
from razh.support.files import write_text
from razh.support.pictures import data_uri
from razh.support.progress import track
from razh.support.terminal import counted

__all__ = ["Found", "collect", "write_page"]

MAIN = ("unseen", "")  # the task that curves are about, as in a run's own figures
LEADERS = 10  # more lines than that cannot be told from each other
BUDGET = 12_000_000  # characters of all pictures together
LEAST = 60_000  # of a picture in which anything is seen
SIZES = ((1400, 80), (1100, 75), (800, 70), (560, 60))  # the longer side in pixels and quality, best first
PICTURES = {
    "retrieval": "Queries and their nearest images",
    "parts": "Found parts and their attributes",
}


# ---------------------------------------------------------------------------------------------------------- reading


class Curve(NamedTuple):
    """Precision and recall (K,) at ranks (K,), means over queries."""

    ranks: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


@dataclass(eq=False)
class Found:
    """What folders hold.

    Attributes:
        groups: finished runs, those together that may be compared.
        left_out: the others, each with the reason.
        curves: by the run's folder, where its codes are there.
        epochs: by the run's folder, rows of its history.
    """

    groups: list[Group]
    left_out: list[LeftOut]
    curves: dict[Path, Curve] = field(default_factory=dict)
    epochs: dict[Path, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def configurations(self) -> list[Configuration]:
        """Those of all groups, in order."""
        return [one for group in self.groups for one in group.configurations]

    @property
    def runs(self) -> list[Run]:
        """Those of all groups, in order."""
        return [run for one in self.configurations for run in one.runs]


def collect(folders: Iterable[Path]) -> Found:
    """Read the runs in or below folders, and rank with their codes once more for the curves.

    Raises:
        FileNotFoundError: no such folder, or no run in or below them.
        ValueError: there are too many folders below them.
    """
    named = list(folders)
    places = find_runs(named)
    if not places:
        words = ", ".join(str(folder) for folder in named)
        raise FileNotFoundError(f"no runs in or below {words}; give a folder with runs of `razh train`, such as runs/")
    read = [read_run(place) for place in places]
    groups, repeated = grouped([one for one in read if isinstance(one, Run)])
    found = Found(groups, [one for one in read if isinstance(one, LeftOut)] + repeated)
    runs = found.runs
    for run in track(runs, "reading runs", len(runs), unit="runs"):
        found.epochs[run.folder] = _epochs(run.folder)
        if (curve := _curve(run.folder / "codes.npz")) is not None:
            found.curves[run.folder] = curve
    return found


def _epochs(folder: Path) -> list[dict[str, Any]]:
    try:
        return History(folder / "metrics.csv").rows
    except (OSError, ValueError):  # a curve less
        return []


def _curve(file: Path) -> Curve | None:
    """Return the curve of the main task of a codes file; None where it is missing, damaged or has no such queries."""
    try:
        codes = Codes.load(file)
        task = next(filter(None, (retrieval_task(codes, name) for name in MAIN)), None)
    except (OSError, ValueError):
        return None
    if task is None:
        return None
    values = measure(task, Settings(cutoffs=())).values
    ranks = curve_ranks(len(task.database_codes))
    return Curve(ranks, *precision_recall_curve(values["curve_hits"], ranks, values["relevant"]))


# ------------------------------------------------------------------------------------------------------------ curves


class Entry(NamedTuple):
    """A line of a legend."""

    words: str
    style: Style


class Charts(NamedTuple):
    """Charts side by side with the legend that they share; pictures are SVG elements."""

    title: str
    pictures: list[tuple[str, Markup]]
    legend: list[Entry]
    note: str


def curves(group: Group, found: Found) -> list[Charts]:
    """Return the curves of a group, a set a code length: training, precision over recall, precision by rank."""
    labels = list(dict.fromkeys(one.label for one in group.configurations))
    sets = []
    for bits in group.lengths:
        ones = [one for one in group.configurations if one.bits == bits]
        places = _styles(ones, labels)
        title = f"{bits} bits" if len(group.lengths) > 1 else ""
        sets.append(_charts(ones, places, found, f"{group.title} {group.split} {bits} bits", title))
    if len(group.lengths) > 1:
        sets.append(_over_bits(group, labels))
    return [one for one in sets if one.pictures]


def _styles(ones: Sequence[Configuration], labels: Sequence[str]) -> dict[str, Style]:
    """Return a style by label; of many configurations the best ones have a colour, the others are grey."""
    means = {one.label: (mean.mean if (mean := one.mean(_main(one))) else -1.0) for one in ones}
    leaders = sorted(means, key=lambda label: -means[label])[:LEADERS]
    return {label: style_of(labels.index(label)) if label in leaders else OTHERS for label in means}


def _main(one: Configuration) -> str:
    """Return the metric that curves are about."""
    return "test/unseen/map" if "test/unseen/map" in one.first.metrics else "test/map"


def _charts(ones: Sequence[Configuration], styles: Mapping[str, Style], found: Found, about: str, title: str) -> Charts:
    ones = sorted(ones, key=lambda one: styles[one.label] is not OTHERS)  # grey lines lie below
    pictures, used, chance = [], set[str](), None
    for name, words in (("val/map", "validation mAP"), ("train/loss", "training loss")):
        lines = {one.label: line for one in ones if (line := _course(one, name, found, styles[one.label]))}
        if lines:
            pictures.append((words, Markup(chart([*lines.values()], "epoch", words, f"{words}, {about}"))))
            used |= lines.keys()
    ranked = {one.label: curve for one in ones if (curve := _over_seeds(one, found))}
    if ranked:
        chance = Mean.of(_random_precision(one) for one in ones)
        level = chance.mean if chance else None
        over = [Line(styles[label], curve.recall, curve.precision) for label, curve in ranked.items()]
        by_rank = [
            Line(styles[label], curve.ranks.astype(np.float64), curve.precision) for label, curve in ranked.items()
        ]
        queries = WORDS["unseen" if "unseen" in _main(ones[0]) else ""]
        words, too = f"precision over recall, {queries}", f"precision@k, {queries}"
        pictures += [
            (words, Markup(chart(over, "recall", "precision", f"{words}, {about}", chance=level))),
            (too, Markup(chart(by_rank, "k", "precision@k", f"{too}, {about}", ranks=True, chance=level))),
        ]
        used |= ranked.keys()
    legend = [Entry(one.label, styles[one.label]) for one in ones if one.label in used]
    legend = sorted(legend, key=lambda entry: entry.style == OTHERS)
    if chance:
        legend.append(Entry(f"random ranking: precision {number(chance.mean)}", Style(OTHERS.colour, "4 4")))
    several = any(len(one.runs) > 1 for one in ones)
    note = "Lines are means over seeds, bands in training reach from the lowest to the highest." if several else ""
    lacking = [one.label for one in ones if one.label not in ranked]
    note += f" Without codes.npz, so in no curve of precision: {', '.join(lacking)}." if lacking else ""
    return Charts(title, pictures, legend, note.strip())


def _random_precision(one: Configuration) -> float | None:
    """Return the precision of a random ranking, which is the same at every rank."""
    head = _main(one).removesuffix("map")
    value = one.first.metrics.get(f"{head}precision@1_chance")
    return float(value) if isinstance(value, int | float) else None


def _course(one: Configuration, name: str, found: Found, style: Style) -> Line | None:
    """Return a figure over the epochs that all seeds have; None where there is none."""
    seeds = []
    for run in one.runs:
        known = {_epoch(row): _float(row.get(name)) for row in found.epochs[run.folder]}
        seeds.append({epoch: value for epoch, value in known.items() if epoch is not None and value is not None})
    seeds = [known for known in seeds if known]
    common = sorted(set.intersection(*(set(known) for known in seeds))) if seeds else []
    if not common:
        return None
    values: NDArray[np.float64] = np.array([[known[epoch] for epoch in common] for known in seeds])  # (seeds, epochs)
    band = (values.min(axis=0), values.max(axis=0)) if len(seeds) > 1 else (None, None)
    return Line(style, np.array(common, dtype=np.float64), values.mean(axis=0, dtype=np.float64), *band)


def _epoch(row: Mapping[str, Any]) -> int | None:
    value = _float(row.get("epoch"))
    return None if value is None else int(value)


def _float(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _over_seeds(one: Configuration, found: Found) -> Curve | None:
    """Return the mean curve of the seeds whose codes are there."""
    known = [found.curves[run.folder] for run in one.runs if run.folder in found.curves]
    alike = [curve for curve in known if np.array_equal(curve.ranks, known[0].ranks)]
    if not alike:
        return None
    precision, recall = (np.mean([getattr(curve, name) for curve in alike], axis=0) for name in ("precision", "recall"))
    return Curve(alike[0].ranks, precision, recall)


def _over_bits(group: Group, labels: Sequence[str]) -> Charts:
    """Return the headline figure over code lengths."""
    metric = _main(group.configurations[0])
    words = "mAP, unseen classes" if "unseen" in metric else "mAP"
    by_label: dict[str, dict[int, Mean]] = {}
    for one in group.configurations:
        if mean := one.mean(metric):
            by_label.setdefault(one.label, {})[one.bits] = mean
    styles = _styles(group.configurations, labels)
    lines = [_over(means, styles[label]) for label, means in by_label.items()]
    lines.sort(key=lambda line: line.style is not OTHERS)  # grey lines lie below
    picture = chart(lines, "bits", words, f"{words} over code lengths, {group.title} {group.split}")
    legend = [Entry(label, styles[label]) for label in by_label]
    return Charts(
        "Over code lengths", [(f"{words}, over bits", Markup(picture))], legend, "Bands: ± standard deviation."
    )


def _over(means: Mapping[int, Mean], style: Style) -> Line:
    """Return a figure by code length, with a band of a deviation to each side."""
    bits = sorted(means)
    middle = np.array([means[length].mean for length in bits], dtype=np.float64)
    wide = np.array([means[length].deviation or 0.0 for length in bits], dtype=np.float64)
    return Line(style, np.array(bits, dtype=np.float64), middle, middle - wide, middle + wide)


# ---------------------------------------------------------------------------------------------------------- pictures


class Picture(NamedTuple):
    """A figure of a run as part of the page; `address` is empty where it could not be taken."""

    words: str
    address: str
    width: int
    height: int
    note: str


def pictures(found: Found, budget: int = BUDGET) -> dict[Path, list[Picture]]:
    """Return the figures of the runs by folder, as large as the budget allows, each with the same share of it.

    Of more pictures than it has room for, those of the first seeds come first, and the others say why they are missing.
    """
    ones = found.configurations
    runs = [*(one.first for one in ones), *(run for one in ones for run in one.runs[1:])]
    files = [
        (run, words, file) for run in runs for name, words in PICTURES.items() if (file := _figure(run, name)).is_file()
    ]
    share = max(budget // max(1, len(files)), LEAST)
    taken: dict[Path, list[Picture]] = {}
    for run, words, file in track(files, "taking pictures", len(files), unit="pictures"):
        one = _picture(file, words, min(share, budget))
        budget -= len(one.address)
        taken.setdefault(run.folder, []).append(one)
    return taken


def _figure(run: Run, name: str) -> Path:
    return run.folder / FIGURES / f"{name}.png"


def _picture(file: Path, words: str, share: int) -> Picture:
    """Return a picture in the best size that takes no more than its share of the page."""
    too_large = Picture(words, "", 0, 0, f"{file.name} is left out: all pictures together are too large for a page")
    if share < LEAST:
        return too_large
    try:
        with Image.open(file, formats=("PNG",)) as opened:
            whole = opened.convert("RGB")
    except Exception:  # decoders raise what they like, and a page with one picture less is still a page
        return Picture(words, "", 0, 0, f"{file.name} cannot be read")
    for side, quality in SIZES:
        small = whole.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        address = data_uri(small, "WEBP", quality)
        if len(address) <= share:
            return Picture(words, address, small.width, small.height, "")
    return too_large


# -------------------------------------------------------------------------------------------------------------- page


def page(found: Found) -> str:
    """Return the page; the same runs give the same text."""
    taken = pictures(found)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    template = environment.from_string((Path(__file__).parent / "runs.html").read_text(encoding="utf-8"))
    text = template.render(
        found=found,
        metric_table=metric_table,
        part_table=part_table,
        every_figure=every_figure,
        head=head,
        heads=lambda group: [head(one) for one in group.configurations],
        counted=counted,
        dash=NONE,
        notes=_notes(found.groups),
        curves=lambda group: curves(group, found),
        pictures=taken,
        differences=differences(found.configurations),
        cost=cost_table(found.groups, {folder: len(rows) for folder, rows in found.epochs.items() if rows}),
        megabytes=BUDGET // 1_000_000,
    )
    return text.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8


def _notes(groups: Sequence[Group]) -> str:
    """Return what the groups of queries are."""
    metrics = {metric: 0.0 for group in groups for metric in metric_columns(group).values() if has(group, metric)}
    return notes(metrics)[0]


def write_page(found: Found, file: Path) -> None:
    """Write the page.

    Raises:
        OSError: the file cannot be written.
    """
    write_text(file, page(found))
