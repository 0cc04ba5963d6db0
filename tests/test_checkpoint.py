import pickle
from pathlib import Path

import pytest
import torch

from razh import checkpoint
from razh.methods.ce import CE
from razh.methods.itq import ITQ
from razh.methods.razh import RAZH

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

    def make(kind=CE, name="test_vit", split=0, **arguments):
        method = make_method(kind, make_backbone(name, split), **arguments)
        where = f"{kind.__module__}.{kind.__qualname__}"
        backbone = {"name": name, "split": split, "image_size": 999, "pretrained": True, "checkpoint": "/gone.pth"}
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


@pytest.mark.parametrize(("name", "split"), BACKBONES)
@pytest.mark.parametrize("kind", [CE, RAZH, ITQ])
def test_loaded_method_gives_the_same_logits(saved, make_batch, kind, name, split):
    method, path = saved(kind=kind, name=name, split=split)
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
    refused(saved(lambda found: found["razh"].update(schema=checkpoint.SCHEMA + 1))[1], "schema 2.*upgrade razh")


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
