"""Processes that are forked from one that has imported everything: imports take longer than most of what is tested."""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

import torch

from razh.cli.main import main
from razh.method import HashingMethod

SMALL = [
    "--data.seen_classes=10",
    "--data.unseen_classes=4",
    "--data.images_per_class=12",
    "--data.image_size=32",
    "--trainer.max_epochs=2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--figures.enabled=false",
    "--measures.enabled=false",
    "--backbone=test-vit",
    "--bits=12",
]
"""A run that ends in seconds, whatever is trained."""

FORKS = multiprocessing.get_context("forkserver")
PRELOAD = ["tests.warm"]
FORKS.set_forkserver_preload(PRELOAD)


def start_server():
    """Start what processes are forked from; who asks first says what is loaded there, and a benchmark asks for less."""
    FORKS.set_forkserver_preload(PRELOAD)
    forkserver.ensure_running()


def forked(target, *arguments, log=os.devnull, cwd=None, env=None):
    """Return a process that is not started yet; `log`, `cwd` and `env` are those of a `subprocess`."""
    place = (str(log), os.getcwd() if cwd is None else str(cwd), dict(os.environ if env is None else env))
    return FORKS.Process(target=_run, args=(*place, target, arguments))


def _run(log, cwd, env, target, arguments):
    os.environ.clear()  # the server may have started long ago
    os.environ.update(env)
    os.chdir(cwd)
    torch.set_num_threads(1)
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    target(*arguments)


def run_forked(command, env, stdout, **_):
    """Be `subprocess.run` for `python -m razh …`, whose words go to a file."""
    assert command[:3] == [sys.executable, "-m", "razh"]
    process = forked(razh, *command[3:], log=stdout.name, env=env)
    process.start()
    process.join()
    return SimpleNamespace(returncode=process.exitcode)


def razh(*arguments):
    """Be the command `razh`."""
    raise SystemExit(main(list(arguments)))


def module(name, *arguments):
    """Be `python -m NAME ARGUMENTS`, also for those that start themselves again on other devices."""
    sys.argv[1:] = arguments
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def ranks(size, arguments, folder, signals=None, fails=""):
    """Run a command on some ranks, as torchrun would, and return their exit statuses; what they say is in log0, …

    Args:
        size: Number of ranks.
        arguments: Words of the command, without devices and strategy.
        folder: Folder of the logs.
        signals: Number of the step in which a rank is told to stop, by rank.
        fails: Value of RAZH_TEST_FAILS, see `tests.failing`.
    """
    port = free_port()
    started = [
        forked(_rank, rank, size, port, arguments, signals or {}, fails, log=folder / f"log{rank}")
        for rank in range(size)
    ]
    for rank in started:
        rank.start()
    until = time.monotonic() + 120
    for rank in started:
        rank.join(max(until - time.monotonic(), 0))
    hanging = [number for number, rank in enumerate(started) if rank.is_alive()]
    for rank in started:
        rank.kill()
    assert not hanging, said(folder)
    return [rank.exitcode for rank in started]


def said(folder):
    """Return the end of what each rank said."""
    return "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("log*")))


def _rank(rank, size, port, arguments, signals, fails):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "GROUP_RANK": "0"}
    os.environ |= {"LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "False", "RAZH_TEST_FAILS": fails}
    if rank in signals:
        from razh.method import HashingMethod

        step, calls = HashingMethod.training_step, [0]

        def told(self, *args):
            calls[0] += 1
            if calls[0] == signals[rank]:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(self, *args)

        HashingMethod.training_step = told
    razh(*arguments, f"--trainer.devices={size}", "--trainer.strategy=ddp")


def count_slowly(batches, pause):
    """Make every batch that is encoded take `pause` seconds longer, and write how many there were to a file."""
    call, done = HashingMethod.finite_logits, []

    def finite_logits(self, batch):
        time.sleep(pause)
        done.append(len(batch["image"]))
        batches.write_text(str(len(done)))
        return call(self, batch)

    HashingMethod.finite_logits = finite_logits
