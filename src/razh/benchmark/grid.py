"""What a benchmark asks for: a YAML file, narrowed by the command line, expanded into cells."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from razh.run import recipe
from razh.support.bounds import Bits, Seed, problems
from razh.support.terminal import did_you_mean
from razh.support.yaml_text import with_names

__all__ = ["About", "Cell", "Grid", "Method", "Protocol", "grid_file", "read_grid", "safe"]

KIND = "benchmark"
KEYS = (
    "title", "dataset", "backbone", "methods", "bits", "seeds", "protocols", "options", "metric", "reference",
)  # fmt: skip
METRIC = "test/unseen/map"


@dataclass(frozen=True)
class Method:
    """A row of the tables: its name there, a file in experiments/method/, and options on top of it.

    `tuned_on` says on what the defaults were chosen, where that was anything but a guess.
    """

    name: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    tuned_on: str = ""


@dataclass(frozen=True)
class Protocol:
    """A split with the options that make it; options of the data, so that all methods get the same."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run: a method at one code length, seed and protocol.

    `options` are all options of `razh train` beside the axes of the grid; the method's win over the protocol's, and
    these over the common ones.
    """

    method: Method
    protocol: str
    bits: int
    seed: int
    dataset: str
    backbone: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Method, protocol, bits and seed: what tells it from the other cells of a benchmark."""
        return self.method.name, self.protocol, self.bits, self.seed


@dataclass(frozen=True, eq=False)
class About:
    """What a benchmark is.

    Attributes:
        name: of its file.
        title: in words.
        dataset: of all cells.
        backbone: of all cells.
        metric: that its tables are about.
        reference: the method that the others are compared with; "" for the best one of each column.
        trials: of tuning for each method; 0 for none.
    """

    name: str
    title: str
    dataset: str
    backbone: str
    metric: str
    reference: str
    trials: int


@dataclass(frozen=True, eq=False)
class Grid(About):
    """A checked benchmark; `cells` expands it.

    Trials are at `tuning` (protocol, bits, seed), however the grid is narrowed: all parts of a table have one budget.
    """

    methods: tuple[Method, ...]
    bits: tuple[Bits, ...]
    seeds: tuple[Seed, ...]
    protocols: tuple[Protocol, ...]
    options: dict[str, Any]
    tuning: tuple[Protocol, int, int]

    def cells(self) -> Iterator[Cell]:
        """Yield every cell; seeds outermost, so that a benchmark that is stopped has whole tables of the first ones."""
        for seed in self.seeds:
            for protocol in self.protocols:
                for method in self.methods:
                    for bits in self.bits:
                        yield self.cell(method, protocol, bits, seed)

    def cell(self, method: Method, protocol: Protocol, bits: int, seed: int) -> Cell:
        """Return one cell, its options merged."""
        options = {**self.options, **protocol.options, **method.options}
        return Cell(method, protocol.name, bits, seed, self.dataset, self.backbone, options)

    def narrowed(self, methods: Any = None, bits: Any = None, seeds: Any = None, protocols: Any = None) -> Grid:
        """Return the grid with other lists for its axes: methods and protocols by name, those of the file or of razh.

        Raises:
            ValueError: a name is unknown, something is named twice, or a number is out of bounds.
        """
        rows = {method.name: method for method in self.methods}
        columns = {protocol.name: protocol for protocol in self.protocols}
        given: dict[str, Any] = {
            "methods": methods and [rows.get(name) or _method(name, rows) for name in methods],
            "protocols": protocols and [columns.get(name) or _protocol(name) for name in protocols],
            "bits": bits,
            "seeds": seeds,
        }
        changes: dict[str, Any] = {axis: tuple(values) for axis, values in given.items() if values is not None}
        grid = replace(self, **changes)
        _check(grid)
        return grid


def safe(name: str) -> str:
    """Return a name that a folder can have."""
    return re.sub(r"[^\w.%+-]+", "_", name).strip("._") or "_"


def grid_file(name: str) -> Path:
    """Return the file of a benchmark: a name under experiments/benchmark/, or a path.

    Raises:
        ValueError: there is no such file; the message lists those there are.
    """
    path = Path(name)
    return path if path.suffix in (".yaml", ".yml") and path.is_file() else recipe.config_file(KIND, name)


