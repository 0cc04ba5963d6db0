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

from razh.benchmark.cells import train_job
from razh.benchmark.grid import grid_file, read_grid
from razh.benchmark.runner import Runner
from razh.benchmark.warm import AVAILABLE, LOST, ForkServer
from tests.benchmark import fake

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not AVAILABLE, reason="cells are not forked on this system")]
SMALL = {"data.images_per_class": 6, "trainer.accelerator": "cpu"}


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(fake.ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A fork server, which has nothing to say itself."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("ab") as file:
        server = ForkServer({**os.environ, "OMP_NUM_THREADS": "1"}, file)
    yield server
    server.close()
    assert log.read_text() == ""


@pytest.fixture
def log(tmp_path):
    """The log of a process, which the runner has made."""
    file = tmp_path / "log.txt"
    file.write_text("before\n")
    return file


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
        [forking] = children(process.pid)
        [cell] = children(forking)
        return process, forking, cell, folder

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def children(process):
    with open(f"/proc/{process}/task/{process}/children") as file:
        return [int(child) for child in file.read().split()]


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
    outcome = Runner().run(jobs)
    assert (outcome.computed, outcome.failed) == (len(seeds), [])
    last = jobs[-1]
    alone = tmp_path / "alone"
    arguments = [argument for argument in last.arguments if not argument.startswith("--run_dir=")]
    command = [sys.executable, "-m", "razh", last.command, *arguments, f"--run_dir={alone}"]
    subprocess.run(command, check=True, capture_output=True)
    assert result(last.folder) == result(alone)


def test_a_forked_process_ends_like_a_fresh_one(server, log):
    good, bad = server.fork(["--version"], log, {}), server.fork(["nonsense"], log, {})
    raising = server.fork(["nonsense"], log, {"RAZH_DEBUG": "1"})
    wait_for(lambda: "ValueError" in log.read_text(), "no traceback")
    for process in (good, bad, raising):
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    assert [process.wait(60) for process in (good, bad, raising)] == [0, 1, 1]
    text = log.read_text()
    assert text.startswith("before\n")
    assert "\nrazh 0." in text
    assert "\nerror: command 'nonsense' is unknown" in text
    assert text.count("Traceback (most recent call last)") == 1
    assert server.alive


def test_a_signal_is_a_negative_status_and_waiting_has_an_end(server, log, tmp_path):
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    arguments = ["fit", "--dataset=synthetic", "--method=ce", "--backbone=tiny", *options]
    process = server.fork([*arguments, f"--run_dir={tmp_path / 'run'}", "--trainer.max_epochs=100000"], log, {})
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert process.poll() == -signal.SIGKILL


def test_an_answer_that_ctrl_c_has_cut_off_is_not_taken_for_another(server, log):
    first = server.fork(["nonsense"], log, {})
    wait_for(lambda: "error" in log.read_text(), "it does not end")
    time.sleep(0.5)
    for _ in range(2):  # asked, and interrupted before the answer
        server._asked += 1
        server._channel.send(json.dumps([server._asked, first.pid]).encode())
    second = server.fork(["--version"], log, {})
    assert second.pid != first.pid
    assert (first.wait(60), second.wait(60)) == (1, 0)


def test_a_signal_to_all_processes_does_not_end_the_server(server, log):
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        os.kill(server._process.pid, signum)
    assert server.fork(["--version"], log, {}).wait(60) == 0


def test_processes_of_a_dead_server_are_lost(log):
    with log.open("ab") as file:
        server = ForkServer(os.environ, file)
    os.kill(server._process.pid, signal.SIGKILL)
    assert server.fork(["--version"], log, {}).wait(60) == LOST
    assert server.status(os.getpid()) == LOST
    assert not server.alive
    server.close()


def test_ctrl_c_lets_a_forked_cell_save(endless, tmp_path):
    process, forking, cell, folder = endless("--trainer.max_epochs=100000")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not alive(forking)
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
    process, forking, cell, folder = endless("--trainer.max_epochs=20")
    os.kill(forking, signal.SIGKILL)
    assert process.wait(120) == 1
    assert not alive(cell)
    assert states(tmp_path / "out") == ["interrupted", "done"]
    assert "forked from has died" in json.loads((folder / "cell.json").read_text())["error"]
