"""The help of `razh train` and its like, read from the sources: nothing heavy is imported, so it is there at once.

LightningCLI's own help needs torch, Lightning and timm, and then knows no option of the chosen data set or method.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from docstring_parser import Docstring, parse

from razh.run import recipe
from razh.support.terminal import STATUSES

__all__ = ["GROUPS", "LINKS", "Option", "class_options", "trainer_help"]

GROUPS = {  # of options, beside those of data, model and trainer
    "evaluation": "razh.callbacks.retrieval.RetrievalEvaluation",
    "cache": "razh.callbacks.cache.FeatureCache",
    "checkpoint": "razh.callbacks.checkpoint.BestCheckpoint",
    "figures": "razh.callbacks.figures.Figures",
    "measures": "razh.callbacks.measures.PartMeasures",
}
# What is never typed, since it follows from something else: target and source.
LINKS = {
    "model.init_args.class_attributes": "data.class_attributes",
    "model.init_args.attribute_vectors": "data.attribute_vectors",
    "model.init_args.train_classes": "data.train_classes",
    "model.init_args.attribute_groups": "data.attribute_groups",
    "data.init_args.seed": "seed_everything",
    "model.init_args.backbone.init_args.image_size": "data.init_args.image_size",
}
TRAINER = "razh.run.trainer.Trainer"
USUAL = (
    "max_epochs", "max_steps", "max_time", "accelerator", "devices", "num_nodes", "strategy", "precision",
    "accumulate_grad_batches", "gradient_clip_val", "check_val_every_n_epoch", "limit_train_batches",
    "limit_val_batches", "limit_test_batches", "fast_dev_run", "enable_progress_bar", "profiler",
)  # fmt: skip
SHORT = {
    "dataset=NAME": "data set: {dataset}",
    "method=NAME": "method: {method}",
    "backbone=NAME": "network: {backbone}; default: the data set's own",
    "bits=L": "code length",
    "seed=N": "of the weights, the order of images and their augmentation (0)",
    "data_root=DIR": "folder of the data set",
    "weights=FILE": "weights of the network, .safetensors or .pth",
    "ranking=NAME": "hamming; asymmetric: test also ranks by the queries' real-valued logits (hamming)",
    "run_dir=DIR": "folder of the run (runs/DATASET/METHOD/BITS/seedN)",
    "logger=A,B": "wandb, csv, tensorboard, or several of them",
    "resume=BOOL": "true: go on with an unfinished run of this very configuration; false: start anew beside it (true)",
    "ckpt_path=FILE": "{ckpt_path}",
    "profile": "show where the time of the run went, after it",
    "config=FILE": "YAML with any of these options, such as the config.yaml of a run; several may be given",
    "print_config": "show the whole configuration as such a file, and stop",
    "debug": "show where an error was raised",
}


class Source(NamedTuple):
    """A class as it is written: its module and its node in the module's syntax tree."""

    module: str
    node: ast.ClassDef


@dataclass(frozen=True)
class Option:
    """An argument of a class: name, default and type as they are written, and what its docstring says."""

    name: str
    default: str = ""
    text: str = ""
    annotation: ast.expr | None = None


# ----------------------------------------------------------------------------------------------------------- sources


@lru_cache
def _tree(module: str) -> ast.Module:
    """Return the syntax tree of a module; an empty one if there is no source of it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of a module in a package, it would import the package
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder, *rest)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return ast.parse(file.read_text(encoding="utf-8"))
    return ast.Module([], [])


def find_class(path: str) -> Source | None:
    """Return the source of a class by its dotted path, followed through imports; None where it cannot be found."""
    module, _, name = path.rpartition(".")
    for node in _tree(module).body if module else []:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Source(module, node)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return find_class(f"{node.module}.{alias.name}")
    return None


def class_options(path: str) -> dict[str, Option]:
    """Return the constructor arguments of a class by name, those that it passes on to its bases included.

    Args:
        path: dotted path of the class, which is read and not imported.
    """
    source = find_class(path)
    return {} if source is None else {option.name: option for option in _options_of(source)}


def _options_of(source: Source) -> list[Option]:
    init = next((n for n in source.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    own = _fields(source.node) if init is None else _parameters(init)
    told = _told(source.node) | (_told(init) if init is not None else {})
    found = {option.name: replace(option, text=option.text or told.get(option.name, "")) for option in own}
    if init is None or init.args.kwarg is not None:
        for base in source.node.bases:
            for name, option in class_options(f"{source.module}.{ast.unparse(base)}").items():
                found[name] = replace(found[name], text=found[name].text or option.text) if name in found else option
    return list(found.values())


def _parameters(init: ast.FunctionDef) -> list[Option]:
    positional, named = [*init.args.posonlyargs, *init.args.args], init.args.kwonlyargs
    defaults = [None] * (len(positional) - len(init.args.defaults)) + [*init.args.defaults, *init.args.kw_defaults]
    return [
        Option(argument.arg, "" if default is None else ast.unparse(default), annotation=argument.annotation)
        for argument, default in zip([*positional, *named], defaults, strict=True)
        if argument.arg != "self"
    ]


def _fields(node: ast.ClassDef) -> list[Option]:
    """Return the fields of a dataclass, with the text that may stand below each."""
    if not any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return []
    found = []
    for entry, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            default = "" if entry.value is None else ast.unparse(entry.value)
            below = after.value if isinstance(after, ast.Expr) else None
            text = below.value if isinstance(below, ast.Constant) and isinstance(below.value, str) else ""
            found.append(Option(entry.target.id, default, " ".join(text.split()), entry.annotation))
    return found


def _told(node: ast.ClassDef | ast.FunctionDef) -> dict[str, str]:
    """Return what a docstring says of each argument, in one line."""
    said: Docstring = parse(ast.get_docstring(node) or "")
    return {name: " ".join((p.description or "").split()) for p in said.params for name in p.arg_name.split(", ")}


# --------------------------------------------------------------------------------------------------- a configuration


def _configuration(arguments: list[str]) -> dict[str, Any]:
    """Return what the files behind a command line say, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for file in recipe.config_files(recipe.expand(arguments)):
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        merged = _merged(merged, content if isinstance(content, dict) else {})
    return merged


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {**under, **over}
    return {
        key: _merged(under[key], value) if isinstance(value, dict) and isinstance(under.get(key), dict) else value
        for key, value in both.items()
    }


