"""Adapted checkpoints: what one is fitted to, the training images behind it, and how it is written."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from razh import __version__
from razh.datamodules.base import ZeroShotDataModule
from razh.run import checkpoint
from razh.run.checkpoint import SCHEMA, Loaded
from razh.run.recipe import config_file
from razh.support.files import replacing

__all__ = ["FittedTo", "bare", "data_of", "save"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FittedTo:
    """What codes were adapted to.

    Attributes:
        setting: `collection`, or `both` where classes were described; `unlabelled` without training images.
        images: number of images of the collection.
        seen: number of classes with training images.
        described: names of the described classes.
        lapsed: those of them that were not found.
        clusters: number of free clusters.
        origin: SHA-256 of the checkpoint that was adapted; "" for a bare network.
        seed: of the clusters and the rotation.
    """

    setting: str
    images: int
    seen: int
    described: list[str]
    lapsed: list[str]
    clusters: int
    origin: str
    seed: int


def bare(backbone: str, weights: str | None, bits: int) -> tuple[dict[str, Any], Loaded]:
    """Return the content of a checkpoint of a network as it is, with ITQ's codes not fitted yet; and its method.

    Args:
        backbone: name of a file in experiments/backbone.
        weights: file of weights; None for the recipe's own.
        bits: code length L.

    Raises:
        ValueError: no such name, or a network without trained weights.
        FileNotFoundError: no such file.
        OSError: weights cannot be fetched.
    """
    recipe = yaml.safe_load(config_file("backbone", backbone).read_text(encoding="utf-8"))
    arguments = dict(recipe["model"]["init_args"]["backbone"]["init_args"])
    if weights is not None:
        arguments |= {"checkpoint": weights, "pretrained": False}
    arguments["freeze"] = "all"
    nested = {"class_path": "razh.backbones.timm.TimmBackbone", "init_args": arguments}
    model = {"class_path": "razh.methods.itq.ITQ", "init_args": {"bits": bits, "backbone": nested}}
    network = checkpoint.network_of(nested)
    if not network.has_weights:
        raise ValueError(f"--backbone={backbone} has no trained weights; pass --weights=FILE, or another backbone")
    facts: dict[str, Any] = {
        "class_attributes": torch.zeros(0, 0),
        "attribute_vectors": torch.zeros(0, 0),
        "train_classes": torch.zeros(0, dtype=torch.int64),
    }
    method = checkpoint.method_of(model, network, facts)
    info = {
        "schema": SCHEMA,
        "version": __version__,
        "model": model,
        "dataset": None,
        "image_size": network.image_size,
        "class_names": [],
        "attribute_names": [],
        "split_fingerprint": "",
        "split_protocol": "",
    }
    return {"epoch": 0, "global_step": 0, "razh": info}, Loaded(method.eval(), info)


def data_of(path: Path, info: dict[str, Any]) -> ZeroShotDataModule | None:
    """Return the data module of the run that a checkpoint lies in; None, with a word, where it is not there.

    Raises:
        ValueError: the run's images are others than those that the checkpoint was trained on.
    """
    config = path.absolute().parents[1] / "config.yaml"
    if not config.is_file():
        log.warning("no training images: %s is not in the folder of a run, which would name them", path)
        return None
    found = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]
    checkpoint.class_at(found["class_path"], ZeroShotDataModule)  # nothing is imported because a file names it
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ZeroShotDataModule, "data")
    try:  # by the types of the options: a name may be a number in the file, and a number text
        data: ZeroShotDataModule = parser.instantiate_classes(parser.parse_object({"data": found}))["data"]
    except ArgumentError as error:
        raise ValueError(f"{config} cannot be used: {str(error).splitlines()[0]}; train again") from None
    try:
        fingerprint = data.split.fingerprint
    except FileNotFoundError as error:
        log.warning("no training images: %s", error)
        return None
    if fingerprint != info["split_fingerprint"]:
        raise ValueError(
            f"the images at {data.root} are not those that {path} was trained on (split {fingerprint[:12]}, trained on "
            f"{info['split_fingerprint'][:12]}); restore them, or move the checkpoint out of its run to do without"
        )
    return data


def save(path: Path, content: dict[str, Any], method: Any, code: nn.Module, fitted: FittedTo) -> None:
    """Write an adapted checkpoint: what is there already, whole or not at all.

    Args:
        path: of the file.
        content: of the checkpoint that is adapted.
        method: of it, which gets the code.
        code: layer whose codes fit the collection.
        fitted: what it was fitted to.

    Raises:
        OSError: it cannot be written.
    """
    method.collection = code
    content = {
        **{
            name: value for name, value in content.items() if name not in ("optimizer_states", "lr_schedulers", "loops")
        },
        "pytorch-lightning_version": content.get("pytorch-lightning_version", L.__version__),
        "state_dict": {name: value.cpu() for name, value in method.state_dict().items()},
        "razh": content["razh"] | {"version": __version__, "collection": asdict(fitted)},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        torch.save(content, part)
