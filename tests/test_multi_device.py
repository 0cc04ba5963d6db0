"""Several processes on one machine (gloo): the same figures as one, a stop, a failure, and launchers."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from razh.cli.main import main
from razh.run import devices
from tests.failing import HOW
from tests.processes import SMALL, forked, free_port, module, said

ROOT = Path(__file__).resolve().parents[1]
# Everything of RAZH that does not draw random numbers or take the first images of a batch.
BATCH_TERMS = [
    "--method=razh",
    "--model.weights.attributes=0",  # what is read of attributes is dropped out at random, differently on each device
    "--model.parts.order=parts_first",
    "--model.weights.balance=1",
    "--model.weights.pairwise=1",
]
pytestmark = pytest.mark.ddp


def history(folder):
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def state(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the folder of a run of one process, batches of 12 images."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert main(["train", *SMALL, "--method=ce", "--data.batch_size=12", f"--run_dir={folder}"]) == 0
    return folder


@pytest.mark.slow
def test_same_global_batches_give_the_same_training(job, alone, tmp_path):
    """DDP sums in another order, so weights agree to rounding, and the rankings with them."""
    size = 3
    given = ["train", *SMALL, "--method=ce", f"--data.batch_size={12 // size}", f"--run_dir={tmp_path / 'run'}"]
    assert job(size, *given) == [0] * size, said(tmp_path)
    for one, many in zip(history(alone), history(tmp_path / "run"), strict=True):
        assert many == pytest.approx(one, abs=1e-3)
        assert many["train/loss"] == pytest.approx(one["train/loss"], abs=1e-5)
    together = state(tmp_path / "run")
    for name, values in state(alone).items():
        assert torch.allclose(values.float(), together[name].float(), atol=1e-3), name


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_same_weights_give_the_same_evaluation_bit_for_bit(job, alone, tmp_path, size):
    checkpoint = f"--ckpt_path={alone / 'checkpoints/best.ckpt'}"
    assert job(size, "test", *SMALL, "--method=ce", checkpoint, f"--run_dir={tmp_path / 'run'}") == [0] * size
    one, many = (json.loads((f / "metrics.json").read_text()) for f in (alone, tmp_path / "run"))
    same = [name for name in one if name.startswith(("test/", "codes/", "split/"))]
    assert len(same) > 20
    assert all(one[name] == many[name] for name in same)
    assert many["environment/devices"] == size
    first, second = (np.load(f / "codes.npz") for f in (alone, tmp_path / "run"))
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


@pytest.mark.slow
def test_terms_over_the_batch_are_those_of_the_whole_batch(job, tmp_path):
    given = ["train", *SMALL, *BATCH_TERMS]
    assert main([*given, "--data.batch_size=12", f"--run_dir={tmp_path / 'one'}"]) == 0
    assert job(2, *given, "--data.batch_size=6", f"--run_dir={tmp_path / 'two'}") == [0, 0], said(tmp_path)
    for one, two in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        for term in ("balance", "pairwise", "similarity", "presence", "loss"):
            assert two[f"train/{term}"] == pytest.approx(one[f"train/{term}"], rel=1e-4, abs=1e-5), term
    together = state(tmp_path / "two")
    for name, values in state(tmp_path / "one").items():
        assert torch.allclose(values.float(), together[name].float(), atol=2e-3), name


@pytest.mark.slow
def test_one_rank_is_told_to_stop_and_all_of_them_do_and_go_on(job, tmp_path):
    """With random branches: each rank goes on with its own random numbers."""
    given = ["train", *SMALL, "--method=razh", "--data.batch_size=4"]
    assert job(2, *given, f"--run_dir={tmp_path / 'whole'}") == [0, 0], said(tmp_path)
    stop = 128 + signal.SIGTERM
    assert job(2, *given, f"--run_dir={tmp_path / 'run'}", signals={1: 9}) == [stop, stop], said(tmp_path)
    assert not (tmp_path / "run/metrics.json").exists()
    assert job(2, *given, f"--run_dir={tmp_path / 'run'}") == [0, 0], said(tmp_path)
    saved = torch.load(tmp_path / "whole/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    first, second = next(of["random"] for of in saved.values() if "random" in of)
    assert not torch.equal(first["torch"], second["torch"])  # else both would hide and choose the same
    whole, parted = state(tmp_path / "whole"), state(tmp_path / "run")
    assert all(torch.equal(values, parted[name]) for name, values in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rank", [0, 1])
def test_rank_that_dies_takes_the_others_with_it(job, tmp_path, rank, how):
    given = ["train", *SMALL, "--method=ce", "--model=tests.failing.FailsOnOneRank", "--data.batch_size=8"]
    statuses = job(2, *given, f"--run_dir={tmp_path / 'run'}", fails=f"{rank} {how}")
    assert statuses[1 - rank] == 1, said(tmp_path)
    assert statuses[rank] == (1 if how == "raises" else -signal.SIGKILL)
    assert "another process of this run has died" in (tmp_path / f"log{1 - rank}").read_text()
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.slow
def test_launcher_ends_with_the_error_of_a_rank(tmp_path):
    """With Lightning's own launcher; the error of the rank that failed is there to be read."""
    command = ["razh", "train", *SMALL, "--method=ce", "--model=tests.failing.FailsOnOneRank"]
    command += ["--data.batch_size=8", "--trainer.devices=2", f"--run_dir={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAZH_TEST_FAILS": "1 raises", "PYTHONPATH": str(ROOT)}
    launcher = forked(module, *command, log=tmp_path / "log", cwd=ROOT, env=environment)
    launcher.start()
    launcher.join(200)
    assert launcher.exitcode not in (0, None)
    errors = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error")]
    assert "error on rank 1: image 17 is not to my taste" in errors
    assert not (tmp_path / "run/metrics.json").exists()


