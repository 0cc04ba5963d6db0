"""MLZSH: its terms by hand, who names images of the collection, and with what they train."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from razh.losses.attributes import logistic_ranking_loss
from razh.losses.hashing import focal_quantization_loss
from razh.methods.mlzsh import MLZSH, NOBODY
from tests.methods.collection_run import check_run


def test_ranking_is_the_mean_over_the_other_classes():
    scores, targets = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]]), torch.tensor([1, 0])
    first = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2
    assert logistic_ranking_loss(scores, targets).item() == pytest.approx((first + math.log(2)) / 2)
    assert logistic_ranking_loss(scores[:0], targets[:0]).item() == 0
    assert logistic_ranking_loss(scores[:, :1], torch.zeros(2, dtype=torch.int64)).item() == 0  # no other class


def test_focal_quantisation_draws_logits_apart_from_zero_and_spares_the_sure():
    assert focal_quantization_loss(torch.zeros(2, 3)).item() == pytest.approx(math.log(2) / 2)
    p, q = 1 / (1 + math.exp(-0.7)), 1 / (1 + math.exp(-3.5))
    by_hand = -q * (1 - p) * math.log(p) - (1 - q) * p * math.log(1 - p)
    assert focal_quantization_loss(torch.tensor([[0.7, -0.7]])).item() == pytest.approx(by_hand, rel=1e-5)
    assert focal_quantization_loss(torch.tensor([[60.0, -60.0]])).item() == pytest.approx(0, abs=1e-6)
    logits = torch.tensor([[0.5, -0.5]], requires_grad=True)
    focal_quantization_loss(logits).backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]


def given(method, rows, describes):
    """Return what joined once the method has seen its data."""
    joined = []
    split = SimpleNamespace(unlabelled=rows, described_classes=(2, 5) if describes else ())
    data = SimpleNamespace(split=split, join=lambda *told: joined.append(told))
    method._trainer = SimpleNamespace(datamodule=data)
    method.setup("fit")
    return joined


@pytest.mark.parametrize("describes", [True, False])
def test_images_that_nobody_named_are_named_by_classes_that_may_be_known(make_method, describes):
    method = make_method(MLZSH)
    ((rows, labels),) = given(method, np.array([3, 4]), describes)
    assert rows.tolist() == [3, 4]
    assert labels.tolist() == [NOBODY, NOBODY]
    scores = torch.zeros(3, 6)
    scores[0, 5], scores[0, 3], scores[1, 0], scores[2, 1] = 9, 5, 7, 8
    named = method.labels({"label": torch.tensor([NOBODY, NOBODY, 4])}, scores)
    assert named.tolist() == [5 if describes else 3, 0, 4]  # a label that is there stays


def test_without_a_collection_nothing_joins(make_method):
    method = make_method(MLZSH)
    assert given(method, np.zeros(0, dtype=np.int64), True) == []
    assert method.named == method.train_classes.tolist()


def test_images_without_a_label_teach_no_ranking(make_method, make_batch):
    method, batch = make_method(MLZSH), make_batch()
    batch["label"] = torch.full_like(batch["label"], NOBODY)
    terms = method.losses(batch)
    assert terms["ranking"].item() == 0
    sum(terms.values()).backward()
    assert method.head.weight.grad.abs().sum() > 0
    assert method.bridge.weight.grad.abs().sum() == 0


@pytest.mark.parametrize("setting", ["inductive", "both"])
def test_a_run_trains_on_the_collection_where_the_setting_gives_one(tmp_path, setting):
    check_run(tmp_path / "run", "mlzsh", setting)
