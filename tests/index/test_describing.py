"""Descriptions: how they are read, which attributes they mean, and the codes that they get."""

from types import SimpleNamespace

import numpy as np
import pytest

from razh.export.facts import ClassFacts
from razh.index.describing import Asked, Known, asked, asked_in_words, described, known_classes, named, parse
from razh.retrieval.packing import unpack

NAMES = [
    "has_bill_shape::hooked",
    "has_bill_shape::curved_(up_or_down)",
    "has_crown_color::red",
    "red",
    "has_wing_color::red",
]


def test_descriptions_are_names_with_strengths():
    assert parse("crown color=red, bill shape=hooked:0.8,,") == {"crown color=red": 1, "bill shape=hooked": 0.8}
    assert parse("has_crown_color::red") == {"has_crown_color::red": 1}
    assert parse("tail colour: red, head shape: round:0.5") == {"tail colour: red": 1, "head shape: round": 0.5}
    for text, told in ((" , ", "is empty"), ("red:2", "red:2 must be from 0"), ("red:much", "'much' of 'red:much'")):
        with pytest.raises(ValueError, match=told):
            parse(text)


@pytest.mark.parametrize(
    ("given", "place"),
    [("crown color=red", 2), ("Red", 3), ("bill hook", 0), ("curved", 1), ("has_wing_color::red", 4), ("red crown", 2)],
)
def test_names_are_completed(given, place):
    assert named(given, NAMES) == place


def test_names_that_cannot_be_told_are_answered_with_what_is_near():
    with pytest.raises(ValueError, match="may be has_crown_color::red, has_wing_color::red; say which"):
        named("color red", NAMES)
    with pytest.raises(ValueError, match=r"'crwn color=red' is no attribute .* did you mean crown color red\?"):
        named("crwn color=red", NAMES)


def test_the_code_is_that_of_a_class_with_these_attributes():
    rng = np.random.default_rng(0)
    attributes = rng.random((60, 5)).astype(np.float32)
    change = rng.normal(size=(5, 32)).astype(np.float32)
    logits = (attributes - 0.5) @ change
    known = Known(NAMES, attributes, logits, logits[:, :7] * 2, ["a", "b"], attributes[:2])
    new = np.array([0.9, 0.1, 0.5, 0.8, 0.1])
    wanted = (new - attributes.mean(axis=0)) @ change
    whole = asked(dict(zip(NAMES, new, strict=True)), NAMES)
    assert whole.text.startswith("has_bill_shape::hooked:0.9, ")
    found = described(whole, known)
    assert (unpack(found.code, 32)[0] == (wanted >= 0)).mean() > 0.9
    assert ((found.logits >= 0) == unpack(found.code, 32)).all()
    assert found.features[0] @ wanted[:7] > 0.9 * np.linalg.norm(wanted[:7])
    partial = described(asked({"red crown": 1, "curved": 0}, NAMES), known).code
    assert (unpack(partial, 32)[0] == (np.array([0, -0.5, 0.5, 0, 0]) @ change >= 0)).mean() > 0.9
    like = described(Asked({}, [1]), known._replace(features=None))
    assert like.features is None
    assert (unpack(like.code, 32)[0] == (logits[1] >= 0)).mean() > 0.9


def test_classes_are_known_by_images_of_the_archive_and_the_others_by_what_was_kept(monkeypatch):
    rng = np.random.default_rng(1)
    kept = rng.normal(size=(5, 8)).astype(np.float32)
    kept[4] = np.nan  # nobody looked at it
    facts = ClassFacts(rng.random((6, 5), dtype=np.float32), [0, 1, 2, 3, 5], kept, list("abcdef"))
    network = SimpleNamespace(info={"attribute_names": NAMES}, bits=8, classes=lambda: facts)
    assert known_classes(network).logits.tolist() == kept[:4].tolist()
    signs, features = np.sign(kept[[2, 0, 1]]), rng.random((3, 4)).astype(np.float32)
    for there, expected in ((3, [2, 0, 1, 3]), (2, [0, 1, 2, 3])):
        seen = [2, 0, 1][:there], list(signs[:there]), list(features[:there])
        monkeypatch.setattr("razh.index.describing._seen_in", lambda *_, seen=seen: seen)
        known = known_classes(network, "an archive")
        np.testing.assert_array_equal(known.attributes, facts.attributes[expected])
    assert known.features is None  # too few images: those of the archive do not count
    monkeypatch.setattr("razh.index.describing._seen_in", lambda *_: ([2, 0, 1], list(signs), list(features)))
    known = known_classes(network, "an archive")
    np.testing.assert_array_equal(known.logits[:3], signs)
    scale = np.linalg.norm(signs, axis=1).mean() / np.linalg.norm(kept[:3], axis=1).mean()
    np.testing.assert_allclose(known.logits[3], kept[3] * scale, rtol=1e-5)
    assert described(asked({"red crown": 1}, NAMES), known).features.shape == (1, 4)


def test_words_become_attributes_and_classes():
    known = Known(NAMES, np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32), None, ["Red_Fox"], np.eye(5)[:1])
    found, unknown = asked_in_words(
        "a red crown, no red wings and a hooked beak", known._replace(synonyms={"bill": "beak"})
    )
    assert found.attributes == {2: (1.0, 1.0), 4: (0.0, 1.0), 0: (1.0, 1.0)}
    assert (found.text, unknown) == ("has_crown_color::red, no has_wing_color::red, has_bill_shape::hooked", [])
    found, unknown = asked_in_words("red foxes at dusk", known)
    assert (found.attributes, found.classes, found.text, unknown) == ({}, [0], "like Red_Fox", ["dusk"])
    found, _ = asked_in_words("red", known)
    assert found.text == "has_crown_color::red (1/3), red (1/3), has_wing_color::red (1/3)"


def test_what_cannot_be_described_is_one_line():
    few = Known(NAMES, np.zeros((2, 5), np.float32), np.zeros((2, 8), np.float32))
    alike = Known(NAMES, np.ones((4, 5), np.float32), np.zeros((4, 8), np.float32))
    with pytest.raises(ValueError, match="a description needs 3 classes"):
        described(asked({"red": 1}, NAMES), few)
    with pytest.raises(ValueError, match="red:1 is the same for all classes"):
        described(asked({"red": 1}, NAMES), alike)
    with pytest.raises(ValueError, match="nothing is described"):
        asked({}, NAMES)
    with pytest.raises(ValueError, match=r"--text=xyz: none of its words .* lists all 5 attributes"):
        asked_in_words("xyz", alike)