@pytest.mark.slow
def test_two_nodes_of_torchrun(alone, tmp_path):
    """Two launchers on one machine, each with one process: what two nodes do."""
    given = ["-m", "razh", "train", *SMALL, "--method=ce", "--data.batch_size=6", "--trainer.devices=1"]
    given += ["--trainer.num_nodes=2", "--trainer.strategy=ddp", f"--run_dir={tmp_path / 'run'}"]
    run = ["torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    run += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    logs = tmp_path / "logs"
    logs.mkdir()
    nodes = [
        forked(module, *run, f"--node_rank={node}", *given, log=logs / f"log{node}", cwd=ROOT, env=environment)
        for node in (1, 0)
    ]
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            node.join(200)
    finally:
        for node in nodes:
            node.kill()
    assert [node.exitcode for node in nodes] == [0, 0], said(logs)
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["environment/nodes"] == 2
    for one, many in zip(history(alone), history(tmp_path / "run"), strict=True):
        assert many["train/loss"] == pytest.approx(one["train/loss"], abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "run"]


def fake_machine(monkeypatch, gpus, bf16=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)


class Options:
    """The trainer options that are checked."""

    num_nodes, sync_batchnorm = 1, False

    def __init__(self, accelerator="auto", devices="auto", precision="32-true"):
        self.accelerator, self.devices, self.precision = accelerator, devices, precision


ALLOWED = [
    (0, Options()),
    (0, Options("cpu", 2)),
    (0, Options("auto", 2)),
    (1, Options("cpu", 4)),
    (1, Options("gpu", 1, "bf16-mixed")),
    (2, Options("gpu", "-1")),
    (2, Options("auto", [0, 1])),
    (4, Options("gpu", "1,3")),
]
REFUSED = [
    (0, Options("gpu", 1), "no GPU.*--trainer.accelerator=cpu"),
    (0, Options("cuda", "auto"), "no GPU"),
    (1, Options("gpu", 2), r"trainer\.devices=2: this machine has 1 GPU; pass --trainer.devices=1"),
    (1, Options("auto", 2), "--trainer.accelerator=cpu for 2 processes"),
    (2, Options("gpu", "0,2"), "2 GPUs, numbered from 0"),
    (2, Options("gpu", "two"), "not a number of devices"),
    (2, Options("gpu", "0,0"), "different numbers"),
    (2, Options("gpu", [0, -1]), "different numbers"),
    (2, Options("gpu", []), "different numbers"),
    (0, Options("cpu", -7), r"--trainer.devices=-7 must be a whole number from 1 to 1,024"),
    (0, Options("cpu", 0), r"--trainer.devices=0 must be"),
    (0, Options("cpu", 10**9), r"--trainer.devices=1000000000 must be"),
    (0, Options("auto", "-1"), "auto for one process"),
    (0, Options("cpu", "0,1"), "auto for one process"),
    (2, Options("gpu", -2), "auto for all"),
    (0, Options("cpu", 1, "16-mixed"), "no half precision.*trainer.precision=32-true"),
]


@pytest.mark.parametrize(("gpus", "options"), ALLOWED)
def test_devices_that_are_there(monkeypatch, gpus, options):
    fake_machine(monkeypatch, gpus)
    devices.check(options)


@pytest.mark.parametrize(("gpus", "options", "told"), REFUSED)
def test_devices_that_are_not_there(monkeypatch, gpus, options, told):
    fake_machine(monkeypatch, gpus)
    with pytest.raises(ValueError, match=told) as caught:
        devices.check(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_where_the_processor_has_it(monkeypatch, precision):
    fake_machine(monkeypatch, 0)
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: True)
    devices.check(Options("cpu", 1, precision))
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: False)
    with pytest.raises(ValueError, match="this CPU has no bf16"):
        devices.check(Options("cpu", 1, precision))
    fake_machine(monkeypatch, 1, bf16=False)
    with pytest.raises(ValueError, match=r"this GPU has no bf16; pass --trainer\.precision=16-mixed"):
        devices.check(Options("gpu", 1, precision))


def test_two_gpus_where_there_are_none_is_one_line(capsys):
    if torch.cuda.device_count() > 1:
        pytest.skip("this machine has two GPUs")
    assert main(["train", *SMALL, "--trainer.accelerator=gpu", "--trainer.devices=2"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "this machine has" in errors[0]


def test_batch_statistics_are_shared_on_gpus_only(monkeypatch, caplog):
    trained = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    frozen = torch.nn.Sequential(torch.nn.BatchNorm2d(2)).requires_grad_(False)
    fake_machine(monkeypatch, 2)
    assert devices.sync_batch_norm(trained, Options("gpu", "auto"))
    assert devices.sync_batch_norm(trained, Options("auto", "0,1"))
    assert not devices.sync_batch_norm(trained, Options("gpu", 1))
    assert not devices.sync_batch_norm(frozen, Options("gpu", 2))
    fake_machine(monkeypatch, 0)
    assert not devices.sync_batch_norm(trained, Options("cpu", 2))
    assert not devices.sync_batch_norm(trained, Options("cpu", 1))