def _tree_options(path: str, values: Mapping[str, Any], prefix: str) -> Iterator[Option]:
    """Yield the options of a class and of the classes in them, by their whole names, with the values of files."""
    source = find_class(path)
    for option in [] if source is None else _options_of(source):
        name, value = f"{prefix}.{option.name}", values.get(option.name)
        if name in _linked():
            continue
        inner = value if isinstance(value, dict) else {}
        group = _group(source, option)
        if "class_path" in inner:
            yield replace(option, name=name, default=str(inner["class_path"]))
            yield from _tree_options(str(inner["class_path"]), inner.get("init_args") or {}, name)
        elif group:
            yield from _tree_options(group, inner, name)
        else:
            yield replace(option, name=name, default=_shown(value if option.name in values else _value(option.default)))


def _linked() -> set[str]:
    return {target.replace(".init_args", "") for target in LINKS}


def _group(source: Source | None, option: Option) -> str:
    """Return the path of the dataclass that an option is of; "" if it is a plain value."""
    if source is None or not isinstance(option.annotation, ast.Name):
        return ""
    path = f"{source.module}.{option.annotation.id}"
    found = find_class(path)
    return path if found is not None and _fields(found.node) else ""


def _value(source: str) -> Any:
    try:
        return ast.literal_eval(source) if source else ""
    except ValueError:  # an expression
        return source


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return text.removesuffix("...").strip()


# --------------------------------------------------------------------------------------------------------- the help


def trainer_help(command: str, about: str, arguments: list[str]) -> str:
    """Return the help of a command that needs a trainer.

    Args:
        command: `train`, `fit`, `validate`, `test` or `predict`.
        about: what it does.
        arguments: what else is typed: options of the data set, method and backbone that it chooses are shown.

    Raises:
        ValueError: a data set, method or backbone is unknown, or a file is no YAML.
    """
    config = _configuration(arguments)
    width = min(120, shutil.get_terminal_size().columns)
    chosen = " ".join(f"--{kind}={config[kind]}" for kind in recipe.FOLDERS if config.get(kind))
    lines = [f"usage: razh {command} [--OPTION=VALUE ...]", "", about, "", "options:", *_rows(_short(command), width)]
    for group in ("data", "model"):
        chosen_class = config.get(group) or {}
        path = str(chosen_class.get("class_path", ""))
        found = _tree_options(path, chosen_class.get("init_args") or {}, group)
        lines += ["", f"--{group}.* of {path}:", *_rows(found, width)]
    trainer = {o.name: o for o in _tree_options(TRAINER, config.get("trainer") or {}, "trainer")}
    usual = [trainer.pop(f"trainer.{name}") for name in USUAL if f"trainer.{name}" in trainer]
    usual = [replace(option, text=_first_sentence(option.text)) for option in usual]
    lines += ["", "--trainer.*, Lightning's Trainer:", *_rows(usual, width)]
    others = "and " + ", ".join(name.removeprefix("trainer.") for name in trainer)
    lines += textwrap.wrap(others, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    for group, path in GROUPS.items():
        lines += ["", f"--{group}.*:", *_rows(_tree_options(path, config.get(group) or {}, group), width)]
    ends = f"Defaults are those of {chosen}; name others before --help to see theirs." if chosen else ""
    return "\n".join([*lines, "", *textwrap.wrap(ends, width), "", STATUSES])


def _short(command: str) -> list[Option]:
    fitting = command in ("train", "fit")
    words = {kind: ", ".join(recipe.available(kind)) for kind in recipe.FOLDERS}
    words["ckpt_path"] = "go on from it; last: from that of the run folder" if fitting else "the checkpoint (required)"
    defaults = {kind: f" ({name})" for kind, name in recipe.DEFAULTS.items()}
    return [
        Option(name, text=text.format(**words) + defaults.get(name.partition("=")[0], ""))
        for name, text in SHORT.items()
        if fitting or name != "resume=BOOL"
    ]


def _rows(options: Iterator[Option] | list[Option], width: int) -> list[str]:
    """Return help lines, two columns as argparse has them."""
    column, lines = 32, []
    for option in options:
        default = f" ({option.default})" if option.default not in ("", "''", "null") else ""
        head, text = f"  --{option.name}", f"{option.text}{default}".strip()
        lines += [head] if len(head) > column - 2 or not text else []
        first = "" if lines and lines[-1] == head else head
        wrapped = textwrap.wrap(text, width - column, break_on_hyphens=False)
        lines += [f"{first if number == 0 else '':<{column}}{line}" for number, line in enumerate(wrapped)]
    return lines


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].partition(" Default:")[0].rstrip(".").replace("``", "")
