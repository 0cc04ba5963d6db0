"""CE on pseudo-labels: who joins, with which label, and that nobody else looks at the collection."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.methods.pseudo_ce import PseudoCE
from tests.methods.collection_run import SMALL, check_run

WIDTH = 64  # of the tiny network


def world(facts, seed=0):
    """Return class means that follow attributes, and a function that returns features of images of labels."""
    generator = torch.Generator().manual_seed(seed)
    attributes = facts["class_attributes"]
    mixing = torch.randn(attributes.shape[1], WIDTH, generator=generator)
    means = (attributes - attributes.mean(dim=0)) @ mixing

    def images(labels):
        return means[labels] + 0.05 * torch.randn(len(labels), WIDTH, generator=generator)

    return images


def with_training(method, features, labels):
    data = SimpleNamespace(
        initialisation_dataloader=lambda: [{"feature": features}],
        labels=labels.numpy(),
        split=SimpleNamespace(train=np.arange(len(labels))),
    )
    method._trainer = SimpleNamespace(datamodule=data)
    return method


def test_images_of_described_classes_are_named_by_attributes_alone(make_method, facts):
    facts["class_attributes"][2] = facts["class_attributes"][[0, 1]].mean(dim=0)  # in reach of the ridge
    facts["class_attributes"][5] = facts["class_attributes"][[3, 4]].mean(dim=0)
    images, train = world(facts), torch.tensor([0, 1, 3, 4]).repeat(20)
    method = with_training(make_method(PseudoCE, class_attributes=facts["class_attributes"]), images(train), train)
    asked = torch.tensor([0, 4, 2, 5]).repeat(10)
    share, label = method.guesses(images(asked), torch.tensor([2, 5]))
    assert (label == asked).float().mean() > 0.95
    assert (share > 1 / 6).all()
    assert set(method.guesses(images(asked), torch.tensor([], dtype=torch.int64))[1].tolist()) <= {0, 1, 3, 4}


def test_what_joins_is_trained_on_with_the_given_label_and_never_with_its_own():
    data = SyntheticDataModule(**SMALL, setting="both", num_workers=0)
    rows, own = data.split.unlabelled[::3], data.labels[data.split.unlabelled[::3]]
    data.join(rows, (own + 1) % 11)
    seen = {}  # but for the rest that makes no batch
    for batch in data.train_dataloader():
        seen |= dict(zip(batch["index"].tolist(), batch["label"].tolist(), strict=True))
    wanted = {row: data.labels[row] for row in data.split.train} | dict(zip(rows, (own + 1) % 11, strict=True))
    assert seen.items() <= wanted.items()
    assert len(seen) == len(wanted) // 16 * 16
    assert len(data.initialisation_dataloader().dataset) == len(data.labels)  # nothing else has changed
    assert not set(data.split.query) & set(seen)


@pytest.mark.parametrize("setting", ["inductive", "both"])
def test_a_run_trains_on_the_collection_where_the_setting_gives_one(tmp_path, capsys, setting):
    collection = check_run(tmp_path / "run", "pseudo_ce", setting, "--model.confidence=0")
    told = f"{collection} of {collection} images of the collection join"
    assert (told in capsys.readouterr().err) == (setting == "both")
