import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from razh import checkpoint, random_state
from razh.backbones.views import MIRRORED, SIZES
from razh.checkpoint_io import CheckpointFiles
from razh.methods.ce import CE
from razh.methods.itq import ITQ
from razh.methods.razh import RAZH
from razh.methods.razh_views import RAZHViews

BACKBONES = [("test_vit", 0), ("test_vit", 2), ("test_efficientnet", 3)]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def content(make_method, make_backbone):
    """Return a factory of a method and its checkpoint, as `RunRecord` writes it."""

    def make(kind=CE, name="test_vit", split=0, weights=False, freeze="none", **arguments):
        network = make_backbone(name, split, freeze=freeze)
        network.has_weights = weights
        method = make_method(kind, network, **arguments)
        where = f"{kind.__module__}.{kind.__qualname__}"
        backbone = {"name": name, "split": split, "image_size": 999, "freeze": freeze}
        backbone |= {"pretrained": weights, "checkpoint": "/gone.pth" if weights else None}
        model = {
            "class_path": where,
            "init_args": {
                "bits": 12,
                "backbone": {"class_path": "razh.backbones.timm.TimmBackbone", "init_args": backbone},
                **arguments,
            },
        }
        info = {"schema": checkpoint.SCHEMA, "version": "0", "model": model, "dataset": "synthetic", "image_size": 32}
        return method.eval(), {"state_dict": method.state_dict(), "epoch": 3, "razh": info}

    return make


@pytest.fixture
def saved(content, tmp_path):
    """Return a factory of a method's checkpoint file, changed by a function first."""

    def make(change=lambda found: None, **arguments):
        method, found = content(**arguments)
        change(found)
        torch.save(found, tmp_path / "a.ckpt")
        return method, tmp_path / "a.ckpt"

    return make


def refused(path, match, error=ValueError):
    with pytest.raises(error, match=match) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(("name", "split"), BACKBONES)
@pytest.mark.parametrize("kind", [CE, RAZH, RAZHViews, ITQ])
def test_loaded_method_gives_the_same_logits(saved, make_batch, kind, name, split, weights):
    """Also where what the network started from decides what the method is made of."""
    method, path = saved(kind=kind, name=name, split=split, weights=weights)
    loaded = checkpoint.load(path)
    images = make_batch()["image"]
    assert type(loaded.method) is kind
    assert not loaded.method.training
    assert torch.equal(loaded.method(images), method(images))
    assert loaded.info["dataset"] == "synthetic"


def test_arguments_of_the_method_are_kept(saved):
    _, path = saved(kind=RAZH, parts=3, mix_weight=0.0, classifier="linear")
    method = checkpoint.load(path).method
    assert method.clustering.parts == 3
    assert method.weights["mix"] == 0
    assert not method.semantic


def test_code_in_a_checkpoint_is_not_run(saved, tmp_path):
    mark = tmp_path / "bomb"
    _, path = saved(lambda found: found.update(extra=Bomb(mark)))
    refused(path, "unsafe code")
    assert not mark.exists()
    torch.load(path, weights_only=False)  # it would have gone off
    assert mark.exists()


def test_code_in_a_plain_pickle_is_not_run(tmp_path):
    mark, path = tmp_path / "bomb", tmp_path / "a.ckpt"
    path.write_bytes(pickle.dumps({"razh": Bomb(mark), "state_dict": {}}))
    refused(path, "cannot be read")
    assert not mark.exists()


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file(saved, kept):
    _, path = saved()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert str(path) in refused(path, "cut short")


def test_file_that_is_not_there(tmp_path):
    assert "runs/" in refused(tmp_path / "none.ckpt", "no checkpoint at", FileNotFoundError)


def drop(*keys):
    """Return a function that deletes an entry of nested dicts."""

    def change(found):
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    return change


@pytest.mark.parametrize("change", [drop("razh"), drop("state_dict"), drop("razh", "schema")])
def test_files_of_others_are_refused(saved, change):
    refused(saved(change)[1], "not a checkpoint of razh")


def test_list_is_not_a_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "not a checkpoint of razh")


def test_newer_schema_is_refused(saved):
    newer = checkpoint.SCHEMA + 1
    refused(saved(lambda found: found["razh"].update(schema=newer))[1], f"schema {newer}.*upgrade razh")


def test_schema_1_is_migrated(saved, make_batch):
    method, path = saved(lambda found: found["razh"].update(schema=1))
    loaded = checkpoint.load(path)
    assert loaded.info["schema"] == checkpoint.SCHEMA
    assert loaded.info["split_protocol"] is None
    assert loaded.info["progress"] == checkpoint.NO_PROGRESS
    images = make_batch()["image"]
    assert torch.equal(loaded.method(images), method(images))


@pytest.mark.parametrize(("schema", "views"), [(1, MIRRORED), (2, MIRRORED), (3, SIZES), (4, SIZES), (5, SIZES)])
def test_codes_of_older_checkpoints_stay_as_they_were(saved, make_batch, schema, views):
    found = {"mirrored": MIRRORED, "sizes": SIZES}
    name = next(key for key, value in found.items() if value == views)

    def older(content):
        content["razh"]["schema"] = schema
        came = {"views": 3, "posteriors": 4, "similarity_space": 5}  # with which schema
        for option in (option for option, first in came.items() if schema < first):
            content["razh"]["model"]["init_args"].pop(option)

    posteriors = "training" if schema >= 4 else "none"
    method, path = saved(
        older,
        kind=RAZHViews,
        name="test_efficientnet",
        split=3,
        weights=True,
        freeze="all",
        views=name,
        posteriors=posteriors,
        similarity_space="whitened" if schema == 5 else "feature",
    )
    loaded = checkpoint.load(path).method
    assert loaded.whitens == (schema == 5)
    assert loaded.views == views
    assert (loaded.posteriors is None) == (schema < 4)
    assert torch.equal(loaded(make_batch()["image"]), method(make_batch()["image"]))


