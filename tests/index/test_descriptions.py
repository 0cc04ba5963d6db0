"""Descriptions of any images are those of the method, come from the cache where they can, and are its own network's."""

import numpy as np
import pytest
import torch

from razh.index.descriptions import Pictures, describe
from razh.methods.ce import CE
from razh.methods.razh import RAZH
from tests.methods.views import razh_views


@pytest.mark.parametrize(
    ("kind", "views"), [(CE, "none"), (CE, "auto"), (RAZH, "none"), (RAZH, "auto"), (razh_views, "auto")]
)
@pytest.mark.parametrize("freeze", ["all", "none"])
def test_descriptions_and_logits_are_those_of_the_method(kind, views, freeze, make_method, make_backbone, monkeypatch):
    method = make_method(kind, make_backbone("test_efficientnet", split=2, freeze=freeze), views=views).eval()
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    pictures = Pictures([f"image {i}" for i in range(5)], images.__getitem__, 0)
    rows = describe(method, pictures, "describing", "a")
    at = np.array([3, 0])
    with torch.inference_mode():
        expected = method.collection_input({"image": images[at]})
        logits = method.hash_logits({"image": images[at]})
    assert rows.shape == (5, expected.shape[1])
    assert np.allclose(rows[at], expected, atol=2e-2)
    assert torch.allclose(rows.logits(at), logits, atol=5e-2)
    monkeypatch.setattr("razh.index.descriptions.compute", None)  # all are cached
    assert np.array_equal(describe(method, pictures, "again", "a")[at], rows[at])


def test_attributes_that_were_read_are_kept_for_their_checkpoint_alone(make_method, make_backbone, monkeypatch):
    backbone = make_backbone("test_efficientnet", split=2, freeze="all")
    first, second = (make_method(RAZH, backbone).eval() for _ in range(2))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    pictures = Pictures([f"image {i}" for i in range(3)], images.__getitem__, 0)
    at = np.arange(3)
    rows = {m: describe(m, pictures, "describing", name) for m, name in ((first, "first"), (second, "second"))}
    width = backbone.feature_dim
    assert np.array_equal(rows[first][at][:, :width], rows[second][at][:, :width])
    assert not np.allclose(rows[first][at][:, width:], rows[second][at][:, width:], atol=1e-2)
    monkeypatch.setattr(RAZH, "hash_logits", None)  # its codes come from the same pass
    assert rows[first].logits(at).shape == (3, first.bits)


def test_rows_of_a_checkpoint_with_other_options_and_the_same_weights_are_not_found(make_method, make_backbone):
    backbone = make_backbone("test_efficientnet", split=2, freeze="all")
    plain, told = make_method(RAZH, backbone).eval(), make_method(RAZH, backbone, code={"collection_attributes": 8.0})
    told.eval().load_state_dict(plain.state_dict())
    images, at = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), np.arange(2)
    pictures = Pictures(["image 0", "image 1"], images.__getitem__, 0)
    rows, others = (describe(m, pictures, "describing", name)[at] for m, name in ((plain, "plain"), (told, "told")))
    width = backbone.feature_dim
    assert np.allclose(4 * rows[:, width:], others[:, width:], atol=1e-2)
