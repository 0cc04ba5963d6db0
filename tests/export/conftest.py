"""A checkpoint that reads attributes, exported once as ONNX and once as safetensors; and Python without torch."""

import os
import subprocess
import sys

import pytest

from razh.cli.main import main
from tests.commands.conftest import photos, reading, trained, write_checkpoint

__all__ = ["photos", "reading", "trained", "write_checkpoint"]

WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "timm", "lightning", "safetensors", "onnx", "onnxscript"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="session")
def onnx_folder(reading, tmp_path_factory):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason='needs pip install ".[export]"')
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    assert main(["export", str(reading), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def tensors_folder(reading, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "tensors"
    assert main(["export", str(reading), "--format=safetensors", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def without_torch():
    """Return a function that runs Python code in a process in which torch cannot be imported."""

    def run(code):
        command = [sys.executable, "-c", WITHOUT_TORCH + code]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "200"})

    return run
