"""Classes are asked for by their attributes alone; another class's attributes and chance stand beside it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from razh.collection.code import CollectionCode
from razh.layers.posteriors import left_out_means, predicted_means
from razh.measures.described import calibration, measure_described, naming, sharpness
from razh.retrieval.codes import Codes
from razh.retrieval.packing import pack

BITS, PER_CLASS = 48, 4


class World:
    """Twelve seen and four unseen classes whose logits are a linear map of their attributes."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.class_attributes = torch.rand(16, 5, generator=generator)
        self.logits = (self.class_attributes - 0.5) @ torch.randn(5, BITS, generator=generator)
        self.labels = np.arange(16).repeat(PER_CLASS)
        self.split = SimpleNamespace(train=np.flatnonzero(self.labels < 12))

    def evaluation_dataloader(self, rows):
        yield {"label": torch.from_numpy(self.labels[rows]), "index": torch.from_numpy(rows)}


class Method(torch.nn.Module):
    bits, device = BITS, torch.device("cpu")

    def __init__(self, world):
        super().__init__()
        self.world, self.collection = world, None

    def code_logits(self, batch):
        return self.world.logits[batch["label"]]


@pytest.fixture
def world():
    return World()


@pytest.fixture
def codes(world):
    unseen = np.flatnonzero(world.labels >= 12)
    packed = pack((world.logits[world.labels] >= 0).numpy())
    return Codes(
        query_codes=packed[unseen[::2]],
        database_codes=np.concatenate([packed[world.labels < 12], packed[unseen[1::2]]]),
        query_labels=world.labels[unseen[::2]],
        database_labels=np.concatenate([world.labels[world.labels < 12], world.labels[unseen[1::2]]]),
        bits=BITS,
        unseen_classes=(12, 13, 14, 15),
    )


def test_logits_that_are_a_map_of_attributes_are_found_by_them(world, codes):
    found = measure_described(Method(world), world, codes)
    name = "test/described/"
    assert found[f"{name}map"] > 0.8 > 0.4 > found[f"{name}permuted/map"]
    assert found[f"{name}zsl/map"] >= found[f"{name}map"]
    assert found[f"{name}zsl/permuted/map"] < found[f"{name}zsl/map"]
    assert 0 < found[f"{name}chance"] < found[f"{name}zsl/chance"] < 0.5
    assert found[f"{name}asymmetric/map"] > 0.8 > 0.4 > found[f"{name}permuted/asymmetric/map"]
    assert found[f"{name}map"] >= found[f"{name}named/map"] - 0.1 > found[f"{name}named/permuted/map"]
    assert found[f"{name}accuracy"] == 1
    assert 0 <= found[f"{name}ece"] < 0.3
    assert 0.7 < found[f"{name}confidence"] <= 1
    assert found[f"{name}accuracy_chance"] == 0.25


def test_a_class_that_was_found_in_the_collection_is_asked_for_by_its_centre(world, codes):
    method = Method(world)
    method.collection = CollectionCode(5, 2, BITS)
    method.collection.classes.copy_(torch.tensor([-1, 13]))
    method.collection.bias.copy_(-world.logits[13])  # the opposite of every image of class 13
    one, other = measure_described(Method(world), world, codes), measure_described(method, world, codes)
    assert other["test/described/zsl/map"] < one["test/described/zsl/map"]
    assert other["test/described/named/map"] < one["test/described/named/map"]


def test_nothing_is_measured_without_two_unseen_classes(world, codes):
    alone = Codes(**{**vars(codes), "unseen_classes": (12,)})
    assert measure_described(Method(world), world, alone) == {}


def test_naming_by_hand():
    classes = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=bool)
    images = np.array([[0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]], dtype=bool)
    found = naming(
        (images[:, None] != classes).sum(axis=2), np.array([0, 0, 2])
    )  # nearest, as near as the third, second
    assert found["accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["top5"] == 1
    assert found["accuracy_chance"] == pytest.approx(1 / 3)
    assert found["top5_chance"] == 1


def test_naming_is_calibrated_where_confidence_is_accuracy():
    distance = np.array([[0, 8]] * 3 + [[8, 0]])
    own = np.zeros(4, np.int64)  # three of four right
    sure, honest = calibration(distance, own, 4.0), calibration(distance, own, np.log(3) / 8)
    assert sure["ece"] == pytest.approx(0.25)
    assert honest["ece"] == pytest.approx(0)
    assert honest["confidence"] == pytest.approx(0.75)
    assert sharpness(distance, own) == 0.125


def test_a_class_that_is_left_out_says_nothing_of_itself():
    generator = torch.Generator().manual_seed(0)
    means, attributes = torch.rand(6, 3, generator=generator), torch.rand(6, 4, generator=generator) - 0.5
    found = left_out_means(means, attributes, 0.7)
    for one in range(6):
        rest = torch.arange(6) != one
        expected = predicted_means(means[rest], attributes[rest], attributes[one : one + 1], 0.7)
        torch.testing.assert_close(found[one : one + 1], expected)
