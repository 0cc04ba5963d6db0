"""Search spaces in the form of a W&B sweep's `parameters`: read, checked, drawn from, written as options."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

# What each distribution must have, besides its name; docs.wandb.ai calls them so.
NEEDS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    "categorical_w_probabilities": ("values", "probabilities"),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform": ("min", "max"),
    "log_uniform_values": ("min", "max"),
    "q_log_uniform_values": ("min", "max", "q"),
    "normal": ("mu", "sigma"),
    "q_normal": ("mu", "sigma", "q"),
    "log_normal": ("mu", "sigma"),
    "q_log_normal": ("mu", "sigma", "q"),
}
DEFAULTS = {"q": 1, "mu": 0.0, "sigma": 1.0}  # W&B's own
LISTS = ("values", "probabilities")


@dataclass(frozen=True)
class Parameter:
    """One option and how its value is drawn; `facts` holds what its distribution needs (see `NEEDS`)."""

    name: str
    distribution: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def choices(self) -> list[Any] | None:
        """The values to choose from; None for a range."""
        if self.distribution == "constant":
            return [self.facts["value"]]
        return list(self.facts["values"]) if "values" in self.facts else None

    def at(self, quantile: float) -> Any:
        """Return the value below which the share `quantile` in [0, 1) of the distribution lies."""
        facts = self.facts
        if self.choices is not None:
            shares = np.asarray(facts.get("probabilities", [1.0] * len(self.choices)), dtype=float)
            position = np.searchsorted(shares.cumsum() / shares.sum(), quantile, side="right")
            return self.choices[min(int(position), len(self.choices) - 1)]
        if self.distribution == "int_uniform":
            return facts["min"] + min(int(quantile * (facts["max"] - facts["min"] + 1)), facts["max"] - facts["min"])
        if "normal" in self.distribution:
            middle = min(max(quantile, 1e-12), 1 - 1e-12)
            value = statistics.NormalDist(facts["mu"], facts["sigma"]).inv_cdf(middle)
            return self.stepped(math.exp(value) if "log_" in self.distribution else value)
        low, high = self.bounds
        value = low + quantile * (high - low)
        if self.logarithmic:
            value = math.exp(math.log(low) + quantile * (math.log(high) - math.log(low)))
        return self.stepped(min(max(value, low), high))

    @property
    def logarithmic(self) -> bool:
        """Whether the logarithm of the value is spread evenly."""
        return "log_uniform" in self.distribution

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value of a range; `log_uniform` gives their logarithms, as in W&B."""
        low, high = float(self.facts["min"]), float(self.facts["max"])
        return (math.exp(low), math.exp(high)) if self.distribution == "log_uniform" else (low, high)

    @property
    def examples(self) -> list[Any]:
        """All choices, or both ends of a range: what a parser is asked about."""
        if self.choices is not None:
            return self.choices
        return [self.at(0.0), self.at(1.0)] if "normal" not in self.distribution else [self.at(0.5)]

    def stepped(self, value: float) -> float | int:
        """Round to a multiple of `q` where there is one; a whole `q` gives whole numbers."""
        if "q" not in self.facts:
            return value
        step: float | int = self.facts["q"]
        return round(value / step) * step if isinstance(step, int) else round(round(value / step) * step, 12)


