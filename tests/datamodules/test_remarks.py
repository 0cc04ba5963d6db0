import numpy as np
import pytest

from razh.datamodules.annotations import Annotations
from razh.datamodules.protocols import make_split
from razh.datamodules.remarks import remarks

ATTRIBUTES = np.random.default_rng(0).random((10, 5)).astype(np.float32)


def said(counts=(8,) * 10, attributes=ATTRIBUTES, protocol="unseen-30%", **arguments):
    facts = Annotations(
        labels=np.repeat(np.arange(len(counts)), counts),
        class_names=tuple(f"kind {c}" for c in range(len(counts))),
        attribute_names=tuple(f"trait {m}" for m in range(attributes.shape[1])),
        class_attributes=attributes[: len(counts)],
    )
    return remarks(facts, make_split(protocol, {}, facts, **{"validation_class_share": 0.3, **arguments}))


def test_an_ordinary_data_set_needs_no_words():
    assert said() == []


def constant(columns):
    changed = ATTRIBUTES.copy()
    changed[:, columns] = 0.25
    return changed


def twins():
    changed = ATTRIBUTES.copy()
    changed[7] = changed[2]
    return changed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"counts": (1, *(8,) * 9)}, "1 class has one image (kind 0)"),
        ({"counts": (*(8,) * 5, 1, 1, 1, 1, 8)}, "4 classes have one image (kind 5, kind 6, kind 7 …)"),
        ({"attributes": constant([3])}, "1 attribute has the same value in all classes (trait 3)"),
        ({"attributes": constant([0, 1, 2, 4])}, "4 attributes have the same value in all classes (trait 0, trait 1"),
        ({"attributes": twins()}, "2 classes have the attributes of another (kind 2 and kind 7)"),
        ({"validation_class_share": 0.1}, "one validation class (kind "),
        ({"protocol": "unseen-10%"}, "one unseen class (kind "),
        ({"counts": (8,) * 3, "validation_class_share": 0.5}, "one class to train on"),
        ({"counts": (2,) * 10, "validation_image_share": 0.5}, "fewer than two each"),
    ],
)
def test_what_is_doubtful_is_said(arguments, words):
    assert any(words in line for line in said(**arguments))
    assert all("\n" not in line for line in said(**arguments))


def test_validation_classes_that_nothing_can_be_asked_for_are_said():
    lines = said(counts=(1, 1, 1, 1, 8), protocol="unseen-20%", seed=1)
    assert any("no validation class has two images" in line for line in lines)
