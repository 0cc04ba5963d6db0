"""Anchor graph hashing: against the whole graph's eigenvectors, and on groups that no hyperplane of PCA parts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from razh.cli.main import main
from razh.methods.agh import AGH, centres, eigenvectors
from razh.methods.itq import ITQ
from razh.methods.pca import PCA
from razh.run import checkpoint

WIDTH = 64  # of the tiny network


def groups(count=4, size=40, apart=6.0, seed=0):
    """Return features (n, D) in groups, and the group of each."""
    generator = torch.Generator().manual_seed(seed)
    middle = apart * torch.randn(count, WIDTH, generator=generator)
    label = torch.arange(count).repeat(size)
    return middle[label] + torch.randn(len(label), WIDTH, generator=generator), label


def start(method, train, collection=None):
    """Let a method start, as Lightning would, from features of training images and of a collection."""
    every = train if collection is None else torch.cat([train, collection])
    unlabelled = np.arange(len(train), len(every))
    data = SimpleNamespace(
        initialisation_dataloader=lambda: [{"feature": train}],
        evaluation_dataloader=lambda rows: [{"feature": every[torch.from_numpy(rows)]}],
        split=SimpleNamespace(unlabelled=unlabelled),
    )
    strategy = SimpleNamespace(broadcast=lambda state: state)
    method._trainer = SimpleNamespace(datamodule=data, ckpt_path=None, strategy=strategy)
    method.on_fit_start()
    return method


def test_anchors_give_the_eigenvectors_of_the_whole_graph(make_method):
    features, _ = groups()
    method = start(make_method(AGH, bits=8, anchors=30, nearest=3), features)
    z = method.affinities(features).double()
    assert z.sum(dim=1).numpy() == pytest.approx(1)
    assert ((z > 0).sum(dim=1) <= 3).all()
    graph = z / z.sum(dim=0).clamp(min=1e-12) @ z.T
    y = z @ eigenvectors(z, 8)
    assert y.sum(dim=0).numpy() == pytest.approx(0, abs=1e-6)  # bits are balanced on average
    assert (y.T @ y / len(y)).numpy() == pytest.approx(np.eye(8), abs=1e-6)  # and uncorrelated
    values = np.linalg.eigvalsh(graph.numpy())[::-1][1:9]  # the first one is 1, and constant
    assert (graph @ y).numpy() == pytest.approx((y * torch.tensor(values.copy())).numpy(), abs=1e-6)


def test_codes_follow_groups_also_those_of_images_that_were_not_there(make_method):
    """Rings around each other: no linear map of the feature parts them, neighbours do."""
    angle = torch.rand(600, generator=torch.Generator().manual_seed(0)) * 2 * torch.pi
    label = torch.arange(600) % 2
    radius = 1 + 3 * label
    features = torch.zeros(600, WIDTH)
    features[:, 0], features[:, 1] = radius * angle.cos(), radius * angle.sin()
    method = start(make_method(AGH, bits=1, anchors=60, nearest=2), features[:400])
    code = method.encode({"feature": features[400:]})[:, 0]
    agreement = (code == label[400:].bool()).float().mean()
    assert max(agreement, 1 - agreement) == 1
    linear = start(make_method(PCA, bits=1), features[:400]).encode({"feature": features[400:]})[:, 0]
    assert 0.3 < (linear == label[400:].bool()).float().mean() < 0.7


def test_a_collection_is_fitted_to_where_there_is_one(make_method):
    train, collection = groups(seed=1)[0], groups(seed=2)[0]
    for kind, more in ((AGH, {"anchors": 20}), (ITQ, {"of_collection": True}), (PCA, {"of_collection": True})):
        fitted = start(make_method(kind, **more), train, collection)
        alone = start(make_method(kind, **more), collection)
        trained = start(make_method(kind, **{**more, "of_collection": False}), train, collection)
        assert torch.equal(fitted.head.weight, alone.head.weight)
        assert not torch.equal(fitted.head.weight, trained.head.weight)
        assert torch.equal(trained.head.weight, start(make_method(kind, **more), train).head.weight)


def test_more_bits_than_eigenvectors_and_fewer_images_than_anchors(make_method):
    features, _ = groups(size=3)
    method = start(make_method(AGH, bits=128, anchors=50, nearest=2), features)
    logits = method.hash_logits({"feature": features})
    assert logits.isfinite().all()
    assert (logits.std(dim=0) > 0).all()
    assert centres(features, 50).isfinite().all()


def test_more_nearest_anchors_than_anchors_is_one_line(make_method):
    with pytest.raises(ValueError, match=r"model\.nearest=5 is above model\.anchors=4; pass a smaller one"):
        make_method(AGH, anchors=4)


@pytest.mark.parametrize("method", ["agh", "itq"])
def test_a_run_in_a_collection_leaves_its_own_codes_alone(tmp_path, method):
    words = ["train", f"--method={method}", "--bits=12", "--data.setting=collection", "--backbone=test-vit"]
    words += ["--data.seen_classes=8", "--data.unseen_classes=3", "--data.images_per_class=20", "--data.image_size=32"]
    words += ["--figures.enabled=false", "--measures.enabled=false", "--trainer.accelerator=cpu"]
    words += ["--model.of_collection=true", f"--run_dir={tmp_path / 'run'}"]
    assert main(words) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["collection/fitted"] is True
    assert metrics["collection/adapted"] is False
    assert not (tmp_path / "run/checkpoints/adapted.ckpt").exists()
    assert checkpoint.load(tmp_path / "run/checkpoints/best.ckpt").method.of_collection
