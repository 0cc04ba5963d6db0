import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from razh.distributed import gather_by_index, gather_ragged, world

DTYPES = [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32]
COUNTS = {2: [(3, 5), (0, 4), (4, 0), (0, 0), (2, 2)], 3: [(3, 0, 5), (0, 0, 1), (0, 0, 0), (1, 2, 3)]}


def rows_of(rank, count, dtype, shape=(3,)):
    generator = torch.Generator().manual_seed(100 * rank + count)
    return torch.randint(0, 2 if dtype == torch.bool else 100, (count, *shape), generator=generator).to(dtype)


def check_ragged(rank, size):
    for counts in COUNTS[size]:
        for dtype in DTYPES:
            got = gather_ragged(rows_of(rank, counts[rank], dtype))
            expected = torch.cat([rows_of(r, count, dtype) for r, count in enumerate(counts)])
            assert got.dtype == dtype
            assert torch.equal(got, expected), (counts, dtype)
        flat = gather_ragged(rows_of(rank, counts[rank], torch.int64, ()))
        assert torch.equal(flat, torch.cat([rows_of(r, c, torch.int64, ()) for r, c in enumerate(counts)]))


def check_by_index(rank, size):
    """Ten images, dealt out in turn; a sampler's padding repeats the first ones; the order is mixed."""
    mine = torch.arange(rank, 10, size)
    padded = torch.cat([mine, torch.tensor([0, 1])])[torch.randperm(len(mine) + 2)]
    index, codes = gather_by_index(padded, codes_of(padded))
    assert index.tolist() == list(range(10))
    assert np.array_equal(codes, codes_of(torch.arange(10)).numpy())
    assert codes.dtype == bool
    everything = torch.arange(10) if rank == size - 1 else torch.arange(0)  # the others have nothing
    index, codes = gather_by_index(everything, codes_of(everything))
    assert index.tolist() == list(range(10))
    assert np.array_equal(codes, codes_of(torch.arange(10)).numpy())


def codes_of(index):
    return ((index[:, None] >> torch.arange(4)) & 1).bool()


def work(rank, size, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    try:
        assert world() == (rank, size)
        check_ragged(rank, size)
        check_by_index(rank, size)
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.parametrize("size", [2, 3])
def test_processes_gather_everything_on_every_rank(size, tmp_path):
    multiprocessing.spawn(work, args=(size, str(tmp_path / "meet")), nprocs=size, join=True)


def test_one_process_has_its_own_rows():
    rows = torch.rand(4, 2)
    assert world() == (0, 1)
    assert gather_ragged(rows) is rows


def test_rows_are_sorted_by_index_and_repeated_ones_dropped():
    index = torch.tensor([7, 2, 9, 2, 7])
    found, rows = gather_by_index(index, index[:, None] * 10)
    assert found.tolist() == [2, 7, 9]
    assert rows.tolist() == [[20], [70], [90]]


def test_nothing_gathers_to_nothing():
    found, rows = gather_by_index(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert found.shape == (0,)
    assert rows.shape == (0, 4)
