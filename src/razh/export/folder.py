"""The folder of an exported network: facts, weights and model card, the old ones or the whole new ones."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from razh import __version__
from razh.datamodules.pictures import TRANSFORM
from razh.export.facts import CARD, FACTS, FORMAT, WEIGHTS, ClassFacts, is_export
from razh.run.checkpoint import Loaded
from razh.support.files import read_json

__all__ = ["Run", "encoding_facts", "replacing_folder", "run_of"]

FIGURES = ("map", "map_worst", "map_best", "chance", "precision@1", "precision@10")
GROUPS = ("unseen", "seen", "harmonic")


@dataclass(frozen=True)
class Run:
    """What the run that a checkpoint lies in tells of it.

    Attributes:
        split: setting, protocol and numbers of classes.
        metrics: of its test.
    """

    split: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def run_of(checkpoint: Path, info: dict[str, Any]) -> Run:
    """Return what the run beside a checkpoint tells; nothing where there is none, or one of another split.

    Figures are those of the checkpoint that was tested: the best one, or the adapted one, where codes were adapted.
    """
    folder = checkpoint.absolute().parents[1] if checkpoint.absolute().parent.name == "checkpoints" else None
    split = read_json(folder / "split.json") if folder is not None else {}
    if folder is None or not split or split.get("fingerprint") != info.get("split_fingerprint"):
        return Run()
    counts = {name: len(split.get(f"{name}_classes") or ()) for name in ("seen", "unseen", "validation")}
    told = {name: split.get(name) for name in ("protocol", "setting", "refit")} | {"classes": counts}
    metrics = read_json(folder / "metrics.json")
    if checkpoint.name != ("adapted.ckpt" if metrics.get("collection/adapted") else "best.ckpt"):
        return Run(told)
    wanted = [f"test/{group}/{name}" for group in GROUPS for name in FIGURES]
    return Run(told, {name: float(metrics[name]) for name in wanted if isinstance(metrics.get(name), int | float)})


def encoding_facts(loaded: Loaded, checkpoint: str) -> dict[str, Any]:
    """Return what encoding and descriptions need to know of a checkpoint, without a path of this machine.

    Args:
        loaded: the checkpoint.
        checkpoint: SHA-256 of its file.
    """
    method, info = loaded.method, {name: value for name, value in loaded.info.items() if name != "progress"}
    return {
        "format": FORMAT,
        "razh": __version__,
        "method": type(method).__name__,
        "bits": method.bits,
        "image_size": method.backbone.image_size,
        "transform": TRANSFORM,
        "checkpoint": checkpoint,
        "info": _without_paths(info),
        "classes": ClassFacts.of(loaded).as_json(),
    }


def _without_paths(value: Any, name: str = "") -> Any:
    """Return plain values in which a file is named by its name alone."""
    if isinstance(value, dict):
        return {key: _without_paths(inner, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(inner) for inner in value]
    is_file = isinstance(value, str) and (name == "checkpoint" or os.path.isabs(value))
    return os.path.basename(value) if is_file else value


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, which takes the place of `folder` when all is written, or goes if writing fails.

    Raises:
        ValueError: there is something at `folder` that `razh export` did not write.
        OSError: it cannot be written.
    """
    _refuse_others(folder)
    target = folder.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    part, old = (target.with_name(f".{target.name}.{os.getpid()}.{word}") for word in ("razh-part", "razh-old"))
    try:
        part.mkdir()
        yield part
        if target.is_dir():
            target.rename(old)
        part.rename(target)
    finally:
        if old.is_dir() and not target.is_dir():
            old.rename(target)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)


def _refuse_others(folder: Path) -> None:
    """Refuse to replace what `razh export` did not write."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    others = there - {FACTS, CARD, *WEIGHTS.values()}
    if folder.is_symlink() or folder.is_file() or others or (there and not is_export(folder)):
        named = f" ({min(others)})" if others else ""
        raise ValueError(f"--out={folder} is there, and not from `razh export`{named}; give another folder")
