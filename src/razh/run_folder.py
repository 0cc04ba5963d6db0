"""The folder of a run: where it is, and that no run overwrites another in silence."""

import logging
import os
import re
from pathlib import Path

log = logging.getLogger(__name__)

ENVIRONMENT = "RAZH_RUN_DIR"  # tells the ranks that Lightning starts which folder the first one took


def choose(explicit: str | None, default: Path, *, resume: bool) -> Path:
    """Return the folder for this run.

    Args:
        explicit: the user's own choice; it is refused if it holds a run already, unless that run goes on.
        default: taken if free; else `default-2`, `default-3`, … A run that goes on takes the newest of them.
        resume: go on with the run in the folder.

    Raises:
        ValueError: `explicit` holds a run already.
        FileNotFoundError: there is no run to go on with.
    """
    given = os.environ.get(ENVIRONMENT)
    if given:
        return Path(given)
    if _rank() > 0 and not resume:  # started by torchrun or SLURM: the first rank checks, and it alone writes
        return Path(explicit) if explicit is not None else default
    if explicit is not None:
        folder = Path(explicit)
        if resume:
            return _with_checkpoint(folder)
        if holds_run(folder):
            raise ValueError(
                f"run_dir={folder} holds a run already; pass another RUN_DIR, or --ckpt_path=last to go on with it"
            )
        return folder
    taken = existing(default)
    if resume:
        if not taken:
            raise FileNotFoundError(f"no run to go on with at {default}; leave out --ckpt_path=last to start one")
        return _with_checkpoint(taken[-1])
    if not taken:
        return default
    number = max(_number(folder, default) for folder in taken) + 1
    folder = default.with_name(f"{default.name}-{number}")
    log.info("%s holds a run already: this one goes to %s", taken[-1], folder)
    return folder


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def holds_run(folder: Path) -> bool:
    """Tell whether a run has written to this folder."""
    return (folder / "config.yaml").exists() or (folder / "metrics.json").exists() or (folder / "checkpoints").exists()


def existing(default: Path) -> list[Path]:
    """Return the folders `default`, `default-2`, … that hold a run, oldest first."""
    pattern = re.compile(re.escape(default.name) + r"(-\d+)?")
    if not default.parent.is_dir():
        return []
    found = [p for p in default.parent.iterdir() if p.is_dir() and pattern.fullmatch(p.name) and holds_run(p)]
    return sorted(found, key=lambda folder: _number(folder, default))


def _number(folder: Path, default: Path) -> int:
    suffix = folder.name[len(default.name) + 1 :]
    return int(suffix) if suffix else 1


def _with_checkpoint(folder: Path) -> Path:
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        raise FileNotFoundError(
            f"no checkpoints/last.ckpt in run_dir={folder}; leave out --ckpt_path=last to start over"
        )
    return folder
