"""Checkpoints: what is in them beside the weights, and a model built from one alone."""

import importlib
import logging
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from razh import backbones, datamodules, methods
from razh.backbones.timm import TimmBackbone
from razh.datamodules import synthetic
from razh.method import CLASS_FACTS, HashingMethod
from razh.run.folder import LAST
from razh.support.files import ArrayFile, check_sums, digest_of, write_arrays

log = logging.getLogger(__name__)
SCHEMA = 6
CLASSES = "classes.npz"  # beside a checkpoint
NO_PROGRESS = {"images": 0, "train_seconds": 0.0, "fit_seconds": 0.0, "resumed": 0}


@dataclass(frozen=True)
class Loaded:
    """A method with its trained weights, and what was saved with it.

    Attributes:
        method: in evaluation mode.
        info: facts by name.
        class_logits: mean logits (C, L) of the images of the training classes, NaN for those that nobody looked at;
            None where nothing is known. The code of a collection has centres of its own in their place.
    """

    method: HashingMethod
    info: dict[str, Any]
    class_logits: NDArray[np.float32] | None = None


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, read to the last byte against the checksums in it; code in it is never run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged or cut short, is no checkpoint of razh, comes from an older or newer version,
            or has weights that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; give a file such as runs/…/checkpoints/best.ckpt")
    try:
        check_sums(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own types
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"checkpoint {path} cannot be read ({reason}); it may be cut short or damaged, or hold unsafe code"
        ) from None
    info = content.get("razh") if isinstance(content, dict) else None
    if not isinstance(info, dict) or not isinstance(info.get("schema"), int) or "state_dict" not in content:
        raise ValueError(f"{path} is not a checkpoint of razh; give one that `razh train` wrote")
    check_content(info, content["state_dict"], path)
    return content


def check_content(info: dict[str, Any], state: dict[str, Any], path: Path) -> None:
    """Refuse what another version wrote, and weights that are not finite.

    Raises:
        ValueError: one line says which.
    """
    _check_schema(info["schema"], path)
    if bad := [name for name, value in state.items() if not _is_finite(value)]:
        raise ValueError(f"checkpoint {path} has weights that are not finite ({bad[0]}); train it again")


def _check_schema(schema: int, path: Path) -> None:
    if schema < SCHEMA:
        raise ValueError(f"checkpoint {path} was made by an older razh (schema {schema}, now {SCHEMA}); train again")
    if schema > SCHEMA:
        raise ValueError(f"checkpoint {path} has schema {schema}, this razh reads {SCHEMA}; upgrade razh")


def _is_finite(value: Any) -> bool:
    return not isinstance(value, Tensor) or bool(value.isfinite().all())


def newest(folder: Path) -> Path | None:
    """Return the newest complete one of the last checkpoints in a folder; None if there is none."""
    for name in LAST:
        if not (folder / name).is_file():
            continue
        try:
            read(folder / name)
        except ValueError as error:
            log.warning("%s; looking for the one before it", error)
        else:
            return folder / name
    return None


def load(path: Path, device: str = "cpu") -> Loaded:
    """Build the method of a checkpoint, without its data set.

    Raises:
        FileNotFoundError, ValueError: see `read`; also where the weights do not fit the saved configuration, or it
            names a class that would have to be imported, or a network that would have to be fetched.
    """
    content = read(path)
    loaded = build(content["razh"], content["state_dict"], path, device)
    if loaded.method.collection is not None:
        return loaded
    return replace(loaded, class_logits=_kept_logits(path, loaded.method))


