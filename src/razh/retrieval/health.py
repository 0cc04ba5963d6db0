"""Health of binary codes: whether the bits are used, independent, and separate the classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from razh.retrieval.packing import check_packed, unpack

__all__ = [
    "bit_correlation",
    "bit_shares",
    "code_health",
    "collision_rate",
    "covariance",
    "d_prime",
    "distance_histograms",
    "effective_bits",
    "health_warnings",
    "unique_fraction",
]

Floats = NDArray[np.float64]
ROWS = 65_536  # codes unpacked at once
FEW = 16  # codes; of fewer, a bit may be constant by chance
WEAK = 0.25  # share of the bits that effective ones make up at least


def _moments(packed: ArrayLike, bits: int) -> tuple[int, Floats, Floats]:
    """Return n, the number of ones of every bit (L,) and of every pair of bits (L, L), all exact."""
    codes = check_packed(packed, bits, "packed")
    ones, both = np.zeros(bits), np.zeros((bits, bits))
    for start in range(0, len(codes), ROWS):
        block = unpack(codes[start : start + ROWS], bits).astype(np.float32)  # sums below 2^24 are exact
        ones += block.sum(axis=0, dtype=np.float64)
        both += block.T @ block
    return len(codes), ones, both


def _covariance(n: int, ones: Floats, both: Floats) -> Floats:
    """Return the covariance (L, L) of the ±1 bits."""
    share = ones / max(n, 1)
    return np.asarray(4.0 * (both / max(n, 1) - np.outer(share, share)))


def bit_shares(packed: ArrayLike, bits: int) -> Floats:
    """Return the share of ones of every bit (L,).

    Raises:
        ValueError: `packed` does not have ceil(bits / 8) uint8 columns.
    """
    n, ones, _ = _moments(packed, bits)
    return ones / max(n, 1)


def covariance(packed: ArrayLike, bits: int) -> Floats:
    """Return the covariance (L, L) of the bits as ±1.

    Raises:
        ValueError: `packed` does not have ceil(bits / 8) uint8 columns.
    """
    return _covariance(*_moments(packed, bits))


def bit_correlation(cov: Floats) -> float:
    """Return the mean absolute correlation of pairs of bits, 0 at best; constant bits are left out."""
    spread = np.sqrt(np.diag(cov))
    used = spread > 0
    count = int(used.sum())
    if count < 2:
        return 0.0
    correlation = np.abs(cov[np.ix_(used, used)] / np.outer(spread[used], spread[used]))
    return float((correlation.sum() - np.trace(correlation)) / (count * (count - 1)))


def effective_bits(cov: Floats) -> float:
    """Return (Σ λ)² / Σ λ² over the eigenvalues λ of the covariance: L for independent balanced bits, 1 for copies."""
    total = float(np.square(cov).sum())
    return float(np.trace(cov) ** 2 / total) if total else 0.0


def _code_counts(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    rows = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).ravel()
    return np.unique(rows, return_counts=True)[1].astype(np.int64)


def unique_fraction(packed: ArrayLike, bits: int) -> float:
    """Return the number of different codes divided by the number of codes.

    Raises:
        ValueError: `packed` does not have ceil(bits / 8) uint8 columns.
    """
    codes = check_packed(packed, bits, "packed")
    return len(_code_counts(codes)) / len(codes) if len(codes) else 0.0


def collision_rate(packed: ArrayLike, bits: int) -> float:
    """Return the share of pairs of different rows that have the same code.

    Raises:
        ValueError: `packed` does not have ceil(bits / 8) uint8 columns.
    """
    codes = check_packed(packed, bits, "packed")
    counts = _code_counts(codes)
    pairs = len(codes) * (len(codes) - 1)
    return float((counts * (counts - 1)).sum() / pairs) if pairs else 0.0


def distance_histograms(hist: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return counts (L + 1,) of the distances of same-class and of other-class pairs.

    Args:
        hist: counts (Q, L + 1, 2) from `razh.retrieval.hamming.histogram`.
    """
    total = np.asarray(hist).sum(axis=0)
    return total[:, 1:].sum(axis=1), total[:, 0]


def d_prime(same: NDArray[Any], other: NDArray[Any]) -> float:
    """Return d′ between two distance histograms: difference of means over the root of the mean variance.

    0 where a histogram is empty; infinite where the means differ and nothing varies.
    """
    if not same.sum() or not other.sum():
        return 0.0
    distance = np.arange(len(same))
    means = [float((counts * distance).sum() / counts.sum()) for counts in (same, other)]
    spreads = [
        float((counts * (distance - mean) ** 2).sum() / counts.sum())
        for counts, mean in zip((same, other), means, strict=True)
    ]
    gap, spread = means[1] - means[0], np.sqrt(sum(spreads) / 2)
    if not spread:
        return float(np.sign(gap) * np.inf) if gap else 0.0
    return float(gap / spread)


def code_health(packed: ArrayLike, bits: int) -> dict[str, float]:
    """Return the health of a set of packed codes (n, ceil(L / 8)).

    Keys: `bit_balance` (mean over bits of 1 − |2 p − 1| with p the share of ones; 1 at best), `constant_bits` (number
    of bits that never change), `bit_correlation` (mean absolute correlation of pairs of bits; 0 at best), `entropy`
    (mean entropy of a bit; 1 at best), `effective_bits` (participation ratio of the bit covariance; L at best),
    `unique_fraction` (different codes / codes) and `collision_rate` (share of pairs with the same code).

    Raises:
        ValueError: `packed` does not have ceil(bits / 8) uint8 columns.
    """
    n, ones, both = _moments(packed, bits)
    share = ones / max(n, 1)
    cov = _covariance(n, ones, both)
    return {
        "bit_balance": float((1 - np.abs(2 * share - 1)).mean()),
        "constant_bits": float(((share == 0) | (share == 1)).sum()),
        "bit_correlation": bit_correlation(cov),
        "entropy": float(_entropy(share).mean()),
        "effective_bits": effective_bits(cov),
        "unique_fraction": unique_fraction(packed, bits),
        "collision_rate": collision_rate(packed, bits),
    }


def health_warnings(packed: ArrayLike, bits: int) -> list[str]:
    """Return a line for each thing that is wrong with packed codes (n, ceil(L / 8)): constant bits, copies of bits.

    A few codes say little: 16 are needed to call a bit constant, and L to call bits copies of each other.

    Raises:
        ValueError: `packed` does not have ceil(bits / 8) uint8 columns.
    """
    n, ones, both = _moments(packed, bits)
    constant = int(((ones == 0) | (ones == n)).sum())
    if n > 1 and constant == bits:
        return [f"{bits} of {bits} bits are the same in all {n:,} codes: any ranking by them is chance"]
    lines = []
    if n >= FEW and constant:
        lines.append(f"{constant} of {bits} bits are the same in all {n:,} codes and tell nothing")
    effective = effective_bits(_covariance(n, ones, both))
    if n >= max(FEW, bits) and effective < WEAK * bits:
        lines.append(f"the {bits} bits are worth {effective:.1f} independent ones: many say the same")
    return lines


def _entropy(share: Floats) -> Floats:
    inside = np.clip(share, 1e-300, 1.0)
    outside = np.clip(1 - share, 1e-300, 1.0)
    return np.asarray(-(share * np.log2(inside) + (1 - share) * np.log2(outside)))