def read_grid(path: Path, options: dict[str, Any] | None = None, trials: int = 0, **instead: str | None) -> Grid:
    """Read and check a benchmark's YAML.

    Args:
        path: from `grid_file`.
        options: options for all cells, on top of the file's.
        trials: of tuning for each method.
        **instead: `dataset` and `backbone`, where they are not the file's.

    Raises:
        ValueError: no YAML, an unknown key, method or data set, an empty axis, or a value of the wrong kind.
    """
    try:
        content = yaml.safe_load(with_names(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    try:
        return _grid(path.stem, _mapping(content, "the file", KEYS), options or {}, trials, instead)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _grid(name: str, content: dict[str, Any], options: dict[str, Any], trials: int, instead: dict[str, Any]) -> Grid:
    dataset = instead.get("dataset") or content.get("dataset") or recipe.DEFAULTS["dataset"]
    facts = yaml.safe_load(recipe.config_file("dataset", dataset).read_text(encoding="utf-8"))
    # A backbone in the file belongs to the data set in the file.
    own = content.get("backbone") if dataset == content.get("dataset", dataset) else None
    backbone = instead.get("backbone") or own or facts["backbone"]
    recipe.config_file("backbone", str(backbone))
    usual = facts["data"]["init_args"]["protocol"]
    protocols = tuple(one for entry in _list(content, "protocols", [usual]) for one in _protocols(entry))
    bits, seeds = tuple(_list(content, "bits")), tuple(_list(content, "seeds"))
    grid = Grid(
        name=name,
        title=str(content.get("title") or name),
        dataset=str(dataset),
        backbone=str(backbone),
        metric=str(content.get("metric") or METRIC),
        reference=str(content.get("reference") or ""),
        trials=trials,
        methods=tuple(_method(entry) for entry in _list(content, "methods")),
        bits=bits,
        seeds=seeds,
        protocols=protocols,
        options={**_options(content.get("options"), "options"), **options},
        tuning=(protocols[0], 64 if 64 in bits else bits[0], seeds[0]),
    )
    _check(grid)
    names = [method.name for method in grid.methods]
    if grid.reference and grid.reference not in names:
        raise ValueError(f"reference={grid.reference!r} is not among the methods {', '.join(names)}")
    if not grid.metric.startswith("test/"):
        raise ValueError(f"metric={grid.metric!r} is no key of metrics.json; write e.g. {METRIC}")
    return grid


def _method(entry: Any, others: Iterable[str] = ()) -> Method:
    """Return a method from its name, or from {name, method, options, tuned_on}."""
    given = _named(entry, "methods", ("name", "method", "options", "tuned_on"))
    try:
        recipe.config_file("method", given.setdefault("method", given["name"]))
    except ValueError as error:
        raise ValueError("; rows of this benchmark: ".join(filter(None, (str(error), ", ".join(others))))) from None
    return Method(**given)


def _protocols(entry: Any) -> list[Protocol]:
    """Return the protocol of an entry, or one a seed from {splits, seeds, options}: other random classes for each."""
    if not (isinstance(entry, dict) and "name" not in entry):
        return [_protocol(entry)]
    given = _mapping(entry, "an entry of protocols", ("splits", "seeds", "options"))
    name, seeds = given.get("splits"), _list(given, "seeds")
    _within(tuple[Seed, ...], seeds, f"splits of {name}: seeds")
    more = _options(given.get("options"), f"options of splits of {name}")
    words = "".join(f" {option.rpartition('.')[2]}={value}" for option, value in more.items())
    return [
        _protocol(
            {"name": f"{name} split {seed}{words}", "options": {"data.protocol": name, "data.split_seed": seed, **more}}
        )
        for seed in seeds
    ]


def _protocol(entry: Any) -> Protocol:
    """Return a protocol from its name, or from {name, options}; the name is the data's protocol if none is given."""
    given = _named(entry, "protocols", ("name", "options"))
    name, options = given["name"], given["options"]
    if strange := [option for option in options if not option.startswith("data.")]:
        raise ValueError(f"protocol {name}: option {strange[0]} is none of the data; give data.… options")
    return Protocol(name, {"data.protocol": name, **options})


def _named(entry: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return what an entry says, which may be its name alone; the name can stand in a list on the command line."""
    given = {"name": entry} if isinstance(entry, str) else _mapping(entry, f"an entry of {where}", keys)
    if not given.get("name"):
        raise ValueError(f"an entry of {where} has no name: {entry!r}")
    name = str(given["name"])
    if "," in name:
        raise ValueError(f"{where} names {name!r}; leave the comma out, it stands between names of --{where}")
    text = {key: str(value) for key, value in given.items() if value}
    return {**text, "options": _options(given.get("options"), f"options of {name}")}


def _check(grid: Grid) -> None:
    _within(tuple[Bits, ...], grid.bits, "bits")
    _within(tuple[Seed, ...], grid.seeds, "seeds")
    names = {"methods": [m.name for m in grid.methods], "protocols": [p.name for p in grid.protocols]}
    for axis, values in {**names, "bits": grid.bits, "seeds": grid.seeds}.items():
        if not values:
            raise ValueError(f"{axis} is empty; a benchmark needs at least one")
        if repeated := [value for value, count in Counter(values).items() if count > 1]:
            raise ValueError(f"{axis} names {repeated[0]!r} twice; name each once")
    for axis, of_axis in names.items():
        folders: dict[str, str] = {}
        for name in of_axis:
            if (other := folders.setdefault(safe(name).casefold(), name)) != name:
                raise ValueError(f"{axis} names {other!r} and {name!r}, which would share a folder; rename one")


def _within(kind: Any, value: Any, name: str) -> None:
    for problem in problems(kind, value, name):
        raise ValueError(problem)


def _mapping(value: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}, but must map names to values: {', '.join(keys)}")
    for key in value:
        if key not in keys:
            hint = did_you_mean(str(key), keys, quote="'")
            raise ValueError(f"{where} has an unknown key {key!r}; {hint}it takes {', '.join(keys)}")
    return value


def _list(content: dict[str, Any], key: str, default: list[Any] | None = None) -> list[Any]:
    value = content.get(key, default)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} is {value!r}, but must be a list with something in it")
    return value


def _options(value: Any, where: str) -> dict[str, Any]:
    """Return options of `razh train`, names with dots and without dashes."""
    if not isinstance(value or {}, dict):
        raise ValueError(f"{where} is {value!r}, but must map options of `razh train` to values")
    for name in value or {}:
        if not isinstance(name, str) or "." not in name or name.startswith("-"):
            raise ValueError(f"{where} names {name!r}; write options of `razh train` with dots, such as model.lr")
    return dict(value or {})
