"""Words: stems, parts that choose among values, what is not there, and sentence vectors where words say nothing."""

import numpy as np
import pytest

from razh.index.wording import sentence_vectors, understand

NAMES = [
    "has_bill_shape::cone",
    "has_wing_color::black",
    "has_crown_color::black",
    "has_crown_color::red",
    "has_wing_color::red",
    "has_size::small_(5_-_9_in)",
    "has_size::very_small_(3_-_5_in)",
    "has_head_pattern::crested",
    "has_wing_pattern::striped",
    "has_tail_shape::forked_tail",
    "head colour: grey",
]


@pytest.mark.parametrize(
    ("text", "wanted", "unknown"),
    [
        ("small red bird with a crest", {5: (1, 1), 3: (1, 0.5), 4: (1, 0.5), 7: (1, 1)}, ["bird"]),
        ("black wings and a red crown", {1: (1, 1), 3: (1, 1)}, []),
        ("without crests, not black-crowned", {7: (0, 1), 2: (0, 1)}, []),
        ("cone-shaped beak; stripes", {0: (1, 1), 8: (1, 1)}, []),
        ("red bird long tail black wings", {3: (1, 0.5), 4: (1, 0.5), 1: (1, 1)}, ["bird", "long", "tail"]),
        ("crested tail", None, None),
        ("Gray head, forked tail", {10: (1, 1), 9: (1, 1)}, []),
    ],
)
def test_words_name_attributes(text, wanted, unknown):
    if wanted is None:
        with pytest.raises(ValueError, match="none of its words"):
            understand(text, NAMES)
        return
    found = understand(text, NAMES, synonyms={"bill": "beak"})
    assert (found.attributes, found.unknown) == (wanted, unknown)


def test_names_without_a_mark_between_part_and_value_are_chosen_by_most_of_their_words():
    names = ["back color green", "back color red", "crown color red", "wing color green"]
    assert understand("catbird with a green back", names).attributes == {0: (1.0, 1.0)}
    assert understand("red", names).attributes == {1: (1.0, 0.5), 2: (1.0, 0.5)}


def test_all_words_of_a_class_name_it():
    classes = ["Red_winged_Blackbird", "cardinal"]
    found = understand("a cardinal with black wings", NAMES, classes)
    assert (found.classes, found.attributes, found.unknown) == ([1], {1: (1.0, 1.0)}, [])
    assert understand("red-winged blackbird", NAMES, classes).classes == [0]
    assert understand("red wings", NAMES, classes).classes == []
    birds = [*classes, "001.Rusty_Blackbird", "Spotted_wing"]
    assert understand("a rusty blackbird", NAMES, birds).classes == [2]


def test_the_last_word_of_names_stands_for_all_that_have_it_unless_it_is_an_attributes():
    classes = ["Red_winged_Blackbird", "cardinal", "001.Rusty_Blackbird", "Spotted_wing"]
    found = understand("blackbirds with a red crown", NAMES, classes)
    assert (found.classes, found.attributes, found.unknown) == ([0, 2], {3: (1.0, 1.0)}, [])
    assert understand("red wings", NAMES, classes).classes == []


def test_vectors_are_asked_for_what_words_do_not_say():
    def vectors(sentences):
        made = np.zeros((len(sentences), 3), np.float32)
        for row, sentence in enumerate(sentences):
            made[row, 0 if "tiny" in sentence or "very small" in sentence else 1] = 1
        return made

    found = understand("tiny, red crown", NAMES, vectors=vectors)
    assert found.attributes == {6: (1.0, 1.0), 3: (1.0, 1.0)}
    assert understand("red crown, nothing known", NAMES, vectors=lambda s: np.eye(len(s))).unknown == [
        "nothing",
        "known",
    ]


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"--text-model=.* (needs a package|cannot be loaded)"):
        sentence_vectors(str(tmp_path / "nowhere"))
