import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from razh.support.distributed import gather_by_index, gather_ragged, gather_with_gradient, settle, world

ROOT = Path(__file__).resolve().parents[2]
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


def batch_loss(rows):
    """A loss that no mean over parts of the batch gives: it has products of different rows, and a rank."""
    balance = rows.tanh().mean(0).square().sum()
    return balance + (rows @ rows.T).sin().mean() + (rows * rows.argsort(0)).mean()


def small_network():
    network = torch.nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    return network


def check_with_gradient(rank, size):
    """DDP on parts of a batch with gathered rows has the gradient of one process on all of it."""
    for counts in ([2] * size, list(range(1, size + 1)), [0, *[3] * (size - 1)]):
        images = torch.rand(sum(counts), 4, generator=torch.Generator().manual_seed(0))
        alone = small_network()
        batch_loss(alone(images)).backward()
        together = torch.nn.parallel.DistributedDataParallel(small_network())
        own = together(images.split(counts)[rank])
        rows = gather_with_gradient(own)
        assert torch.allclose(rows, alone(images), atol=1e-6)
        batch_loss(rows).backward()
        for expected, got in zip(alone.parameters(), together.parameters(), strict=True):
            assert torch.allclose(expected.grad, got.grad, atol=1e-6), counts
    half = gather_with_gradient(torch.ones(1, 2, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert half.shape == (size, 2)
    assert not half.requires_grad


def work(rank, size, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    try:
        assert world() == (rank, size)
        check_ragged(rank, size)
        check_by_index(rank, size)
        check_with_gradient(rank, size)
        dist.barrier()
    finally:
        settle()
        dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.parametrize("size", [2, 3])
def test_processes_gather_everything_on_every_rank(size, tmp_path):
    multiprocessing.start_processes(work, (size, str(tmp_path / "meet")), nprocs=size, start_method="forkserver")


def hold_tensors(size):
    """Have the group's threads busy, and keep them alive."""
    torch.nn.parallel.DistributedDataParallel(small_network())
    for _ in range(20):
        dist.all_gather([torch.empty(3) for _ in range(size)], torch.ones(3), async_op=True)


def leave_in_the_middle(rank, size, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    hold_tensors(size)
    settle()
    dist.destroy_process_group()


# A fork of `tests.processes` leaves out what Python does at its end; one of a script does it.
ENDS = """
import json, os, sys
from torch import distributed as dist
from razh.support.processes import importing
with importing("razh.cli.lightning_cli"):
    from razh.cli.lightning_cli import RazhCLI
from tests.support.test_distributed import hold_tensors, leave_in_the_middle

def build(cli, command, arguments):
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/command", rank=rank, world_size=2)
    hold_tensors(2)

RazhCLI.__init__, RazhCLI.finish = build, lambda cli: None
ends = {
    "process": lambda: leave_in_the_middle(rank, 2, f"{sys.argv[1]}/process"),
    "command": lambda: RazhCLI.run("train", []),
}
statuses = {}
for name, end in ends.items():
    children = []
    for rank in (0, 1):
        children.append(os.fork())
        if not children[-1]:
            break
    if not children[-1]:
        end()
        break
    statuses[name] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
else:
    print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Exit statuses of two ranks that end with busy threads, of a plain process and of a command, and what was said."""
    words = [sys.executable, "-c", ENDS, str(tmp_path_factory.mktemp("meet"))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    return json.loads(done.stdout), done.stderr


@pytest.mark.ddp
def test_threads_that_hold_tensors_do_not_abort_the_end_of_a_process(ends):
    """Without `settle` it was aborted in eight of eight tries."""
    statuses, said = ends
    assert statuses["process"] == [0, 0], said


@pytest.mark.ddp
def test_nor_the_end_of_a_command(ends):
    statuses, said = ends
    assert statuses["command"] == [0, 0], said


def test_one_process_has_its_own_rows():
    rows = torch.rand(4, 2)
    assert world() == (0, 1)
    assert gather_ragged(rows) is rows
    assert gather_with_gradient(rows) is rows


def test_rows_are_sorted_by_index_and_repeated_ones_dropped():
    index = torch.tensor([7, 2, 9, 2, 7])
    found, rows = gather_by_index(index, index[:, None] * 10)
    assert found.tolist() == [2, 7, 9]
    assert rows.tolist() == [[20], [70], [90]]


def test_nothing_gathers_to_nothing():
    found, rows = gather_by_index(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    assert found.shape == (0,)
    assert rows.shape == (0, 4)
