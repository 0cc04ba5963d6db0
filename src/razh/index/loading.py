"""A network from a file: a checkpoint in torch, or an exported one without; no torch here until it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from razh.export.facts import weights_of
from razh.index.network import Network

if TYPE_CHECKING:
    from razh.run.checkpoint import Loaded

__all__ = ["explainer", "open_network"]


def open_network(path: Path, device: str | None = None) -> Network:
    """Load a checkpoint, or what `razh export` made of one: its folder, its file, or `hf://owner/name`.

    Args:
        path: of it.
        device: `cpu`, `cuda`, `cuda:1`, …; None for a GPU where there is one that can be used.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of something else, or there is no such device.
        ImportError: packages are missing.
        OSError: what lies on a hub cannot be fetched.
    """
    file = weights_of(path)
    if file.suffix == ".onnx":
        from razh.index.exported import ExportedNetwork

        return ExportedNetwork(file, device)
    try:  # torch takes seconds to import
        from razh.index.encoding import TorchNetwork, device_named
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{file} needs {error.name}; install it, or name the ONNX file that `razh export` makes of a checkpoint"
        ) from None
    if file.suffix == ".safetensors":
        from razh.export.weights import load
    else:
        from razh.run.checkpoint import load
    return TorchNetwork(load(file, device=device_named(device)))


def explainer(network: Network) -> Loaded:
    """Return the checkpoint that can be asked why, see `razh.index.why.explain`.

    Raises:
        ValueError: the network is an exported one, which gives codes alone.
    """
    loaded: Loaded | None = getattr(network, "loaded", None)
    if loaded is None:
        raise ValueError("an exported network gives codes alone and cannot tell why; name the checkpoint")
    return loaded