def test_an_older_checkpoint_of_razh_keeps_the_similarity_of_features_as_they_are(saved, make_batch):
    def older(content):
        content["razh"]["schema"] = 4
        content["razh"]["model"]["init_args"].pop("similarity_space")

    method, path = saved(older, kind=RAZH, split=2, weights=True, freeze="all", similarity_space="feature")
    loaded = checkpoint.load(path).method
    assert not loaded.whitens
    assert torch.equal(loaded(make_batch()["image"]), method(make_batch()["image"]))


@pytest.mark.parametrize("schema", [0, -3])
def test_schema_that_is_too_old_is_refused(saved, schema):
    refused(saved(lambda found: found["razh"].update(schema=schema))[1], f"schema {schema}, the oldest.*train it again")


def test_damaged_byte_is_found(saved):
    _, path = saved()
    whole = bytearray(path.read_bytes())
    place = whole.find(torch.load(path, weights_only=True)["state_dict"]["head.weight"].numpy().tobytes())
    assert place > 0
    checkpoint.check(path)
    whole[place + 3] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.check(path)


def test_newest_complete_checkpoint(saved, tmp_path, caplog):
    _, path = saved()
    last, before = tmp_path / "last.ckpt", tmp_path / "last-1.ckpt"
    assert checkpoint.newest(tmp_path) is None
    before.write_bytes(path.read_bytes())
    assert checkpoint.newest(tmp_path) == before
    last.write_bytes(path.read_bytes())
    assert checkpoint.newest(tmp_path) == last
    last.write_bytes(path.read_bytes()[:-10])
    assert checkpoint.newest(tmp_path) == before
    before.write_bytes(b"")
    assert checkpoint.newest(tmp_path) is None


class TestFiles:
    """How checkpoints are written and read."""

    def test_last_one_stays_until_the_next_is_whole(self, content, tmp_path):
        _, found = content()
        for epoch in range(3):
            CheckpointFiles().save_checkpoint(found | {"epoch": epoch}, tmp_path / "deep" / "last.ckpt")
        epochs = [checkpoint.read(tmp_path / "deep" / name)["epoch"] for name in ("last.ckpt", "last-1.ckpt")]
        assert epochs == [2, 1]
        CheckpointFiles().save_checkpoint(found, tmp_path / "deep" / "best.ckpt")
        assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["best.ckpt", "last-1.ckpt", "last.ckpt"]

    def test_code_is_not_run_whatever_is_asked_for(self, saved, tmp_path):
        mark = tmp_path / "bomb"
        _, path = saved(lambda found: found.update(extra=Bomb(mark)))
        with pytest.raises(ValueError, match="unsafe code"):
            CheckpointFiles().load_checkpoint(path, weights_only=False)
        assert not mark.exists()

    def test_what_cannot_be_written_is_one_line(self, content, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match=r"cannot write checkpoint .*last\.ckpt"):
            CheckpointFiles().save_checkpoint(content()[1], tmp_path / "file" / "last.ckpt")

    def test_content_that_cannot_be_saved_leaves_the_old_one(self, content, tmp_path):
        _, found = content()
        CheckpointFiles().save_checkpoint(found, tmp_path / "last.ckpt")
        with pytest.raises((AttributeError, pickle.PicklingError)):
            CheckpointFiles().save_checkpoint(found | {"bad": lambda: 0}, tmp_path / "last.ckpt")
        assert checkpoint.newest(tmp_path) == tmp_path / "last.ckpt"
        assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_random_states_survive_a_checkpoint(tmp_path):
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    random.gauss(0, 1), np.random.randn()  # noqa: NPY002 - both keep a second value for the next call
    torch.save(random_state.take(), tmp_path / "state")

    def draw():
        return random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002

    first = draw()
    assert draw() != first
    random_state.put(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == first


@pytest.mark.parametrize("path", ["os.system", "torch.nn.Linear", "razh.backbones.timm.TimmBackbone", "builtins.dict"])
def test_only_methods_are_built(saved, path):
    file = saved(lambda found: found["razh"]["model"].update(class_path=path))[1]
    refused(file, f"names '{path}', which is no HashingMethod; do not trust")


@pytest.mark.parametrize("path", ["subprocess.Popen", "razh.methods.ce.CE"])
def test_only_backbones_are_built(saved, path):
    file = saved(lambda found: found["razh"]["model"]["init_args"]["backbone"].update(class_path=path))[1]
    refused(file, f"names '{path}', which is no TimmBackbone")


@pytest.mark.parametrize("path", ["no.such.module.Method", "razh.methods.ce.Gone", "Nothing", ""])
def test_classes_that_are_not_there_are_named(saved, path):
    refused(saved(lambda found: found["razh"]["model"].update(class_path=path))[1], "cannot be imported")


@pytest.mark.parametrize(
    "change",
    [
        drop("razh", "model"),
        drop("razh", "image_size"),
        drop("razh", "model", "init_args", "backbone"),
        drop("state_dict", "class_attributes"),
        lambda found: found["razh"]["model"]["init_args"].update(unknown=3),
        lambda found: found["razh"]["model"].update(class_path="razh.method.HashingMethod"),
    ],
)
def test_configuration_with_a_hole_is_one_line(saved, change):
    refused(saved(change)[1], "no usable configuration")


def test_weights_that_do_not_fit_are_one_line(saved):
    refused(saved(drop("state_dict", "head.weight"))[1], "does not fit its own configuration.*head.weight")
    refused(saved(lambda found: found["razh"]["model"]["init_args"].update(bits=13))[1], "does not fit")
