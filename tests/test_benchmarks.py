"""What benchmarks/ checks on a GPU is right on the CPU, or refused; that of a step knows every option."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.methods.razh import RAZH
from tests.processes import forked

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


def script(path, *arguments):
    """Be `python PATH ARGUMENTS`."""
    sys.argv, sys.path[:0] = [str(path), *arguments], [str(path.parent)]
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.slow
def test_a_training_is_compared_with_that_in_float32(gpu):
    small = ["--trainer.max_epochs=1", "--data.images_per_class=6", "--trainer.enable_progress_bar=false"]
    small += ["--data.seen_classes=10", "--data.unseen_classes=4", "--data.image_size=32", "--backbone=test-vit"]
    small += ["--measures.enabled=false"]
    assert gpu.trains("64-true", *small, "--trainer.accelerator=cpu").startswith("64-true: unseen mAP 0.")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_line(tmp_path):
    process = forked(script, FOLDER / "encoding.py", "--gpu", log=tmp_path / "log")
    process.start()
    process.join(120)
    assert process.exitcode == 1
    assert (tmp_path / "log").read_text().strip() == "--gpu: torch finds no CUDA device here; leave it out"


@pytest.mark.parametrize("stage", range(1, 7))
def test_every_stage_of_the_step_benchmark_has_its_terms(monkeypatch, stage):
    monkeypatch.syspath_prepend(str(FOLDER))
    import step

    trunk = step.TRUNKS["test-vit"]
    name, terms = step.STEPS[stage - 1]
    method = step.methods(trunk, 4)[name]().train()
    found = method.losses(step.make_batch(trunk, method, 4))
    assert {"hash", "semantic", "similarity", *terms} <= set(found)
    later = {term for _, others in step.STEPS[stage:] for term in others}
    assert not later & set(found)


def test_an_oracle_reads_at_the_true_parts(monkeypatch, make_backbone):
    monkeypatch.syspath_prepend(str(FOLDER))
    import oracle

    data = SyntheticDataModule(seen_classes=10, unseen_classes=4, images_per_class=6, image_size=64)
    data.setup("fit")
    method = RAZH(
        backbone=make_backbone(image_size=64), bits=12, class_attributes=data.class_attributes,
        attribute_vectors=data.attribute_vectors, train_classes=data.train_classes,
        attribute_groups=data.attribute_groups,
    ).eval()  # fmt: skip
    world = oracle.looked_at(method, data, radius=0.1)
    side = data.image_size // method.backbone.grid[0]
    truth = data.part_masks(3)[side // 2 :: side, side // 2 :: side].ravel()
    seen = np.flatnonzero(truth > 0)
    assert len(seen)
    assert (world.true[3][seen, truth[seen].astype(int) - 1] == 1).all()
    assert (world.true[3, truth == 0, -1] == 1).all()
    assert not world.true[3, seen, -1].any()
    rows = {row.pop("attributes read"): row for row in oracle.cells(world, seed=0, epochs=1)}
    assert rows.keys() == {
        "not at all", "at the parts that were found", "at the true parts", "those of the class itself",
    }  # fmt: skip
    best = rows["those of the class itself"]
    assert best["naming"] == best["attribute queries"] == 1.0
    assert best["codes"] > rows["not at all"]["codes"]
