"""Finished runs from their folders: found, read, and put together where their figures may be compared."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from razh.run.folder import MARKS, SELECTION, at_work, state, without_effect
from razh.support.files import flat, read_json

__all__ = ["SEED", "Configuration", "Group", "LeftOut", "Mean", "Run", "differing", "find_runs", "grouped", "read_run"]

SEED = "seed_everything"
DEEPEST, MOST = 12, 100_000  # levels below a folder, and folders that are looked at
# Options of all data sets that say how images are fed, and those that the split's fingerprint tells; the rest says what
# the images are, which a split of the same size does not tell.
NOT_OF_THE_DATA = {
    *("batch_size", "num_workers", "augment", "image_size", "memory_mb", "max_megapixels", "attribute_vectors_file"),
    *("strict", "allow_partial", "protocol", "split_seed", "validation_class_share", "validation_image_share"),
    *("setting", "refit"),
}


class LeftOut(NamedTuple):
    """A run that is in no table, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True, eq=False)
class Run:
    """A run that was tested.

    Attributes:
        folder: of the run.
        config: what a result depends on, by the names of the command line (`model.bits`).
        metrics: figures and facts of `metrics.json`.
        text: `config.yaml` as it is.
    """

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    text: str

    @property
    def seed(self) -> Any:
        """Seed of training."""
        return self.config.get(SEED)

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return _name(self.config, "dataset", "data")

    @property
    def method(self) -> str:
        """Name of the method."""
        return _name(self.config, "method", "model")

    @property
    def bits(self) -> int:
        """Code length."""
        return int(self.config.get("model.bits") or 0)

    @property
    def setting(self) -> str:
        """What the method was given beside labelled images of seen classes."""
        return str(self.metrics.get("split/setting") or "inductive")

    @cached_property
    def data(self) -> dict[str, Any]:
        """Options that say which images the data are."""
        return {
            name: value
            for name, value in self.config.items()
            if name.startswith("data.") and name.removeprefix("data.") not in NOT_OF_THE_DATA
        }

    @property
    def comparable(self) -> str:
        """A text that runs have in common whose figures may stand in one table: data, split and setting."""
        split = [self.metrics.get(f"split/{name}") for name in ("protocol", "fingerprint")]
        return json.dumps([self.dataset, self.setting, *split, self.data], sort_keys=True, default=str)

    @property
    def repeated(self) -> str:
        """A text that runs have in common that differ in their seeds alone."""
        config = {name: value for name, value in self.config.items() if name != SEED}
        return json.dumps([self.comparable, config], sort_keys=True, default=str)


def _name(config: Mapping[str, Any], short: str, whole: str) -> str:
    """Return what a configuration calls something, or the name of its class."""
    return str(config.get(short) or str(config.get(whole) or "unknown").rpartition(".")[2])


# ----------------------------------------------------------------------------------------------------------- reading


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Return the folders of runs in or below some folders, sorted; each once, whatever links lead to it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: below them are too many folders to look at.
    """
    found: dict[str, Path] = {}
    visited: set[str] = set()
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}; give the folder of runs, or one above it, such as runs/")
        for run in _below(folder, visited, DEEPEST):
            found.setdefault(os.path.realpath(run), run)
    return sorted(found.values(), key=lambda run: _natural(run.as_posix()))


def _below(folder: Path, visited: set[str], levels: int) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in visited:
        return
    if len(visited) >= MOST:
        raise ValueError(f"more than {MOST:,} folders at {folder}; give the folders of runs themselves")
    visited.add(real)
    try:
        with os.scandir(folder) as entries:
            inside = list(entries)
    except PermissionError:  # what cannot be looked into holds no run of ours
        return
    if MARKS & {entry.name for entry in inside}:
        yield folder
        return
    for name in sorted(entry.name for entry in inside if levels and not entry.name.startswith(".") and entry.is_dir()):
        yield from _below(folder / name, visited, levels - 1)


def _natural(text: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts numbers in texts as numbers."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"([0-9]+)", text)]


def read_run(folder: Path) -> Run | LeftOut:
    """Return a run that was tested, or why it is in no table."""
    try:
        metrics = read_json(folder / "metrics.json")
        if not metrics:
            return LeftOut(folder, _unfinished(folder))
        text = (folder / "config.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return LeftOut(folder, f"damaged: {reason.partition(';')[0]}")  # what follows tells another reader what to do
    if not isinstance(content, dict):
        return LeftOut(folder, "damaged: config.yaml holds no configuration")
    if not any(name.startswith("test/") for name in metrics):
        return LeftOut(folder, "not tested: metrics.json has no figure of a test")
    if not metrics.get("split/fingerprint"):
        return LeftOut(folder, "metrics.json does not say which split it is about")
    config = {_spelled(name): value for name, value in flat(content).items() if not without_effect(name)}
    return Run(folder, config, metrics, text)


def _spelled(name: str) -> str:
    """Return the name of an option of the saved configuration as a command line has it."""
    return name.replace(".init_args.", ".").removesuffix(".class_path")


def _unfinished(folder: Path) -> str:
    """Return why a run has no figures."""
    told = state(folder)
    if at_work(folder):
        return "at work: it is being trained or tested"
    if told.get("state") == "finished":
        return "not tested: it was trained alone"
    half = f", in {SELECTION}/, before the refit" if (folder / SELECTION).is_dir() else ""
    how = {"running": "killed", "stopped": "stopped", None: "nothing tells how far it came"}.get(told.get("state"))
    reason = f" ({str(told['reason']).splitlines()[0]})" if told.get("reason") else ""
    return f"not finished: {how}{reason}{half}; the same command goes on with it"


# ---------------------------------------------------------------------------------------------------------- together


class Mean(NamedTuple):
    """A figure over seeds: mean, sample deviation (None of one seed), and how many seeds have it."""

    mean: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, values: Iterable[Any]) -> Mean | None:
        """Return the mean of the values that are finite numbers; None if there are none."""
        known = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        known = [value for value in known if math.isfinite(value)]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(eq=False)
class Configuration:
    """Runs that differ in their seeds alone, in the order of seeds.

    Attributes:
        runs: one or more.
        label: tells it from the others of its group and code length; one name for one thing at all lengths.
    """

    runs: list[Run]
    label: str = ""

    @property
    def first(self) -> Run:
        """The run that stands for all where one is shown."""
        return self.runs[0]

    @property
    def bits(self) -> int:
        """Code length."""
        return self.first.bits

    def mean(self, metric: str) -> Mean | None:
        """Return a figure over seeds; None where no run has it."""
        return Mean.of(run.metrics.get(metric) for run in self.runs)


@dataclass(eq=False)
class Group:
    """Configurations whose figures may be compared: the same data, split and setting.

    Attributes:
        configurations: by code length, then by name.
        beside: options of the data in which groups of the same name differ.
    """

    configurations: list[Configuration]
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        """A run that knows what all have in common."""
        return self.configurations[0].first

    @property
    def title(self) -> str:
        """Data set and setting, and what else tells it from other groups."""
        return " · ".join([self.run.dataset, self.run.setting, *(f"{_short(k)}={v}" for k, v in self.beside.items())])

    @property
    def split(self) -> str:
        """Protocol and the beginning of the split's fingerprint."""
        return f"{self.run.metrics.get('split/protocol') or '–'} {self.run.metrics['split/fingerprint'][:12]}"

    @property
    def lengths(self) -> list[int]:
        """Code lengths, ascending."""
        return sorted({one.bits for one in self.configurations})

    @property
    def metrics(self) -> list[str]:
        """Names of all figures that any run has, in the order of the runs' own."""
        every = dict.fromkeys(n for one in self.configurations for run in one.runs for n in run.metrics)
        return [name for name in every if any(one.mean(name) for one in self.configurations)]


