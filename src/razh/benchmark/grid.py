"""What a benchmark asks for: a YAML file, narrowed by the command line, expanded into cells."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from razh import recipe
from razh.retrieval.packing import MAX_BITS

__all__ = ["Cell", "Grid", "Method", "Protocol", "Tuning", "available", "grid_file", "read_grid", "safe"]

FOLDER = "benchmark"
KEYS = (
    "title", "dataset", "backbone", "methods", "bits", "seeds", "protocols", "options", "tune", "metric", "reference",
)  # fmt: skip
METHOD_KEYS = ("name", "method", "options", "tuned_on")
PROTOCOL_KEYS = ("name", "options")
DRAWS_KEYS = ("draws", "seeds")
TUNE_KEYS = ("bits", "seeds", "protocol")
METRIC = "test/unseen/map"


@dataclass(frozen=True)
class Method:
    """A row of the table: `label` is its name there, `method` a file in experiments/method/.

    `tuned_on` says on what the defaults were chosen, where that was anything but a guess.
    """

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    tuned_on: str = ""


@dataclass(frozen=True)
class Protocol:
    """A split with the options that make it; options of the data, so that all methods get the same."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuning:
    """The one setting that trials run at, however the grid is narrowed: one budget for all parts of a table."""

    bits: int
    seeds: tuple[int, ...]
    protocol: Protocol


