"""A small checkpoint and a folder of photos, for commands that encode."""

import pytest
import torch

from razh import __version__
from razh.backbones.timm import TimmBackbone
from razh.methods.ce import CE
from razh.methods.razh import RAZH
from razh.run.checkpoint import SCHEMA
from tests import fake

BITS, SIZE = 12, 32


TRAITS = ("head colour: red", "head colour: blue", "tail length: long")


def write_checkpoint(path, kind, **facts):
    """Write a checkpoint of an untrained method on a tiny network, as a run writes it; return the method."""
    torch.manual_seed(0)
    backbone = {"name": "test_efficientnet", "split": 2, "image_size": SIZE}
    names = facts.pop("attribute_names", list("xyz"))
    facts = {
        "class_attributes": torch.rand(4, 3),
        "attribute_vectors": torch.rand(3, 2),
        "train_classes": torch.tensor([0, 1, 2]),
        **facts,
    }
    method = kind(backbone=TimmBackbone(**backbone), **facts, bits=BITS).eval()
    nested = {"class_path": "razh.backbones.timm.TimmBackbone", "init_args": backbone}
    class_path = f"{kind.__module__}.{kind.__name__}"
    info = {
        "schema": SCHEMA,
        "version": __version__,
        "model": {"class_path": class_path, "init_args": {"bits": BITS, "backbone": nested}},
        "dataset": "folder",
        "image_size": SIZE,
        "class_names": list("abcd"),
        "attribute_names": names,
        "split_fingerprint": "0" * 64,
    }
    torch.save({"state_dict": method.state_dict(), "razh": info}, path)
    return method


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A checkpoint of CE, which knows nothing of parts."""
    path = tmp_path_factory.mktemp("encode") / "best.ckpt"
    return path, write_checkpoint(path, CE)


@pytest.fixture(scope="session")
def reading(tmp_path_factory):
    """A checkpoint of RAZH, which reads attributes part by part; the path."""
    path = tmp_path_factory.mktemp("reading") / "best.ckpt"
    write_checkpoint(path, RAZH, attribute_names=list(TRAITS), attribute_groups=torch.tensor([0, 0, 1]))
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number in range(7):
        fake.write_image(folder / ("cats" if number % 2 else "dogs/big") / f"{number}.png", seed=number)
    return folder