def grouped(runs: Sequence[Run]) -> tuple[list[Group], list[LeftOut]]:
    """Return runs in groups that may be compared, and those that repeat a seed of their own configuration."""
    together: dict[str, dict[str, dict[str, Run]]] = {}
    left_out = []
    for run in runs:
        seeds = together.setdefault(run.comparable, {}).setdefault(run.repeated, {})
        first = seeds.setdefault(str(run.seed), run)
        if first is not run:
            reason = f"the same configuration and seed as {first.folder}, which is counted"
            left_out.append(LeftOut(run.folder, reason))
    groups = []
    for by_configuration in together.values():
        found = [Configuration(sorted(seeds.values(), key=_by_seed)) for seeds in by_configuration.values()]
        _label(found)
        groups.append(Group(sorted(found, key=lambda one: (one.bits, _natural(one.label)))))
    groups.sort(key=lambda group: (group.run.dataset, _order(group), group.split, group.run.comparable))
    for group in groups:
        alike = [one for one in groups if (one.run.dataset, one.run.setting) == (group.run.dataset, group.run.setting)]
        names = differing([one.run.data for one in alike])
        group.beside = {name: _shown(group.run.data.get(name)) for name in names[:3]}
    return groups, left_out


def _order(group: Group) -> tuple[int, str]:
    """Return a key of settings: what is given least comes first."""
    known = ("inductive", "described", "collection", "both")
    return known.index(group.run.setting) if group.run.setting in known else len(known), group.run.setting


def _by_seed(run: Run) -> list[tuple[bool, int, str]]:
    return _natural(str(run.seed))


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names whose values are not the same in all configurations, in their order."""
    every = dict.fromkeys(name for config in configs for name in config)
    missing = object()
    return [name for name in every if any(c.get(name, missing) != configs[0].get(name, missing) for c in configs)]


def _label(configurations: Sequence[Configuration]) -> None:
    """Name the configurations of a group: the method, and what tells those of one method apart beside their length."""
    for method in {one.first.method for one in configurations}:
        alike = [one for one in configurations if one.first.method == method]
        names = [name for name in differing([one.first.config for one in alike]) if name not in (SEED, "model.bits")]
        if "backbone" in names:  # says in a word what its options say in many
            names = ["backbone", *(name for name in names if not name.startswith(("backbone", "model.backbone")))]
        taken: set[tuple[int, str]] = set()
        for one in alike:
            config = one.first.config
            words = [f"{_short(name)}={_shown(config[name])}" for name in names if name in config]
            label = ", ".join([method, *words[:3], *(["…"] if len(words) > 3 else [])])
            one.label, number = label, 1
            while (one.bits, one.label) in taken:
                number += 1
                one.label = f"{label} ({number})"
            taken.add((one.bits, one.label))


def _short(name: str) -> str:
    return name.removeprefix("model.").removeprefix("data.")


def _shown(value: Any) -> str:
    """Return the value of an option as a command line has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
