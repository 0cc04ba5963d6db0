"""Checkpoints: what is in them beside the weights, and a model built from one alone."""

import importlib
import logging
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from razh.backbones.timm import TimmBackbone
from razh.method import HashingMethod
from razh.run_folder import LAST

log = logging.getLogger(__name__)
SCHEMA = 5
NO_PROGRESS = {"images": 0, "train_seconds": 0.0, "fit_seconds": 0.0, "resumed": 0}
FACTS = ("class_attributes", "attribute_vectors", "train_classes")


@dataclass(frozen=True)
class Loaded:
    """A method with its trained weights, and the facts that were saved with it."""

    method: HashingMethod
    info: dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content; code in it is never run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is cut short, is no checkpoint of razh, or comes from a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; give a file such as runs/…/checkpoints/best.ckpt")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own types
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"checkpoint {path} cannot be read ({reason}); it may be cut short, or hold unsafe code"
        ) from None
    info = content.get("razh") if isinstance(content, dict) else None
    if not isinstance(info, dict) or not isinstance(info.get("schema"), int) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of razh; give one that `razh train` wrote")
    return {**content, "razh": _migrated(info, path)}


def _from_1(info: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 did not say which protocol made the split, nor how far the run had come."""
    return {**info, "split_protocol": None, "progress": NO_PROGRESS}


def _from_2(info: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 knew but one set of views; codes that it made should stay comparable."""
    return _with_option(info, "views", "mirrored")


def _from_3(info: dict[str, Any]) -> dict[str, Any]:
    """Schema 3 knew no posteriors of classes beside a descriptor."""
    return _with_option(info, "posteriors", "none")


def _from_4(info: dict[str, Any]) -> dict[str, Any]:
    """Schema 4 knew but the similarity of features as they are."""
    return _with_option(info, "similarity_space", "feature", of=(".RAZH", ".RAZHViews"))


def _with_option(info: dict[str, Any], name: str, value: str, of: tuple[str, ...] = (".RAZHViews",)) -> dict[str, Any]:
    """Return what was saved of some methods with an option that they did not have then; of others as it was."""
    config = info.get("model")
    if not (isinstance(config, dict) and str(config.get("class_path")).endswith(of)):
        return info
    return {**info, "model": {**config, "init_args": {name: value, **config.get("init_args", {})}}}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4}


def _migrated(info: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what an older version saved as this version would have saved it."""
    schema = info["schema"]
    if schema > SCHEMA:
        raise ValueError(f"checkpoint {path} has schema {schema}, this razh reads up to {SCHEMA}; upgrade razh")
    if schema < min(MIGRATIONS):
        oldest = min(MIGRATIONS)
        raise ValueError(
            f"checkpoint {path} has schema {schema}, the oldest that can be migrated is {oldest}; train it again"
        )
    for number in range(schema, SCHEMA):
        info = {**MIGRATIONS[number](info), "schema": number + 1}
    return info


def check(path: Path) -> None:
    """Read a checkpoint to its last byte, against the checksums in it.

    Raises:
        FileNotFoundError, ValueError: see `read`; also where a byte has changed.
    """
    read(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError) as error:
        raise ValueError(f"checkpoint {path} cannot be read ({error}); it may be cut short") from None
    if damaged is not None:
        raise ValueError(f"checkpoint {path} cannot be read (checksum of {damaged}); it may be damaged")


def newest(folder: Path) -> Path | None:
    """Return the newest complete one of the last checkpoints in a folder; None if there is none."""
    for name in LAST:
        if not (folder / name).is_file():
            continue
        try:
            check(folder / name)
        except ValueError as error:
            log.warning("%s; looking for the one before it", error)
        else:
            return folder / name
    return None


def load(path: Path, device: str = "cpu") -> Loaded:
    """Build the method of a checkpoint, without its data set.

    Raises:
        FileNotFoundError, ValueError: see `read`; also where the weights do not fit the saved configuration.
    """
    content = read(path)
    state, info = content["state_dict"], content["razh"]
    try:
        method = _build(info, state)
    except (KeyError, TypeError) as error:  # what a constructor says of a value it refuses is a ValueError already
        reason = str(error).splitlines()[0]
        raise ValueError(f"checkpoint {path} has no usable configuration ({reason}); train it again") from None
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"checkpoint {path} does not fit its own configuration: {str(error).splitlines()[-1]}"
        ) from None
    return Loaded(method.eval().to(device), info)


def _build(info: dict[str, Any], state: dict[str, Any]) -> HashingMethod:
    """Return the untrained method that a checkpoint's configuration describes."""
    config = info["model"]
    arguments = dict(config["init_args"])
    backbone = dict(arguments["backbone"]["init_args"])
    had_weights = bool(backbone.get("pretrained") or backbone.get("checkpoint"))
    # The weights come from the checkpoint itself: the file or hub they once came from need not be there any more.
    backbone |= {"pretrained": False, "checkpoint": None, "image_size": info["image_size"]}
    network = _class(arguments["backbone"]["class_path"], TimmBackbone)(**backbone)
    network.has_weights = had_weights  # methods are built by it: what a network started from, not what it is now
    arguments["backbone"] = network
    arguments |= {name: state[name] for name in FACTS}
    method: HashingMethod = _class(config["class_path"], HashingMethod)(**arguments)
    return method


def _class(path: str, base: type[nn.Module]) -> Any:
    """Return the class at a dotted path; only subclasses of `base` are ever built from a checkpoint."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ValueError(
            f"the checkpoint's class {path!r} cannot be imported; install the package that has it"
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"the checkpoint names {path!r}, which is no {base.__name__}; do not trust this file")
    return found
