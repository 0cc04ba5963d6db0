"""Backends that count a database by distance and relevance; all count the same integers, and one is chosen here.

A backend is a module of this package with the functions of `Backend`. It is imported when it is chosen, for torch,
FAISS and numba take a while.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendName",
    "Counts",
    "Integers",
    "Labelled",
    "Packed",
    "choose_backend",
    "load",
    "on_the_cpu",
]

BackendName: TypeAlias = Literal["auto", "numba", "faiss", "numpy", "torch"]
Packed: TypeAlias = NDArray[np.uint8]
Integers: TypeAlias = NDArray[np.integer[Any]]
Counts: TypeAlias = NDArray[np.int64]

BACKENDS = ("auto", "numba", "faiss", "numpy", "torch")
PACKAGES = {"numba": ("numba", 'pip install "numba>=0.61"'), "faiss": ("FAISS", 'pip install "faiss-cpu>=1.9"')}
NUMBA_PAIRS = 1_000_000_000  # pairs from which numba saves more time than its start takes
LOADED_PAIRS = 1 << 20  # the same once it is loaded: below, all backends take milliseconds


@dataclass(frozen=True, eq=False)
class Labelled:
    """Codes with their labels.

    Attributes:
        codes: packed (n, ceil(L / 8)).
        labels: class ids (n,) or multi-hot labels (n, C).
        bits: code length L.
    """

    codes: Packed
    labels: Integers
    bits: int


class Backend(Protocol):
    """What a module of this package offers."""

    def count(self, queries: Labelled, database: Labelled, levels: int = 2) -> Counts:
        """Return the histogram (Q, L + 1, S) of the database by distance and number of shared labels, at most S − 1.

        Args:
            queries: at least one.
            database: at least one item, labelled as the queries are.
            levels: S, 2 for class ids.
        """

    def write_distances(self, queries: Packed, database: Packed, bits: int, result: NDArray[Any]) -> None:
        """Write the distances of queries to database rows to `result` (q, G), unsigned and wide enough."""


def load(name: str) -> Backend:
    """Return the backend of a name that is not `auto`.

    Raises:
        ModuleNotFoundError: the package that it needs is not installed; the message names it.
        ImportError: that package cannot be used, for example beside a NumPy that is too new for it.
    """
    try:
        return cast("Backend", importlib.import_module(f"{__name__}.{name}"))
    except ImportError as error:
        title, advice = PACKAGES[name]
        if isinstance(error, ModuleNotFoundError):
            raise ModuleNotFoundError(f"{title} is not installed; {advice}, or choose another backend") from error
        upgrade = advice.replace("install", "install --upgrade")
        raise ImportError(f"{title} cannot be imported ({error}); {upgrade}, or choose another backend") from error


def choose_backend(name: str = "auto", pairs: int = 0) -> str:
    """Return the name of the backend that `auto` stands for here, or the name as it is.

    `auto` is torch with a CUDA device; else numba where it works and there are so many pairs (or it is loaded already)
    that it is worth its start; else FAISS where it works; else NumPy.

    Args:
        name: one of `BACKENDS`.
        pairs: queries · database items to be counted.

    Raises:
        ValueError: the name is unknown.
        ImportError: the package of the backend that is named is not there.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; choose one of {', '.join(BACKENDS)}")
    if name == "auto":
        return "torch" if _cuda() else on_the_cpu(pairs)
    if name in PACKAGES:
        load(name)
    return name


def _cuda() -> bool:
    import torch  # takes seconds: backends that are named, and short searches, do without

    return torch.cuda.is_available()


def on_the_cpu(pairs: int = 0) -> str:
    """Return the backend that counts so many pairs fastest on the CPU, of those that work here."""
    worth_it = pairs >= (LOADED_PAIRS if f"{__name__}.numba" in sys.modules else NUMBA_PAIRS)
    for name in ("numba", "faiss") if worth_it else ("faiss",):
        try:
            load(name)
        except ImportError:
            continue
        return name
    return "numpy"
