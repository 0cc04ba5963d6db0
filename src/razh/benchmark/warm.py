"""Processes forked from one that has imported what a run needs: most of a small cell's time is imports.

`ForkServer` is the benchmark's end. The server itself only imports, waits and forks: it computes nothing, touches no
GPU and has no threads but those of NumPy's BLAS, which is prepared for a fork. What it forks goes on like a fresh
`python -m razh …`, with a `__main__`, exit handlers and an exit status of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

__all__ = ["AVAILABLE", "LOST", "ForkServer", "Forked", "die_with_parent"]

AVAILABLE = sys.platform == "linux"  # on macOS, the system's libraries do not work in a process that is only forked
LOST = 256  # for the exit status of a process whose server has died; no real one is as large
POLL = 0.05  # seconds between two looks at a process that is waited for
SIZE = 1 << 18  # bytes of the longest message
PR_SET_PDEATHSIG = 1
SIGNALS = {signal.SIGTERM, signal.SIGINT, *(getattr(signal, n) for n in ("SIGHUP", "SIGUSR1") if hasattr(signal, n))}
# In the order of a fresh process, and no more: what comes first decides which of two equal types the parser sees
# (int | float or float | int), and a kernel that is loaded is preferred. The rest takes a tenth of a second.
MODULES = ("razh.cli", "razh.lightning_cli")


@dataclass
class Forked:
    """A process from a fork server; as much of `subprocess.Popen` as the runner needs."""

    server: ForkServer
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal that killed it) once it has ended."""
        if self.returncode is None:
            self.returncode = self.server.status(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        began = time.monotonic()
        while (status := self.poll()) is None:
            if timeout is not None and time.monotonic() - began >= timeout:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(POLL)
        return status


class ForkServer:
    """Starts a server, which lives until it is closed or this process ends; its own processes then get SIGTERM.

    Args:
        environment: of the processes; in force before anything is imported.
        log: takes what imports have to say.
    """

    def __init__(self, environment: Mapping[str, str], log: IO[bytes]) -> None:
        # A message is read whole or not at all: Ctrl-C cannot leave half of one behind.
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "razh.benchmark.warm", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._asked = 0

    @property
    def alive(self) -> bool:
        """Whether it can still fork."""
        return self._process.poll() is None

    def fork(self, arguments: Sequence[str], log: Path, variables: Mapping[str, str]) -> Forked:
        """Start `razh ARGUMENTS` in a session of its own.

        Args:
            arguments: a command and its arguments.
            log: both outputs are appended to it.
            variables: of the environment of this process alone.
        """
        pid = self._ask([list(arguments), str(log), dict(variables)])
        # Without an answer there is no process; signals for it may go to the server, which is dead.
        return Forked(self, pid) if pid is not None else Forked(self, self._process.pid, LOST)

    def status(self, pid: int) -> int | None:
        """Return how a process has ended, `LOST` if nobody can say; None while it runs."""
        answer = self._ask(pid)
        if answer is None:
            return LOST
        return int(answer[0]) if answer else None

    def _ask(self, request: Any) -> Any:
        """Return the answer to a request; None if the server has died."""
        self._asked += 1
        try:
            self._channel.send(json.dumps([self._asked, request]).encode())
            while message := self._channel.recv(SIZE):
                number, answer = json.loads(message)
                if number == self._asked:  # else to a request that Ctrl-C has broken off
                    return answer
        except OSError:
            pass
        self.close()
        return None

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()
        self._channel.close()


def die_with_parent() -> None:
    """Ask Linux to end this process, with a checkpoint, if the one that started it is killed outright."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _import_all() -> None:
    for name in MODULES:
        with contextlib.suppress(Exception):  # the run will say what is wrong
            importlib.import_module(name)
    gc.freeze()  # it stays for good: runs need not look through it, and share its memory
    sys.stdout.flush()


def _serve(channel: socket.socket) -> list[str] | None:
    """Fork a process for each request; return in each with its arguments, and with None when the benchmark is gone."""
    server = os.getpid()
    ended: dict[int, int] = {}  # kept, as an answer may get lost
    with channel, contextlib.suppress(ConnectionError), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)  # BLAS, again
        while message := channel.recv(SIZE):
            number, request = json.loads(message)
            answer: Any
            if isinstance(request, int):
                answer = _status(request, ended)
            elif not (answer := os.fork()):
                arguments, log, variables = request
                _settle(server, log, variables)
                return list(arguments)
            channel.send(json.dumps([number, answer]).encode())
    return None


def _status(pid: int, ended: dict[int, int]) -> list[int]:
    if pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended[pid] = os.waitstatus_to_exitcode(status)
    return [ended[pid]] if pid in ended else []


def _settle(server: int, log: str, variables: dict[str, str]) -> None:
    """Give a forked process what a fresh one has of its own."""
    os.setsid()
    die_with_parent()
    if os.getppid() != server:  # it was killed before we could ask
        os.kill(os.getpid(), signal.SIGTERM)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    os.environ.update(variables)
    import numpy as np

    np.random.seed()  # noqa: NPY002 - Python seeds its own generator anew by itself; torch's begins alike everywhere


def main() -> None:
    """Import, serve, and in forked processes run `razh`."""
    number = int(sys.argv[1])
    os.set_inheritable(number, False)
    # A signal to everything (scancel, docker stop) is for the benchmark and the cells; these must not lose the server.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _import_all()
    arguments = _serve(socket.socket(fileno=number))
    if arguments is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        sys.argv[1:] = arguments
        runpy.run_module("razh", run_name="__main__", alter_sys=True)  # what -m does, also for those who look back


if __name__ == "__main__":
    main()
