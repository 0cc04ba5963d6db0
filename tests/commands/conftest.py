"""A small checkpoint and a folder of photos, for commands that encode."""

import pytest
import torch

from razh import __version__
from razh.backbones.timm import TimmBackbone
from razh.checkpoint import SCHEMA
from razh.methods.ce import CE
from tests import fake

BITS, SIZE = 12, 32


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A checkpoint of CE on a tiny network, as a run writes it."""
    torch.manual_seed(0)
    backbone = {"name": "test_efficientnet", "split": 2, "image_size": SIZE}
    facts = {
        "class_attributes": torch.rand(4, 3),
        "attribute_vectors": torch.rand(3, 2),
        "train_classes": torch.tensor([0, 1, 2]),
    }
    method = CE(backbone=TimmBackbone(**backbone), **facts, bits=BITS).eval()
    nested = {"class_path": "razh.backbones.timm.TimmBackbone", "init_args": backbone}
    info = {
        "schema": SCHEMA,
        "version": __version__,
        "model": {"class_path": "razh.methods.ce.CE", "init_args": {"bits": BITS, "backbone": nested}},
        "dataset": "folder",
        "image_size": SIZE,
        "class_names": list("abcd"),
        "attribute_names": list("xyz"),
        "split_fingerprint": "0" * 64,
    }
    path = tmp_path_factory.mktemp("encode") / "best.ckpt"
    torch.save({"state_dict": method.state_dict(), "razh": info}, path)
    return path, method


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(7):
        fake.write_image(folder / ("cats" if number % 2 else "dogs/big") / f"{number}.png", seed=number)
    return folder
