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

from razh.support.files import flat

log = logging.getLogger(__name__)

ENVIRONMENT = "RAZH_RUN_DIR"  # tells the ranks that Lightning starts which folder the first one took
RESUME = "RAZH_RESUME"  # and whether the run in it goes on
STATUS = "status.json"
FIGURES = "figures"
SELECTION = "selection"  # of a refit: the run with validation classes that comes before it
SUBFOLDERS = ("checkpoints", FIGURES)
WRITTEN = ("config.yaml", "split.json", STATUS, "metrics.csv", "metrics.json", "codes.npz", SELECTION, *SUBFOLDERS)
MARKS = {"config.yaml", "metrics.json", "checkpoints", STATUS, SELECTION}  # any of them tells a run
CHECKPOINTS = (("checkpoints",), (SELECTION, "checkpoints"))
LAST = ("last.ckpt", "last-1.ckpt")  # newest first: the one before stays until the next one is whole
REFIT = "data.init_args.refit"
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


def resolve(config: Any, command: str, saved: Mapping[str, Any]) -> Place:
    """Return where a run works, and remember it for the ranks that this process starts.

    Args:
        config: the whole configuration, options as attributes.
        command: the command it is for.
        saved: what the run would save of it; an unfinished run that saved the same goes on.

    Raises:
        ValueError, OSError: see `choose`; also a data set or method that cannot name a folder.
    """
    bits = config.model.init_args.get("bits", "x")
    name = f"seed{config.seed_everything}" + ("" if command in ("train", "fit") else f"-{command}")
    for kind, word in (("dataset", config.dataset), ("method", config.method)):
        if word and not re.fullmatch(r"\w[\w.-]*", word):
            raise ValueError(
                f"{kind}={word!r} cannot name the run's folder; take letters, digits, '_', '-' and '.' alone"
            )
    default = Path("runs") / (config.dataset or "data") / (config.method or "method") / str(bits) / name
    last = config.get("ckpt_path") == "last"
    place = choose(config.run_dir, default, resume=last, config=saved if config.resume else None)
    os.environ[ENVIRONMENT], os.environ[RESUME] = str(place.folder), str(int(place.resume))
    return place


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
        ValueError: `explicit` is empty, or holds a run that does not go on, or files that a run would replace.
        FileNotFoundError: there is no run to go on with.
        OSError: the run that would go on is still at work.
    """
    if explicit is not None:
        if not explicit.strip():
            raise ValueError("run_dir is empty; is a variable not set? Give a folder, or leave run_dir out")
        explicit = os.path.expanduser(explicit)
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
    if not any(taken[-1].joinpath(*at, name).is_file() for name in LAST for at in CHECKPOINTS):
        raise FileNotFoundError(
            f"no checkpoints/{LAST[0]} in run_dir={taken[-1]}; leave out --ckpt_path=last to start over"
        )
    return taken[-1]


def _choose_explicit(folder: Path, config: Mapping[str, Any] | None) -> Place:
    there = written(folder)
    if not there:
        return Place(folder)
    problem = "holds a run already" if MARKS & set(there) else f"holds {there[0]}, which this run would replace"
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
    if at_work(folder):
        raise OSError(busy(folder))


def at_work(folder: Path) -> bool:
    """Tell whether a process works in the folder, or on the selection of a refit in it."""
    return _locked(folder / ".lock") or _locked(folder / SELECTION / ".lock")


def _locked(file: Path) -> bool:
    try:
        if file.is_file():
            with FileLock(file, timeout=0):
                return False
    except Timeout:
        return True
    except OSError:
        pass  # a folder that cannot be written is refused where it is claimed
    return False


def busy(folder: Path) -> str:
    """Return what a second job in a folder is told."""
    return (
        f"another run works in run_dir={folder}; wait for it, pass another RUN_DIR, or --resume=false for a new folder"
    )


def unfinished(folder: Path) -> bool:
    """Tell whether a run began here and did not come to its end."""
    return state(folder).get("state") in ("running", "stopped") and not (folder / "metrics.json").exists()


def state(folder: Path) -> dict[str, Any]:
    """Return what `status.json` says; nothing if it is not there or cannot be read.

    A refit that has come no further than its selection has stopped.
    """
    try:
        found = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = state(folder / SELECTION) if (folder / SELECTION).is_dir() else {}
        return {**found, "state": "stopped"} if found else {}
    return found if isinstance(found, dict) else {}


def difference(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return the first value in which the folder's saved configuration differs from another one; None for none.

    Values that no result depends on do not count.
    """
    selection = (folder / SELECTION).is_dir() and not (folder / "config.yaml").is_file()
    try:
        saved = yaml.safe_load((folder / (SELECTION if selection else "") / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:  # killed before it had written more than its status
        return "its config.yaml is missing" if (folder / "checkpoints").exists() else None
    except (OSError, yaml.YAMLError):
        return "its config.yaml cannot be read"
    here, there = flat(config), flat(saved or {})
    if selection:  # all that it differs in
        there |= {REFIT: True}
    for name in dict.fromkeys([*there, *here]):
        if not without_effect(name) and here.get(name) != there.get(name):
            return f"{name} is {there.get(name)} there, {here.get(name)} here"
    return None


def without_effect(name: str) -> bool:
    """Tell whether no result depends on a value of the saved configuration."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in WITHOUT_EFFECT for length in range(1, len(parts) + 1))


def _rank() -> int:
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def whole(folder: Path) -> Path:
    """Return the folder of the run that a folder belongs to: a selection is half of a refit."""
    return folder.parent if folder.name == SELECTION else folder


def written(folder: Path) -> list[str]:
    """Return which of the names in a folder are those that a run writes, and replaces."""
    return [name for name in WRITTEN if os.path.lexists(folder / name)]


def existing(default: Path) -> list[Path]:
    """Return the folders `default`, `default-2`, … that hold a run, or what one would replace; oldest first."""
    pattern = re.compile(re.escape(default.name) + r"(-\d+)?")
    if not default.parent.is_dir():
        return []
    found = [p for p in default.parent.iterdir() if p.is_dir() and pattern.fullmatch(p.name) and written(p)]
    return sorted(found, key=lambda folder: _number(folder, default))


def _number(folder: Path, default: Path) -> int:
    suffix = folder.name[len(default.name) + 1 :]
    return int(suffix) if suffix else 1
