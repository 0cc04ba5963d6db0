"""Every kind of network and method becomes a graph whose codes are its own."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from razh.collection.code import CollectionCode
from razh.export.facts import to_text
from razh.export.folder import encoding_facts
from razh.export.graph import write_onnx
from razh.index.exported import ExportedNetwork
from razh.methods.ce import CE
from razh.methods.itq import ITQ
from razh.methods.razh import RAZH
from razh.run.checkpoint import Loaded

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason='needs pip install ".[export]"',
)


def exported(method, path):
    loaded = Loaded(method.eval(), {"schema": 6})
    write_onnx(path, loaded, to_text(encoding_facts(loaded, "0" * 64)))
    return ExportedNetwork(path, "cpu")


def differing(method, network):
    """Return the share of bits that differ for 40 images of noise."""
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        wanted = method(torch.from_numpy(images)).numpy() >= 0
    return float(((network.look(images).logits >= 0) != wanted).mean())


def test_a_transformer_cut_at_its_patches(make_method, make_backbone, tmp_path):
    method = make_method(CE, make_backbone("test_vit", split=0))
    assert differing(method, exported(method, tmp_path / "a.onnx")) < 0.005


def test_codes_of_a_collection(make_method, make_backbone, tmp_path):
    method = make_method(ITQ, make_backbone("test_resnet", split=2))
    code = CollectionCode(method.backbone.feature_dim, 5, method.bits)
    for buffer in (code.mean, code.whitening, code.centres, code.weight, code.bias):
        buffer.copy_(torch.randn_like(buffer))
    before = exported(method, tmp_path / "a.onnx")
    method.collection = code
    assert differing(method, before) > 0.1
    assert differing(method, exported(method, tmp_path / "b.onnx")) < 0.005


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("test_efficientnet", {"views": "sizes"}),
        ("test_vit", {}),
        ("test_efficientnet", {"parts": {"order": "parts_first"}, "weights": {"attributes": 0}}),
        ("test_efficientnet", {"parts": {"granularity": "patch"}}),
    ],
)
def test_razh_with_its_options(backbone, options, make_method, make_backbone, tmp_path):
    method = make_method(RAZH, make_backbone(backbone, split=2), **options)
    assert differing(method, exported(method, tmp_path / "a.onnx")) < 0.005


def test_what_is_no_graph_is_refused_in_one_line(make_method, tmp_path):
    class Counts(CE):
        """Hashes by how many images there are, which a graph for any number of them cannot."""

        def hash_logits(self, batch):
            return super().hash_logits(batch) * float(batch["image"].float().mean())

    with pytest.raises(ValueError, match=r"Counts cannot be exported to ONNX .*; pass --format=safetensors") as caught:
        exported(make_method(Counts), tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.onnx").exists()
