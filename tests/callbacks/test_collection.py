"""Settings: what is given beside labelled images is given by the data module, and nothing else is looked at."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from razh.backbones.timm import TimmBackbone
from razh.callbacks.collection import adapt
from razh.cli.main import main
from razh.collection.code import fit_collection
from razh.datamodules.splits import SETTINGS
from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.methods.ce import CE
from razh.run import checkpoint

SIDE = 32


def make(setting):
    return SyntheticDataModule(
        seen_classes=5, unseen_classes=3, images_per_class=30, image_size=SIDE, setting=setting, batch_size=16
    )


def build(data, method=CE, **arguments):
    torch.manual_seed(0)
    facts = {name: getattr(data, name) for name in ("class_attributes", "attribute_vectors", "train_classes")}
    return method(backbone=TimmBackbone("test_efficientnet", split=2, image_size=SIDE), bits=16, **facts, **arguments)


@pytest.fixture
def sure(monkeypatch):
    """Let every trial succeed: an untrained network's descriptions tell little."""
    monkeypatch.setattr("razh.collection.judge.SURE", -1e9)


def test_a_setting_is_part_of_the_split():
    splits = {setting: make(setting).split for setting in SETTINGS}
    assert len({split.fingerprint for split in splits.values()}) == len(SETTINGS)
    assert {name for name, split in splits.items() if len(split.unlabelled)} == {"collection", "both"}
    assert {name for name, split in splits.items() if split.describes_unseen} == {"described", "both"}
    assert splits["both"].as_dict()["setting"] == "both"
    assert not np.isin(splits["both"].unlabelled, splits["both"].query).any()
    with pytest.raises(ValueError, match=r"setting is 'transductive'; pass --data\.setting=inductive\|described"):
        _ = make("transductive").split


@pytest.mark.usefixtures("sure")
@pytest.mark.parametrize("setting", ["collection", "both"])
def test_queries_are_not_read_and_labels_of_the_collection_are_not_looked_at(setting, monkeypatch):
    data = make(setting)
    method = build(data).eval()
    queries, load, read = set(data.split.query.tolist()), data.load_image, set()

    def only_what_is_given(index):
        assert index not in queries
        read.add(index)
        return load(index)

    monkeypatch.setattr(data, "load_image", only_what_is_given)
    for name in ("collection_input", "hash_logits"):
        made = getattr(method, name)
        monkeypatch.setattr(method, name, lambda batch, made=made: made(batch) if "label" not in batch else None)
    adapt(method, data)
    assert read == set(data.split.train.tolist()) | set(data.split.unlabelled.tolist())
    assert (set(data.split.unseen_classes) & set(method.collection.classes.tolist()) != set()) == (setting == "both")


@pytest.mark.usefixtures("sure")
def test_training_images_in_the_database_keep_their_class(monkeypatch):
    data = make("collection")
    shared = data.split.train[::2]
    monkeypatch.setitem(
        data.__dict__,
        "split",
        replace(data.split, database=np.union1d(data.split.database, shared), labels=data.labels),
    )
    given = {}

    def fit(rows, *options, labelled):
        given["labelled"] = data.split.unlabelled[labelled]
        return fit_collection(rows, *options, labelled=labelled)

    monkeypatch.setattr("razh.callbacks.collection.fit_collection", fit)
    adapt(build(data).eval(), data)
    assert np.array_equal(given["labelled"], shared)


def test_nothing_is_adapted_where_a_trial_brings_nothing(monkeypatch, caplog):
    monkeypatch.setattr("razh.collection.judge.SURE", 1e9)
    data = make("collection")
    method = build(data).eval()
    adapt(method, data)
    assert method.collection is None
    assert "the codes stay as they are" in caplog.text


def test_what_looks_at_more_than_its_setting_is_refused(capsys, tmp_path):
    options = ["--dataset=synthetic", "--method=razh_views", "--backbone=tiny", "--trainer.max_epochs=1"]
    options += [f"--run_dir={tmp_path}", "--data.images_per_class=8", "--model.code.posteriors=described"]
    assert main(["train", *options, "--data.setting=collection"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "model.code.posteriors=described looks at attributes" in error
    assert "data.setting=collection does not give; pass --data.setting=described or both" in error


@pytest.mark.usefixtures("sure")
def test_a_run_in_a_setting_is_adapted_before_its_test_and_leaves_a_checkpoint_that_tests_alike(tmp_path, capsys):
    common = ["--dataset=synthetic", "--method=ce", "--backbone=tiny", "--data.images_per_class=30", "--bits=16"]
    common += ["--data.setting=both", "--trainer.max_epochs=1", "--data.seen_classes=8", "--data.unseen_classes=3"]
    common += ["--figures.enabled=false"]  # nothing is asserted of them, and they are slow
    assert main(["train", *common, f"--run_dir={tmp_path / 'run'}"]) == 0
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["split/setting"] == "both"
    assert found["collection/adapted"]
    assert "start/unseen/map" not in found
    assert {"test/described/map", "test/described/permuted/map", "test/described/accuracy"} <= found.keys()
    adapted = tmp_path / "run" / "checkpoints" / "adapted.ckpt"
    assert checkpoint.read(adapted)["razh"]["collection"]["setting"] == "both"
    config = f"--config={tmp_path / 'run' / 'config.yaml'}"
    assert main(["test", config, f"--ckpt_path={adapted}", f"--run_dir={tmp_path / 'again'}"]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["test/unseen/map"] == found["test/unseen/map"]
    capsys.readouterr()
    assert main(["train", config, f"--ckpt_path={adapted}", f"--run_dir={tmp_path / 'on'}"]) == 1
    assert "was adapted to a collection, which ends its training" in capsys.readouterr().err
