"""`razh predict` and `razh validate`: what they write, and that it agrees with `razh train`."""

import csv
import json

import numpy as np
import pytest

from razh.cli.main import main
from razh.commands.evaluate import main as evaluate_main

TINY = [
    "--data.seen_classes=10",
    "--data.unseen_classes=4",
    "--data.images_per_class=8",
    "--data.image_size=32",
    "--data.batch_size=16",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--figures.enabled=false",
    "--measures.enabled=false",
    "--method=ce",
    "--bits=12",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", *TINY, f"--run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def checkpoint(run):
    return f"--ckpt_path={run / 'checkpoints/best.ckpt'}"


def test_predict_writes_the_codes_that_the_test_ranked_and_says_where(run, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", *TINY, checkpoint]) == 0
    folder = tmp_path / "runs/synthetic/ce/12/seed0-predict"
    assert "12 bits: runs/synthetic/ce/12/seed0-predict/codes.npz" in capsys.readouterr().out
    assert not (folder / "metrics.json").exists()
    with np.load(run / "codes.npz") as tested, np.load(folder / "codes.npz") as predicted:
        assert set(tested.files) == set(predicted.files) >= {"query_codes", "database_labels", "query_index"}
        for name in tested.files:
            np.testing.assert_array_equal(tested[name], predicted[name])
    figures = tmp_path / "figures.json"
    assert evaluate_main([str(folder / "codes.npz"), "--json", str(figures)]) == 0
    trained = json.loads((run / "metrics.json").read_text())
    assert json.loads(figures.read_text())["metrics"]["unseen/map"] == trained["test/unseen/map"]


def test_predict_of_part_of_the_images_says_that_the_codes_are_partial(run, checkpoint, tmp_path, capsys):
    arguments = [checkpoint, "--trainer.limit_predict_batches=1", f"--run_dir={tmp_path / 'part'}"]
    assert main(["predict", *TINY, *arguments]) == 0
    captured = capsys.readouterr()
    with np.load(run / "codes.npz") as tested, np.load(tmp_path / "part/codes.npz") as predicted:
        part, whole = (len(f["query_codes"]) + len(f["database_codes"]) for f in (predicted, tested))
    assert part == 32 < whole
    assert f"the result is partial, {whole - part} rows have no code" in captured.err
    nothing = [checkpoint, "--trainer.limit_predict_batches=0", f"--run_dir={tmp_path / 'none'}"]
    assert main(["predict", *TINY, *nothing]) == 0
    assert not (tmp_path / "none/codes.npz").exists()


def test_validate_writes_its_figures_with_split_and_environment(run, checkpoint, tmp_path, capsys):
    folder = tmp_path / "validated"
    assert main(["validate", *TINY, checkpoint, f"--run_dir={folder}"]) == 0
    assert f"run folder: {folder}" in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    with (run / "metrics.csv").open() as file:
        epoch = next(csv.DictReader(file))
    assert metrics["val/map"] == pytest.approx(float(epoch["val/map"]), abs=1e-6)  # one epoch: it is the best one
    assert metrics["val/validation/map"] == pytest.approx(metrics["val/map"], abs=1e-6)  # logged in single precision
    assert metrics["val/validation/map_worst"] <= metrics["val/validation/map"] <= metrics["val/validation/map_best"]
    assert {"val/validation/precision@100", "val/bit_balance", "codes/effective_bits"} <= metrics.keys()
    assert not [name for name in metrics if name.startswith("test/")]
    split = json.loads((folder / "split.json").read_text())
    assert metrics["split/fingerprint"] == split["fingerprint"]
    assert metrics["environment/device"] == "cpu"
    assert metrics["environment/torch"]
    assert metrics["time/validate_seconds"] > 0
    assert not (folder / "codes.npz").exists()


def test_epochs_without_validation_have_no_figures_of_it(tmp_path):
    arguments = [*TINY, "--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"]
    assert main(["fit", *arguments, f"--run_dir={tmp_path / 'run'}"]) == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["val/map"]) for row in rows] == [False, True, False]
    assert all(row["train/loss"] for row in rows)


def test_training_does_not_take_its_validation_for_a_result(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert not [name for name in metrics if name.startswith("val/") or name == "time/validate_seconds"]
