"""Tables of runs side by side: metrics, parts and attributes, what configurations differ in, cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from razh.benchmark.report import PARTS, number
from razh.benchmark.results import TASKS
from razh.benchmark.runs import SEED, Configuration, Group, Mean, differing
from razh.retrieval.report import START, chance_of

__all__ = [
    "NONE",
    "cost_table",
    "differences",
    "every_figure",
    "has",
    "head",
    "metric_columns",
    "metric_table",
    "part_table",
    "spread",
]

NONE = "–"
_AT = re.compile(r"test/(?:unseen/)?(map@\d+|precision@\d+)")
COST = {  # by column: the figure, its digits, and what it is divided by
    "training, s": ("time/fit_seconds", 1, 1), "test, s": ("time/test_seconds", 1, 1),
    "feature cache, s": ("time/cache_seconds", 1, 1), "all, s": ("time/total_seconds", 1, 1),
    "images/s in training": ("throughput/train_images_per_second", 0, 1),
    "parameters, million": ("model/parameters", 3, 1e6),
    "trained, million": ("model/trained_parameters", 3, 1e6),
    "epochs": ("epochs", 0, 1), "peak memory, MB": ("memory/peak_mb", 0, 1),
    "of the GPU, MB": ("memory/gpu_peak_mb", 0, 1),
}  # fmt: skip
MACHINE = {  # by column: the facts that are joined
    "device": ("environment/device", "environment/gpus", "environment/cpu"), "devices": ("environment/devices",),
    "threads": ("environment/threads",), "precision": ("environment/precision",), "razh": ("environment/razh",),
    "torch": ("environment/torch",), "commit": ("git/commit",),
}  # fmt: skip


class Cell(NamedTuple):
    """A figure in words, and its place: 1 for the best of its code length, 2 for the second, 0 for the others."""

    text: str
    place: int = 0


class Row(NamedTuple):
    """A line of a table; `kind` is `start` or `chance` for what configurations are held against."""

    head: str
    seeds: str
    cells: list[Cell]
    kind: str = ""


class Block(NamedTuple):
    """Rows that are ranked together."""

    title: str
    rows: list[Row]


class Table(NamedTuple):
    """Columns by name, and blocks of rows."""

    columns: list[str]
    blocks: list[Block]


def metric_table(group: Group) -> Table:
    """Return the headline figures of a group: a block a code length, best configuration first, then chance."""
    columns = {name: metric for name, metric in metric_columns(group).items() if has(group, metric)}
    blocks = []
    for bits in group.lengths:
        ones = [one for one in group.configurations if one.bits == bits]
        means = {metric: [one.mean(metric) for one in ones] for metric in columns.values()}
        places = {metric: _places(values) for metric, values in means.items()}
        first = next(iter(means.values()), [None] * len(ones))
        order = sorted(range(len(ones)), key=lambda at: -(entry.mean if (entry := first[at]) else -1.0))
        rows = []
        for one in (ones[at] for at in order):
            at = ones.index(one)
            cells = _texts(one, columns.values())
            ranked = [cell._replace(place=places[m][at]) for cell, m in zip(cells, columns.values(), strict=True)]
            rows.append(Row(one.label, str(len(one.runs)), ranked))
            before = _texts(one, map(_start, columns.values()))
            if any(cell.text != NONE for cell in before):
                rows.append(Row("start only", "", before, "start"))
        blocks.append(Block(f"{bits} bits", rows))
    runs = [run for one in group.configurations for run in one.runs]
    chances = [Mean.of(chance_of(run.metrics, metric) for run in runs) for metric in columns.values()]
    if any(chances):
        cells = [Cell(number(one.mean) if one else NONE) for one in chances]
        blocks.append(Block("", [Row("random ranking", "", cells, "chance")]))
    return Table(list(columns), blocks)


def metric_columns(group: Group) -> dict[str, str]:
    """Return metrics by what their columns are called."""
    tasks = {f"mAP {name}": metric for name, metric in TASKS.items() if not metric.startswith(START)}
    at = {found[1].replace("map", "mAP"): name for name in group.metrics if (found := _AT.fullmatch(name))}
    first = {"mAP": "test/map", "mAP unseen": tasks.pop("mAP unseen")}
    described = {"mAP described": "test/described/map", "naming": "test/described/accuracy"}
    return {**first, **at, **tasks, **described}


def part_table(group: Group) -> Table | None:
    """Return the measures of parts and attributes; None where no run has any."""
    columns = {_part_name(name, metric): metric for name, metric in PARTS.items() if has(group, metric)}
    ones = [one for one in group.configurations if any(one.mean(metric) for metric in columns.values())]
    blocks = []
    for bits in sorted({one.bits for one in ones}):
        found = [one for one in ones if one.bits == bits]
        rows = [Row(one.label, str(len(one.runs)), _texts(one, columns.values())) for one in found]
        blocks.append(Block(f"{bits} bits", rows))
    return Table(list(columns), blocks) if blocks else None


def _part_name(name: str, metric: str) -> str:
    """Return the name of a column that may stand alone."""
    before = {"attributes/auc_": "AUC of attributes: ", "attributes/zero_shot/": "unseen class named: "}
    return next((words + name for head, words in before.items() if metric.startswith(head)), name)


def every_figure(group: Group) -> list[tuple[str, list[str]]]:
    """Return each figure of a group, and its text by configuration."""
    ones = group.configurations
    return [(name, [spread(one.mean(name), len(one.runs)) for one in ones]) for name in group.metrics]


def has(group: Group, metric: str) -> bool:
    """Tell whether any run of a group has a figure."""
    return any(one.mean(metric) for one in group.configurations)


def _start(metric: str) -> str:
    return START + metric.removeprefix("test/")


def _places(means: Sequence[Mean | None]) -> list[int]:
    """Return 1 for the best means, 2 for the second ones, 0 for the others; nothing competes with itself alone."""
    known = sorted({round(one.mean, 12) for one in means if one}, reverse=True)
    if len([one for one in means if one]) < 2:
        return [0] * len(means)
    return [known.index(round(one.mean, 12)) + 1 if one and round(one.mean, 12) in known[:2] else 0 for one in means]


def spread(one: Mean | None, runs: int) -> str:
    """Return mean ± deviation over seeds in words, and how many of the runs have it, where not all do."""
    if one is None:
        return NONE
    large = abs(one.mean) >= 10
    words = [f"{value:,.0f}" if large else number(value) for value in (one.mean, one.deviation) if value is not None]
    return " ± ".join(words) + (f" ({one.seeds}/{runs})" if one.seeds < runs else "")


def _texts(one: Configuration, metrics: Iterable[str]) -> list[Cell]:
    return [Cell(spread(one.mean(metric), len(one.runs))) for metric in metrics]


def head(one: Configuration) -> str:
    """Return what a configuration is called where all code lengths are together."""
    return f"{one.label}, {one.bits} bits"


def cost_table(groups: Sequence[Group], epochs: Mapping[Path, int]) -> Table:
    """Return what runs took, means over seeds, and what they ran on; columns that nobody has are left out."""
    columns: dict[str, list[str]] = {}
    ones = [one for group in groups for one in group.configurations]
    for name, (metric, digits, unit) in COST.items():
        means = [_cost(one, metric, epochs, unit) for one in ones]
        if any(mean and mean.mean for mean in means):
            columns[name] = [_amount(mean, digits) for mean in means]
    for name, facts in MACHINE.items():
        words = [_facts(one, facts) for one in ones]
        if any(words):
            columns[name] = [word or NONE for word in words]
    blocks, at = [], 0
    for group in groups:
        rows = []
        for one in group.configurations:
            rows.append(Row(head(one), str(len(one.runs)), [Cell(texts[at]) for texts in columns.values()]))
            at += 1
        blocks.append(Block(group.title, rows))
    return Table(list(columns), blocks)


def _cost(one: Configuration, metric: str, epochs: Mapping[Path, int], unit: float) -> Mean | None:
    if metric == "epochs":
        return Mean.of(epochs.get(run.folder) for run in one.runs)
    values = [run.metrics.get(metric) for run in one.runs]
    return Mean.of(value / unit for value in values if isinstance(value, int | float))


def _amount(mean: Mean | None, digits: int) -> str:
    if mean is None:
        return NONE
    return " ± ".join(f"{value:,.{digits}f}" for value in (mean.mean, mean.deviation) if value is not None)


def _facts(one: Configuration, names: Iterable[str]) -> str:
    """Return facts of all runs of a configuration in words, each once."""
    words: dict[str, None] = {}
    for run in one.runs:
        for name in names:
            value = run.metrics.get(name)
            for item in value if isinstance(value, list) else [value]:
                if item not in (None, ""):
                    words[str(item)[:12] if name == "git/commit" else str(item)] = None
        if "git/commit" in names and run.metrics.get("git/changed"):
            words["with changes"] = None
    return ", ".join(words)


# ------------------------------------------------------------------------------------------------------ configuration


class Differences(NamedTuple):
    """Options of configurations, texts by configuration: those that differ, and those that only some have at all."""

    heads: list[str]
    differ: list[tuple[str, list[str]]]
    some: list[tuple[str, list[str]]]
    same: int


def differences(configurations: Sequence[Configuration]) -> Differences:
    """Return the options in which configurations differ; seeds do not count."""
    configs = [{name: v for name, v in one.first.config.items() if name != SEED} for one in configurations]
    names = differing(configs) if configs else []
    names.sort(key=lambda name: "." in name)  # first data set, method and network, each in a word
    rows = {name: [_value(config, name) for config in configs] for name in names}
    in_all = {name for name in names if all(name in config for config in configs)}
    every = len({name for config in configs for name in config})
    settings = {one.first.setting for one in configurations}
    return Differences(
        [f"{head(one)}, {one.first.setting}" if len(settings) > 1 else head(one) for one in configurations],
        [(name, texts) for name, texts in rows.items() if name in in_all],
        [(name, texts) for name, texts in rows.items() if name not in in_all],
        every - len(names),
    )


def _value(config: Mapping[str, Any], name: str) -> str:
    if name not in config:
        return NONE
    value = config[name]
    return value if isinstance(value, str) and value else repr(value) if value == "" else _plain(value)


def _plain(value: Any) -> str:
    """Return a value as a command line has it."""
    if isinstance(value, list):
        return ",".join(_plain(item) for item in value) or "[]"
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if not isinstance(value, dict) else "{}"
