"""What benchmarks/ checks on a GPU is right on the CPU, and refused in one line where there is no GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu

    return gpu


def test_counts_lists_and_gathered_rows_are_those_of_the_cpu(gpu):
    pytest.importorskip("faiss")
    assert gpu.backends_agree(20, 500).endswith("are NumPy's")
    assert gpu.one_process("gloo", "cpu").startswith("gloo with one process")


@pytest.mark.slow
def test_a_training_is_compared_with_that_in_float32(gpu):
    small = ["--trainer.max_epochs=1", "--data.images_per_class=6", "--trainer.enable_progress_bar=false"]
    assert gpu.trains("64-true", *small, "--trainer.accelerator=cpu").startswith("64-true: unseen mAP 0.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_line():
    command = [sys.executable, FOLDER / "encoding.py", "--gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip() == "--gpu: torch finds no CUDA device here; leave it out"
