"""Rows of a data set, gathered over devices: by index, without the padding of samplers, complete."""

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist


def world() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_ragged(rows: Tensor) -> Tensor:
    """Concatenate rows (n_r, ...) of all ranks in rank order; n_r may differ and may be 0.

    All ranks must call it, with the same trailing shape and type.
    """
    _, size = world()
    if size == 1:
        return rows
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    rows = rows.to(device).contiguous()
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(size)]
    dist.all_gather(counts, torch.tensor([len(rows)], device=device))
    longest = max(int(c) for c in counts)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def gather_by_index(index: Tensor, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Gather (index, row) pairs over all ranks, drop repeated indices and sort by index.

    Args:
        index: int64 (n,), dataset index of every row.
        rows: (n, ...).

    Returns:
        sorted unique indices (N,) and their rows (N, ...), the same on every rank.
    """
    all_index = gather_ragged(index.cpu()).cpu().numpy()
    all_rows = gather_ragged(rows.cpu()).cpu().numpy()
    unique, first = np.unique(all_index, return_index=True)
    return unique, all_rows[first]
