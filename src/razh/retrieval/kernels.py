"""The kernels that compute Hamming distances, and the choice between them: numba, FAISS, NumPy, torch on a device."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from razh.retrieval.packing import unpack

__all__ = [
    "DATABASE_CHUNK",
    "HOST_PAIRS",
    "QUERY_BLOCK",
    "ROUTES",
    "Counts",
    "Integers",
    "Packed",
    "Route",
    "as_words",
    "choose_route",
    "device_here",
    "exact_product",
    "filled_parts",
    "import_compiled",
    "import_faiss",
    "inner_distances",
    "signs_of",
    "widen",
]

Route: TypeAlias = Literal["auto", "numba", "faiss", "numpy", "torch"]
Packed: TypeAlias = NDArray[np.uint8]
Integers: TypeAlias = NDArray[np.integer[Any]]
Counts: TypeAlias = NDArray[np.int64]
Fill: TypeAlias = Callable[[Packed], None]

ROUTES = ("auto", "numba", "faiss", "numpy", "torch")
QUERY_BLOCK = 12  # queries whose distances are held at once: 12 bytes a database item; twice that for small databases
DATABASE_CHUNK = 16_384  # database items a kernel call: its int32 distances stay in the cache
HOST_PAIRS = 1 << 22  # pairs a block of the torch route on the CPU, and of multi-label counting
COMPILED_PAIRS = 1_000_000_000  # pairs from which numba saves more time than its start takes
LOADED_PAIRS = 1 << 20  # the same once it is loaded: below, all routes take milliseconds
COMPILED = "razh.retrieval.compiled"


def import_faiss() -> Any:
    """Return the `faiss` module.

    Raises:
        ModuleNotFoundError: FAISS is not installed; the message names the extras that bring it.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "FAISS is not installed; run `pip install razh[faiss-cpu]` or `razh[faiss-gpu]`"
        ) from error
    return faiss


def import_compiled() -> Any:
    """Return the module `razh.retrieval.compiled`.

    Raises:
        ModuleNotFoundError: numba is not installed; the message names the extra that brings it.
        ImportError: numba is installed but cannot be used, for example beside a NumPy that is too new for it.
    """
    try:
        return importlib.import_module(COMPILED)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "numba is not installed; run `pip install razh[fast]`, or choose another route"
        ) from error
    except ImportError as error:
        raise ImportError(
            f"numba cannot be imported ({error}); run `pip install --upgrade razh[fast]`, or choose another route"
        ) from error


def choose_route(route: str = "auto", pairs: int = 0) -> str:
    """Return the route that `auto` stands for here.

    That is torch with a CUDA device; else numba where it works and there are so many pairs (or it is loaded already)
    that it is worth its start; else FAISS where installed; else NumPy.

    Args:
        route: one of `ROUTES`.
        pairs: queries · database items to be counted.

    Raises:
        ValueError: `route` is unknown.
        ImportError: `route="faiss"` without FAISS, or `route="numba"` without numba.
    """
    if route not in ROUTES:
        raise ValueError(f"route is {route!r}; choose one of {', '.join(ROUTES)}")
    if route == "faiss":
        import_faiss()
    if route == "numba":
        import_compiled()
    if route != "auto":
        return route
    if torch.cuda.is_available():
        return "torch"
    if pairs >= (LOADED_PAIRS if COMPILED in sys.modules else COMPILED_PAIRS):
        try:
            import_compiled()
        except ImportError:
            pass
        else:
            return "numba"
    try:
        import_faiss()
    except ModuleNotFoundError:
        return "numpy"
    return "faiss"


def widen(packed: Packed) -> Packed:
    """Widen rows with zero bytes to 4, 8, 16, 24, … bytes: the widths with a fast kernel."""
    width = packed.shape[1]
    target = 4 if width <= 4 else -(-width // 8) * 8
    if width == target:
        return np.ascontiguousarray(packed)
    wide = np.zeros((len(packed), target), dtype=np.uint8)
    wide[:, :width] = packed
    return wide


def as_words(packed: Packed) -> NDArray[Any]:
    """View widened rows as machine words (n, W)."""
    return packed.view(np.dtype(np.uint32 if packed.shape[1] == 4 else np.uint64))


def _xor_popcount(database: Packed, out: NDArray[np.int32]) -> Fill:
    """Distances by xor and `np.bitwise_count`, one machine word at a time."""
    right = np.ascontiguousarray(as_words(database).T)  # (W, g)
    scratch = np.empty(right.shape[1], dtype=right.dtype)

    def fill(query: Packed) -> None:
        for row, codes in enumerate(as_words(query)):
            for position, code in enumerate(codes):
                np.bitwise_xor(right[position], code, out=scratch)
                if position:
                    out[row] += np.bitwise_count(scratch)
                else:
                    np.bitwise_count(scratch, out=out[row], casting="unsafe")

    return fill


def _faiss_hammings(database: Packed, out: NDArray[np.int32]) -> Fill:
    """Distances by FAISS's xor and popcount kernels."""
    faiss = import_faiss()
    right, target, (items, width) = faiss.swig_ptr(database), faiss.swig_ptr(out), database.shape

    def fill(query: Packed) -> None:
        faiss.hammings(faiss.swig_ptr(query), right, len(query), items, width, target)

    return fill


def signs_of(packed: Packed, bits: int, device: torch.device) -> torch.Tensor:
    """Return ±1 codes (n, L); fp16 on CUDA, where sums up to 1024 are exact, else fp32."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return torch.from_numpy(unpack(packed, bits)).to(device).to(dtype).mul_(2).sub_(1)


def exact_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right.T (q, g) of small integers; a surrounding autocast would round sums above 256."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.T


def inner_distances(query: torch.Tensor, database: torch.Tensor) -> torch.Tensor:
    """Return int32 distances (q, g) of ±1 codes: (L − inner product) / 2."""
    product = exact_product(query, database).to(torch.int32)
    return product.neg_().add_(query.shape[1]).div_(2, rounding_mode="floor")


def filled_parts(route: str, database: Packed, queries: int) -> Iterator[tuple[slice, Fill, NDArray[np.int32]]]:
    """Yield, for each part of the database, a function that writes distances of `queries` codes and where it does.

    The buffer (queries, g) is one and the same memory for all parts, small enough to stay in the cache: read it before
    the next part is filled; rows beyond the codes of a call keep older distances. The functions refer to it and to
    `database` by address: keep both alive.
    """
    memory = np.zeros(queries * min(DATABASE_CHUNK, len(database)), dtype=np.int32)
    kernel = _faiss_hammings if route == "faiss" else _xor_popcount
    for start in range(0, len(database), DATABASE_CHUNK):
        part = database[start : start + DATABASE_CHUNK]
        out = memory[: queries * len(part)].reshape(queries, len(part))
        yield slice(start, start + len(part)), kernel(part, out), out


def device_here() -> torch.device:
    """Return the current CUDA device, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