@dataclass(frozen=True)
class SearchSpace:
    """Parameters of a search, by name in the order of the file."""

    parameters: dict[str, Parameter]

    @classmethod
    def read(cls, path: Path) -> SearchSpace:
        """Read a W&B sweep (its `parameters:`) or a method's configuration (its `search:`).

        Raises:
            FileNotFoundError: no such file.
            ValueError: no YAML, no such section, or a bad entry.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no search space at {path}; give a sweep's or a method's YAML file")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
        for section in ("parameters", "search"):
            if isinstance(content, dict) and content.get(section) is not None:
                try:
                    return cls.from_mapping(content[section])
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from None
        raise ValueError(
            f"{path} has no search space; give it a section `parameters:` (a sweep) or `search:` (a method)"
        )

    @classmethod
    def from_mapping(cls, parameters: Any) -> SearchSpace:
        """Check the mapping of names to W&B's entries.

        Raises:
            ValueError: no mapping, an unknown distribution or key, a missing or impossible number.
        """
        if not isinstance(parameters, dict) or not parameters:
            raise ValueError(f"search space {parameters!r} must map options to {{values: …}} or {{min: …, max: …}}")
        return cls({str(name): _parameter(str(name), entry) for name, entry in parameters.items()})

    @property
    def names(self) -> list[str]:
        """Names of the parameters: options of `razh train` without dashes."""
        return list(self.parameters)

    def sample(self, generator: np.random.Generator) -> dict[str, Any]:
        """Draw a value for each parameter; plain Python values."""
        return {name: parameter.at(float(generator.random())) for name, parameter in self.parameters.items()}


def options(values: dict[str, Any]) -> list[str]:
    """Return values as options of a command line: `--name=value`, in YAML's own spelling."""
    return [f"--{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in values.items()]


def _parameter(name: str, entry: Any) -> Parameter:
    if not isinstance(entry, dict):
        raise ValueError(f"{name}={entry!r} must be a mapping, such as {{value: {entry!r}}} or {{values: [a, b]}}")
    if "parameters" in entry:
        raise ValueError(f"{name} is nested; write its parameters with dots, such as {name}.NAME")
    given = dict(entry)
    distribution = given.pop("distribution", None) or _guess(name, given)
    if distribution not in NEEDS:
        raise ValueError(f"{name}: distribution={distribution!r} is unknown; choose from {', '.join(NEEDS)}")
    needed = NEEDS[distribution]
    facts = {key: given.pop(key) if key in given else DEFAULTS.get(key, _MISSING) for key in needed}
    missing = [key for key in needed if facts[key] is _MISSING]
    if missing:
        raise ValueError(f"{name}: distribution {distribution} needs {' and '.join(missing)}")
    if given:
        raise ValueError(
            f"{name}: {next(iter(given))} does not go with {distribution}, which takes {', '.join(needed)}"
        )
    _check(name, distribution, facts)
    return Parameter(name, distribution, facts)


_MISSING = object()


def _guess(name: str, given: dict[str, Any]) -> str:
    """Return the distribution that W&B infers from the keys."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "mu" in given or "sigma" in given:
        return "normal"
    if "min" in given or "max" in given:
        whole = all(isinstance(given.get(key), int) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise ValueError(f"{name} has nothing to choose from; give it values, or min and max")


def _check(name: str, distribution: str, facts: dict[str, Any]) -> None:
    for key in LISTS:
        if key in facts and (not isinstance(facts[key], list) or not facts[key]):
            raise ValueError(f"{name}: {key}={facts[key]!r} must be a list with something in it")
    for key, value in facts.items():
        numbers = value if key == "probabilities" else [] if key in ("value", "values") else [value]
        for number in numbers:
            _check_number(name, key, number)
    if "min" in facts:
        _check_range(name, distribution, facts["min"], facts["max"])
    for key in {"q", "sigma"} & facts.keys():
        if facts[key] <= 0:
            raise ValueError(f"{name}: {key}={facts[key]} must be above 0")
    if "probabilities" in facts:
        shares = facts["probabilities"]
        if len(shares) != len(facts["values"]) or min(shares) < 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ValueError(f"{name}: probabilities={shares} must be one for each of the values, and add up to 1")


def _check_number(name: str, key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = "; YAML wants a dot in it, such as 1.0e-3" if isinstance(value, str) and "e" in value.lower() else ""
        raise ValueError(f"{name}: {key}={value!r} is no number{hint}")


def _check_range(name: str, distribution: str, low: float, high: float) -> None:
    if distribution == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"{name}: min={low} and max={high} of int_uniform must be whole numbers")
    if low > high:
        raise ValueError(f"{name}: min={low} is above max={high}; swap them")
    if "log_uniform_values" in distribution and low <= 0:
        raise ValueError(f"{name}: min={low} must be above 0 for {distribution}")
