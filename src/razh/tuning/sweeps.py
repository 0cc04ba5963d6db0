"""Searches by name or file, and whether their parameters are options that the methods have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from razh.run import recipe
from razh.tuning.space import Parameter, SearchSpace, options

GOALS = ("maximize", "minimize")
STRATEGIES = ("bayes", "random", "grid")
COMMAND = ["${env}", "${interpreter}", "-m", "razh", "fit", "--logger=wandb", "${args}"]


@dataclass(frozen=True)
class Search:
    """A search space, how it is searched, and what for.

    Attributes:
        name: of its file.
        space: the parameters.
        strategy: `bayes`, `random` or `grid`.
        metric: logged in validation.
        maximize: whether more is better.
        fixed: options that all trials have.
        sweep: the whole W&B sweep.
    """

    name: str
    space: SearchSpace
    strategy: str
    metric: str
    maximize: bool
    fixed: list[str] = field(default_factory=list)
    sweep: dict[str, Any] = field(default_factory=dict)


def available() -> list[str]:
    """Return the names that `SWEEP=` takes: sweeps, and methods that declare a search space."""
    folder = recipe.experiments_folder()
    methods = [path for path in (folder / "method").glob("*.yaml") if "search" in yaml.safe_load(path.read_text())]
    return sorted({path.stem for path in [*(folder / "sweep").glob("*.yaml"), *methods]})


def find(name: str) -> Search:
    """Return a search: a file, else `experiments/sweep/NAME.yaml`, else the space of a method.

    Raises:
        ValueError: no such search, or a bad one.
    """
    folder = recipe.experiments_folder()
    places = [Path(name)] if name.endswith((".yaml", ".yml")) else []
    places += [folder / kind / f"{name}.yaml" for kind in ("sweep", "method")]
    for path in places:
        if path.is_file() and (path.parent.name != "method" or "search" in yaml.safe_load(path.read_text())):
            return read(path)
    raise ValueError(f"no search {name!r}; give a YAML file, or one of {', '.join(available())}")


def read(path: Path) -> Search:
    """Read a W&B sweep or a method's configuration.

    Raises:
        ValueError: it holds no search space, or an unknown strategy or goal.
    """
    space = SearchSpace.read(path)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    fixed = []
    if "parameters" not in content:
        fixed = [f"--method={content.get('method', path.stem)}"]
        content = {"program": "src/razh/__main__.py", "method": "bayes", "parameters": content["search"]}
    metric = content.get("metric") or {"name": "val/map", "goal": "maximize"}
    strategy, goal = content.get("method", "bayes"), metric.get("goal", "minimize")  # W&B's own default
    if strategy not in STRATEGIES:
        raise ValueError(f"{path}: method={strategy!r} is unknown; a sweep's is one of {', '.join(STRATEGIES)}")
    if goal not in GOALS:
        raise ValueError(f"{path}: goal={goal!r} is unknown; choose from {', '.join(GOALS)}")
    if not str(metric.get("name", "")).startswith("val/"):
        raise ValueError(f"{path}: metric {metric.get('name')!r} is none of validation; take val/map")
    ranges = [p.name for p in space.parameters.values() if p.choices is None and p.distribution != "int_uniform"]
    if strategy == "grid" and ranges:
        raise ValueError(f"{path}: a grid needs values, {ranges[0]} has a range; give values, or method: random")
    sweep = {"command": COMMAND} | content | {"metric": metric}
    return Search(path.stem, space, strategy, metric["name"], goal == "maximize", fixed, sweep)


def command_lines(search: Search, fixed: list[str]) -> list[list[str]]:
    """Return command lines in which every choice of every parameter occurs, with every method."""
    parameters = dict(search.space.parameters)
    method: Parameter | None = parameters.pop("method", None)
    heads = [[f"--method={name}"] for name in method.examples] if method is not None else [[]]
    examples = {name: parameter.examples for name, parameter in parameters.items()}
    rounds = max([len(values) for values in examples.values()], default=1)
    drawn = [{name: values[i % len(values)] for name, values in examples.items()} for i in range(rounds)]
    first = [[*search.fixed, *fixed, *head, *options(drawn[0])] for head in heads]
    return first + [[*search.fixed, *fixed, *heads[0], *options(values)] for values in drawn[1:]]
