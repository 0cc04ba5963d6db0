"""Being told to stop: SIGTERM, Ctrl-C, and the signal that SLURM sends before it takes a node away."""

import contextlib
import ctypes
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)
log = logging.getLogger(__name__)
REQUEUE = getattr(signal, "SIGUSR1", None)  # `sbatch --signal=USR1@120`
SIGNALS = tuple(s for s in (signal.SIGTERM, signal.SIGINT, REQUEUE) if s is not None)


class Stopped(SystemExit):
    """The run was told to stop and has done so; the exit status is 128 + signal, as shells have it."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}"


class Listener:
    """Takes the signals while a run is at work.

    In training the first signal is only noted: the run asks for it after every batch, saves a checkpoint and stops.
    Everywhere else, and at the second signal, it stops at once; what is written is written whole, so nothing is lost.
    """

    def __init__(self) -> None:
        self.training = False
        self.asked: int | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Listener":
        global _active
        _active = self
        self._before = {signum: signal.getsignal(signum) for signum in SIGNALS} if _in_main_thread() else {}
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        global _active
        _active = None
        for signum, handler in self._before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)

    def install(self) -> None:
        """Take the signals (again: Lightning puts handlers of its own in front, which stop one rank of many)."""
        if self._before:
            for signum in SIGNALS:
                signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.training and self.asked is None:
            self.asked = signum
            log.info("%s: stopping after this batch, with a checkpoint", signal.Signals(signum).name)
        elif signum == signal.SIGINT and os.getpid() != self._process:
            raise KeyboardInterrupt  # a process that loads images: it ends without a word then
        else:
            raise Stopped(signum)  # no KeyboardInterrupt: Lightning ends with status 1 on it


_active: Listener | None = None


def listener() -> Listener:
    """Return the listener of the command at work; one that hears nothing outside of a command."""
    return _active if _active is not None else Listener()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def requeue() -> bool:
    """Ask SLURM to start this job again, if it is one; the first rank does it. Return whether it was asked."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or os.environ.get("SLURM_PROCID", "0") != "0":
        return False
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    command = shutil.which("scontrol")
    if command is None:
        log.warning("job %s is not requeued: no scontrol here; start the same command again", job)
        return False
    done = subprocess.run([command, "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("job %s is not requeued: scontrol says %s", job, done.stderr.strip() or done.returncode)
        return False
    log.info("job %s is requeued: it goes on from the checkpoint", job)
    return True


def end(processes: Sequence["subprocess.Popen[bytes]"], grace: float = 5.0) -> None:
    """End ranks that this process started, after it has failed: they may wait in a collective for ever."""
    for process in processes:
        process.terminate()
    for process in processes:
        _wait_or_kill(process, grace)


def _wait_or_kill(process: "subprocess.Popen[bytes]", grace: float) -> None:
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()


def end_with_parent() -> None:
    """Let this process be killed when the one that started it is gone (Linux only)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def behind(error: BaseException, kind: type[E]) -> E | None:
    """Return the error of a kind that this one was raised from or while handling, itself included; None: no such."""
    met: BaseException | None = error
    while met is not None and not isinstance(met, kind):
        met = met.__cause__ or met.__context__
    return met


def stop_behind(error: BaseException) -> Stopped | None:
    """Return the request to stop that an error comes from, if it does.

    A signal to all processes of a job also ends the workers that load images, and each of them is an error of its own.
    """
    met = behind(error, Stopped)
    if met is None and re.search(r"DataLoader worker .* killed by signal: Terminated", str(error)):
        return Stopped(signal.SIGTERM)
    return met


def lost_peer(error: BaseException) -> bool:
    """Tell whether an error only says that another rank is gone."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "by peer" in text or "Connection refused" in text or type(error).__name__ == "DistBackendError"
    )
