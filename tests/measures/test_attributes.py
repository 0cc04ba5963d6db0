import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from razh.measures.attributes import attribute_accuracy, attribute_auc, auc, named, positive_classes


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_auc_is_that_of_scikit_learn(rows):
    scores, positive = np.array([s for s, _ in rows], dtype=float), np.array([p for _, p in rows])
    (value,) = auc(scores[:, None], positive[:, None])
    if positive.all() or not positive.any():
        assert np.isnan(value)
    else:
        assert value == pytest.approx(roc_auc_score(positive, scores))


def test_auc_of_columns():
    positive = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=bool)
    scores = np.array([[4, 1], [3, 1], [2, 1], [1, 1]], dtype=float)
    assert auc(scores, positive).tolist() == [1, 0.5]
    assert auc(-scores, positive).tolist() == [0, 0.5]


def test_which_classes_have_an_attribute():
    strength = np.array([[0.1, 1, 0, 0.5, 1], [0.2, 1, 0, 0.5, 0], [0.3, 0, 0, 0.5, 0], [0.4, 1, 1, 0.5, 0]])
    assert positive_classes(strength).T.tolist() == [
        [False, False, True, True],  # above the median
        [True, True, False, True],  # binary and common: the attribute itself
        [False, False, False, True],  # binary and rare
        [False] * 4,  # all alike
        [True, False, False, False],
    ]


def test_auc_of_classes_against_a_loop():
    rng = np.random.default_rng(0)
    attributes = rng.random((9, 6))
    attributes[:, 3] = 0.5
    labels = rng.choice([1, 4, 5, 8], 60)
    scores = rng.integers(0, 5, (60, 6)) + 3 * attributes[labels]
    result = attribute_auc(scores, labels, attributes)
    medians = np.median(attributes[[1, 4, 5, 8]], axis=0)
    for m in range(6):
        if m == 3:
            assert np.isnan(result.values[m])
        else:
            assert result.values[m] == pytest.approx(roc_auc_score(attributes[labels, m] > medians[m], scores[:, m]))
    assert result.mean == pytest.approx(np.nanmean(result.values))
    assert result.attributes == 5


def test_auc_of_perfect_and_of_random_scores():
    rng = np.random.default_rng(0)
    attributes = rng.random((12, 40))
    labels = np.repeat(np.arange(12), 10)
    assert attribute_auc(attributes[labels], labels, attributes).mean == 1
    noise = attribute_auc(rng.random((120, 40)), labels, attributes)
    assert abs(noise.mean - 0.5) < 0.03
    # Scores that follow the class but not its attributes: the deviation tells what is to be expected of them.
    other = attribute_auc(rng.random((12, 1)).repeat(40, axis=1)[labels], labels, attributes)
    assert abs(other.mean - 0.5) < 4 * other.chance_deviation
    assert other.chance_deviation > 3 * noise.chance_deviation


def test_one_class_has_no_auc():
    with pytest.raises(ValueError, match="labels are of 1 classes"):
        attribute_auc(np.zeros((3, 2)), np.zeros(3, dtype=np.int64), np.eye(2))


def test_accuracy_by_hand():
    right = np.array([[1, 0, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    accuracy = attribute_accuracy(np.array([3, 1, 1]), right)
    assert accuracy.value == pytest.approx(2 / 3)
    assert accuracy.chance == pytest.approx(5 / 12)
    assert accuracy.permuted == pytest.approx((1 / 3 + 1 / 3 + 1 / 3) / 3)
    assert accuracy.count == 3


def test_an_attribute_that_all_have_is_worth_nothing():
    right = np.zeros((50, 9), dtype=bool)
    right[:, 4] = True
    accuracy = attribute_accuracy(np.full(50, 4), right)
    assert accuracy.value == accuracy.permuted == 1
    assert accuracy.chance == pytest.approx(1 / 9)


def test_no_choice_is_an_error():
    with pytest.raises(ValueError, match="chosen is empty"):
        attribute_accuracy(np.zeros(0, dtype=np.int64), np.zeros((0, 3), dtype=bool))


def test_the_nearest_class_is_named():
    classes = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 4.0], [0.5, 0.5, 1.0]])
    centre = np.array([0.5, 0.5, 1.0])  # the last class has nothing of its own
    scores = np.array([[2.0, -1.0, 0.0], [-1.0, 1.0, 0.5], [0.0, 0.1, 0.2], [-9.0, -9.0, 9.0]])
    assert named(scores, classes, centre).tolist() == [0, 1, 2, 2]
    assert named(scores * 7, classes, centre).tolist() == [0, 1, 2, 2]
