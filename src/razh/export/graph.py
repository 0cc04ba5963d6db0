"""A method as an ONNX graph: from uint8 images to hash logits, normalisation and views included."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from razh.run.checkpoint import Loaded

__all__ = ["write_onnx"]

OPSET = 18  # the first whose Resize has antialiasing, which views need
IMAGES, LOGITS = "images", "logits"


class _Graph(nn.Module):
    """What is exported: code logits (n, L) of uint8 images (n, 3, S, S)."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.method = loaded.method

    def forward(self, images: Tensor) -> Tensor:
        return self.method.code_logits({"image": images}).float()


def write_onnx(path: Path, loaded: Loaded, metadata: str) -> None:
    """Write the method of a checkpoint as ONNX, for any number of images at once.

    Args:
        path: of the file.
        loaded: the checkpoint, on the CPU.
        metadata: kept in the file under `razh`.

    Raises:
        ImportError: the packages that write ONNX are missing.
        ValueError: the method does something that ONNX, or a graph for any number of images, does not have.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ImportError('--format=onnx needs packages; pip install "onnx>=1.17" "onnxscript>=0.5"') from None
    graph, side = _Graph(loaded).eval(), loaded.method.backbone.image_size
    images = torch.zeros(3, 3, side, side, dtype=torch.uint8)  # of one image or none a graph would say nothing
    with torch.no_grad():
        graph(images)  # what a network measures of itself when it is asked first is no part of the graph
    try:
        # With gradients: without, a network on a CPU takes a few images at a time, which depends on how many there are.
        with torch.enable_grad(), _quiet():
            program = torch.export.export(graph, (images,), dynamic_shapes=({0: torch.export.Dim("n")},), strict=False)
            made: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=[IMAGES],
                output_names=[LOGITS],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # the exporter has a dozen types
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(
            f"{type(loaded.method).__name__} cannot be exported to ONNX ({reason}); pass --format=safetensors"
        ) from error
    _strip(made.model)
    made.model.metadata_props["razh"] = metadata
    made.save(str(path), external_data=False)


def _strip(model: Any) -> None:
    """Take out what the exporter notes of this machine: where in which file of Python a node comes from."""
    model.metadata_props.clear()
    for values in (model.graph.inputs, model.graph.outputs, model.graph.initializers.values()):
        for value in values:
            value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what the exporter's parts say of each other."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
