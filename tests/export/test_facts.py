"""What an exported folder says of itself, and what is refused: damage, other formats, hubs that cannot be reached."""

import json
import shutil

import numpy as np
import pytest

import razh
from razh.export.facts import FACTS, ClassFacts, weights_of
from razh.support.files import digest_of, read_json


@pytest.fixture
def copy(tensors_folder, tmp_path):
    return shutil.copytree(tensors_folder, tmp_path / "copy")


def rewrite(folder, **changes):
    facts = read_json(folder / FACTS)
    (folder / FACTS).write_text(json.dumps(facts | changes))


def test_attributes_of_classes_survive_json():
    facts = ClassFacts(np.random.default_rng(0).random((5, 3), dtype=np.float32), [0, 2])
    found = ClassFacts.of_json(json.loads(json.dumps(facts.as_json())))
    np.testing.assert_array_equal(found.attributes, facts.attributes)
    assert (found.looked_at, found.logits) == ([0, 2], None)
    logits = np.array([[1.5, -2], [np.nan, np.nan]], np.float32)
    found = ClassFacts.of_json(json.loads(json.dumps(facts._replace(logits=logits).as_json())))
    np.testing.assert_array_equal(found.logits, logits)
    assert ClassFacts.of_json(json.loads(json.dumps(facts._replace(names=["a", "b"]).as_json()))).names == ["a", "b"]


def test_safetensors_give_the_codes_of_the_checkpoint(tensors_folder, reading, photos):
    model, before = razh.load(tensors_folder, device="cpu"), razh.load(reading, device="cpu")
    np.testing.assert_array_equal(model.encode(photos), before.encode(photos))
    assert model.method.state_dict().keys() == before.method.state_dict().keys()
    facts = read_json(tensors_folder / FACTS)
    assert facts["sha256"] == digest_of(tensors_folder / "model.safetensors")
    assert facts["checkpoint"] == digest_of(reading) == model.network.origin
    assert {found.name for found in model.why(next(photos.rglob("*.png"))).attributes} == set(
        facts["info"]["attribute_names"]
    )


def test_an_archive_of_the_checkpoint_is_searched_by_what_was_exported(tensors_folder, reading, photos, tmp_path):
    razh.Archive.create(tmp_path / "archive", photos, razh.load(reading, device="cpu"))
    archive = razh.Archive.open(tmp_path / "archive", model=razh.load(tensors_folder, device="cpu"))
    image = shutil.copy(sorted(photos.rglob("*.png"))[0], tmp_path / "new.png")
    assert archive.search(image, k=1)[0].distance == 0


def test_a_changed_byte_is_refused(copy):
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged: its SHA-256 is not that in razh.json"):
        razh.load(copy)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 2}, "has format 2, this razh reads 1; upgrade razh"),
        ({"format": "1"}, "has format 1, this razh reads 1"),
        ({"bits": None}, "does not say its bits; export the checkpoint again"),
        ({"weights": "../model.safetensors"}, r"lacks its weights, \.\./model\.safetensors"),
        ({"weights": "model.onnx"}, "lacks its weights, model.onnx"),
        ({"info": {}}, "is not of a checkpoint of razh"),
        ({"info": {"schema": 1}}, "was made by an older razh"),
    ],
)
def test_facts_that_cannot_be_used_are_one_line(copy, changes, told):
    rewrite(copy, **changes)
    with pytest.raises(ValueError, match=told) as caught:
        razh.load(copy)
    assert "\n" not in str(caught.value)


def test_a_class_that_a_file_names_is_not_imported(copy):
    facts = read_json(copy / FACTS)
    facts["info"]["model"]["class_path"] = "os.system"
    (copy / FACTS).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"'os.system' is no HashingMethod of razh"):
        razh.load(copy)


def test_weights_without_facts_and_folders_without_weights_are_refused(copy, tmp_path):
    (copy / FACTS).unlink()
    with pytest.raises(ValueError, match=r"has no razh.json beside it"):
        razh.load(copy / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"is a folder without razh.json"):
        razh.load(copy)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        razh.load(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "revision"), [("hf://me/codes", None), ("hf://me/codes@v1.0", "v1.0")])
def test_a_hub_is_asked_for_our_files_alone(name, revision, tensors_folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason='needs pip install ".[export]"')
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda *given, **how: asked.append((given, how)) or tensors_folder)
    assert razh.load(name, device="cpu").bits == 12
    (given, how), *more = asked
    assert not more
    assert given == ("me/codes",)
    assert how["revision"] == revision
    assert set(how["allow_patterns"]) == {"razh.json", "README.md", "model.onnx", "model.safetensors"}


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    hub = pytest.importorskip("huggingface_hub", reason='needs pip install ".[export]"')

    def gone(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(hub, "snapshot_download", gone)
    with pytest.raises(OSError, match=r"hf://me/codes cannot be fetched \(no route to host\); copy its folder here"):
        weights_of("hf://me/codes")
