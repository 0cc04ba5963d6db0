"""How far long work has come: a bar on a terminal, a line a minute in a log file."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as bar

__all__ = ["readable_time", "track"]

log = logging.getLogger(__name__)
T = TypeVar("T")
SECONDS = 60.0  # between two lines


def readable_time(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def track(steps: Iterable[T], description: str, total: int, unit: str = "batches") -> Iterator[T]:
    """Yield the steps and show how many are done, and about how long the rest takes.

    Args:
        steps: of the work.
        description: of the work.
        total: how many steps there are.
        unit: what a step is, in the lines of a log.
    """
    if Console().is_terminal:
        yield from bar(steps, description=description, total=total)
        return
    started = told = time.monotonic()
    for done, step in enumerate(steps):
        yield step
        now = time.monotonic()
        if now - told >= SECONDS:
            told = now
            left = (now - started) / (done + 1) * (total - done - 1)
            log.info("%s: %d of %d %s, about %s left", description, done + 1, total, unit, readable_time(left))
