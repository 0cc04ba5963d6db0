"""The folder of a run: where it is, whether its run goes on, and that no run overwrites another in silence."""

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from razh.files import flat

log = logging.getLogger(__name__)

ENVIRONMENT = "RAZH_RUN_DIR"  # tells the ranks that Lightning starts which folder the first one took
RESUME = "RAZH_RESUME"  # and whether the run in it goes on
STATUS = "status.json"
LAST = ("last.ckpt", "last-1.ckpt")  # newest first: the one before stays until the next one is whole
WITHOUT_EFFECT = {
    "run_dir",
    "ckpt_path",
    "resume",
    "cache.directory",
    "data.init_args.num_workers",
    "trainer.enable_progress_bar",
    "trainer.profiler",  # and its arguments
    "trainer.default_root_dir",
    "checkpoint.dirpath",
}


@dataclass(frozen=True)
class Place:
    """Where a run works, and whether it goes on with what is there."""

    folder: Path
    resume: bool = False


def choose(
    explicit: str | None,
    default: Path,
    *,
    resume: bool,
    config: Mapping[str, Any] | None = None,
) -> Place:
    """Return the folder for this run, and whether an unfinished run in it goes on.

    All ranks come to the same answer from the same files, since none of them writes before all have met.

    Args:
        explicit: the user's own choice. A finished run in it is refused, and so is an unfinished one of another
            configuration; an unfinished one of the same configuration goes on.
        default: taken if free; else the newest of `default`, `default-2`, … that holds an unfinished run of the same
            configuration; else the next free number.
        resume: go on with the run in the folder, whatever its configuration (the newest, for `default`).
        config: configuration of this run, as it would be saved; None to start over.

    Raises:
        ValueError: `explicit` holds a run that does not go on.
        FileNotFoundError: there is no run to go on with.
        OSError: the run that would go on is still at work.
    """
    given = os.environ.get(ENVIRONMENT)
    if given:
        folder = Path(given)
        return Place(folder, resume=os.environ.get(RESUME) == "1")
    if resume:
        return Place(_to_resume(explicit, default), resume=True)
    if explicit is not None:
        return _choose_explicit(Path(explicit), config)
    taken = existing(default)
    for folder in reversed(taken):
        if config is not None and unfinished(folder) and difference(folder, config) is None:
            _refuse_if_busy(folder)
            return Place(folder, resume=True)
    if not taken:
        return Place(default)
    number = max(_number(folder, default) for folder in taken) + 1
    folder = default.with_name(f"{default.name}-{number}")
    log.info("%s holds a run already: this one goes to %s", taken[-1], folder)
    return Place(folder)


def _to_resume(explicit: str | None, default: Path) -> Path:
    taken = [Path(explicit)] if explicit is not None else existing(default)
    if not taken:
        raise FileNotFoundError(f"no run to go on with at {default}; leave out --ckpt_path=last to start one")
    if not any((taken[-1] / "checkpoints" / name).is_file() for name in LAST):
        raise FileNotFoundError(
            f"no checkpoints/{LAST[0]} in run_dir={taken[-1]}; leave out --ckpt_path=last to start over"
        )
    return taken[-1]


def _choose_explicit(folder: Path, config: Mapping[str, Any] | None) -> Place:
    if not holds_run(folder):
        return Place(folder)
    problem = "holds a run already"
    if unfinished(folder):
        found = difference(folder, config) if config is not None else "resume=false asks to start over"
        if found is None:
            _refuse_if_busy(folder)
            return Place(folder, resume=True)
        problem = f"holds an unfinished run of another configuration ({found})" if config is not None else problem
    if _rank() > 0:  # the first rank says so, once
        return Place(folder)
    raise ValueError(f"run_dir={folder} {problem}; pass another RUN_DIR, or --ckpt_path=last to go on with it")


def _refuse_if_busy(folder: Path) -> None:
    """Raise if another job is at work in the folder (asked by the first rank only: ranks would see each other)."""
    if _rank() > 0:
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OSError(busy(folder)) from None
    except OSError:
        return  # a folder that cannot be written is refused where it is claimed
    lock.release()


def busy(folder: Path) -> str:
    """Return what a second job in a folder is told."""
    return (
        f"another run works in run_dir={folder}; wait for it, pass another RUN_DIR, or --resume=false for a new folder"
    )


def unfinished(folder: Path) -> bool:
    """Tell whether a run began here and did not come to its end."""
    return state(folder).get("state") in ("running", "stopped") and not (folder / "metrics.json").exists()


def state(folder: Path) -> dict[str, Any]:
    """Return what `status.json` says; nothing if it is not there or cannot be read."""
    try:
        found = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def difference(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the first value in which the folder's saved configuration differs from another one; None for none.

    Values that no result depends on do not count.
    """
    try:
        saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:  # killed before it had written more than its status
        return "its config.yaml is missing" if (folder / "checkpoints").exists() else None
    except (OSError, yaml.YAMLError):
        return "its config.yaml cannot be read"
    here, there = flat(config), flat(saved or {})
    for name in dict.fromkeys([*there, *here]):
        if not _without_effect(name) and here.get(name) != there.get(name):
            return f"{name} is {there.get(name)} there, {here.get(name)} here"
    return None


def _without_effect(name: str) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in WITHOUT_EFFECT for length in range(1, len(parts) + 1))


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def holds_run(folder: Path) -> bool:
    """Tell whether a run has written to this folder."""
    return any((folder / name).exists() for name in ("config.yaml", "metrics.json", "checkpoints", STATUS))


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
