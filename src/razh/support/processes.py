"""What this machine lets processes do; light, since commands ask before they import torch."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

TAIL = 20_000  # bytes of a log that are looked through for the reason of a failure


@contextlib.contextmanager
def importing(module: str) -> Iterator[None]:
    """Import a module, and all that it needs, without looking for garbage meanwhile: a quarter of the time of torch's.

    What is there then stays as long as the process does and is not looked through again. A module that was imported
    before is nothing to wait for, and what has been made since may well become garbage.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def alive(process: int) -> bool:
    """Tell whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # a number that no process can have
        return False
    except OSError:  # somebody else's
        return True
    return True


def last_error(log: Path, start: int = 0) -> str:
    """Return the last `error: …` of a log behind byte `start`, else its last line; "" if it has none, or is gone."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL))
        lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def free_memory() -> int:
    """Return how many bytes of memory can be had without swapping; where the system does not say, all there are."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 62
