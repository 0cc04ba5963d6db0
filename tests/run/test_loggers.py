"""Loggers beside the run folder: what they are given, and that none of them stops a run."""

import contextlib
import csv
import json
import logging
import math
import socket
import subprocess
import sys
import time

import pytest
import wandb

from razh.cli.main import main
from razh.run import loggers
from tests.stub_wandb import KEY, StubServer

WORLD = ["--data.seen_classes=10", "--data.unseen_classes=4", "--data.images_per_class=8", "--data.batch_size=16"]
SMALL = [*WORLD, "--data.image_size=32", "--trainer.accelerator=cpu", "--bits=8", "--method=ce"]
FIGURES = ["--figures.queries=2", "--figures.neighbours=3"]
QUICK = ["--trainer.enable_progress_bar=false", "--measures.enabled=false", "--trainer.max_epochs=2"]


def private(patch, folder):
    """Give W&B settings and caches of its own, no key and no mode."""
    for name in ("API_KEY", "MODE", "BASE_URL", "PROJECT", "ENTITY", "NAME", "RUN_ID", "RUN_GROUP", "SWEEP_ID"):
        patch.delenv(f"WANDB_{name}", raising=False)
    for kind in ("CONFIG", "CACHE", "DATA"):
        patch.setenv(f"WANDB_{kind}_DIR", str(folder / kind))
    patch.setenv("NETRC", str(folder / "no-netrc"))
    patch.setenv("WANDB_SILENT", "true")
    wandb.teardown()  # its settings are read once


@pytest.fixture(autouse=True)
def _private(tmp_path, monkeypatch):
    private(monkeypatch, tmp_path / "wandb-private")


def start(command, folder, *more):
    return main([command, *SMALL, *QUICK, f"--run_dir={folder}", *more])


def inspect(folder):
    """Return what W&B's own reader finds in a run file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def runs_of(folder):
    return sorted(path for path in (folder / "wandb").glob("*run-*") if path.is_dir() and not path.is_symlink())


@contextlib.contextmanager
def listening():
    """Collect what the loggers say, whoever else listens."""
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    loggers.log.addHandler(handler)
    try:
        yield messages
    finally:
        loggers.log.removeHandler(handler)


@pytest.fixture
def said():
    with listening() as messages:
        yield messages


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with three loggers and without a key; what was said is in `said.txt`."""
    folder = tmp_path_factory.mktemp("loggers") / "run"
    with pytest.MonkeyPatch.context() as patch, listening() as messages:
        private(patch, folder.parent)
        assert start("train", folder, "--logger=wandb,csv,tensorboard", *FIGURES) == 0
    (folder / "said.txt").write_text("\n".join(messages))
    return folder


@pytest.fixture(scope="module")
def seen(run):
    (only,) = runs_of(run)
    return inspect(only)


def numbers(folder):
    found = json.loads((folder / "metrics.json").read_text())
    number = {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: v for k, v in number.items() if math.isfinite(v)}


def test_without_a_key_the_run_is_offline_and_says_so(run):
    assert "no API key" in (run / "said.txt").read_text()
    assert "wandb sync" in (run / "said.txt").read_text()
    assert [path.name.startswith("offline-run") for path in runs_of(run)] == [True]


def test_wandb_has_every_number_of_the_result(run, seen):
    summary = seen["summary"]
    expected = numbers(run)
    assert len(expected) > 30
    for name, value in expected.items():
        assert summary[name] == pytest.approx(value), name


def test_summary_shows_the_chosen_epoch_not_the_last(run, seen):
    with (run / "metrics.csv").open() as file:
        values = [float(row["val/map"]) for row in csv.DictReader(file)]
    assert seen["summary"]["val/map"] == pytest.approx(max(values))


