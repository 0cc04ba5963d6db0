"""Sweeps with W&B's real client: what is refused before, what a trial gets, what it leaves."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from razh.cli.lightning_cli import check_fits
from razh.cli.main import main
from razh.commands.sweep import resolved
from razh.run.recipe import expand, experiments_folder
from razh.tuning import sweeps
from tests.processes import forked, razh
from tests.run.test_loggers import inspect
from tests.stub_wandb import SWEEP, StubServer

ROOT = Path(__file__).resolve().parents[2]
WORLD = ["--data.seen_classes=10", "--data.unseen_classes=4", "--data.images_per_class=8", "--data.batch_size=16"]
SMALL = [*WORLD, "--data.image_size=32", "--trainer.accelerator=cpu", "--bits=8"]
QUICK = ["--trainer.enable_progress_bar=false", "--measures.enabled=false", "--trainer.max_epochs=2"]
GOOD = {
    "program": "src/razh/__main__.py",
    "method": "random",
    "metric": {"name": "val/map", "goal": "maximize"},
    "parameters": {"method": {"value": "ce"}, "model.lr": {"values": [0.002, 0.004]}},
}


def write(folder, **changes):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes, sort_keys=False))
    return path


@pytest.mark.parametrize("name", sweeps.available())
def test_every_search_names_options_that_its_methods_have(name):
    check_fits(sweeps.command_lines(sweeps.find(name), []))


def test_sweeps_under_experiments_work_from_a_clone():
    files = sorted((experiments_folder() / "sweep").glob("*.yaml"))
    assert {path.stem for path in files} >= {"bits", "razh", "methods"}
    for path in files:
        content = yaml.safe_load(path.read_text())
        assert (ROOT / content["program"]).is_file()
        assert content["metric"] == {"name": "val/map", "goal": "maximize"}
        assert content["command"] == sweeps.COMMAND
        assert "fit" in content["command"]  # never the test split


REFUSED = {
    "unknown parameter": ({"model.lrr": {"values": [1.0]}}, "option model.lrr is unknown; did you mean model.lr?"),
    "of another method": ({"method": {"values": ["razh", "ce"]}, "model.parts": {"values": [2]}}, "model.parts"),
    "unknown trainer option": ({"trainer.max_epoch": {"values": [1]}}, "did you mean trainer.max_epochs?"),
    "unknown method": ({"method": {"values": ["ce", "rahz"]}}, "did you mean 'razh'?"),
    "last of the choices": ({"model.hash_init": {"values": ["itq", "pca", "zero"]}}, "model.hash_init"),
    "wrong type": ({"model.bits": {"min": 1.5, "max": 2.5}}, "model.bits"),
    "bad range": ({"model.lr": {"min": 2, "max": 1}}, "min=2 is above max=1"),
}


@pytest.mark.parametrize("command", ["sweep", "tune"])
@pytest.mark.parametrize("case", REFUSED)
def test_parameters_that_are_no_options_are_refused(case, command, tmp_path, capsys, monkeypatch):
    parameters, told = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, parameters={"method": {"value": "ce"}} | parameters)
    assert main([command, str(path), "--dataset=synthetic"]) == (1 if case in ("unknown method", "bad range") else 2)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"metric": {"name": "test/unseen/map", "goal": "maximize"}}, "is none of validation; take val/map"),
        ({"metric": {"name": "val/map", "goal": "max"}}, "goal='max' is unknown; choose from maximize"),
        ({"method": "bayess"}, "method='bayess' is unknown"),
        ({"method": "grid", "parameters": {"model.lr": {"min": 0.1, "max": 0.2}}}, "a grid needs values"),
    ],
)
def test_sweeps_that_cannot_work_are_refused(changes, told, tmp_path):
    with pytest.raises(ValueError, match=re.escape(told)):
        sweeps.read(write(tmp_path, **changes))


def test_command_without_its_arguments_is_refused(tmp_path):
    search = sweeps.read(write(tmp_path, command=["python", "-m", "razh", "fit"]))
    with pytest.raises(ValueError, match="no trial would get its parameters"):
        resolved(search, [])


def test_names_of_searches(tmp_path):
    assert sweeps.find("razh").sweep["method"] == "bayes"  # the sweep, not the method of that name
    assert sweeps.find("ce").fixed == ["--method=ce"]
    assert sweeps.find(str(write(tmp_path))).name == "mine"
    with pytest.raises(ValueError, match=r"no search 'nope'; give a YAML file, or one of .*bits"):
        sweeps.find("nope")


def test_options_of_all_trials_stand_before_those_of_the_sweep(tmp_path):
    command = resolved(sweeps.read(write(tmp_path)), ["--dataset=cub", "--bits=32"])["command"]
    assert command[-3:] == ["--dataset=cub", "--bits=32", "${args}"]


def test_every_choice_is_asked_about(tmp_path):
    space = {"method": {"values": ["ce", "razh"]}, "seed": {"values": [0, 1, 2]}, "model.lr": {"min": 0.1, "max": 0.2}}
    lines = sweeps.command_lines(sweeps.read(write(tmp_path, parameters=space)), ["--bits=8"])
    words = {word for line in lines for word in line}
    assert {"--method=ce", "--method=razh", "--seed=0", "--seed=1", "--seed=2"} <= words
    assert {"--model.lr=0.1", "--model.lr=0.2", "--bits=8"} <= words


def test_null_of_the_agent_is_null():
    assert expand(["--config=x.yaml", "--a.b=None", "--c=NoneSuch"]) == [
        "--config=x.yaml",
        "--a.b=null",
        "--c=NoneSuch",
    ]


def test_without_a_server_the_way_out_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", str(write(tmp_path)), *SMALL]) == 1
    message = capsys.readouterr().err
    assert "no API key" in message
    assert "razh tune" in message
    assert main(["sweep", "--agent=someone/razh/abc"]) == 1
    assert "no API key" in capsys.readouterr().err


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of three trials: on two processes, one that is refused, one with a null."""
    folder = tmp_path_factory.mktemp("sweep")
    pair = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    trials = [
        {"method": "ce", "model.lr": 0.002, **pair},
        {"method": "ce", "model.lr": 0.004, "model.bits": 0},
        {"method": "ce", "model.lr": 0.004, "model.backbone.checkpoint": None},
    ]
    options = [*SMALL, *QUICK, "--trainer.callbacks=tests.rank_note.RankNote"]
    with StubServer(trials) as server:
        environment = server.environment(folder) | {"PYTHONPATH": str(ROOT), "WANDB_AGENT_DISABLE_FLAPPING": "true"}
        path, log = write(folder), tmp_path_factory.mktemp("said") / "log"
        process = forked(razh, "sweep", str(path), "--count=3", *options, log=log, cwd=folder, env=environment)
        process.start()
        process.join(280)
    said = log.read_text()
    assert process.exitcode == 0, said
    return folder, server, said


