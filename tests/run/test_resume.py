"""Runs that are killed, told to stop, or short of disk go on, and end as if nothing had happened."""

import io
import json
import os
import random
import resource
import signal
import time

import numpy as np
import pytest
import torch

from razh.cli.main import main
from razh.run import checkpoint, preemption
from tests.processes import forked, razh

EPOCHS = 3
SMALL = [
    "--data.seen_classes=6",
    "--data.unseen_classes=3",
    "--data.images_per_class=8",
    "--data.image_size=32",
    "--data.batch_size=5",
    f"--trainer.max_epochs={EPOCHS}",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--figures.enabled=false",
    "--measures.enabled=false",
    "--method=razh",
    "--bits=12",
]
FROZEN = ["--backbone=test-vit", "--model.backbone.split=2", "--model.backbone.freeze=trunk"]  # has a cache to fill
STEPS = 5  # batches an epoch


def arguments(folder, *more):
    return ["train", *SMALL, *FROZEN, f"--run_dir={folder}", *more]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(path, number, act=die, counts=lambda *_: True):
    """Replace a function by one that acts before its n-th call (of those that count)."""
    module, name = path.rsplit(":", 1)
    owner = __import__(module, fromlist=["_"])
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    name, calls = name.rsplit(".", 1)[-1], [0]
    real = getattr(owner, name)

    def counted(*args, **kwargs):
        calls[0] += bool(counts(*args))
        if calls[0] == number and counts(*args):
            act(real, *args)
        return real(*args, **kwargs)

    setattr(owner, name, counted)


