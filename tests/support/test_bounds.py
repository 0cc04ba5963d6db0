"""No number out of bounds reaches a constructor, whatever option is added."""

import argparse
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import numpy as np
import pytest
import yaml

from razh.callbacks.cache import FeatureCache
from razh.callbacks.checkpoint import BestCheckpoint
from razh.callbacks.figures import Figures
from razh.callbacks.measures import PartMeasures
from razh.callbacks.retrieval import RetrievalEvaluation
from razh.layers.hash import HashHead
from razh.retrieval.packing import MAX_BITS
from razh.run.recipe import experiments_folder
from razh.run.trainer import Trainer
from razh.support import bounds
from razh.support.bounds import Bounded, Bounds, Count, Positive, Share, problems, refuse_object, within

GROUPS = {"evaluation": RetrievalEvaluation, "figures": Figures, "measures": PartMeasures, "trainer": Trainer}
CONFIGS = {path: yaml.safe_load(path.read_text()) for path in sorted(experiments_folder().rglob("*.yaml"))}
ELSEWHERE = {
    ("HashHead", "dim"),  # a layer's width is its maker's business
    ("FolderDataModule", "unseen_classes"),  # names or ids of classes, which are looked up
    ("Trainer", "devices"),  # `devices.check` knows what there is
}
BAD = (float("nan"), float("inf"), -float("inf"), -1e12, 10**400)


def chosen(config):
    """Yield every object that a configuration names, itself included."""
    if isinstance(config, Mapping):
        if "class_path" in config:
            yield config
        for value in config.values():
            yield from chosen(value)


def class_of(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


CLASSES = {class_of(found["class_path"]) for config in CONFIGS.values() for found in chosen(config)}
OURS = sorted({*CLASSES, *GROUPS.values(), FeatureCache, BestCheckpoint, HashHead}, key=lambda kind: kind.__qualname__)


def numeric(hint):
    """Tell whether an annotation takes numbers (a flag is none)."""
    return hint in (int, float) or any(numeric(part) for part in get_args(hint))


def parameters(kind):
    """Yield the path, annotation of every number that a constructor takes, its bases' and its groups' included."""
    found = {**getattr(kind, "option_bounds", {})}
    for base in kind.__mro__:
        if "__init__" in vars(base) and not base.__module__.startswith(("torch", "lightning")):
            signature = inspect.signature(vars(base)["__init__"], eval_str=True)
            found |= {name: p.annotation for name, p in signature.parameters.items() if name not in found}
    for name, hint in found.items():
        groups = [part for part in (hint, *get_args(hint)) if is_dataclass(part)]
        fields = get_type_hints(groups[0], include_extras=True) if groups else {}
        yield from [((name,), hint)] if numeric(hint) else [((name, f), h) for f, h in fields.items() if numeric(h)]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_numeric_option_has_bounds(kind):
    root = {"root": "nowhere"} if kind.__module__.startswith("razh.datamodules") else {}
    for path, hint in parameters(kind):
        if (kind.__name__, *path) in ELSEWHERE:
            continue
        for value in BAD:
            given = [value] if "list[" in str(hint) else value
            options = {path[0]: given if len(path) == 1 else {path[1]: given}}
            with pytest.raises(ValueError, match=rf"{'.'.join(path)}=.* must be ") as refused:
                kind(**root, **options)
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) < 200


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_within_bounds(path):
    config = CONFIGS[path]
    for found in chosen(config):
        refuse_object(found, "model.")
    for group, kind in GROUPS.items():
        bounds.refuse(kind, config.get(group) or {}, f"{group}.")


def test_search_spaces_are_within_bounds():
    for config in CONFIGS.values():
        model = config.get("model")
        for key, entry in (config.get("search") or {}).items():
            ends = entry.get("values", [entry.get("min"), entry.get("max")])
            for value in (v for v in ends if key.startswith("model.") and key.count(".") == 1):
                bounds.refuse(class_of(model["class_path"]), {key.removeprefix("model."): value})


@dataclass(frozen=True)
class Group:
    share: Share = 0.5


class Base(Bounded):
    option_bounds: ClassVar[Mapping[str, Any]] = {"further": Count}
    built: ClassVar[list[str]] = []

    def __init__(self, rate: Positive = 1.0, **others: Any) -> None:
        self.built.append("base")


class Derived(Base):
    def __init__(
        self,
        group: Group | None = None,
        ranks: list[Count] | None = None,
        batches: Count | Share | None = None,
        **kwargs: Any,
    ) -> None:
        self.built.append("derived")
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": -0.01}, "rate=-0.01 must be above 0 and finite"),
        ({"rate": "0.1"}, "rate='0.1' must be above 0 and finite"),
        ({"rate": True}, "rate=True must be above 0 and finite"),
        ({"further": 0}, "further=0 must be a whole number from 1 to 1,000,000"),
        ({"further": 2.5}, "further=2.5 must be a whole number from 1 to 1,000,000"),
        ({"group": Group(share=2)}, "group.share=2 must be from 0 to 1"),
        ({"group": {"share": float("nan")}}, "group.share=nan must be from 0 to 1"),
        ({"ranks": [5, 0]}, "ranks=0 must be a whole number from 1 to 1,000,000"),
        ({"batches": 1.5}, "batches=1.5 must be from 0 to 1"),
        ({"batches": -1}, "batches=-1 must be a whole number from 1 to 1,000,000"),
    ],
)
def test_a_number_out_of_bounds_is_refused_before_anything_is_built(options, message):
    Base.built.clear()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Derived(**options)
    assert Base.built == []


def test_what_is_within_bounds_is_built():
    Base.built.clear()
    Derived(Group(), [1, np.int64(2)], 0.5, rate=np.float32(0.1), further=3)
    Derived(None, None, None)
    assert Base.built == ["derived", "base"] * 2


def test_codes_have_the_bits_that_can_be_packed():
    assert MAX_BITS in get_args(bounds.Bits)[1]
    assert MAX_BITS + 1 not in get_args(bounds.Bits)[1]


def test_bounds_in_words():
    words = {
        Bounds(): "finite",
        Bounds(0, 1, open_low=True): "above 0 and at most 1",
        Bounds(0, 1, open_high=True): "at least 0 and below 1",
        Bounds(1, 5, also=-1): "from 1 to 5, or -1",
    }
    assert {repr(key): value for key, value in words.items()} == {value: value for value in words.values()}
    assert -1 in Bounds(1, 5, also=-1)
    assert next(problems(Annotated[int, Bounds(1, 5, instead="or go without")], 0, "n")).endswith("; or go without")


def test_an_option_of_a_command_is_refused_in_one_line():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, nargs="*", action=within(Count), default=[5])
    parser.add_argument("--share", type=float, action=within(Share))
    assert vars(parser.parse_args(["--ranks", "3", "4"])) == {"ranks": [3, 4], "share": None}
    for words, message in ((["--ranks", "3", "0"], "--ranks=0 must be"), (["--share=nan"], "--share=nan must be")):
        with pytest.raises(ValueError, match=message):
            parser.parse_args(words)
