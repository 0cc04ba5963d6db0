"""Counting by torch: inner products of ±1 codes, exact integers, on a CUDA device or on the CPU where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from razh.retrieval.backends import Counts, Labelled, Packed
from razh.retrieval.packing import unpack

__all__ = ["HOST_PAIRS", "count", "exact_product", "write_distances"]

DEVICE_PAIRS = 1 << 26  # pairs a block on a CUDA device
DEVICE_BINS = 1 << 24  # counters of such a block
HOST_PAIRS = 1 << 22  # pairs a block on the CPU


def device_here() -> torch.device:
    """Return the current CUDA device, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def count(queries: Labelled, database: Labelled, levels: int = 2) -> Counts:
    """Return the histogram (Q, L + 1, S); see `Backend`."""
    left, right, bits = queries.codes, database.codes, database.bits
    device, size = device_here(), bits + 1
    signs = signs_of(right, bits, device)
    dtype = np.int64 if queries.labels.ndim == 1 else np.float32
    labels = torch.from_numpy(database.labels.astype(dtype)).to(device)
    pairs = DEVICE_PAIRS if device.type == "cuda" else HOST_PAIRS
    block_rows = max(1, min(pairs // len(right), DEVICE_BINS // (size * levels)))
    counts = np.zeros((len(left), size, levels), dtype=np.int64)
    for start in range(0, len(left), block_rows):
        rows = slice(start, start + block_rows)
        keys = inner_distances(signs_of(left[rows], bits, device), signs)
        own = torch.from_numpy(queries.labels[rows].astype(dtype)).to(device)
        level = own[:, None] == labels if own.ndim == 1 else exact_product(own, labels).clamp_(max=levels - 1)
        offset = torch.arange(len(keys), dtype=torch.int32, device=device).unsqueeze(1) * (size * levels)
        keys.mul_(levels).add_(level.to(torch.int32)).add_(offset)
        counted = torch.bincount(keys.view(-1), minlength=len(keys) * size * levels)
        counts[rows] = counted.cpu().numpy().reshape(len(keys), size, levels)
    return counts


def write_distances(queries: Packed, database: Packed, bits: int, result: NDArray[Any]) -> None:
    """Write distances to `result` (q, G); see `Backend`."""
    device = device_here()
    signs = signs_of(database, bits, device)
    for start in range(0, len(queries), step := max(1, HOST_PAIRS // max(1, len(database)))):
        near = inner_distances(signs_of(queries[start : start + step], bits, device), signs)
        result[start : start + step] = near.cpu().numpy()
