import json
import shutil

import numpy as np
import pytest

from razh.cli.main import main
from razh.commands.reproduce import compare
from razh.support.terminal import Status


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a small finished run."""
    folder = tmp_path_factory.mktemp("reproduce") / "run"
    small = ["--data.seen_classes=6", "--data.unseen_classes=3", "--data.images_per_class=8"]
    small += ["--data.image_size=32", "--data.batch_size=8", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    quiet = ["--figures.enabled=false", "--measures.enabled=false", "--trainer.enable_progress_bar=false"]
    assert main(["train", "--method=razh", "--bits=12", *small, *quiet, f"--run_dir={folder}"]) == 0
    return folder


def test_metrics_file_tells_what_it_ran_on(run):
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("torch", "lightning", "timm", "omegaconf", "wandb", "torchvision", "faiss", "cpu", "python"):
        assert metrics[f"environment/{name}"], name
    assert metrics["environment/cores"] >= 1
    assert metrics["environment/device"] == "cpu"
    assert metrics["environment/precision"] == "32-true"
    assert metrics["throughput/train_images"] > 0
    assert metrics["throughput/train_images_per_second"] > 0
    assert metrics["memory/peak_mb"] > 50
    assert metrics["time/total_seconds"] > 0
    assert {"git/commit", "git/changed", "run/resumed"} <= metrics.keys()


def test_same_machine_gives_the_same(run, tmp_path, capsys):
    assert main(["reproduce", str(run), "--into", str(tmp_path / "again")]) == 0
    assert "and the codes of" in capsys.readouterr().out
    assert (tmp_path / "again/codes.npz").exists()


def test_another_configuration_gives_something_else(run, tmp_path, capsys):
    assert main(["reproduce", str(run), "--into", str(tmp_path / "again"), "--", "--model.lr=0.5"]) == Status.DIFFERENT
    assert "different: " in capsys.readouterr().out


def test_run_that_is_none_is_refused(tmp_path, capsys):
    assert main(["reproduce", str(tmp_path)]) == 1
    assert "no config.yaml in" in capsys.readouterr().err


def test_what_could_not_be_compared_is_refused_before_the_repetition(run, twin, capsys, monkeypatch):
    shutil.copytree(run, twin.with_name("twin-again"))
    monkeypatch.chdir(twin)
    assert main(["reproduce", "."]) == 1
    assert "twin-again holds a run already; pass --into=FOLDER, or move it away" in capsys.readouterr().err
    (twin / "codes.npz").unlink()
    assert main(["reproduce", str(twin)]) == 1
    assert "no codes.npz in" in capsys.readouterr().err


@pytest.fixture
def twin(run, tmp_path):
    """Return a copy of the run."""
    return shutil.copytree(run, tmp_path / "twin", ignore=shutil.ignore_patterns("checkpoints"))


def test_comparison_counts_figures_and_not_times(run, twin):
    metrics = json.loads((twin / "metrics.json").read_text())
    metrics["time/fit_seconds"] += 1
    (twin / "metrics.json").write_text(json.dumps(metrics))
    differences, count = compare(run, twin)
    assert differences == []
    assert count > 20
    metrics["test/unseen/map"] += 1e-4
    del metrics["split/protocol"]
    (twin / "metrics.json").write_text(json.dumps(metrics))
    assert {d.name for d in compare(run, twin)[0]} == {"test/unseen/map", "split/protocol"}
    assert [d.name for d in compare(run, twin, tolerance=1e-3)[0]] == ["split/protocol"]


def test_one_bit_of_the_codes_counts(run, twin):
    with np.load(twin / "codes.npz", allow_pickle=False) as file:
        codes = {name: file[name] for name in file.files}
    codes["query_codes"][0, 0] ^= 128
    np.savez_compressed(twin / "codes.npz", **codes)
    assert [d.name for d in compare(run, twin)[0]] == ["codes.npz: query_codes"]
