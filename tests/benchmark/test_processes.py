"""Forked cells are like fresh processes: results, signals, exit status. Nothing outlives the benchmark."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from razh.benchmark.grid import grid_file, read_grid
from razh.benchmark.jobs import train_job
from razh.benchmark.runner import Runner
from tests.benchmark import fake
from tests.processes import start_server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")]
WORLD = {"data.seen_classes": 6, "data.unseen_classes": 3, "data.images_per_class": 6}
SMALL = {**WORLD, "trainer.accelerator": "cpu"}


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(fake.ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def endless(tmp_path):
    """Return a function that starts a benchmark of cells that train until they are stopped, and waits for one.

    It gives the benchmark's process, the fork server's, the cell's, and the cell's folder.
    """
    common = [f"--out={tmp_path / 'out'}", "--methods=ce", "--bits=8", *(f"--{n}={v}" for n, v in SMALL.items())]
    started = []

    def start(*options):
        command = [sys.executable, "-m", "razh", "benchmark", "smoke", *common, *options]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        started.append(process)
        folder = tmp_path / "out" / "cells" / "ce" / "ps" / "8" / "seed0"
        wait_for((folder / "metrics.csv").is_file, "no cell trains")
        cell = json.loads((folder / "status.json").read_text())["process"]
        return process, parent(cell), cell, folder

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def parent(process):
    with open(f"/proc/{process}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def states(out):
    with (out / "cells.csv").open(newline="") as file:
        return [row["status"] for row in csv.DictReader(file)]


def result(folder):
    """Return metrics without times and memory, and the configuration without the folder's own name."""
    metrics = json.loads((folder / "metrics.json").read_text())
    clocks = ("time/", "memory/", "throughput/train_images_per_second")
    config = (folder / "config.yaml").read_text().replace(str(folder), "FOLDER")
    return {name: value for name, value in metrics.items() if not name.startswith(clocks)}, yaml.safe_load(config)


@pytest.mark.parametrize(
    ("method", "seeds", "options"),
    [
        ("itq", [0, 1], {}),
        ("razh", [1], {"data.num_workers": 1}),
        pytest.param("ce", [1], {"trainer.devices": 2, "trainer.strategy": "ddp"}, marks=pytest.mark.ddp),
    ],
)
def test_a_forked_cell_computes_what_the_command_computes(tmp_path, method, seeds, options):
    grid = read_grid(grid_file("smoke"), options=SMALL | options).narrowed([method], [8], seeds, None)
    jobs = [train_job(cell, tmp_path / "out") for cell in grid.cells()]
    start_server()
    outcome = Runner().run(jobs)
    assert (outcome.computed, outcome.failed) == (jobs, [])
    last = jobs[-1]
    alone = tmp_path / "alone"
    arguments = [argument for argument in last.arguments if not argument.startswith("--run_dir=")]
    command = [sys.executable, "-m", "razh", last.command, *arguments, f"--run_dir={alone}"]
    subprocess.run(command, check=True, capture_output=True)
    assert result(last.folder) == result(alone)


def test_ctrl_c_lets_a_forked_cell_save(endless, tmp_path):
    process, forking, cell, folder = endless("--trainer.max_epochs=100000")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    wait_for(lambda: not alive(forking), "the fork server lives on")
    assert not alive(cell)
    assert "SIGTERM: stopping after this batch, with a checkpoint" in (folder / "log.txt").read_text()
    assert list((folder / "checkpoints").glob("*.ckpt"))
    assert states(tmp_path / "out") == ["interrupted", "missing"]


def test_nothing_outlives_a_killed_benchmark(endless):
    process, forking, cell, folder = endless("--trainer.max_epochs=100000")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(forking), "the fork server lives on")
    wait_for(lambda: not alive(cell), "the cell lives on")
    assert "SIGTERM: stopping after this batch, with a checkpoint" in (folder / "log.txt").read_text()


def test_a_killed_server_costs_the_cell_at_work_and_the_next_one_gets_another(endless, tmp_path):
    process, forking, cell, folder = endless("--trainer.max_epochs=40")
    os.kill(forking, signal.SIGKILL)
    assert process.wait(120) == 1
    assert not alive(cell)
    assert states(tmp_path / "out") == ["interrupted", "done"]
    assert "forked from has died" in json.loads((folder / "cell.json").read_text())["error"]
