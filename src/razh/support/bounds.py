"""Bounds of numeric options: said once, in the annotation of a constructor's argument, and checked everywhere.

`lr: Positive` is a float to a type checker, to the parser of the command line and to the reader of `--help`. A class
that is `Bounded` refuses a value out of bounds before it builds anything; `refuse_object` does the same for a
configuration that nothing is built from yet.
"""

import argparse
import functools
import importlib
import inspect
import reprlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

LARGEST = sys.float_info.max
MANY = 1_000_000
MAX_SEED = 2**32 - 1  # of NumPy's generators


@dataclass(frozen=True, repr=False)
class Bounds:
    """The numbers that an option takes; NaN and the infinities never are among them.

    Attributes:
        low: the smallest.
        high: the largest.
        open_low: `low` itself is not allowed.
        open_high: `high` itself is not allowed.
        also: a number that means something else, −1 for no limit, say.
        instead: what to do for the effect that a refused number may have been meant to have.
    """

    low: float = -LARGEST
    high: float = LARGEST
    open_low: bool = False
    open_high: bool = False
    also: int | None = None
    instead: str = ""

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        number: Any = value.item() if hasattr(value, "item") else value  # NumPy would compare in its own precision
        if number == self.also:
            return True
        return bool(
            (self.low < number if self.open_low else self.low <= number)
            and (number < self.high if self.open_high else number <= self.high)
        )

    def __repr__(self) -> str:
        """Return the bounds in words, which complete "must be …"."""
        low, high = f"{self.low:,}", f"{self.high:,}"
        if self.high == LARGEST:
            words = f"{'above' if self.open_low else 'at least'} {low} and finite" if self.low > -LARGEST else "finite"
        elif self.open_low or self.open_high:
            first = f"{'above' if self.open_low else 'at least'} {low}"
            words = f"{first} and {'below' if self.open_high else 'at most'} {high}"
        else:
            words = f"from {low} to {high}"
        return words if self.also is None else f"{words}, or {self.also}"


Finite = Annotated[float, Bounds()]
Positive = Annotated[float, Bounds(0, open_low=True)]
NonNegative = Annotated[float, Bounds(0)]
Share = Annotated[float, Bounds(0, 1)]
PositiveShare = Annotated[float, Bounds(0, 1, open_low=True)]
Cosine = Annotated[float, Bounds(-1, 1)]
Count = Annotated[int, Bounds(1, MANY)]
CountOrZero = Annotated[int, Bounds(0, MANY)]
Width = Annotated[int, Bounds(1, 16_384)]  # of a layer: its square is a matrix
Rank = Annotated[int, Bounds(1, 1_000_000_000)]
Radius = Annotated[int, Bounds(0, 1_000_000_000)]
Side = Annotated[int, Bounds(1, 8_192)]
Workers = Annotated[int, Bounds(0, 1_024)]
Processes = Annotated[int, Bounds(1, 1_024)]
Port = Annotated[int, Bounds(0, 65_535)]
Bits = Annotated[int, Bounds(1, 1_024)]  # retrieval.packing.MAX_BITS
Seed = Annotated[int, Bounds(0, MAX_SEED)]


class Bounded:
    """A class whose constructor refuses numbers out of the bounds that the annotations of its arguments give.

    Subclasses inherit that. Dataclasses of options among the arguments are looked into.
    """

    option_bounds: ClassVar[Mapping[str, Any]] = {}
    """Annotations of options that are handed on to a base which has none of its own."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            return
        build = cls.__init__
        signature = inspect.signature(build)

        @functools.wraps(build)
        def checked(self: Any, *args: Any, **options: Any) -> None:
            if type(self).__init__ is checked:  # once, for the arguments of all bases
                given = signature.bind_partial(self, *args, **options).arguments
                refuse(type(self), {**given, **options})
            build(self, *args, **options)

        cls.__init__ = checked  # type: ignore[method-assign]


def refuse(owner: type, options: Mapping[str, Any], group: str = "") -> None:
    """Refuse options of a class that are out of bounds.

    Args:
        owner: the class whose constructor takes them.
        options: by name.
        group: what stands before the names for the user, `--model.`, say.

    Raises:
        ValueError: the first of them, in one line.
    """
    hints = annotations(owner)
    for name, value in options.items():
        for problem in problems(hints.get(name), value, f"{group}{name}"):
            raise ValueError(problem)


def refuse_object(config: Any, group: str) -> None:
    """Refuse options of an object that is still a configuration, `class_path` and `init_args`, and of objects in it.

    Args:
        config: plain values, as the command line's parser has checked them: its class is imported.
        group: see `refuse`.

    Raises:
        ValueError: the first option that is out of bounds, in one line.
    """
    if not isinstance(config, Mapping) or "class_path" not in config:
        return
    module, _, name = str(config["class_path"]).rpartition(".")
    options = config.get("init_args") or {}
    refuse(getattr(importlib.import_module(module), name), options, group)
    for option, value in options.items():
        refuse_object(value, f"{group}{option}.")


@functools.cache
def annotations(owner: type) -> Mapping[str, Any]:
    """Return the annotations of what a class's constructor takes, that of its bases included."""
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        found |= vars(base).get("option_bounds", {})
        if "__init__" in vars(base):
            found |= _hints(vars(base)["__init__"])
    return found


def _hints(of: Any) -> dict[str, Any]:
    try:
        return get_type_hints(of, include_extras=True)
    except (NameError, TypeError):  # of somebody else's class, with names that only a type checker sees
        return {}


def problems(hint: Any, value: Any, name: str) -> Iterator[str]:
    """Yield what is out of bounds in a value of an annotation, each in one line; `name` is the option's."""
    if value is None:
        return
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        whole = inner[0] is int
        for bounds in (mark for mark in inner[1:] if isinstance(mark, Bounds)):
            if value not in bounds or (whole and not isinstance(value, Integral)):
                kind = "a whole number " if whole else ""
                way_out = f"; {bounds.instead}" if bounds.instead else ""
                yield f"{name}={shown(value)} must be {kind}{bounds!r}{way_out}"
    elif origin in (Union, UnionType):
        kinds = [kind for kind in inner if _may_be(kind, value)]
        kinds = kinds or [kind for kind in inner if get_origin(kind) is Annotated]
        found = [list(problems(kind, value, name)) for kind in kinds]
        yield from min(found, key=len, default=[])
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        for entry in value:
            yield from problems(inner[0], entry, name)
    elif is_dataclass(hint):
        for key, kind in _hints(hint).items():
            entry = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
            yield from problems(kind, entry, f"{name}.{key}")


def _may_be(kind: Any, value: Any) -> bool:
    """Tell whether a value can be of one of several kinds: 1.5 is no number of batches, but may be a share of them."""
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if not isinstance(base, type) or is_dataclass(base):
        return True
    return isinstance(value, Real if base is float else base)


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, whatever was given."""
    return f"{value:g}" if isinstance(value, float) else reprlib.repr(value)


def within(kind: Any) -> type[argparse.Action]:
    """Return an argparse action that stores a number, or a list of them, that is within the bounds of an annotation.

    One that is not is a ValueError of one line, as everywhere, and no usage message.
    """

    class Within(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            for value in values if isinstance(values, list) else [values]:
                for problem in problems(kind, value, option_string or self.dest):
                    raise ValueError(problem)
            setattr(namespace, self.dest, values)

    return Within