@dataclass(frozen=True)
class Cell:
    """One run: a method at one code length, seed and protocol.

    `options` are all options of `razh train` beside the axes of the grid; the method's own win over the protocol's,
    and these over the common ones.
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
        """Label, protocol, bits and seed: what tells it from the other cells of a benchmark."""
        return self.method.label, self.protocol, self.bits, self.seed


@dataclass(frozen=True)
class Grid:
    """A checked benchmark; `cells` expands it."""

    name: str
    title: str
    dataset: str
    backbone: str
    methods: tuple[Method, ...]
    bits: tuple[int, ...]
    seeds: tuple[int, ...]
    protocols: tuple[Protocol, ...]
    options: dict[str, Any]
    tuning: Tuning
    metric: str = METRIC
    reference: str = ""

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

    def narrowed(
        self,
        methods: Iterable[str] | None = None,
        bits: Iterable[int] | None = None,
        seeds: Iterable[int] | None = None,
        protocols: Iterable[str] | None = None,
    ) -> Grid:
        """Return the grid with other axes: methods and protocols by name, those of the file or of razh.

        Raises:
            ValueError: a name is unknown, or something is named twice.
        """
        grid = self
        if methods is not None:
            own = {method.label: method for method in self.methods}
            grid = replace(grid, methods=tuple(own.get(name) or _method(name, "methods", own) for name in methods))
        if protocols is not None:
            known = {protocol.name: protocol for protocol in self.protocols}
            grid = replace(grid, protocols=tuple(known.get(name) or _protocol(name) for name in protocols))
        grid = replace(grid, bits=tuple(bits) if bits is not None else grid.bits)
        grid = replace(grid, seeds=tuple(seeds) if seeds is not None else grid.seeds)
        _check(grid)
        return grid


def safe(name: str) -> str:
    """Return a name that a folder can have."""
    return re.sub(r"[^\w.%+-]+", "_", name).strip("._") or "_"


def available() -> list[str]:
    """Return the names of the benchmarks under experiments/benchmark/."""
    return sorted(path.stem for path in (recipe.experiments_folder() / FOLDER).glob("*.yaml"))


def grid_file(name: str) -> Path:
    """Return the file of a benchmark: a name under experiments/benchmark/, or a path.

    Raises:
        ValueError: there is no such file; the message lists those there are.
    """
    path = recipe.experiments_folder() / FOLDER / f"{name}.yaml"
    if path.is_file():
        return path
    if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        return Path(name)
    names = available()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"benchmark {name!r} is unknown; {hint}give a YAML file, or choose from {', '.join(names)}")


def read_grid(
    path: Path, *, dataset: str | None = None, backbone: str | None = None, options: dict[str, Any] | None = None
) -> Grid:
    """Read and check a benchmark's YAML.

    Args:
        path: from `grid_file`.
        dataset: instead of the file's.
        backbone: instead of the file's, or of the data set's own.
        options: options for all cells, on top of the file's.

    Raises:
        ValueError: no YAML, an unknown key, method or data set, an empty axis, or a value of the wrong kind.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    try:
        return _grid(path.stem, _mapping(content, "the file", KEYS), dataset, backbone, options or {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _grid(
    name: str, content: dict[str, Any], dataset: str | None, backbone: str | None, options: dict[str, Any]
) -> Grid:
    dataset = dataset or content.get("dataset") or recipe.DEFAULTS["dataset"]
    facts = yaml.safe_load(recipe.config_file("dataset", dataset).read_text(encoding="utf-8"))
    # A backbone in the file belongs to the data set in the file.
    own = content.get("backbone") if dataset == content.get("dataset", dataset) else None
    backbone = backbone or own or facts["backbone"]
    recipe.config_file("backbone", str(backbone))
    usual = facts["data"]["init_args"]["protocol"]
    protocols = tuple(one for entry in _list(content, "protocols", [usual]) for one in _protocols(entry))
    methods: dict[str, Method] = {}
    for entry in _list(content, "methods"):
        method = _method(entry, "methods", methods)
        if method.label in methods:
            raise ValueError(f"methods names {method.label!r} twice; give one of them another name")
        methods[method.label] = method
    bits = tuple(_whole("bits", value, 1) for value in _list(content, "bits"))
    seeds = tuple(_whole("seeds", value, 0) for value in _list(content, "seeds"))
    grid = Grid(
        name=name,
        title=str(content.get("title") or name),
        dataset=str(dataset),
        backbone=str(backbone),
        methods=tuple(methods.values()),
        bits=bits,
        seeds=seeds,
        protocols=protocols,
        options={**_options(content.get("options"), "options"), **options},
        tuning=_tuning(content.get("tune"), bits, seeds, protocols),
        metric=str(content.get("metric") or METRIC),
        reference=str(content.get("reference") or ""),
    )
    _check(grid)
    if grid.reference and grid.reference not in methods:
        raise ValueError(f"reference={grid.reference!r} is not among the methods {', '.join(methods)}")
    if not grid.metric.startswith("test/"):
        raise ValueError(f"metric={grid.metric!r} is no key of metrics.json; write e.g. {METRIC}")
    return grid


def _method(entry: Any, where: str, others: Iterable[str]) -> Method:
    """Return a method from its name, or from {name, method, options, tuned_on}."""
    given = {"name": entry} if isinstance(entry, str) else _mapping(entry, f"an entry of {where}", METHOD_KEYS)
    if not given.get("name"):
        raise ValueError(f"an entry of {where} has no name: {entry!r}")
    label = _name(given["name"], where)
    method = str(given.get("method") or label)
    try:
        recipe.config_file("method", method)
    except ValueError as error:
        rows = ", ".join(others)
        raise ValueError(f"{error}" + (f"; rows of this benchmark: {rows}" if rows else "")) from None
    options = _options(given.get("options"), f"options of {label}")
    return Method(label, method, options, str(given.get("tuned_on") or ""))


def _protocols(entry: Any) -> list[Protocol]:
    """Return the protocol of an entry, or one a seed from {draws, seeds}: other random classes for each."""
    if not (isinstance(entry, dict) and "draws" in entry):
        return [_protocol(entry)]
    given = _mapping(entry, "an entry of protocols", DRAWS_KEYS)
    seeds = [_whole(f"draws of {given['draws']}: seeds", value, 0) for value in _list(given, "seeds")]
    protocol = {"data.protocol": given["draws"]}
    named = [(f"{given['draws']} draw {seed}", {**protocol, "data.split_seed": seed}) for seed in seeds]
    return [_protocol({"name": name, "options": options}) for name, options in named]


def _protocol(entry: Any) -> Protocol:
    """Return a protocol from its name, or from {name, options}; the name is the data's protocol if none is given."""
    given = {"name": entry} if isinstance(entry, str) else _mapping(entry, "an entry of protocols", PROTOCOL_KEYS)
    if not given.get("name"):
        raise ValueError(f"an entry of protocols has no name: {entry!r}")
    name = _name(given["name"], "protocols")
    options = _options(given.get("options"), f"options of protocol {name}")
    strange = [option for option in options if not option.startswith("data.")]
    if strange:
        raise ValueError(f"protocol {name}: option {strange[0]} is none of the data; give data.… options")
    return Protocol(name, {"data.protocol": name, **options})


def _name(value: Any, where: str) -> str:
    """Return a name that the command line can list with others."""
    if "," in str(value):
        raise ValueError(f"{where} names {str(value)!r}; leave the comma out, it stands between names of --{where}")
    return str(value)


def _tuning(entry: Any, bits: tuple[int, ...], seeds: tuple[int, ...], protocols: tuple[Protocol, ...]) -> Tuning:
    given = _mapping(entry or {}, "tune", TUNE_KEYS)
    named = {protocol.name: protocol for protocol in protocols}
    name = str(given.get("protocol") or protocols[0].name)
    if name not in named:
        raise ValueError(f"tune: protocol={name!r} is none of {', '.join(named)}")
    return Tuning(
        bits=_whole("tune: bits", given.get("bits", 64 if 64 in bits else bits[-1]), 1),
        seeds=tuple(_whole("tune: seeds", value, 0) for value in _list(given, "seeds", list(seeds[:1]))),
        protocol=named[name],
    )


def _check(grid: Grid) -> None:
    axes: dict[str, tuple[Any, ...]] = {
        "methods": tuple(method.label for method in grid.methods),
        "bits": grid.bits,
        "seeds": grid.seeds,
        "protocols": tuple(protocol.name for protocol in grid.protocols),
    }
    for name, values in axes.items():
        if not values:
            raise ValueError(f"{name} is empty; a benchmark needs at least one")
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if repeated:
            raise ValueError(f"{name} names {repeated[0]!r} twice; name each once")
    if strange := [bits for bits in grid.bits if not 1 <= bits <= MAX_BITS]:
        raise ValueError(f"bits holds {strange[0]}, but a code has 1 to {MAX_BITS} bits")
    if min(grid.seeds) < 0:
        raise ValueError(f"seeds holds {min(grid.seeds)}; seeds count from 0")
    for name in ("methods", "protocols"):
        folders: dict[str, str] = {}
        for value in axes[name]:
            other = folders.setdefault(safe(value).casefold(), value)
            if other != value:
                raise ValueError(f"{name} names {other!r} and {value!r}, which would share a folder; rename one")


def _mapping(value: Any, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}, but must map names to values: {', '.join(keys)}")
    for key in value:
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"{where} has an unknown key {key!r}; {hint}it takes {', '.join(keys)}")
    return value


def _list(content: dict[str, Any], key: str, default: list[Any] | None = None) -> list[Any]:
    value = content.get(key, default)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{key} is {value!r}, but must be a list with something in it")
    return value


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} holds {value!r}, but takes whole numbers from {least} on")
    return value


def _options(value: Any, where: str) -> dict[str, Any]:
    """Return options of `razh train`, names with dots and without dashes."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}, but must map options of `razh train` to values")
    for name in value:
        if not isinstance(name, str) or "." not in name or name.startswith("-"):
            raise ValueError(f"{where} names {name!r}; write options of `razh train` with dots, such as model.lr")
    return dict(value)
