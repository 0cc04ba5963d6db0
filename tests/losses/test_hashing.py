import math

import pytest
import torch
from torch.nn import functional as F

from razh.losses import hashing


def test_pairwise_likelihood_by_hand():
    logits = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, -2.0]])
    labels = torch.tensor([5, 5, 9])

    def term(theta, same):
        return math.log(1 + math.exp(theta)) - same * theta

    positive = term(1.0, 1)  # pair (0, 1): inner product 2, halved
    negative = (term(-1.0, 0) + term(0.0, 0)) / 2  # pairs (0, 2) and (1, 2)
    loss = hashing.pairwise_likelihood_loss(logits, labels)
    assert loss.item() == pytest.approx((positive + negative) / 2, abs=1e-6)


def test_pairwise_likelihood_is_near_zero_for_ideal_codes():
    labels = torch.tensor([0, 0, 1, 1])
    ideal = torch.where(labels[:, None] == 0, 10.0, -10.0).expand(4, 8)
    assert hashing.pairwise_likelihood_loss(ideal, labels) < 1e-6
    assert hashing.pairwise_likelihood_loss(-ideal, labels) < 1e-6
    assert hashing.pairwise_likelihood_loss(ideal, torch.tensor([0, 1, 0, 1])) > 10


def test_pairwise_likelihood_falls_with_the_angle_of_a_positive_pair():
    angles = torch.linspace(math.pi, 0, 9)
    pairs = [torch.tensor([[1.0, 0.0], [float(a.cos()), float(a.sin())]]) for a in angles]
    losses = [float(hashing.pairwise_likelihood_loss(pair, torch.tensor([0, 0]))) for pair in pairs]
    assert losses == sorted(losses, reverse=True)


def test_pairwise_likelihood_of_one_image_is_zero_and_differentiable():
    logits = torch.randn(1, 4, requires_grad=True)
    loss = hashing.pairwise_likelihood_loss(logits, torch.tensor([0]))
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


def test_pairwise_likelihood_does_not_depend_on_order_of_bits_or_images():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 0, 2, 1, 1])
    order = torch.randperm(6)
    loss = hashing.pairwise_likelihood_loss(logits, labels)
    torch.testing.assert_close(hashing.pairwise_likelihood_loss(logits[:, torch.randperm(5)], labels), loss)
    torch.testing.assert_close(hashing.pairwise_likelihood_loss(logits[order], labels[order]), loss)


def test_quantization_by_hand():
    logits = torch.tensor([[0.0, math.atanh(0.5)]])
    assert hashing.quantization_loss(logits).item() == pytest.approx((1 + 0.25) / 2, abs=1e-6)
    assert hashing.quantization_loss(torch.tensor([[30.0, -30.0]])) == 0


def test_quantization_falls_with_the_size_of_logits():
    logits = torch.randn(4, 8)
    losses = [float(hashing.quantization_loss(scale * logits)) for scale in (0.1, 0.5, 1, 2, 5)]
    assert losses == sorted(losses, reverse=True)


def test_bit_balance_by_hand():
    logits = torch.tensor([[math.atanh(0.5), 3.0], [math.atanh(-0.1), -3.0]])
    assert hashing.bit_balance_loss(logits).item() == pytest.approx(0.2**2 / 2, abs=1e-6)
    assert hashing.bit_balance_loss(torch.full((3, 4), 30.0)).item() == pytest.approx(1)


def test_bit_correlation_is_zero_for_independent_and_one_for_repeated_bits():
    bit = torch.tensor([1.0, 1.0, -1.0, -1.0]) * 30
    other = torch.tensor([1.0, -1.0, 1.0, -1.0]) * 30
    assert hashing.bit_correlation_loss(torch.stack([bit, other], dim=1)).item() == pytest.approx(0, abs=1e-6)
    assert hashing.bit_correlation_loss(torch.stack([bit, bit], dim=1)).item() == pytest.approx(1, abs=1e-4)
    assert hashing.bit_correlation_loss(torch.stack([bit, -bit], dim=1)).item() == pytest.approx(1, abs=1e-4)
    three = hashing.bit_correlation_loss(torch.stack([bit, bit, other], dim=1))
    assert three.item() == pytest.approx(1 / 3, abs=1e-4)  # one of three pairs repeats
    assert hashing.bit_correlation_loss(bit[:, None]) == 0


def test_bit_correlation_equals_a_loop_over_pairs():
    logits = torch.randn(50, 4)
    code = logits.tanh()
    pairs = [torch.corrcoef(torch.stack([code[:, i], code[:, j]]))[0, 1] ** 2 for i in range(4) for j in range(i)]
    torch.testing.assert_close(hashing.bit_correlation_loss(logits), torch.stack(pairs).mean(), rtol=1e-3, atol=1e-5)


def test_similarity_equals_a_loop_over_pairs():
    logits, features = torch.randn(5, 6), torch.randn(5, 9)
    differences = [
        F.cosine_similarity(logits[i].tanh(), logits[j].tanh(), dim=0)
        - F.cosine_similarity(features[i], features[j], dim=0)
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    expected = torch.stack(differences).square().mean()
    torch.testing.assert_close(hashing.similarity_loss(logits, features), expected)


def test_similarity_is_zero_where_codes_have_the_features_cosines():
    features = torch.where(torch.randn(6, 8) > 0, 1.0, -1.0)
    assert hashing.similarity_loss(30 * features, 4 * features).item() == pytest.approx(0, abs=1e-10)
    assert hashing.similarity_loss(torch.randn(1, 4), torch.randn(1, 3)).item() == pytest.approx(0, abs=1e-10)


def test_similarity_does_not_train_the_features():
    logits, features = torch.randn(4, 3, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    hashing.similarity_loss(logits, features).backward()
    assert logits.grad.abs().sum() > 0
    assert features.grad is None
