import math

import pytest
import torch
from torch.nn import functional as F

from razh.losses import attributes


def test_alignment_by_hand():
    similarity = torch.tensor([[[0.2, 0.1, -0.3]]])
    strength, positive = torch.tensor([[0.8, 0.4, 0.1]]), torch.tensor([[True, True, False]])
    exponentials = [math.exp(s / 0.5) for s in (0.2, 0.1, -0.3)]
    expected = -math.log((exponentials[0] + 0.5 * exponentials[1]) / sum(exponentials))
    loss = attributes.alignment_loss(similarity, strength, positive, temperature=0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_alignment_is_zero_at_its_ideal_point():
    positive = torch.tensor([[True, False, False]])
    strength = torch.tensor([[0.6, 0.2, 0.0]])
    ideal = torch.tensor([[[1.0, -1.0, -1.0]]])
    assert attributes.alignment_loss(ideal, strength, positive, temperature=0.02).item() == pytest.approx(0, abs=1e-6)
    everything = torch.ones(1, 3, dtype=torch.bool)
    assert attributes.alignment_loss(torch.randn(1, 4, 3), torch.ones(1, 3), everything).item() < 1e-6


def test_alignment_falls_as_a_part_nears_a_positive_attribute():
    positive, strength = torch.tensor([[True, False]]), torch.tensor([[1.0, 0.0]])
    losses = [
        float(attributes.alignment_loss(torch.tensor([[[cosine, 0.0]]]), strength, positive))
        for cosine in (-1.0, -0.2, 0.0, 0.3, 1.0)
    ]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] == pytest.approx(math.log(2), abs=1e-5)


def test_alignment_prefers_the_stronger_attribute():
    positive, strength = torch.tensor([[True, True]]), torch.tensor([[1.0, 0.2]])
    strong = attributes.alignment_loss(torch.tensor([[[1.0, 0.0]]]), strength, positive)
    weak = attributes.alignment_loss(torch.tensor([[[0.0, 1.0]]]), strength, positive)
    assert strong < weak


def test_semantic_logits_are_scaled_cosines():
    projected, prototypes = torch.randn(3, 5), torch.randn(4, 5)
    logits = attributes.semantic_logits(projected, prototypes, 10.0)
    for b in range(3):
        for c in range(4):
            expected = 10 * F.cosine_similarity(projected[b], prototypes[c], dim=0)
            torch.testing.assert_close(logits[b, c], expected, rtol=1e-4, atol=1e-5)


def test_prototypes_are_centred_on_training_classes_only():
    table, train = torch.rand(5, 4), torch.tensor([0, 2, 3])
    prototypes = attributes.centred_prototypes(table, train)
    torch.testing.assert_close(prototypes[train].mean(dim=0), torch.zeros(4), rtol=0, atol=1e-6)
    changed = table.clone()
    changed[[1, 4]] = torch.rand(2, 4)
    assert torch.equal(attributes.centred_prototypes(changed, train)[train], prototypes[train])
    torch.testing.assert_close(table - prototypes, (table[0] + table[2] + table[3]).expand(5, 4) / 3)


def test_masked_mean():
    error, weight = torch.tensor([[1.0, 5.0], [3.0, 7.0]]), torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    assert attributes.masked_mean(error, weight).item() == pytest.approx((1 + 1.5) / 1.5)
    assert attributes.masked_mean(error, torch.zeros(2, 2)) == 0


def test_semantic_ranking_by_hand():
    similarity = torch.tensor([[0.9, 0.5, -0.2], [0.1, 0.3, 0.4]])
    margins = torch.tensor([[9.0, 0.5, 1.0], [0.2, 9.0, 0.6], [9.0, 9.0, 9.0]])
    first = max(0, 0.5 - 0.9 + 0.5) + max(0, 1.0 - 0.9 - 0.2)
    second = max(0, 0.2 - 0.3 + 0.1) + max(0, 0.6 - 0.3 + 0.4)
    loss = attributes.semantic_ranking_loss(similarity, torch.tensor([0, 1]), margins)
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-6)


def test_semantic_ranking_is_zero_beyond_the_margin():
    similarity = torch.tensor([[1.0, 0.4, -1.0]])
    assert attributes.semantic_ranking_loss(similarity, torch.tensor([0]), torch.full((3, 3), 0.5)) == 0
    assert attributes.semantic_ranking_loss(similarity, torch.tensor([0]), torch.full((3, 3), 0.7)) > 0


def test_semantic_margins_grow_with_distance():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]])
    expected = torch.tensor([[0.0, 0.4, 0.8], [0.4, 0.0, 0.4], [0.8, 0.4, 0.0]])
    torch.testing.assert_close(attributes.semantic_margins(vectors, 0.8), expected)


def test_map_compactness_equals_a_loop_over_patches():
    maps, grid = torch.randn(2, 3, 6), (2, 3)
    places = [(row / 1, column / 2) for row in range(2) for column in range(3)]
    values = []
    for image in maps:
        for scores in image:
            peak = places[int(scores.argmax())]
            weight = scores.softmax(dim=0)
            distance = torch.tensor([(row - peak[0]) ** 2 + (column - peak[1]) ** 2 for row, column in places])
            values.append(float((weight * distance).sum()))
    assert attributes.map_compactness_loss(maps, grid).item() == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_map_compactness_is_zero_for_one_bright_patch():
    maps = torch.full((1, 2, 9), -50.0)
    maps[0, 0, 4] = maps[0, 1, 8] = 50.0
    assert attributes.map_compactness_loss(maps, (3, 3)).item() == pytest.approx(0, abs=1e-6)
    maps[0, 1, 0] = 49.0  # a second one, far away
    assert attributes.map_compactness_loss(maps, (3, 3)) > 0.2
    assert attributes.map_compactness_loss(torch.randn(2, 3, 1), (1, 1)) == 0


def test_attribute_contrast_by_hand():
    """Two attributes that vary against each other: correlations are 1 and −1."""
    strength = torch.tensor([[0.9, 0.1], [0.1, 0.7]])
    expected = math.log(1 + math.exp(-2 / 0.5))
    loss = attributes.attribute_contrast_loss(3 * strength, strength, temperature=0.5)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    swapped = attributes.attribute_contrast_loss(strength.flip(1), strength, temperature=0.5)
    assert swapped.item() == pytest.approx(expected + 2 / 0.5, abs=1e-5)


def test_attribute_contrast_takes_part_of_every_attribute_that_varies():
    strength = torch.rand(12, 7)
    strength[:, 3] = 0.4
    predicted = torch.rand(12, 7, requires_grad=True)
    attributes.attribute_contrast_loss(predicted, strength).backward()
    moved = predicted.grad.abs().sum(dim=0) > 1e-8
    assert moved.tolist() == [True, True, True, False, True, True, True]


def test_attribute_contrast_shares_the_target_of_attributes_that_vary_alike():
    column = torch.rand(10, 1)
    strength = torch.cat([column, 0.5 * column, torch.rand(10, 1)], dim=1)
    perfect = attributes.attribute_contrast_loss(strength, strength, temperature=0.05)
    assert perfect.item() == pytest.approx((2 * math.log(2) + 0) / 3, abs=1e-2)


def test_attribute_contrast_of_one_class_is_zero_and_differentiable():
    predicted = torch.rand(4, 3, requires_grad=True)
    loss = attributes.attribute_contrast_loss(predicted, torch.tensor([[0.2, 0.5, 0.9]]).expand(4, 3))
    loss.backward()
    assert loss == 0
    assert (predicted.grad == 0).all()
