"""Jobs in processes of their own, several at a time; what is done stays done, whatever happens."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from razh.benchmark.jobs import LOG, Job
from razh.run.folder import CHECKPOINTS, LAST
from razh.support.processes import cores
from razh.support.progress import readable_time

__all__ = ["Outcome", "Program", "Runner", "claimed", "razh"]

log = logging.getLogger(__name__)

Program = Callable[[list[str]], None]
POLL = 0.1  # seconds between two looks at the processes
SAFE = {"PYTHONSAFEPATH": "1"}  # what is forked from imports nothing of the current folder
LOST = 255  # exit status that multiprocessing reports where nobody knows it
GRACE = 30.0  # seconds that a process has to save its checkpoint when it is told to stop
INHERITED = ("RAZH_RUN_DIR", "RAZH_RESUME", "LOCAL_RANK", "RANK", "WORLD_SIZE")  # belong to the process that has them


def razh(arguments: list[str]) -> None:
    """Do what `python -m razh ARGUMENTS` does in a fresh process."""
    sys.argv[1:] = arguments
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd())  # as -m does; `razh` takes it out
    runpy.run_module("razh", run_name="__main__", alter_sys=True)


def _work(program: Program, arguments: list[str], file: Path, environment: Mapping[str, str]) -> None:
    """Be a process of a benchmark: with a session and a log of its own, and an end with the benchmark's."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C comes to the benchmark alone, which tells its processes
    os.environ.clear()  # what it is forked from may have started long ago
    os.environ.update(environment)
    handle = os.open(file, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        program(arguments)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends processes without them


def _end_with_parent() -> None:
    """Stop, with a checkpoint, if the benchmark was killed outright."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@dataclass
class Outcome:
    """What became of the jobs that were not done before, and whether it came to all of them."""

    computed: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)
    stopped: bool = False


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    started: float
    offset: int


@dataclass
class Runner:
    """Starts jobs and minds them.

    Attributes:
        workers: processes at a time.
        program: what a job's command and arguments are given to, in a process of its own.
        gpus: ids for CUDA_VISIBLE_DEVICES, shared out among the workers; empty: each process sees what this one sees.
        keep_checkpoints: of jobs that are done; without them a benchmark of hundreds of cells fits on a disk.
    """

    workers: int = 1
    program: Program = razh
    gpus: Sequence[str] = ()
    keep_checkpoints: bool = False

    def run(self, jobs: Sequence[Job], what: str = "cells", done: Callable[[Job], str] = lambda job: "") -> Outcome:
        """Run what is not done yet.

        Jobs that failed are started from nothing, those that were interrupted go on. A failing one stops no other.
        Ctrl-C (or SIGTERM) tells the processes to save and stop, and returns.

        Args:
            jobs: in the order in which they are started.
            what: they are called in messages.
            done: words for a job that has just been computed.
        """
        pending = [job for job in jobs if job.state != "done"]
        if len(pending) < len(jobs):
            log.info("%d of %d %s are done already", len(jobs) - len(pending), len(jobs), what)
        outcome, waited, running, began = Outcome(), set[str](), dict[int, _Running](), time.monotonic()
        with _surroundings({"OMP_NUM_THREADS": str(max(1, cores() // self.workers)), **SAFE}):
            context = self._context()
            try:
                while pending or running:
                    for slot in set(range(self.workers)) - running.keys():
                        if (free := _first_free(pending, waited)) is not None:
                            running[slot] = self._start(context, free, slot)
                    for slot in [s for s, r in running.items() if r.process.exitcode is not None]:
                        ended = running.pop(slot)
                        words = self._finish(ended, outcome, done)
                        rest = len(pending) + len(running)
                        if rest:
                            usual = (time.monotonic() - began) / (len(outcome.computed) + len(outcome.failed))
                            words += f"; about {readable_time(usual * rest)} left"
                        log.info(
                            "[%*d/%d] %s: %s", len(str(len(jobs))), len(jobs) - rest, len(jobs), ended.job.name, words
                        )
                    time.sleep(POLL if pending or running else 0)
            except KeyboardInterrupt:
                outcome.stopped = True
                _stop(list(running.values()))
        return outcome

    def _context(self) -> Any:
        """Return how processes are started: forked from one that has imported what a run needs, where it can be."""
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
        if forks and self.program is razh:
            context.set_forkserver_preload(["razh.benchmark.preloaded"])
        return context

    def _start(self, context: Any, job: Job, slot: int) -> _Running:
        about = job.about()
        if job.state == "failed":
            job.clear()
        job.folder.mkdir(parents=True, exist_ok=True)
        attempts, seconds = int(about.get("attempts", 0)) + 1, about.get("seconds", 0.0)
        job.note(state="running", error="", attempts=attempts, seconds=seconds)
        (job.folder / LOG).touch()
        environment = {name: value for name, value in os.environ.items() if name not in (*INHERITED, *SAFE)}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        work = (self.program, [job.command, *job.arguments], job.folder / LOG, environment)
        process = context.Process(target=_work, args=work)
        process.start()
        return _Running(job, process, time.monotonic(), (job.folder / LOG).stat().st_size)

    def _finish(self, ended: _Running, outcome: Outcome, done: Callable[[Job], str]) -> str:
        """Note what became of a job, and return it in words."""
        job, status = ended.job, ended.process.exitcode or 0
        seconds = time.monotonic() - ended.started
        job.note(seconds=round(float(job.about().get("seconds", 0.0)) + seconds, 2))
        if status == 0 and job.state == "done":
            job.note(state="done")
            outcome.computed.append(job)
            for at, name in itertools.product(() if self.keep_checkpoints else CHECKPOINTS, ("best.ckpt", *LAST)):
                job.folder.joinpath(*at, name).unlink(missing_ok=True)
            return ", ".join(part for part in (done(job), f"{seconds:.0f} s") if part)
        killed = status < 0 or status >= 128
        reason = f"killed by signal {abs(status) % 128}" if killed else job.reason(ended.offset)
        if status == 0:
            reason = "ended well, but left no result"
        if status == LOST:
            _kill(ended.process)  # it lives on, and nobody would know of its end
            reason = "the process that cells are forked from has died"
        job.note(state="interrupted" if killed else "failed", error=reason)
        outcome.failed.append(job)
        return f"failed ({reason}), see {job.folder / LOG}"


def _first_free(pending: list[Job], waited: set[str]) -> Job | None:
    """Take the first job whose folder is free; one that is busy is left for later, and may be done by then."""
    for job in list(pending):
        if job.busy:
            if job.name not in waited:
                words = "%s: a process of an earlier start is still at work in %s; waiting for it"
                log.info(words, job.name, job.folder)
            waited.add(job.name)
            continue
        pending.remove(job)
        if job.state != "done":
            return job
    return None


@contextlib.contextmanager
def _surroundings(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment where the user has not, and let SIGTERM do what Ctrl-C does."""
    missing = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(missing)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        for name in missing:
            del os.environ[name]


def _stop(running: list[_Running]) -> None:
    """Tell the processes to save and stop, and wait; a second Ctrl-C, or too long a wait, kills them."""
    log.info("stopping %d processes; once more to kill them", len(running))
    for one in running:
        one.process.terminate()
    with contextlib.suppress(KeyboardInterrupt):
        deadline = time.monotonic() + GRACE
        for one in running:
            one.process.join(max(0.0, deadline - time.monotonic()))
    for one in running:
        _kill(one.process)
        if one.job.state != "done":
            one.job.note(state="interrupted")


def _kill(process: BaseProcess) -> None:
    """End a process, and those that it has started, which may have outlived it."""
    if process.pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def claimed(out: Path) -> contextlib.AbstractContextManager[object]:
    """Hold the folder of a benchmark: two of them in one folder would start the same cells.

    Raises:
        OSError: another benchmark works there, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        return FileLock(out / ".benchmark.lock").acquire(timeout=0)
    except Timeout:
        raise OSError(f"another benchmark works in out={out}; wait for it, or pass another --out") from None
    except OSError as error:
        raise OSError(f"cannot write to out={out}: {error.strerror or error}; pass another --out") from error
