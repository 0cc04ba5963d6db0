"""`razh tune`: what is chosen, what is kept, what goes on."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from razh.cli.main import main
from razh.tuning import study as tuning
from razh.tuning import sweeps
from razh.tuning.space import NEEDS, SearchSpace
from razh.tuning.study import TrialFailedError, Tuner
from tests.processes import run_forked

WORLD = ["--data.seen_classes=10", "--data.unseen_classes=4", "--data.images_per_class=8", "--data.batch_size=16"]
SMALL = [*WORLD, "--data.image_size=32", "--trainer.accelerator=cpu", "--bits=8"]
QUICK = ["--measures.enabled=false", "--trainer.max_epochs=1"]


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def search(strategy="random", **parameters):
    space = parameters or {"model.lr": {"min": 0.0, "max": 1.0}}
    Path("mine.yaml").write_text(yaml.safe_dump({"method": strategy, "metric": metric(), "parameters": space}))
    return sweeps.read(Path("mine.yaml"))


def metric():
    return {"name": "val/map", "goal": "maximize"}


@pytest.fixture
def ran(monkeypatch):
    """Replace the runs: val/map is 1 - (lr - 0.3)², and an lr above 0.9 fails. Returns the command lines."""
    commands = []

    def run(command, env, stdout, stderr, check):
        commands.append(command)
        chosen = dict(word[2:].split("=", 1) for word in command if word.startswith("--"))
        lr = float(chosen.get("model.lr", 0.5))
        if lr > 0.9:
            stdout.write("Seed set to 0\nerror: model.lr is too high\nbye\n")
            return SimpleNamespace(returncode=1)
        folder = Path(chosen["run_dir"])
        folder.mkdir(parents=True)
        value = 1 - (lr - 0.3) ** 2
        (folder / "metrics.csv").write_text(f"epoch,val/map\n0,{value}\n1,{value - 0.1}\n")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(tuning.subprocess, "run", run)
    return commands


def table(folder="study"):
    with (Path(folder) / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_has_the_values_that_runs_were_given(ran):
    parameters = {
        "model.lr": {"distribution": "normal", "mu": 0.3, "sigma": 0.01},
        "model.parts": {"distribution": "q_uniform", "min": 2, "max": 64, "q": 8},
        "model.hash_init": {"values": ["itq", None]},
    }
    Tuner(search(**parameters), [], Path("study")).run(3)
    for command, row in zip(ran, table(), strict=True):
        given = dict(word[2:].split("=", 1) for word in command if word.startswith("--"))
        assert float(row["model.lr"]) == pytest.approx(float(given["model.lr"]))
        assert row["model.parts"] == given["model.parts"]
        assert row["model.hash_init"] == given["model.hash_init"].replace("null", "")


def test_best_epoch_counts_and_the_best_trial_is_found(ran):
    study = Tuner(search("bayes"), ["--bits=8"], Path("study")).run(15)
    assert len(study.trials) == len(ran) == 15
    assert study.best_value > 0.98
    assert all(command[1:4] == ["-m", "razh", "fit"] for command in ran)  # never the test split
    assert all("--bits=8" in command for command in ran)
    best = max(float(row["val/map"]) for row in table() if row["val/map"])
    assert best == study.best_value
    assert study.best_trial.user_attrs["options"] == ["--bits=8", f"--model.lr={study.best_trial.params['model.lr']}"]


def test_failed_trials_are_recorded_with_their_reason(ran):
    study = Tuner(search(), [], Path("study")).run(15)
    failed = [t for t in study.trials if t.state is TrialState.FAIL]
    assert failed
    assert {t.user_attrs["reason"] for t in failed} == {"model.lr is too high (status 1)"}
    assert all(t.params["model.lr"] > 0.9 for t in failed)
    rows = [row for row in table() if row["state"] == "fail"]
    assert len(rows) == len(failed)
    assert {row["reason"] for row in rows} == {"model.lr is too high (status 1)"}


def test_study_goes_on_and_draws_something_else(ran):
    first = Tuner(search(), [], Path("study")).run(3)
    before = [t.params for t in first.trials]
    again = Tuner(search(), [], Path("study")).run(7)
    assert len(again.trials) == len(ran) == 7
    assert [t.params for t in again.trials[:3]] == before
    assert len({t.params["model.lr"] for t in again.trials}) == 7
    assert len(Tuner(search(), [], Path("study")).run(7).trials) == len(ran) == 7  # nothing is left to do


def test_study_of_another_search_is_refused(ran):
    Tuner(search(), [], Path("study")).run(1)
    with pytest.raises(ValueError, match="holds a search of other parameters or options; pass another --study"):
        Tuner(search(), ["--bits=16"], Path("study")).run(2)
    with pytest.raises(ValueError, match="holds a search of other parameters"):
        Tuner(search(**{"model.lr": {"min": 0.0, "max": 2.0}}), [], Path("study")).run(2)


def test_workers_run_side_by_side(monkeypatch):
    at_work, most = set(), []

    def run(command, env, **_):
        at_work.add(command[-1])
        time.sleep(0.3)
        most.append(len(at_work))
        at_work.discard(command[-1])
        folder = Path(command[-1].partition("=")[2])
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("epoch,val/map\n0,0.5\n")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(tuning.subprocess, "run", run)
    study = Tuner(search(), [], Path("study"), workers=2).run(4)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 4
    assert max(most) == 2


def test_trial_of_a_killed_process_is_given_up_and_one_at_work_is_not(ran):
    tuner = Tuner(search(), [], Path("study"))
    study = tuner.study()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for process in (dead.pid, os.getpid()):
        study.ask().set_user_attr("process", f"{tuning.platform.node()}:{process}")
    after = tuner.run(3)
    assert [t.state for t in after.trials[:2]] == [TrialState.FAIL, TrialState.RUNNING]
    assert [table()[0][name] for name in ("trial", "state", "reason")] == ["0", "fail", "stopped"]
    assert "running" not in Path("study/trials.csv").read_text()
    assert sum(t.state is TrialState.COMPLETE for t in after.trials) == 2


def test_three_failures_at_the_start_end_the_study(monkeypatch):
    def run(command, env, stdout, **_):
        stdout.write("error: no data at data/cub\n")
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(tuning.subprocess, "run", run)
    with pytest.raises(
        ValueError, match=r"the first 3 trials failed, the last one of: no data at data/cub \(status 1\)"
    ):
        Tuner(search(), [], Path("study")).run(20)
    assert len(table()) == 3


def test_grid_tries_everything_once(ran):
    space = {
        "model.lr": {"values": [0.1, 0.3]},
        "model.hash_init": {"values": ["itq", None]},
        "seed": {"min": 0, "max": 1},
    }
    Tuner(search("grid", **space), [], Path("study")).run(50)
    assert len({tuple(command[5:8]) for command in ran}) == len(ran) == 8
    assert any("--model.hash_init=null" in command for command in ran)
    assert {row["model.hash_init"] for row in table()} == {"itq", ""}


def test_every_distribution_is_suggested_within_its_range():
    facts = {"value": "x", "values": ["a", None], "probabilities": [0.5, 0.5], "min": 1, "max": 8, "q": 2, "mu": 0.0}
    facts["sigma"] = 1.0
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for name, needs in NEEDS.items():
        space = SearchSpace.from_mapping({name: {"distribution": name, **{key: facts[key] for key in needs}}})
        values = [tuning.suggest(study.ask(), space.parameters[name]) for _ in range(30)]
        if space.parameters[name].choices is not None:
            assert set(values) == set(space.parameters[name].choices)
        elif "min" in needs:
            low, high = space.parameters[name].bounds
            assert all(low - 1 <= value <= high + 1e-6 for value in values)
        if "q" in needs:
            assert all(value % 2 == 0 for value in values)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no val/map in"),
        ("epoch,train/loss\n0,1.0\n", "has the split validation classes"),
        ("epoch,val/map\n0,nan\n", "val/map is nan"),
    ],
)
def test_runs_without_a_value_are_no_result(text, told):
    path = Path("metrics.csv")
    if text:
        path.write_text(text)
    with pytest.raises(TrialFailedError, match=told):
        tuning.best(path, "val/map", maximize=True)


def test_best_epoch_by_goal():
    Path("metrics.csv").write_text("epoch,val/map\n0,0.2\n1,0.5\n2,nan\n3,0.3\n")
    assert tuning.best(Path("metrics.csv"), "val/map", maximize=True) == 0.5
    assert tuning.best(Path("metrics.csv"), "val/map", maximize=False) == 0.2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nope"], "no search 'nope'"),
        (["ce", "--trials=0"], "--trials=0 must be a whole number from 1"),
        (["ce", "--workers=0"], "--workers=0 must be a whole number from 1"),
        (["ce", "--model.lrr=3"], "did you mean model.lr?"),
    ],
)
def test_bad_input_gets_one_line(arguments, told, capsys):
    assert main(["tune", *arguments]) == (2 if "model" in arguments[-1] else 1)
    assert told in capsys.readouterr().err
    assert not Path("runs").exists()


def test_missing_optuna_is_named(monkeypatch, capsys):
    monkeypatch.setattr("razh.commands.tune.importlib.util.find_spec", lambda name: None)
    assert main(["tune", "ce"]) == 1
    assert 'pip install "optuna>=4"' in capsys.readouterr().err


@pytest.mark.slow
def test_real_trials_and_the_command_for_the_best(capsys, monkeypatch):
    monkeypatch.setattr(tuning.subprocess, "run", run_forked)
    assert main(["tune", "ce", "--trials=2", "--workers=2", *SMALL, *QUICK]) == 0
    shown = capsys.readouterr().err
    rows = table("runs/tune/ce")
    assert [row["state"] for row in rows] == ["complete"] * 2
    best = max(rows, key=lambda row: float(row["val/map"]))
    assert f"razh train --method=ce {' '.join([*SMALL, *QUICK])} --model.lr={best['model.lr']}" in shown
    for row in rows:
        folder = Path("runs/tune/ce/trials") / f"{int(row['trial']):04d}"
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["model"]["init_args"]["lr"] == float(row["model.lr"])
        assert config["model"]["init_args"]["hash_init"] == row["model.hash_init"]
        assert not (folder / "metrics.json").exists()
        assert json.loads((folder / "status.json").read_text())["state"] == "finished"
