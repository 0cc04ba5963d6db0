"""`razh export`: the folder that it writes, the model card, the check on codes, what it refuses."""

import json

import pytest
import torch
import yaml

from razh.cli.main import main
from razh.export import graph
from razh.methods.ce import CE
from razh.retrieval.agreement import Check, compared
from razh.support.files import digest_of, read_json
from tests.commands.conftest import write_checkpoint


def export(checkpoint, out, *more):
    return main(["export", str(checkpoint), "--out", str(out), "--format=safetensors", *more])


@pytest.fixture
def run(tmp_path):
    """Return the checkpoint of a run with a split and figures."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    write_checkpoint(folder / "checkpoints" / "best.ckpt", CE)
    split = {"protocol": "ps", "setting": "inductive", "fingerprint": "0" * 64, "refit": False}
    split |= {"seen_classes": [0, 1, 2], "unseen_classes": [3], "validation_classes": [2]}
    (folder / "split.json").write_text(json.dumps(split))
    metrics = {"test/unseen/map": 0.4321, "test/unseen/chance": 0.25, "train/loss": 7.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder / "checkpoints" / "best.ckpt"


def card(folder):
    """Return front matter and text of a model card."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_folder_has_weights_facts_and_a_card(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(run, out) == 0
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "razh.json", "README.md"}
    facts = read_json(out / "razh.json")
    assert facts["sha256"] == digest_of(out / "model.safetensors")
    assert facts["checkpoint"] == digest_of(run)
    assert (facts["method"], facts["bits"], facts["image_size"]) == ("CE", 12, 32)
    assert facts["run"]["classes"] == {"seen": 3, "unseen": 1, "validation": 1}
    assert facts["metrics"] == {"test/unseen/map": 0.4321, "test/unseen/chance": 0.25}
    assert facts["check"] == {"images": 64, "source": "drawn", "bits_differ": 0.0, "codes_differ": 0.0}
    front, text = card(out)
    assert front["library_name"] == "razh"
    assert front["pipeline_tag"] == "image-feature-extraction"
    assert front["license"] == "other"
    for words in ("| unseen/map | 0.4321 |", "3 seen, 1 unseen", "inductive: no attributes", "0" * 64, "research use"):
        assert words in text
    said = capsys.readouterr()
    assert "bits that differ       0.0000%" in said.out
    assert f"--checkpoint={out}" in said.err


def test_figures_of_another_checkpoint_or_split_are_not_told(run, tmp_path):
    last = run.rename(run.with_name("last.ckpt"))
    assert export(last, tmp_path / "last") == 0
    assert "None are known" in card(tmp_path / "last")[1]
    assert "inductive" in card(tmp_path / "last")[1]
    split = run.parents[1] / "split.json"
    split.write_text(split.read_text().replace("0" * 64, "1" * 64))
    assert export(last.rename(run), tmp_path / "other") == 0
    text = card(tmp_path / "other")[1]
    assert "None are known" in text
    assert "unknown: the run is not beside it" in text


def test_no_path_of_this_machine_is_written(run, tmp_path):
    content = torch.load(run, weights_only=True)
    backbone = content["razh"]["model"]["init_args"]["backbone"]["init_args"]
    backbone["checkpoint"] = "../somewhere/weights.safetensors"
    torch.save(content, run)
    assert export(run, tmp_path / "out") == 0
    written = "".join((tmp_path / "out" / name).read_text() for name in ("razh.json", "README.md"))
    assert "weights.safetensors" in written
    assert "somewhere" not in written
    assert str(tmp_path) not in written


def test_an_export_is_replaced_and_nothing_else(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(run, out) == 0
    before = (out / "razh.json").read_text()
    assert export(run, out) == 0
    assert (out / "razh.json").read_text() == before
    (out / "mine.txt").write_text("keep")
    assert export(run, out) == 1
    assert "is there, and not from `razh export` (mine.txt); give another folder" in capsys.readouterr().err
    assert (out / "mine.txt").read_text() == "keep"
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("mine")
    assert export(run, other) == 1
    assert (other / "README.md").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    assert export(run, tmp_path / "file") == 1
    assert not list(tmp_path.glob(".*razh*"))


def test_codes_are_compared_with_classes_where_there_are_some(onnx, photos, tmp_path, capsys):
    checkpoint, _ = onnx
    out = tmp_path / "out"
    words = ["export", str(checkpoint), "--out", str(out), "--check", str(photos), "--workers=0"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "images                 7 (photos/)" in said
    assert "mAP before, after" in said
    check = read_json(out / "razh.json")["check"]
    assert check["images"] == 7
    assert check["map_after"] == pytest.approx(check["map_before"], abs=0.1)
    assert "| mAP before, after |" in card(out)[1]
    assert str(tmp_path) not in (out / "README.md").read_text()
    assert "onnx" in card(out)[0]["tags"]


@pytest.fixture
def onnx(trained, monkeypatch):
    """A checkpoint, and a switch that makes its graphs wrong; graphs are made once."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason='needs pip install ".[export]"')
    forward = graph._Graph.forward
    wrong = []
    monkeypatch.setattr(graph._Graph, "forward", lambda self, images: forward(self, images) * (-1 if wrong else 1))
    return trained[0], wrong


def test_a_graph_with_other_codes_is_refused_and_nothing_is_left(onnx, tmp_path, capsys):
    checkpoint, wrong = onnx
    wrong.append(True)
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "of the bits of 64 images (drawn) differ, 1.000% may; nothing is written" in said
    assert list(tmp_path.iterdir()) == []


def test_the_figures_of_a_check_are_counted(trained):
    import numpy as np

    before = np.array([[0b11110000], [0b11110000], [0b00000000], [0b00000000]], dtype=np.uint8)
    after = before.copy()
    after[0, 0] ^= 0b00010000
    found = compared(before, after, 4, "made", ["a", "a", "b", "b"])
    assert found == Check(4, "made", 1 / 16, 0.25, 1.0, 1.0)
    assert compared(before, after, 4, "made", ["a", "", "b", "b"]).map_before is None
    mixed = compared(before, before[[0, 2, 1, 3]], 4, "made", ["a", "a", "b", "b"])
    assert mixed.map_before == 1.0
    assert mixed.map_after == pytest.approx((1 / 2.5 + 1 / 2) / 2, abs=0.2)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--max-differing=0"], "--max-differing=0 must be above 0 and at most 1"),
        (["--max-differing=2"], "--max-differing=2"),
        (["--check=nowhere"], "no image or folder at nowhere"),
    ],
)
def test_bad_input_is_one_line(more, told, trained, tmp_path, capsys):
    assert export(trained[0], tmp_path / "out", *more) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert told in errors[0]
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path, capsys):
    assert export(tmp_path / "no.ckpt", tmp_path / "out") == 1
    assert "no checkpoint at" in capsys.readouterr().err
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert export(tmp_path / "model.onnx", tmp_path / "out") == 1
    assert "give a file that `razh train` wrote" in capsys.readouterr().err
