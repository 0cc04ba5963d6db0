"""The folder of a cell: which it is, whether it is done, and the command that computes it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from razh import recipe
from razh.benchmark.grid import Cell, safe
from razh.files import read_json, write_json
from razh.search_space import options as written

__all__ = ["Job", "config_hash", "fit_job", "portable", "train_job"]

ABOUT = "cell.json"
LOG = "log.txt"
QUIET = {"figures.enabled": False, "trainer.enable_progress_bar": False}
TAIL = 20_000  # bytes of a log that are looked through for the reason of a failure


@dataclass(frozen=True)
class Job:
    """A run of a benchmark in its folder.

    Attributes:
        name: for people.
        folder: where it works.
        command: `train` (fit and test; done with metrics.json) or `fit` (never tests; done when it says so).
        arguments: of the command.
        hash: of its configuration.
        group: jobs of a group take about the same time.
        facts: what is kept about it beside the state.
    """

    name: str
    folder: Path
    command: str
    arguments: list[str]
    hash: str
    group: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """`done`, `failed`, `interrupted` or `missing`."""
        about = read_json(self.folder / ABOUT)
        if about.get("hash") != self.hash:
            return "missing"
        if self._finished():
            return "done"
        return "failed" if about.get("state") == "failed" else "interrupted"

    def _finished(self) -> bool:
        if self.command == "train":
            return (self.folder / "metrics.json").is_file()
        status = read_json(self.folder / "status.json")
        return status.get("state") == "finished" and (self.folder / "metrics.csv").is_file()

    @property
    def busy(self) -> bool:
        """Whether a process is at work in the folder: one that an earlier start of the benchmark left behind."""
        if not (self.folder / ".lock").is_file():
            return False
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def note(self, **changes: Any) -> None:
        """Change what cell.json says."""
        write_json(self.folder / ABOUT, {**self.about(), "hash": self.hash, **self.facts, **changes})

    def about(self) -> dict[str, Any]:
        """Return what cell.json says of this configuration."""
        about = read_json(self.folder / ABOUT)
        return about if about.get("hash") == self.hash else {}

    def clear(self) -> None:
        """Move a failed attempt aside, so that the next one starts from nothing; its log stays readable there."""
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.failed{number}")).exists():
            number += 1
        self.folder.rename(aside)

    def reason(self, start: int = 0) -> str:
        """Return why the job failed: the last `error: …` of its log behind byte `start`, or the last line."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(start, file.tell() - TAIL))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return "no log"
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines or ["no output"])[-1]


def train_job(cell: Cell, out: Path) -> Job:
    """Return the job of a cell; where another configuration has its folder already, the hash is added to the name."""
    digest = config_hash(cell)
    label, protocol, bits, seed = cell.key
    folder = out / "cells" / safe(label) / safe(protocol) / str(bits) / f"seed{seed}"
    taken = read_json(folder / ABOUT).get("hash", digest) != digest
    if taken:
        folder = folder.with_name(f"{folder.name}-{digest[:8]}")
    name = f"{label} · {protocol} · {bits} bits · seed {seed}"
    facts = {"method": label, "protocol": protocol, "bits": bits, "seed": seed, "options": cell.options}
    return Job(name, folder, "train", _arguments(cell, folder), digest, label, facts)


def fit_job(cell: Cell, folder: Path, trial: int) -> Job:
    """Return the job that only fits a cell: a trial of tuning, which must not see the test classes."""
    digest = config_hash(cell)
    if read_json(folder / ABOUT).get("hash", digest) != digest:
        folder = folder.with_name(f"{folder.name}-{digest[:8]}")
    name = f"{cell.method.label} · trial {trial} · {cell.protocol} · {cell.bits} bits · seed {cell.seed}"
    facts = {"method": cell.method.label, "trial": trial, "seed": cell.seed, "options": cell.options}
    return Job(name, folder, "fit", _arguments(cell, folder), digest, f"{cell.method.label} (trial)", facts)


def _arguments(cell: Cell, folder: Path) -> list[str]:
    return [
        f"--dataset={cell.dataset}",
        f"--method={cell.method.method}",
        f"--backbone={cell.backbone}",
        f"--bits={cell.bits}",
        f"--seed={cell.seed}",
        *written({**cell.options, **QUIET}),
        f"--run_dir={folder}",
    ]


def config_hash(cell: Cell) -> str:
    """Return a SHA-256 of everything that a cell is configured by: files of `experiments/` and options.

    Comments and search spaces do not count, and neither does where files lie: of a path, only the name (and the size of
    a file) counts.
    """
    names = {"dataset": cell.dataset, "method": cell.method.method, "backbone": cell.backbone}
    files = [recipe.experiments_folder() / "base.yaml", *(recipe.config_file(k, v) for k, v in names.items())]
    contents = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    for content in contents:
        content.pop("search", None)
    facts = {**names, "files": contents, "bits": cell.bits, "seed": cell.seed, "options": portable(cell.options)}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def portable(options: dict[str, Any]) -> dict[str, Any]:
    """Return options with the names of files and folders in the place of their paths."""
    return {name: _portable(value) for name, value in options.items()}


def _portable(value: Any) -> Any:
    if not isinstance(value, str) or not value or len(value) > 1000:
        return value
    path = Path(value)
    if path.is_file():
        return f"{path.name} ({path.stat().st_size} bytes)"
    return path.resolve().name if path.is_dir() else value