def write_half(real, content, file):
    """Leave the first half of a checkpoint and die."""
    whole = io.BytesIO()
    real(content, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    die()


def move_and_die(real, *names):
    real(*names)
    die()


POINTS = {
    "in the cache": ("razh.features.store:CacheFolder.write", die),
    "in a step": ("razh.method:HashingMethod.training_step", die),
    "in validation": ("razh.callbacks.retrieval:RetrievalEvaluation.on_validation_batch_end", die),
    "in the test": ("razh.callbacks.retrieval:RetrievalEvaluation.on_test_batch_end", die),
    "in a checkpoint": ("razh.run.checkpoint_io:torch.save", write_half),
    "between two names": (
        "razh.run.checkpoint_io:os.replace",
        move_and_die,
        lambda _, name: name.name == "last-1.ckpt",
    ),
    "before the result": ("razh.callbacks.run:RunRecord.on_test_end", die),
}


def command(given, point, number):
    """Run a command that acts at a point."""
    if point is not None:
        path, *how = POINTS[point]
        at_call(path, number, *how)
    razh(*given)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a command in another process; all it says goes to a file."""
    started = []

    def begin(given, point=None, number=1, cache="cache"):
        given = [*given, f"--cache.directory={tmp_path / cache}"]
        process = forked(command, given, point, number, log=tmp_path / "log")
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def run(process, timeout=120):
    process.join(timeout)
    assert process.exitcode is not None
    return process.exitcode


def same_end(one, two):
    """Tell that two runs ended with the same weights, optimiser, metrics and codes."""
    first, second = (checkpoint.read(f / "checkpoints/last.ckpt") for f in (one, two))
    for name, values in first["state_dict"].items():
        assert torch.equal(values, second["state_dict"][name]), name
    assert first["epoch"] == second["epoch"] == EPOCHS - 1
    assert str(first["optimizer_states"]) == str(second["optimizer_states"])
    assert first["lr_schedulers"] == second["lr_schedulers"]
    metrics = [json.loads((f / "metrics.json").read_text()) for f in (one, two)]
    for name, value in metrics[0].items():
        if name.startswith(("test/", "codes/", "split/")):
            assert value == metrics[1][name], name
    codes = [np.load(f / "codes.npz") for f in (one, two)]
    assert all(np.array_equal(codes[0][name], codes[1][name]) for name in codes[0].files)
    rows = [(f / "metrics.csv").read_text().splitlines() for f in (one, two)]
    assert len(rows[0]) == len(rows[1]) == EPOCHS + 1
    assert not list(two.rglob("*part"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(arguments(folder / "run", f"--cache.directory={folder / 'cache'}")) == 0
    return folder / "run"


CASES = [
    ("in the cache", 3),
    ("in a step", STEPS + 3),
    ("in a checkpoint", 4),
    ("between two names", 2),  # last.ckpt has become last-1.ckpt, the new one has no name yet
    ("in the test", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "number"), CASES)
def test_killed_run_goes_on_and_ends_like_one_that_was_not(start, whole, tmp_path, point, number):
    assert run(start(arguments(tmp_path / "run"), point, number)) == -signal.SIGKILL
    assert not (tmp_path / "run/metrics.json").exists()
    assert run(start(arguments(tmp_path / "run"))) == 0, (tmp_path / "log").read_text()
    same_end(whole, tmp_path / "run")


@pytest.mark.slow
def test_soak_of_twenty_kills(start, whole, tmp_path):
    """Kill at random points and at random moments, again and again, until twenty kills are done."""
    draw = random.Random(7)
    kills, runs = 0, 0
    while kills < 20:
        folder, ended = tmp_path / f"run{runs}", False
        while not ended:
            point = draw.choice([*POINTS, None])
            limit = {"in a step": 2 * STEPS, "in the cache": 5, "in a checkpoint": 6, "between two names": 3}
            number = draw.randint(1, limit.get(point, 2))
            process = start(arguments(folder), point if kills < 20 else None, number, cache=f"cache{runs}")
            if point is None and kills < 20:
                process.join(draw.uniform(0.2, 1.5))
                process.kill()
            code = run(process)
            kills += code == -signal.SIGKILL
            ended = code == 0
            assert code in (0, -signal.SIGKILL), (tmp_path / "log").read_text()[-3000:]
        same_end(whole, folder)
        runs += 1
    assert kills == 20


def test_a_run_that_was_killed_behind_its_status_starts(whole, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/status.json").write_text('{"state": "running"}')
    (tmp_path / "run/figures").mkdir()
    (tmp_path / "run/figures/.parts.png.8388608.razh-part").write_bytes(b"")  # cleared away, see `same_end`
    assert main(arguments(tmp_path / "run")) == 0
    same_end(whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_told_to_stop_it_saves_within_the_epoch_and_goes_on(whole, tmp_path, monkeypatch, number):
    step, calls = real_step(), [0]

    def told(self, *args):
        calls[0] += 1
        if calls[0] == STEPS + 3:
            os.kill(os.getpid(), number)
        return step(self, *args)

    before = {s: signal.getsignal(s) for s in preemption.SIGNALS}
    with monkeypatch.context() as patch:
        patch.setattr("razh.method.HashingMethod.training_step", told)
        with pytest.raises(SystemExit) as stop:
            main(arguments(tmp_path / "run"))
    assert stop.value.code == 128 + number
    assert {s: signal.getsignal(s) for s in preemption.SIGNALS} == before
    content = checkpoint.read(tmp_path / "run/checkpoints/last.ckpt")
    assert content["global_step"] == STEPS + 3
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "stopped"
    assert main(arguments(tmp_path / "run")) == 0
    same_end(whole, tmp_path / "run")
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "finished"
    assert json.loads((tmp_path / "run/metrics.json").read_text())["run/resumed"] == 1


def real_step():
    from razh.method import HashingMethod

    return HashingMethod.training_step


def test_last_batch_waits_for_the_end_of_the_epoch(whole, tmp_path, monkeypatch):
    stopped(tmp_path / "run", monkeypatch, 2 * STEPS)
    content = checkpoint.read(tmp_path / "run/checkpoints/last.ckpt")
    assert content["global_step"] == 2 * STEPS
    assert content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == 2
    assert main(arguments(tmp_path / "run")) == 0
    same_end(whole, tmp_path / "run")


def stopped(folder, monkeypatch, at, more=()):
    """Leave a run that was told to stop in its n-th step."""
    step, calls = real_step(), [0]

    def told(self, *args):
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr("razh.method.HashingMethod.training_step", told)
        with pytest.raises(SystemExit):
            main(arguments(folder, *more))


def test_truncated_last_checkpoint_gives_way_to_the_one_before(whole, tmp_path, monkeypatch, capsys):
    stopped(tmp_path / "run", monkeypatch, 2 * STEPS + 1)
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    capsys.readouterr()
    assert main(arguments(tmp_path / "run")) == 0
    said = capsys.readouterr().err
    assert "may be cut short" in said
    assert "goes on from last-1.ckpt" in said
    same_end(whole, tmp_path / "run")


def test_cache_that_is_there_already_changes_nothing(whole, tmp_path):
    assert main(arguments(tmp_path / "run", f"--cache.directory={whole.parent / 'cache'}")) == 0
    same_end(whole, tmp_path / "run")


def test_live_images_with_loader_workers_go_on_exactly(tmp_path, monkeypatch):
    """Workers draw ahead: they must start at the right epoch and batch."""
    live = ["--cache.enabled=false", "--trainer.max_epochs=2", "--data.num_workers=0"]
    assert main(arguments(tmp_path / "whole", *live)) == 0
    live[-1] = "--data.num_workers=1"
    stopped(tmp_path / "run", monkeypatch, STEPS + 2, live)
    assert main(arguments(tmp_path / "run", *live)) == 0
    one, two = (checkpoint.read(tmp_path / f / "checkpoints/last.ckpt") for f in ("whole", "run"))
    assert all(torch.equal(values, two["state_dict"][name]) for name, values in one["state_dict"].items())


def test_other_configuration_is_refused_by_name_or_goes_elsewhere(tmp_path, monkeypatch, capsys):
    stopped(tmp_path / "run", monkeypatch, 2)
    assert main(arguments(tmp_path / "run", "--model.lr=0.5")) == 1
    assert "another configuration (model.init_args.lr is 0.002 there, 0.5 here)" in capsys.readouterr().err
    assert main(arguments(tmp_path / "run", "--resume=false")) == 1
    assert "holds a run already" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    short = ["train", *SMALL, *FROZEN, "--trainer.max_epochs=1"]
    folder = tmp_path / "runs/synthetic/razh/12"
    folder.mkdir(parents=True)
    (tmp_path / "run").rename(folder / "seed0")
    assert main(short) == 0
    assert (folder / "seed0-2/metrics.json").exists()


def test_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(whole, tmp_path, monkeypatch, capsys):
    size = (whole / "checkpoints/last.ckpt").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self):
        if self.current_epoch == 2:  # no file may grow beyond half a checkpoint from here on
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))

    try:
        with monkeypatch.context() as patch:
            patch.setattr("razh.methods.razh.RAZH.on_train_epoch_start", full)
            assert main(arguments(tmp_path / "run")) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "cannot write checkpoint" in errors[0]
    assert "make room" in errors[0]
    assert not list((tmp_path / "run").rglob("*part"))
    assert main(arguments(tmp_path / "run")) == 0
    same_end(whole, tmp_path / "run")


@pytest.mark.slow
def test_second_job_is_refused_while_the_first_one_works(start, tmp_path, capsys):
    first = start(arguments(tmp_path / "run", "--trainer.max_epochs=1000"))
    waited = time.monotonic() + 60
    while not (tmp_path / "run/metrics.csv").exists():
        assert time.monotonic() < waited, (tmp_path / "log").read_text()
        assert first.is_alive(), (tmp_path / "log").read_text()
        time.sleep(0.05)
    assert main(arguments(tmp_path / "run", "--trainer.max_epochs=1000")) == 1
    assert "another run works in run_dir" in capsys.readouterr().err
    assert first.is_alive()


def test_job_of_slurm_is_requeued(tmp_path, monkeypatch):
    tool = tmp_path / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    assert not preemption.requeue()  # no job of SLURM
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert preemption.requeue()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert preemption.requeue()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not preemption.requeue()
    assert (tmp_path / "asked").read_text().split("\n")[:2] == ["requeue 17", "requeue 12_3"]


def test_requeue_that_fails_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not preemption.requeue()


def test_errors_of_workers_that_a_signal_ended_are_a_request_to_stop(monkeypatch):
    def behind(error):
        try:
            try:
                raise preemption.Stopped(signal.SIGTERM)
            except preemption.Stopped:
                raise error  # noqa: B904 - as torch does it
        except RuntimeError as met:
            return preemption.stop_behind(met)

    assert behind(RuntimeError("anything")).code == 143
    ended = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    assert preemption.stop_behind(ended).code == 143
    assert preemption.stop_behind(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")) is None
    assert preemption.stop_behind(RuntimeError("anything")) is None

    def main_with(error):
        def dispatch(arguments):
            raise error

        monkeypatch.setattr("razh.cli.main._dispatch", dispatch)
        return main([])

    with pytest.raises(preemption.Stopped):
        main_with(ended)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main_with(RuntimeError("a fault of ours"))
