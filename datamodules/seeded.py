"""Seeded choices that are the same on every machine and with every version of numpy and torch.

Splits and training orders are part of a result, so they must not change when a random generator of a library does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_numbers", "draw_order", "draw_uniform"]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One round of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014): a bijection of 64-bit integers."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def draw_numbers(count: int, *keys: int) -> NDArray[np.int64]:
    """Return `count` 63-bit integers (count,) that depend on the integers `keys` and the position alone."""
    state = np.zeros(1, dtype=np.uint64)
    for key in keys:
        state = _mix(state ^ np.array([key % 2**64], dtype=np.uint64))
    mixed = _mix(_mix(state ^ np.arange(count, dtype=np.uint64)))
    return (mixed >> np.uint64(1)).astype(np.int64)


def draw_order(count: int, *keys: int) -> NDArray[np.int64]:
    """Return a permutation (count,) of 0 … count − 1 that depends on `keys` alone."""
    return np.argsort(draw_numbers(count, *keys), kind="stable").astype(np.int64)


def draw_uniform(count: int, *keys: int) -> NDArray[np.float64]:
    """Return `count` numbers (count,) in [0, 1) that depend on `keys` and the position alone."""
    return draw_numbers(count, *keys) / 2.0**63
