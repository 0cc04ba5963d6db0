"""Jobs in processes of their own, several at a time; what is done stays done, whatever happens."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from razh.benchmark import warm
from razh.benchmark.cells import LOG, Job
from razh.processes import cores
from razh.progress import readable_time

__all__ = ["PROGRAM", "Outcome", "Runner", "claimed"]

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "razh")
POLL = 0.1  # seconds between two looks at the processes
GRACE = 30.0  # seconds that a process has to save its checkpoint when it is told to stop
INHERITED = ("RAZH_RUN_DIR", "RAZH_RESUME", "LOCAL_RANK", "RANK", "WORLD_SIZE")  # belong to the process that has them


@dataclass(frozen=True)
class Outcome:
    """What became of the jobs: how many were there already, were computed, failed, or were not come to."""

    kept: int
    computed: int
    failed: list[Job]
    left: int
    stopped: bool = False


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes] | warm.Forked
    log: IO[bytes]
    started: float
    offset: int


@dataclass
class Runner:
    """Starts jobs and minds them.

    Attributes:
        workers: processes at a time.
        program: what a job's command and arguments are given to; the default one is forked from a process that has
            imported it, where the system lets that work.
        gpus: ids for CUDA_VISIBLE_DEVICES, shared out among the workers; empty: each process sees what this one sees.
        keep_checkpoints: of jobs that are done; without them a benchmark of hundreds of cells fits on a disk.
    """

    workers: int = 1
    program: Sequence[str] = PROGRAM
    gpus: Sequence[str] = ()
    keep_checkpoints: bool = False
    _times: dict[str, list[float]] = field(default_factory=dict)
    _server: warm.ForkServer | None = None

    def run(self, jobs: Sequence[Job], what: str = "cells", done: Callable[[Job], str] = lambda job: "") -> Outcome:
        """Run what is not done yet.

        Jobs that failed are started from nothing, those that were interrupted go on. A failing one stops no other.
        Ctrl-C (or SIGTERM) tells the processes to save and stop, and returns.

        Args:
            jobs: in the order in which they are started.
            what: they are called in messages.
            done: words for a job that has just been computed.
        """
        kept = [job for job in jobs if job.state == "done"]
        pending = deque(job for job in jobs if job.state != "done")
        for job in kept:
            self._remember(job)
        if kept:
            log.info("%d of %d %s are done already", len(kept), len(jobs), what)
        running: dict[int, _Running] = {}
        computed: list[Job] = []
        failed: list[Job] = []
        told = False
        with self._interrupts(), self._serving():
            try:
                waited: set[str] = set()
                while pending or running:
                    for slot in range(self.workers):
                        found = self._next(pending, waited) if slot not in running else None
                        if found is not None and found.state == "done":  # by a process that an earlier start had left
                            kept.append(found)
                        elif found is not None:
                            running[slot] = self._start(found, slot)
                    for slot in [s for s, r in running.items() if r.process.poll() is not None]:
                        self._finish(
                            running.pop(slot), computed, failed, done, (len(jobs), len(kept), pending, running)
                        )
                    if pending or running:
                        time.sleep(POLL)
            except KeyboardInterrupt:
                told = True
                self._stop(list(running.values()))
        left = len(jobs) - len(kept) - len(computed) - len(failed)
        return Outcome(len(kept), len(computed), failed, left, told)

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Let SIGTERM do what Ctrl-C does."""

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        """Close the fork server, if one was needed."""
        try:
            yield
        finally:
            self._end_server()

    def _end_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    @staticmethod
    def _next(pending: deque[Job], waited: set[str]) -> Job | None:
        """Return the first job whose folder is free; one that is busy is left for later."""
        for _ in range(len(pending)):
            job = pending.popleft()
            if not job.busy:
                return job
            if job.name not in waited:
                log.info(
                    "%s: a process of an earlier start is still at work in %s; waiting for it", job.name, job.folder
                )
                waited.add(job.name)
            pending.append(job)
        return None

    def _start(self, job: Job, slot: int) -> _Running:
        about = job.about()
        spent = {"attempts": int(about.get("attempts", 0)) + 1, "seconds": about.get("seconds", 0.0)}
        if job.state == "failed":
            job.clear()
        job.folder.mkdir(parents=True, exist_ok=True)
        job.note(state="running", error="", **spent)
        file = (job.folder / LOG).open("ab")
        offset = file.seek(0, os.SEEK_END)
        return _Running(job, self._launch(job, slot, file), file, time.monotonic(), offset)

    def _launch(self, job: Job, slot: int, file: IO[bytes]) -> subprocess.Popen[bytes] | warm.Forked:
        """Start a process in a session of its own: Ctrl-C comes to us alone, and we tell it."""
        environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // self.workers)))
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        if warm.AVAILABLE and self.program == PROGRAM:
            if self._server is None or not self._server.alive:
                self._end_server()
                self._server = warm.ForkServer(environment, file)
            return self._server.fork([job.command, *job.arguments], job.folder / LOG, gpu)
        return subprocess.Popen(
            [*self.program, job.command, *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment | gpu,
            start_new_session=True,
            preexec_fn=warm.die_with_parent if sys.platform == "linux" else None,  # safe: we have no threads
        )

    def _finish(
        self,
        ended: _Running,
        computed: list[Job],
        failed: list[Job],
        done: Callable[[Job], str],
        progress: tuple[int, int, deque[Job], dict[int, _Running]],
    ) -> None:
        job, status = ended.job, ended.process.wait()
        ended.log.close()
        seconds = time.monotonic() - ended.started
        job.note(seconds=round(float(job.about().get("seconds", 0.0)) + seconds, 2))
        good = status == 0 and job.state == "done"
        total, kept, pending, running = progress
        if good:
            job.note(state="done")
            computed.append(job)
            self._remember(job)
            if not self.keep_checkpoints:
                for path in (job.folder / "checkpoints").glob("*.ckpt"):
                    path.unlink()
            words = done(job)
        else:
            killed = status < 0 or status >= 128
            reason = f"killed by signal {abs(status) % 128}" if killed else job.reason(ended.offset)
            if status == warm.LOST:
                reason = "the process that cells are forked from has died"
            if status == 0:
                reason = "ended well, but left no result"
            job.note(state="interrupted" if killed else "failed", error=reason)
            failed.append(job)
            words = f"failed ({reason}), see {job.folder / LOG}"
        count = kept + len(computed) + len(failed)
        left = self._estimate([*pending, *(r.job for r in running.values())], [r.started for r in running.values()])
        log.info(
            "[%*d/%d] %s: %s%s%s", len(str(total)), count, total, job.name, f"{words}, " if good and words else "",
            f"{seconds:.0f} s" if good else words, f"; about {left} left" if left else "",
        )  # fmt: skip

    def _remember(self, job: Job) -> None:
        seconds = job.about().get("seconds")
        if seconds:
            self._times.setdefault(job.group, []).append(float(seconds))

    def _estimate(self, jobs: Sequence[Job], started: Sequence[float]) -> str:
        """Return how long the rest takes: the mean of a job's group, or of all jobs, shared out among the workers."""
        every = [seconds for times in self._times.values() for seconds in times]
        if not jobs or not every:
            return ""
        usual = sum(every) / len(every)
        means = {group: sum(times) / len(times) for group, times in self._times.items()}
        now = time.monotonic()
        rest = sum(means.get(job.group, usual) for job in jobs) - sum(now - start for start in started)
        return readable_time(max(0.0, rest) / min(self.workers, len(jobs)))

    @staticmethod
    def _stop(running: list[_Running]) -> None:
        """Tell the processes to save and stop, and wait; a second Ctrl-C, or too long a wait, kills them."""
        log.info("stopping %d processes; once more to kill them", len(running))
        for one in running:
            _signal(one.process, signal.SIGTERM, group=False)
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            deadline = time.monotonic() + GRACE
            for one in running:
                one.process.wait(max(0.0, deadline - time.monotonic()))
        for one in running:
            _signal(one.process, signal.SIGKILL, group=True)
            one.process.wait()
            one.log.close()
            if one.job.state != "done":
                one.job.note(state="interrupted")


def _signal(process: subprocess.Popen[bytes] | warm.Forked, signum: int, *, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        if group:
            os.killpg(process.pid, signum)
        elif process.poll() is None:
            os.kill(process.pid, signum)


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold the folder of a benchmark: two of them in one folder would start the same cells.

    Raises:
        OSError: another benchmark works there, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".benchmark.lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(f"another benchmark works in out={out}; wait for it, or pass another --out") from None
    except OSError as error:
        raise OSError(f"cannot write to out={out}: {error.strerror or error}; pass another --out") from error
    try:
        yield
    finally:
        lock.release()
