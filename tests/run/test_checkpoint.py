import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from razh.backbones.views import MIRRORED, SIZES
from razh.methods.ce import CE
from razh.methods.itq import ITQ
from razh.methods.pca import PCA
from razh.methods.razh import RAZH
from razh.run import checkpoint, random_state
from razh.run.checkpoint_io import CheckpointFiles
from tests.methods.views import of_views

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

    def make(kind=CE, name="test_vit", split=0, knows=False, freeze="none", **arguments):
        network = make_backbone(name, split, freeze=freeze)
        network.has_weights = knows
        method = make_method(kind, network, **arguments)
        where = f"{kind.__module__}.{kind.__qualname__}"
        backbone = {"name": name, "split": split, "image_size": 999, "freeze": freeze}
        backbone |= {"pretrained": knows, "checkpoint": "/gone.pth" if knows else None}
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


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize(("name", "split"), BACKBONES)
@pytest.mark.parametrize(
    ("kind", "options"), [(CE, {}), (CE, {"views": "auto"}), (RAZH, {}), (RAZH, of_views()), (ITQ, {})]
)
def test_loaded_method_gives_the_same_logits(saved, make_batch, kind, options, name, split, knows):
    """Also where what the network started from decides what the method is made of."""
    method, path = saved(kind=kind, name=name, split=split, knows=knows, **options)
    loaded = checkpoint.load(path)
    images = make_batch()["image"]
    assert type(loaded.method) is kind
    assert not loaded.method.training
    assert torch.equal(loaded.method(images), method(images))
    assert loaded.info["dataset"] == "synthetic"


def test_arguments_of_the_method_are_kept(saved):
    _, path = saved(kind=RAZH, parts={"count": 3}, weights={"mix": 0.0}, code={"feature_classifier": "linear"})
    method = checkpoint.load(path).method
    assert method.tools.clustering.parts == 3
    assert "mix" not in method.terms
    assert method.code.feature_classifier == "linear"


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


@pytest.mark.parametrize("schema", [checkpoint.SCHEMA - 1, 1, 0, -3])
def test_older_schema_is_refused(saved, schema):
    _, path = saved(lambda found: found["razh"].update(schema=schema))
    refused(path, rf"made by an older razh \(schema {schema}, now {checkpoint.SCHEMA}\); train again")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mix_weight": 0.1}, "no usable configuration .*'mix_weight'.*train it again"),
        ({"parts": 8}, "8 is no group of options; give Parts"),
        ({"parts": {"granularty": "patch"}}, "Parts has no option granularty; did you mean granularity"),
    ],
)
def test_options_that_have_no_group_are_refused_in_one_line(saved, options, told):
    refused(saved(lambda found: found["razh"]["model"]["init_args"].update(options), kind=RAZH)[1], told)


@pytest.mark.parametrize("views", [MIRRORED, SIZES])
def test_views_and_groups_of_options_make_the_round_trip(saved, make_batch, views):
    name = "sizes" if views == SIZES else "mirrored"
    code = {"posteriors": "training", "similarity_space": "feature"}
    of = {"name": "test_efficientnet", "split": 3, "knows": True, "freeze": "all"}
    method, path = saved(kind=RAZH, **of_views(views=name, code=code, weights={"semantic": 0.1}), **of)
    loaded = checkpoint.load(path).method
    assert loaded.views == views
    assert loaded.code == method.code
    assert loaded.terms.weights == method.terms.weights
    assert loaded.terms.weights.keys() == {"hash", "semantic", "similarity"}
    assert torch.equal(loaded(make_batch()["image"]), method(make_batch()["image"]))


def test_a_flipped_bit_is_found_or_changes_nothing(saved):
    """By what all commands read a checkpoint with: `read` for codes, `CheckpointFiles` for training and tests."""
    _, path = saved(kind=PCA, name="test_efficientnet", split=3)
    whole, draw = path.read_bytes(), random.Random(0)
    intact, found = checkpoint.read(path), 0  # in one line, or not at all
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            content = CheckpointFiles().load_checkpoint(path)
        except ValueError as error:
            found += len(str(error).splitlines()) == 1
        else:
            found += 1
            assert content["razh"] == intact["razh"]
            assert all(torch.equal(content["state_dict"][name], kept) for name, kept in intact["state_dict"].items())
    assert found == 60
    place = whole.find(intact["state_dict"]["backbone.model.conv_stem.weight"].numpy().tobytes())
    assert place > 0
    path.write_bytes(whole[: place + 3] + bytes([whole[place + 3] ^ 1]) + whole[place + 4 :])
    refused(path, "does not match its checksum")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(saved, number):
    _, path = saved(lambda found: found["state_dict"]["head.weight"].view(-1)[3:4].fill_(number))
    refused(path, r"weights that are not finite \(head\.weight\); train it again")


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


@pytest.mark.parametrize(
    "path",
    ["os.system", "torch.nn.Linear", "razh.backbones.timm.TimmBackbone", "mine.Method", "razh.methods.ce.Gone", "", 3],
)
def test_only_methods_are_built(saved, path):
    file = saved(lambda found: found["razh"]["model"].update(class_path=path))[1]
    refused(file, f"class {path!r} is no HashingMethod of razh, and nothing else is imported")


@pytest.mark.parametrize("path", ["subprocess.Popen", "razh.methods.ce.CE"])
def test_only_backbones_are_built(saved, path):
    file = saved(lambda found: found["razh"]["model"]["init_args"]["backbone"].update(class_path=path))[1]
    refused(file, f"class '{path}' is no TimmBackbone of razh")


@pytest.mark.parametrize("path", ["evil.Method", "razh.methods.evil.Method"])
def test_no_module_is_imported_because_a_file_names_it(saved, tmp_path, monkeypatch, path):
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    refused(saved(lambda found: found["razh"]["model"].update(class_path=path))[1], "nothing else is imported")
    assert not mark.exists()


def test_a_method_of_the_users_own_is_built_where_it_has_been_imported(saved):
    class Mine(CE):
        """A method that the running program knows."""

    file = saved(lambda found: found["razh"]["model"].update(class_path=f"{Mine.__module__}.{Mine.__qualname__}"))[1]
    assert type(checkpoint.load(file).method) is Mine


@pytest.mark.parametrize("name", ["hf-hub:timm/test_vit", "local-dir:/tmp/net", "https://host/net"])
def test_no_network_is_fetched_because_a_file_names_it(saved, monkeypatch, name):
    def change(found):
        found["razh"]["model"]["init_args"]["backbone"]["init_args"].update(name=name)

    _, path = saved(change)
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("asked for"))
    refused(path, "is not a timm model")


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
