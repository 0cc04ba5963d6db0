"""Checks that need a GPU, behind `benchmarks/encoding.py --gpu`; each runs on the CPU as well, which tests use.

Each returns a line to print, and raises AssertionError where a device differs from the CPU's integers.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from razh.cli.main import main
from razh.retrieval.hamming import histogram, rank
from razh.retrieval.packing import pack
from razh.support.distributed import gather_by_index
from razh.support.files import read_json


def problem() -> str:
    """Return why there is nothing to check on, in one line; empty where there is a GPU."""
    return "" if torch.cuda.is_available() else "--gpu: torch finds no CUDA device here; leave it out"


def backends_agree(queries: int = 500, database: int = 100_000) -> str:
    """Compare counts by torch and ranked lists by FAISS, on a GPU where they see one, with NumPy's integers."""
    rng = np.random.default_rng(0)
    for bits in (13, 64, 256):
        asked, searched = (pack(rng.random((n, bits)) < 0.5) for n in (queries, database))
        labels = [rng.integers(0, 50, n) for n in (queries, database)]
        exact = histogram(asked, searched, *labels, bits, backend="numpy")
        assert np.array_equal(exact, histogram(asked, searched, *labels, bits, backend="torch")), "torch counts"
        lists = rank(asked[:50], searched, bits, 100, backend="numpy")
        found = rank(asked[:50], searched, bits, 100, backend="faiss")
        assert all(np.array_equal(one, two) for one, two in zip(lists, found, strict=True)), "FAISS ranks"
    import faiss

    gpus = getattr(faiss, "get_num_gpus", lambda: 0)()
    where = "cuda" if torch.cuda.is_available() else "cpu"
    return f"counts by torch ({where}) and lists by FAISS ({gpus} GPUs) are NumPy's"


def one_process(backend: str = "nccl", device: str = "cuda") -> str:
    """Gather rows through a process group of one."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            total = torch.arange(5.0, device=device)
            dist.all_reduce(total)
            assert total.tolist() == [0, 1, 2, 3, 4], "sums over one process"
            index, rows = gather_by_index(torch.tensor([2, 0, 2]), torch.tensor([[5], [7], [5]], device=device))
            assert (index.tolist(), rows.tolist()) == ([0, 2], [[7], [5]]), "gathered rows"
        finally:
            dist.destroy_process_group()
    return f"{backend} with one process: sums and gathered rows are right"


def trains(precision: str = "bf16-mixed", *more: str) -> str:
    """Train CE on creatures for some epochs in float32 and in another precision, and compare how they end."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for one in ("32-true", precision):
            run = Path(folder, one)
            options = ["--method=ce", f"--run_dir={run}", f"--trainer.precision={one}", "--figures.enabled=false"]
            assert main(["train", "--dataset=synthetic", *options, *more]) == 0, f"training in {one}"
            figures = read_json(run / "metrics.json")
            found[one] = (figures["test/unseen/map"], figures["time/fit_seconds"])
    (plain, slow), (other, fast) = found["32-true"], found[precision]
    assert abs(plain - other) < 0.15, f"mAP {plain:.3f} in float32, {other:.3f} in {precision}"
    return f"{precision}: unseen mAP {other:.3f} ({plain:.3f} in float32), {slow / fast:.2f} x as fast"


def checks() -> None:
    """Run all checks and print a line each; some minutes.

    Raises:
        SystemExit: there is no GPU.
        AssertionError: the GPU differs.
    """
    if problem():
        raise SystemExit(problem())
    os.environ.setdefault("NCCL_DEBUG", "WARN")
    print(torch.cuda.get_device_name())
    print(backends_agree())
    print(one_process())
    print(trains("bf16-mixed", "--trainer.max_epochs=10", "--trainer.enable_progress_bar=false"))
