"""Rows gathered over devices: those of a data set by index, and those of a batch with their gradient."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist


def world() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) outside a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def first_of_all(reason: str | None) -> str | None:
    """Return the reason to stop that the first rank has which has any, the same on all ranks; all of them call it."""
    if world()[1] == 1:
        return reason
    reasons: list[str | None] = [None] * world()[1]
    dist.all_gather_object(reasons, reason)
    return next((r for r in reasons if r is not None), None)


def settle(seconds: float = 0.5) -> None:
    """Let the threads of the process group come to rest; call it before the interpreter ends.

    Gloo's threads let go of a collective's tensors after they have reported its end, and need the interpreter for
    that. One that still waits for it when the interpreter ends aborts the process (signal 6, "terminate called
    without an active exception"), all work done. `destroy_process_group` does not wait for them where DDP has wrapped
    a network, as that keeps the group alive.
    """
    if dist.is_available() and dist.is_initialized():
        time.sleep(seconds)


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


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate the rows (n_r, ...) of a batch over all ranks, in rank order; own rows keep their gradient.

    For losses over the whole batch (bit balance, ranks of a bit, pairs of images): every rank computes the same loss
    from the same rows. n_r may differ. The rows of the other ranks are constants here and get their gradient there, so
    the gradient of the loss is the sum over ranks of what each of them computes. DDP takes the mean over ranks
    instead: own rows pass their gradient on times the number of processes, which undoes it. After DDP the parameters
    have the gradient that one process would have had on the whole batch. A loss that differs between ranks (own rows
    against all rows, say) does not get that: it lacks what the other ranks' losses say of the own rows.

    All ranks must call it equally often, with the same trailing shape and type. With one process it is the identity.

    Args:
        tensor: (n_r, ...).

    Returns:
        (sum of n_r, ...) on the device of `tensor`.
    """
    rank, size = world()
    if size == 1:
        return tensor
    counts = gather_ragged(torch.tensor([len(tensor)]))
    everything = gather_ragged(tensor.detach()).to(tensor.device)
    joined: Tensor = _OwnRows.apply(tensor, everything, int(counts[:rank].sum()), size)
    return joined


def whole_batch(*rows: Tensor) -> tuple[Tensor, ...]:
    """Return each of the tensors (n_r, ...) with the rows of all ranks, see `gather_with_gradient`.

    For losses over pairs of images or over a batch: they do not depend on the number of devices then.
    """
    return tuple(gather_with_gradient(tensor) for tensor in rows)


class _OwnRows(torch.autograd.Function):
    """Rows of all ranks going forward; the gradient of the own ones, times a factor, going back."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, everything: Tensor, start: int, factor: int) -> Tensor:
        ctx.rows, ctx.factor = slice(start, start + len(own)), factor
        return everything

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return gradient[ctx.rows] * ctx.factor, None, None, None


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
