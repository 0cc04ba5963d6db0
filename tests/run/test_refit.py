"""A refit: the epoch is chosen with validation classes, then all seen classes are trained on."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from razh.benchmark.report import _given
from razh.benchmark.results import Results
from razh.cli.lightning_cli import RazhCLI
from razh.cli.main import main
from razh.commands.inspect import describe
from razh.commands.reproduce import compare
from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.methods.ce import CE
from razh.run import checkpoint
from razh.run import folder as run_folder
from tests import processes
from tests.processes import forked, module, said

SMALL = [*processes.SMALL, "--data.batch_size=12", "--trainer.max_epochs=4"]


def arguments(folder, *more):
    return ["train", *SMALL, "--method=ce", "--data.refit=true", f"--run_dir={folder}", *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a finished refit."""
    folder = tmp_path_factory.mktemp("refit") / "run"
    assert main(arguments(folder)) == 0
    return folder


def test_all_seen_classes_are_trained_on_and_the_split_says_so():
    facts = {"seen_classes": 10, "unseen_classes": 4, "images_per_class": 12, "image_size": 32}
    usual, refit, without = (
        SyntheticDataModule(**facts, **more).split for more in ({}, {"refit": True}, {"validation_class_share": 0})
    )
    assert set(np.unique(usual.train)) < set(np.unique(refit.train))
    assert refit.validation_classes == ()
    assert refit.train.tolist() == without.train.tolist()
    assert len({usual.fingerprint, refit.fingerprint, without.fingerprint}) == 3  # three columns of a table
    assert refit.as_dict()["refit"] is True


def test_it_trains_up_to_the_epoch_that_was_chosen_and_says_what_chose_it(run):
    selected = describe(run / "selection/checkpoints/best.ckpt")
    refit, metrics = describe(run / "checkpoints/best.ckpt"), json.loads((run / "metrics.json").read_text())
    assert refit["epoch"] == selected["epoch"]
    assert refit["step"] > selected["step"]  # as many passes over more images
    assert refit["refit"] == {
        "epochs": selected["epoch"] + 1,
        "monitor": "val/map",
        "score": selected["best_score"],
        "split": selected["split_fingerprint"],
    }
    assert metrics["split/refit"] is True
    assert {name: metrics[f"refit/{name}"] for name in refit["refit"]} == refit["refit"]
    assert metrics["split/fingerprint"] == refit["split_fingerprint"] != selected["split_fingerprint"]
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["refit"] is True
    assert not (run / "selection/metrics.json").exists()  # nobody looks at test classes to choose


def test_the_schedule_is_that_of_all_epochs(run):
    """What validation classes chose is a point on a schedule, not the end of a shorter one."""
    best = checkpoint.read(run / "checkpoints/best.ckpt")
    selected = checkpoint.read(run / "selection/checkpoints/best.ckpt")
    if best["epoch"] < 3:
        assert best["lr_schedulers"][0]["_last_lr"][0] > 0
    rates = [one["lr_schedulers"][0]["_last_lr"][0] for one in (best, selected)]
    assert rates[0] == pytest.approx(rates[1], abs=5e-5)  # of 1e-3; epochs have other numbers of steps


@pytest.mark.parametrize("half", ["selection", "refit", "between", "test"])
def test_it_goes_on_in_either_half(run, tmp_path, monkeypatch, half):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        if half == "between":
            patch.setattr(RazhCLI, "_go_on", stop)
            patch.setattr(run_folder, "resolve", lambda *_: run_folder.Place(folder, resume=True))
        elif half == "test":
            patch.setattr(CE, "on_test_epoch_start", stop)
        else:
            patch.setattr(CE, "on_train_epoch_start", lambda self: stop() if at(self, half) else self.check_finite())
        with pytest.raises(RuntimeError, match="the power is gone"):
            main(arguments(folder))
    assert run_folder.unfinished(folder)
    assert (folder / "status.json").exists() == (half in ("refit", "test"))
    assert main(arguments(folder)) == 0
    assert not compare(run, folder)[0]


def at(method, half):
    refit = not len(method.trainer.datamodule.split.validation_query)
    return method.current_epoch == 1 and refit == (half == "refit")


