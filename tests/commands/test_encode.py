"""`razh encode`: a folder of anything, and a file of codes that `razh evaluate` reads."""

import numpy as np
import pytest
import torch

from datamodules.images import evaluation_view, read_image
from razh import __version__
from razh.backbones.timm import TimmBackbone
from razh.checkpoint import SCHEMA
from razh.cli import main
from razh.methods.ce import CE
from razh.retrieval.packing import unpack
from tests import fake

BITS, SIZE = 12, 32


@pytest.fixture(scope="module")
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


def encode(folder, checkpoint, out, *more):
    return main(["encode", str(folder), "--checkpoint", str(checkpoint), "--out", str(out), "--workers", "0", *more])


def test_codes_are_those_of_the_method_image_by_image(trained, photos, tmp_path):
    path, method = trained
    assert encode(photos, path, tmp_path / "c.npz", "--batch-size", "3") == 0
    with np.load(tmp_path / "c.npz", allow_pickle=False) as file:
        codes = {name: file[name] for name in file.files}
    assert int(codes["bits"]) == BITS
    assert codes["codes"].shape == (7, 2)
    assert sorted(codes["paths"]) == list(codes["paths"])
    for name, code in zip(codes["paths"], unpack(codes["codes"], BITS), strict=True):
        image = evaluation_view(read_image(photos / str(name)), SIZE)
        with torch.no_grad():
            assert np.array_equal(method(image[None])[0].numpy() >= 0, code)
    assert [str(codes["class_names"][label]) for label in codes["labels"]] == [p.split("/")[0] for p in codes["paths"]]


def test_broken_images_are_left_out_and_the_status_says_so(trained, photos, tmp_path, capsys):
    (photos / "cats" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of an image")
    (photos / "cats" / "words.png").write_text("no image at all")
    (photos / "cats" / "notes.txt").write_text("not looked at")
    assert encode(photos, trained[0], tmp_path / "c.npz") == 3
    told = capsys.readouterr()
    assert "cut.jpg" in told.err
    assert "words.png" in told.err
    assert "2 broken images were left out" in told.out
    with np.load(tmp_path / "c.npz") as file:
        assert len(file["codes"]) == len(file["paths"]) == 7


def test_single_files_have_no_labels_and_evaluate_says_what_to_do(trained, photos, tmp_path, capsys):
    files = [str(p) for p in sorted(photos.rglob("*.png"))[:2]]
    out = tmp_path / "two.npz"
    assert main(["encode", *files, "--checkpoint", str(trained[0]), "--out", str(out), "--workers", "0"]) == 0
    with np.load(out) as file:
        assert "labels" not in file.files
    assert main(["evaluate", str(out)]) == 1
    assert "no labels" in capsys.readouterr().err


def test_encoded_classes_can_be_evaluated(trained, photos, tmp_path, capsys):
    out = tmp_path / "c.npz"
    assert encode(photos, trained[0], out) == 0
    capsys.readouterr()
    assert main(["evaluate", str(out)]) == 0
    assert "each is left out of its own" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--checkpoint", "{ckpt}"], "no image or folder at nowhere"),
        (["{empty}", "--checkpoint", "{ckpt}"], "no images in"),
        (["{photos}", "--checkpoint", "nowhere.ckpt"], "no checkpoint at nowhere.ckpt"),
        (["{photos}", "--checkpoint", "{ckpt}", "--batch-size", "0"], "--batch-size=0 must be at least 1"),
    ],
)
def test_bad_input_is_one_line(arguments, told, trained, photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    names = {"ckpt": trained[0], "photos": photos, "empty": tmp_path / "empty"}
    out = tmp_path / "never.npz"
    assert main(["encode", *(a.format(**names) for a in arguments), "--out", str(out), "--workers", "0"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not out.exists()


def test_nothing_readable_writes_nothing(trained, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"x")
    assert encode(tmp_path / "bad", trained[0], tmp_path / "c.npz") == 1
    assert "none of the 1 files is a readable image" in capsys.readouterr().err
    assert not (tmp_path / "c.npz").exists()
