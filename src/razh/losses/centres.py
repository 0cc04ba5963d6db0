"""Hash centres: one fixed ±1 code a class, far from all others; for any number of classes and bits."""

import math
from typing import Literal

import torch
from torch import Tensor

Centres = Literal["hadamard", "bernoulli"]
_CANDIDATES = 4096  # codes that are tried at once, at most


def hash_centres(count: int, bits: int, *, kind: Centres = "hadamard", seed: int = 0, effort: int = 1) -> Tensor:
    """Return hash centres (C, L) of −1 and +1, the same for the same arguments.

    `hadamard` follows CSQ (Yuan et al., CVPR 2020): rows of a Hadamard matrix H and of −H where there is one of order L
    and C ≤ 2L, which are L / 2 apart; else Bernoulli codes that keep a distance. Departures: rows are drawn at random
    instead of from the top (the first L / 2 rows of the usual H have equal columns j and j + L / 2, so that half of
    the bits would repeat the other half), and H need not be of an order 2^k. `bernoulli` are independent fair bits,
    as in DPN and OrthoHash.

    Args:
        count: number C of classes.
        bits: code length L.
        kind: far apart, or independent.
        seed: of everything random.
        effort: batches of random codes that are tried before a smaller distance is accepted.

    Raises:
        ValueError: count, bits or effort below 1, or an unknown kind.
    """
    for name, value in {"count": count, "bits": bits, "effort": effort}.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    if kind == "bernoulli":
        return _fair_bits(count, bits, generator)
    if kind != "hadamard":
        raise ValueError(f"centres={kind!r} are unknown; take hadamard or bernoulli")
    if count <= 2 * bits and has_hadamard(bits):
        return _hadamard_rows(count, hadamard(bits), generator)
    return separated_codes(count, bits, generator, effort)


def _fair_bits(count: int, bits: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count, bits), generator=generator).float() * 2 - 1


def _hadamard_rows(count: int, matrix: Tensor, generator: torch.Generator) -> Tensor:
    bits = len(matrix)
    sign = _fair_bits(bits, 1, generator)
    rows = sign * matrix  # still orthogonal; else the all-ones column would be a bit that never changes
    order = torch.randperm(bits, generator=generator)
    return torch.cat([rows[order], -rows[order]])[:count]


def has_hadamard(order: int) -> bool:
    """Tell whether `hadamard` can build a matrix of that order: 2^k, or 2^k (q + 1) of a prime q = 4 j + 3."""
    return _core(order) is not None


def _core(order: int) -> int | None:
    """Return the order that doubling starts from: 1, or q + 1 of a prime q; None where there is none."""
    if order & (order - 1) == 0:
        return 1
    while order % 4 == 0:
        if _is_prime(order - 1):
            return order
        order //= 2
    return None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def hadamard(order: int) -> Tensor:
    """Return a matrix (L, L) of ±1 with orthogonal rows, by Sylvester's doubling and Paley's first construction.

    Raises:
        ValueError: neither gives a matrix of this order.
    """
    core = _core(order)
    if core is None:
        raise ValueError(
            f"no Hadamard matrix of order={order} is known here; take 2^k, or 2^k (q + 1), q = 4 j + 3 prime"
        )
    matrix = torch.ones(1, 1) if core == 1 else _paley(core - 1)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    return matrix


def _paley(q: int) -> Tensor:
    """Return the Hadamard matrix of order q + 1 from the quadratic residues of a prime q = 4 j + 3."""
    number = torch.arange(q)
    character = -torch.ones(q)
    character[(number * number) % q] = 1
    character[0] = 0
    skew = torch.zeros(q + 1, q + 1)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = character[(number[:, None] - number[None, :]) % q]
    return skew + torch.eye(q + 1)


def separated_codes(count: int, bits: int, generator: torch.Generator, effort: int = 1) -> Tensor:
    """Return random codes (C, L) that keep a distance, found greedily.

    It starts at the largest distance that C codes could have (Plotkin's bound). Fair bits are drawn in batches, and
    those that are near neither to a code kept before nor to an earlier one of their batch are kept. Where `effort`
    batches one after another bring less than every second code, the distance is lowered by 1. Codes repeat only where
    there are fewer than C.

    Args:
        count: number C of codes.
        bits: code length L.
        generator: of the random bits.
        effort: the more, the larger the smallest distance tends to be.
    """
    everything, batch = None, min(_CANDIDATES, 8 * count + 64)
    if 2**bits <= _CANDIDATES:  # few enough to try each
        number = torch.arange(2**bits)
        everything = ((number[:, None] >> torch.arange(bits)) & 1).float() * 2 - 1
    kept = torch.empty(count, bits)
    filled, failed = 0, 0
    distance = math.floor(bits * count / (2 * max(count - 1, 1))) if count > 1 else bits
    while filled < count:
        if everything is None:
            codes = _fair_bits(batch, bits, generator)
        else:
            codes = everything[torch.randperm(len(everything), generator=generator)]
        # Two codes are d bits apart where their inner product is L − 2d. Nearer than `distance` is more than this:
        nearer = bits - 2 * distance
        if filled:
            codes = codes[(codes @ kept[:filled].T).amax(dim=1) <= nearer]
        codes = _without_neighbours(codes, nearer)[: count - filled]
        kept[filled : filled + len(codes)] = codes
        filled += len(codes)
        # A list of all codes has nothing new to offer the second time.
        failed = failed + 1 if len(codes) < min(batch // 2, count) else 0
        if failed >= effort or everything is not None:
            distance, failed = max(distance - 1, 0), 0
    return kept


def _without_neighbours(codes: Tensor, nearer: int) -> Tensor:
    """Return codes in order, but none whose inner product with one kept before it is above `nearer`."""
    conflict = torch.tril(codes @ codes.T > nearer, diagonal=-1)  # rows: with which earlier ones
    kept = torch.zeros(len(codes), dtype=torch.bool)
    waiting = ~kept
    while waiting.any():  # as many rounds as the longest chain of neighbours, which is short
        free = waiting & ~(conflict.float() @ waiting.float()).bool()
        kept |= free
        waiting &= ~free & ~(conflict.float() @ free.float()).bool()
    return codes[kept]


def smallest_distance(codes: Tensor) -> int:
    """Return the smallest Hamming distance between two of the codes (C, L) of ±1; L where there is only one."""
    count, bits = codes.shape
    nearest = -bits
    for start in range(0, count, _CANDIDATES):
        similarity = codes[start : start + _CANDIDATES] @ codes.T
        similarity.diagonal(start).fill_(-bits)  # with itself
        nearest = max(nearest, round(float(similarity.max())))
    return (bits - nearest) // 2