def stop(*_, **__):
    raise RuntimeError("the power is gone")


def test_another_configuration_does_not_go_on_with_its_selection(run, tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "selection").mkdir(parents=True)
    for name in ("status.json", "config.yaml"):
        (folder / "selection" / name).write_bytes((run / "selection" / name).read_bytes())
    assert main(arguments(folder, "--data.refit=false")) == 1
    assert "data.init_args.refit is True there, False here" in capsys.readouterr().err
    assert main(arguments(folder, "--model.lr=0.5")) == 1
    assert "model.init_args.lr is 0.001 there, 0.5 here" in capsys.readouterr().err


def test_the_refit_is_tested_as_one(run, tmp_path, capsys):
    again = ["test", f"--config={run / 'config.yaml'}", f"--run_dir={tmp_path / 'test'}"]
    assert main([*again, f"--ckpt_path={run / 'checkpoints/best.ckpt'}"]) == 0
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path / "test"))
    names = [name for name in first if name.startswith(("test/unseen", "refit/", "split/"))]
    assert {name: second.get(name) for name in names} == {name: first[name] for name in names}
    assert main([*again[:-1], f"--ckpt_path={run / 'selection/checkpoints/best.ckpt'}"]) == 1
    assert "was trained on 8 other classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "--data.refit=true"], "works with validation classes, and a refit holds none out"),
        (["validate", "--data.refit=true", "--ckpt_path=x.ckpt"], "works with validation classes"),
        (["train", "--data.refit=true", "--data.validation_class_share=0"], "there are none; pass --data.valid"),
        (["train", "--data.refit=true", "--trainer.limit_val_batches=0"], "no validation to choose an epoch by"),
        (["train", "--data.refit=true", "--trainer.check_val_every_n_epoch=9"], "no validation to choose an epoch"),
        (["train", "--data.refit=true", "--ckpt_path=x.ckpt"], "trains twice from the seed"),
    ],
)
def test_what_cannot_be_refitted_is_one_line(tmp_path, capsys, words, said):
    assert main([words[0], *SMALL, "--method=ce", *words[1:], f"--run_dir={tmp_path / 'run'}"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


def test_a_method_without_training_is_fitted_once_to_all_seen_classes(tmp_path):
    for name, more in {"refit": ["--data.refit=true"], "all": ["--data.validation_class_share=0"]}.items():
        fitted = ["train", *SMALL, "--method=itq", "--trainer.max_epochs=1", *more, f"--run_dir={tmp_path / name}"]
        assert main(fitted) == 0
    assert not (tmp_path / "refit/selection").exists()
    refit, every = (checkpoint.read(tmp_path / name / "checkpoints/best.ckpt") for name in ("refit", "all"))
    assert torch.equal(refit["state_dict"]["head.weight"], every["state_dict"]["head.weight"])
    assert refit["razh"]["refit"]["monitor"] is None


@pytest.mark.ddp
def test_two_processes_choose_and_refit_alike(job, tmp_path):
    given = arguments(tmp_path / "run", "--data.batch_size=6")
    assert job(2, *given) == [0, 0], said(tmp_path)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["refit/epochs"] == describe(tmp_path / "run/checkpoints/best.ckpt")["epoch"] + 1


@pytest.mark.slow
@pytest.mark.ddp
def test_a_launcher_starts_both_halves(tmp_path):
    words = arguments(tmp_path / "run", "--data.batch_size=6", "--trainer.devices=2", "--trainer.strategy=ddp")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = forked(module, "razh", *words, log=tmp_path / "log", env=environment)  # Lightning starts the other one
    first.start()
    first.join(200)
    assert first.exitcode == 0, said(tmp_path)
    assert json.loads((tmp_path / "run/metrics.json").read_text())["environment/devices"] == 2


def test_a_table_says_that_it_is_one_of_refits():
    cells = pd.DataFrame({"protocol": ["ps", "refit"], "split/setting": "both", "split/refit": [False, True]})
    results = Results(
        **dict.fromkeys(("name", "title", "dataset", "backbone", "metric", "reference"), ""), trials=0, cells=cells
    )
    assert _given(results, "ps") == "setting `both`, "
    assert _given(results, "refit").startswith("setting `both`, refit: trained again on all seen classes")