def keep_class_logits(path: Path, classes: Tensor, logits: Tensor) -> None:
    """Write beside a checkpoint what its codes make of the training classes.

    Args:
        path: of the checkpoint.
        classes: ids (C,).
        logits: mean logits (C, L) of their images.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {"classes": classes.numpy(), "logits": logits.numpy(), "checkpoint": np.array(digest_of(path))}
    write_arrays(path.with_name(CLASSES), arrays)


def _kept_logits(path: Path, method: HashingMethod) -> NDArray[np.float32] | None:
    """Return what `keep_class_logits` wrote of this very checkpoint."""
    file = path.with_name(CLASSES)
    if not file.is_file():
        return None
    try:
        with ArrayFile(file) as kept:
            if str(kept.read("checkpoint")) != digest_of(path):
                return None  # of another checkpoint of the run
            classes, logits = (torch.from_numpy(kept.read(name)) for name in ("classes", "logits"))
        return _by_class(classes, logits, method)
    except (ValueError, KeyError, TypeError, OSError) as error:
        log.warning("%s is damaged and is not used (%s)", file, error)
        return None


def _by_class(classes: Tensor, logits: Tensor, method: HashingMethod) -> NDArray[np.float32] | None:
    """Return logits (C, L) in the order of the training classes, NaN where there are none."""
    trained = method.train_classes.cpu().tolist()
    at = {label: row for row, label in enumerate(classes.tolist())}
    if logits.shape != (len(classes), method.bits) or not at.keys() & set(trained):
        return None
    unknown = torch.full((method.bits,), torch.nan)
    return torch.stack([logits[at[label]] if label in at else unknown for label in trained]).float().numpy()


def build(info: dict[str, Any], state: dict[str, Any], path: Path, device: str = "cpu") -> Loaded:
    """Build the method that facts describe, with the weights of a state.

    Args:
        info: what was saved beside the weights.
        state: the weights.
        path: of the file that both come from, for errors.
        device: to put it on.

    Raises:
        ValueError: see `load`.
    """
    try:
        method = _build(info, state)
        if "collection" in info:
            method.adopt_collection(state)
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
    backbone = info["model"]["init_args"]["backbone"]
    had_weights = bool(backbone["init_args"].get("pretrained") or backbone["init_args"].get("checkpoint"))
    # The weights come from the checkpoint itself: the file or hub they once came from need not be there any more.
    network = network_of(backbone, pretrained=False, checkpoint=None, image_size=info["image_size"])
    network.has_weights = had_weights  # methods are built by it: what a network started from, not what it is now
    return method_of(info["model"], network, {name: state.get(name) for name in CLASS_FACTS})  # None: no groups


def network_of(config: Mapping[str, Any], **changes: Any) -> TimmBackbone:
    """Return the network that a class path and its options describe.

    Args:
        config: `class_path` and `init_args`.
        **changes: options in the place of those.

    Raises:
        ValueError: no such class, or an option that it refuses.
        OSError: weights cannot be fetched.
    """
    network: TimmBackbone = class_at(config["class_path"], TimmBackbone)(**config["init_args"] | changes)
    return network


def method_of(config: Mapping[str, Any], network: TimmBackbone, facts: Mapping[str, Any]) -> HashingMethod:
    """Return the untrained method that a class path and its options describe.

    Args:
        config: `class_path` and `init_args`; its backbone is not looked at.
        network: in the place of that backbone.
        facts: about the classes, by the names in `CLASS_FACTS`.

    Raises:
        ValueError: no such class, or an option that it refuses.
    """
    arguments = {**config["init_args"], **facts, "backbone": network}
    method: HashingMethod = class_at(config["class_path"], HashingMethod)(**arguments)
    return method


def class_at(path: str, base: type[Any]) -> Any:
    """Return the class at a dotted path: one of razh's own, or one that this program has imported for other reasons.

    Nothing is imported because a file names it: importing runs code.
    """
    module, _, _ = str(path).rpartition(".")
    if module in _own_modules():
        importlib.import_module(module)
    for found in _family(base):
        if f"{found.__module__}.{found.__qualname__}" == path:
            return found
    raise ValueError(
        f"the class {path!r} is no {base.__name__} of razh, and nothing else is imported for a file; "
        "if it is your own, import its module first (--import=MODULE)"
    )


def _own_modules() -> set[str]:
    """Return the modules that methods, backbones and data sets are in, without importing them."""
    return {
        module.name
        for package in (methods, backbones, datamodules, synthetic)
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    }


def _family(base: type[Any]) -> Iterator[type[Any]]:
    """Yield a class and all classes derived from it that have been imported."""
    yield base
    for child in base.__subclasses__():
        yield from _family(child)