def test_wandb_has_configuration_split_and_versions_as_plain_values(run, seen):
    config = seen["config"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert config["model"]["init_args"]["bits"] == 8
    assert config["trainer"]["max_epochs"] == 2
    assert config["seed_everything"] == 0
    assert config["split"]["fingerprint"] == metrics["split/fingerprint"]
    assert config["environment"]["razh"] == metrics["environment/razh"]
    assert "commit" in config["git"]


def test_wandb_has_figures_and_the_table_of_classes(run, seen):
    drawn = {path.stem for path in (run / "figures").glob("*.png")}
    assert {"retrieval", "precision_recall", "classes"} <= drawn
    assert {f"figures/{name}" for name in drawn} <= seen["summary"].keys()
    (table,) = runs_of(run)[0].glob("files/media/table/test/classes*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["class", "queries", "map", "chance"]
    rows = content["data"]
    metrics = numbers(run)
    assert len(rows) == 4  # unseen classes
    total = sum(row[1] for row in rows)
    assert sum(row[1] * row[2] for row in rows) / total == pytest.approx(metrics["test/unseen/map"])
    assert sum(row[1] * row[3] for row in rows) / total == pytest.approx(metrics["test/unseen/chance"])


def test_csv_and_tensorboard_have_it_too(run):
    with (run / "csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = numbers(run)
    found = {name: float(value) for row in rows for name, value in row.items() if value}
    assert expected.keys() <= found.keys()
    assert found["test/unseen/map"] == pytest.approx(expected["test/unseen/map"])

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert expected.keys() <= set(tags["scalars"])
    assert events.Scalars("test/unseen/map")[-1].value == pytest.approx(expected["test/unseen/map"])
    assert "figures/retrieval" in tags["images"]
    assert any(tag.startswith("test/classes") for tag in tags["tensors"])


def test_saved_configuration_names_no_logger(run):
    assert "logger: null" in (run / "config.yaml").read_text().splitlines()


@pytest.mark.slow
def test_offline_run_is_taken_by_wandb_sync(run, tmp_path):
    with StubServer() as server:
        command = [sys.executable, "-m", "wandb", "sync", str(runs_of(run)[0])]
        done = subprocess.run(
            command, env=server.environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=100
        )
    assert done.returncode == 0, done.stderr
    identity = (run / loggers.RUN_ID).read_text().strip()
    assert list(server.runs) == [identity]
    assert {"wandb-history.jsonl", "wandb-summary.json"} <= server.streamed[identity]


@pytest.mark.slow
def test_run_that_goes_on_is_the_same_run(tmp_path):
    folder = tmp_path / "run"
    assert start("fit", folder, "--logger=wandb", "--trainer.max_epochs=1") == 0
    assert start("fit", folder, "--logger=wandb", "--ckpt_path=last") == 0
    first, second = runs_of(folder)
    identity = (folder / loggers.RUN_ID).read_text().strip()
    # The file, not the folder: W&B numbers a folder that begins in the same second as another.
    assert [path.name for run in (first, second) for path in run.glob("*.wandb")] == [f"run-{identity}.wandb"] * 2
    assert inspect(second)["summary"]["epoch"] == 1


@pytest.mark.slow
def test_server_that_goes_away_in_mid_run_costs_nothing_but_the_rest(tmp_path, monkeypatch, said):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    with StubServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)

        def stop(self):
            if self.current_epoch == 1:
                server.stop()

        monkeypatch.setattr("razh.methods.ce.CE.on_train_epoch_start", stop)
        begun = time.monotonic()
        assert start("train", tmp_path / "run", "--logger=wandb", "--figures.enabled=false") == 0
        assert time.monotonic() - begun < 60
    (kept,) = runs_of(tmp_path / "run")
    assert not kept.name.startswith("offline")
    identity = (tmp_path / "run" / loggers.RUN_ID).read_text().strip()
    assert server.runs[identity]["project"] == "razh"
    assert server.runs[identity]["groupName"] == "synthetic/ce"
    assert any("no connection at the end" in message for message in said)
    expected = numbers(tmp_path / "run")["test/unseen/map"]
    assert inspect(kept)["summary"]["test/unseen/map"] == pytest.approx(expected)


@pytest.mark.slow
def test_online_run_offers_checkpoint_codes_and_code_and_survives_their_refusal(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "20")
    with StubServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert start("train", tmp_path / "run", "--logger=wandb", "--figures.enabled=false") == 0
        assert len(server.runs) == 1
        assert {"code", "model", "codes"} <= set(server.artifacts)
        (streamed,) = server.streamed.values()
        assert "wandb-history.jsonl" in streamed


def test_server_that_refuses_the_run_leaves_it_offline(tmp_path, monkeypatch, said):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with StubServer(refused=("UpsertBucket",)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        logger = loggers.RunLogger(tmp_path / "run", "group")
        logger.log_metrics({"val/map": 0.5}, step=3)
        assert not logger.online
        logger.finish()
    assert any("UpsertBucket is refused; the run is kept offline" in message for message in said)
    (kept,) = [path for path in runs_of(tmp_path / "run") if path.name.startswith("offline-run")]
    assert inspect(kept)["summary"]["val/map"] == 0.5


def test_what_fails_in_wandb_is_said_once_and_stops_nothing(tmp_path, said):
    logger = loggers.RunLogger(tmp_path, "group")

    def fail():
        raise BrokenPipeError("the service is gone")

    for _ in range(3):
        logger.attempt(fail)
    assert [m for m in said if "the service is gone" in m] == [
        "W&B stopped working (the service is gone); the run goes on without it"
    ]


def test_servers_that_do_not_answer_are_given_up_soon(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "cannot be reached" in loggers.answer(url)  # nobody listens
        taken.listen()
        monkeypatch.setattr(loggers, "ANSWER_SECONDS", 0.3)
        begun = time.monotonic()
        assert loggers.answer(url) is not None  # taken, and never answered
        assert time.monotonic() - begun < 3
    with StubServer() as server:
        monkeypatch.setattr(loggers, "ANSWER_SECONDS", 8.0)
        assert loggers.answer(server.url) is None
        assert loggers.answer(f"{server.url}/nowhere") is None


def test_keys_are_found_in_the_environment_and_in_netrc(tmp_path, monkeypatch):
    assert not loggers.has_key("https://api.wandb.ai")
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert loggers.has_key("https://api.wandb.ai")
    assert not loggers.has_key("https://elsewhere.org")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert loggers.has_key("https://elsewhere.org")


def test_run_id_is_kept_given_or_made(tmp_path, monkeypatch):
    made = loggers.run_id(tmp_path / "one")
    assert loggers.run_id(tmp_path / "one") == made
    assert loggers.run_id(tmp_path / "two") != made
    monkeypatch.setenv("WANDB_RUN_ID", "given123")
    assert loggers.run_id(tmp_path / "three") == "given123"
    assert loggers.run_id(tmp_path / "one") == made


def test_names():
    assert loggers.chosen(None) == loggers.chosen("none") == loggers.chosen("") == []
    assert loggers.chosen("csv, wandb,csv") == ["csv", "wandb"]
    with pytest.raises(ValueError, match=r"logger='wandbb' is unknown; did you mean 'wandb'\?"):
        loggers.chosen("csv,wandbb")
    with pytest.raises(ValueError, match="says none and another"):
        loggers.chosen("none,csv")


def test_missing_tensorboard_is_named(monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "tensorboard>=2\.15"'):
        loggers.chosen("tensorboard")


def test_unknown_logger_is_refused_before_anything_is_read(tmp_path, capsys):
    elsewhere = ["--dataset=cub", "--data_root=nowhere", f"--run_dir={tmp_path / 'run'}"]
    assert main(["train", *elsewhere, "--logger=wandbb"]) == 1
    assert "did you mean 'wandb'?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_logger_of_the_user_is_kept_beside_ours(tmp_path):
    theirs = ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={tmp_path / 'mine'}"]
    assert start("fit", tmp_path / "run", "--logger=csv", "--trainer.max_epochs=1", *theirs) == 0
    (mine,) = (tmp_path / "mine").rglob("metrics.csv")
    ours = tmp_path / "run/csv/version_0/metrics.csv"
    assert "val/map" in mine.read_text()
    assert mine.read_text() == ours.read_text()


@pytest.mark.slow
def test_clock_that_jumps_back_changes_nothing(tmp_path, monkeypatch):
    now, calls = time.time(), []

    def back():
        calls.append(1)
        return now - 60 * len(calls)

    monkeypatch.setattr(time, "time", back)
    assert start("train", tmp_path / "run", "--logger=csv,tensorboard", "--figures.enabled=false") == 0
    assert calls
    metrics = numbers(tmp_path / "run")
    seconds = {name: value for name, value in metrics.items() if name.startswith("time/")}
    assert all(0 <= value < 300 for value in seconds.values())
    assert seconds["time/fit_seconds"] > 0
    with (tmp_path / "run/metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]