def run_file(folder, trial):
    (only,) = [p for p in (folder / trial / "wandb").glob("*run-*") if p.is_dir() and not p.is_symlink()]
    return only


@pytest.mark.slow
@pytest.mark.ddp
def test_sweep_is_created_and_worked_on(swept):
    folder, server, said = swept
    assert "Run sweep agent with: wandb agent tester/razh/swp12345" in said
    assert server.sweeps[0]["metric"] == {"name": "val/map", "goal": "maximize"}
    assert "--data.images_per_class=8" in server.sweeps[0]["command"]
    trials = folder / "runs" / "sweep" / SWEEP
    assert sorted(path.name for path in trials.iterdir()) == ["trial001", "trial003"]
    assert sorted(server.runs) == ["trial001", "trial003"]  # one run a job, also on two processes
    assert {server.runs[name]["sweep"] for name in server.runs} == {SWEEP}
    assert not list(trials.rglob("metrics.json"))  # the test split was not read


@pytest.mark.slow
@pytest.mark.ddp
def test_every_rank_has_the_parameters_of_the_sweep(swept):
    folder, _, _ = swept
    trial = folder / "runs" / "sweep" / SWEEP / "trial001"
    notes = [json.loads((trial / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert notes == [{"lr": 0.002, "bits": 8, "world": 2}] * 2
    seen = inspect(run_file(trial.parent, "trial001"))
    assert seen["config"]["model"]["init_args"]["lr"] == 0.002
    assert seen["summary"]["epoch"] == 1
    assert math.isfinite(seen["summary"]["val/map"])


@pytest.mark.slow
@pytest.mark.ddp
def test_failing_trial_says_why(swept):
    _, _, said = swept
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errors == ["error: --bits=0 must be a whole number from 1 to 1,024"]


@pytest.mark.slow
@pytest.mark.ddp
def test_null_reaches_the_model_as_null(swept):
    folder, _, _ = swept
    trials = folder / "runs" / "sweep" / SWEEP
    config = yaml.safe_load((trials / "trial003" / "config.yaml").read_text())
    assert config["model"]["init_args"]["backbone"]["init_args"]["checkpoint"] is None
    seen = inspect(run_file(trials, "trial003"))
    assert seen["config"]["model"]["init_args"]["lr"] == 0.004


@pytest.mark.slow
def test_refused_trial_opens_no_run(tmp_path):
    with StubServer() as server:
        environment = server.environment(tmp_path) | {"WANDB_SWEEP_ID": SWEEP, "WANDB_RUN_ID": "trial001"}
        command = ["fit", "--logger=wandb", "--method=ce", "--model.bits=many"]
        process = forked(razh, *command, log=tmp_path / "log", cwd=tmp_path, env=environment)
        process.start()
        process.join(100)
    assert process.exitcode == 2
    assert "error: model.bits=many is refused; give int" in (tmp_path / "log").read_text()
    assert not server.operations
    assert not (tmp_path / "runs").exists()
