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


def test_similarity_keeps_a_mixture_of_features_and_attributes():
    attributes = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    code = torch.tensor([[9.0, 9.0], [9.0, 9.0], [9.0, -9.0]])  # cosines 1, 0, 0 once saturated
    # target of pairs (0, 1), (0, 2), (1, 2) at a share of .25: .25 · 1 + .75 · 0, 0, .25 · 0 + .75 · 1
    expected = ((1 - 0.25) ** 2 + 0 + 0.75**2) / 3
    value = hashing.similarity_loss(code, features, attributes, 0.25)
    assert value.item() == pytest.approx(expected, abs=1e-6)
    assert hashing.similarity_loss(code, features, attributes, 0.0) == hashing.similarity_loss(code, features)


def test_similarity_is_zero_where_codes_have_the_features_cosines():
    features = torch.where(torch.randn(6, 8) > 0, 1.0, -1.0)
    assert hashing.similarity_loss(30 * features, 4 * features).item() == pytest.approx(0, abs=1e-10)
    assert hashing.similarity_loss(torch.randn(1, 4), torch.randn(1, 3)).item() == pytest.approx(0, abs=1e-10)


def test_similarity_does_not_train_the_features():
    logits, features = torch.randn(4, 3, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    hashing.similarity_loss(logits, features).backward()
    assert logits.grad.abs().sum() > 0
    assert features.grad is None


# ---------------------------------------------------------------- terms of the published methods


PAIR = torch.tensor([[1.0, 1.0], [2.0, 0.0], [0.0, -2.0]])  # inner products 2, −2, 0; squared distances 2, 10, 8
LABELS = torch.tensor([5, 5, 9])


def softplus(x):
    return math.log(1 + math.exp(x))


def test_pairwise_likelihood_takes_a_scale():
    scaled = hashing.pairwise_likelihood_loss(PAIR, LABELS, scale=0.1)
    assert scaled.item() == pytest.approx((softplus(0.2) - 0.2 + (softplus(-0.2) + softplus(0)) / 2) / 2, abs=1e-6)
    torch.testing.assert_close(hashing.pairwise_likelihood_loss(PAIR / 5**0.5, LABELS), scaled)


def test_pairwise_contrast_by_hand():
    loss = hashing.pairwise_contrast_loss(PAIR, LABELS, margin=9.0)
    assert loss.item() == pytest.approx((2 / 2 + 0 + (9 - 8) / 2) / 3, abs=1e-6)
    assert hashing.pairwise_contrast_loss(PAIR, torch.tensor([0, 1, 2]), margin=1.0) == 0
    assert hashing.pairwise_contrast_loss(PAIR[:1], LABELS[:1], margin=1.0) == 0


def test_pairwise_contrast_has_a_gradient_where_images_coincide():
    logits = torch.ones(3, 4, requires_grad=True)
    hashing.pairwise_contrast_loss(logits, torch.tensor([0, 0, 1]), margin=8.0).backward()
    assert logits.grad.isfinite().all()


def test_squared_distances_equal_cdist():
    logits = torch.randn(7, 5)
    torch.testing.assert_close(
        hashing.squared_distances(logits), torch.cdist(logits, logits) ** 2, atol=1e-4, rtol=1e-4
    )


def test_triplet_likelihood_by_hand():
    # anchor 0: Θ to 1 is 1, to 2 is −1; anchor 1: Θ to 0 is 1, to 2 is 0; image 2 is no anchor
    loss = hashing.triplet_likelihood_loss(PAIR, LABELS, margin=0.5)
    assert loss.item() == pytest.approx((softplus(0.5 - 2) + softplus(0.5 - 1)) / 2, abs=1e-6)


def test_triplet_likelihood_equals_a_loop():
    logits, labels = torch.randn(9, 4), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 3])
    theta = logits @ logits.T / 2
    anchors = []
    for a in range(9):
        terms = [
            softplus(float(1.5 + theta[a, n] - theta[a, p]))
            for p in range(9)
            for n in range(9)
            if p != a and labels[p] == labels[a] and labels[n] != labels[a]
        ]
        if terms:
            anchors.append(sum(terms) / len(terms))
    expected = sum(anchors) / len(anchors)
    assert hashing.triplet_likelihood_loss(logits, labels, 1.5).item() == pytest.approx(expected, rel=1e-5)


def test_supervised_contrast_by_hand():
    logits = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0]])  # cosines: 0, 0, 1
    labels = torch.tensor([1, 1, 2])
    expected = (math.log(2) + math.log((1 + math.exp(2)) / 1)) / 2
    assert hashing.supervised_contrastive_loss(logits, labels, 0.5).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda h, y: hashing.supervised_contrastive_loss(h, y, 0.1),
        lambda h, y: hashing.triplet_likelihood_loss(h, y, 1.0),
        lambda h, y: hashing.pairwise_contrast_loss(h, y, 4.0),
        hashing.positive_pair_loss,
        lambda h, y: hashing.irrelevant_pair_loss(h, y, 0.0),
    ],
)
@pytest.mark.parametrize("labels", [[0, 1, 2], [1, 1, 1]])
def test_batches_without_a_kind_of_pair_are_finite(loss, labels):
    logits = torch.randn(3, 6, requires_grad=True)
    value = loss(logits, torch.tensor(labels))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_central_similarity_is_binary_cross_entropy():
    logits, centres = torch.randn(4, 6), torch.where(torch.randn(4, 6) > 0, 1.0, -1.0)
    expected = F.binary_cross_entropy((logits.tanh() + 1) / 2, (centres + 1) / 2)
    torch.testing.assert_close(hashing.central_similarity_loss(logits, centres), expected)
    assert hashing.central_similarity_loss(-40 * centres, centres).item() == pytest.approx(80)  # no overflow, no clamp


def test_polarization_by_hand():
    logits, centres = torch.tensor([[0.5, -2.0], [3.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    assert hashing.polarization_loss(logits, centres, 1.0).item() == pytest.approx(((0.5 + 3) + (0 + 1)) / 2)


def test_cosine_margin_by_hand():
    logits, centres = torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = [10 * (1 - 0.2), 0.0, -10.0]
    expected = math.log(sum(math.exp(s) for s in scores)) - scores[0]
    loss = hashing.cosine_margin_loss(logits, centres, torch.tensor([0]), 10.0, 0.2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_centre_likelihood_by_hand():
    logits, centres = torch.tensor([[3.0, 3.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    share = 1 / (1 + math.exp(-(2**0.5)))  # cosines 1 and 0
    loss = hashing.centre_likelihood_loss(logits, centres, torch.tensor([0]))
    assert loss.item() == pytest.approx(-(math.log(share) + math.log(share)) / 2, abs=1e-5)
    sure = hashing.centre_likelihood_loss(
        100 * torch.ones(1, 400), torch.stack([torch.ones(400), -torch.ones(400)]), torch.tensor([1])
    )
    assert sure.isfinite()


def test_positive_pairs_by_hand():
    loss = hashing.positive_pair_loss(torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.tensor([0, 0, 1]))
    assert loss.item() == pytest.approx(softplus(0.5), abs=1e-6)


def test_proxy_margin_by_hand():
    logits = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    proxies = torch.tensor([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    half = 0.5**0.5
    others = [half - 0.1, 0.0, 0.0, 0.0]  # image 0: proxies 1 and 2; image 1: proxies 0 and 2
    loss = hashing.proxy_margin_loss(logits, proxies, torch.tensor([0, 1]), 0.1)
    assert loss.item() == pytest.approx(1 - (1 + half) / 2 + sum(others) / 4, abs=1e-6)
    assert hashing.proxy_margin_loss(logits[:1], proxies[:1], torch.tensor([0]), 0.1).item() == pytest.approx(0)


def test_irrelevant_pairs_by_hand():
    logits = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    loss = hashing.irrelevant_pair_loss(logits, torch.tensor([0, 1, 0]), 0.2)
    assert loss.item() == pytest.approx(0.5**0.5 - 0.2, abs=1e-6)  # both pairs of classes are 45° apart


def test_centre_distances_of_codes_are_shares_of_bits():
    centres = 3 * torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, -1], [-1, -1, -1, -1]])
    torch.testing.assert_close(hashing.centre_distances(centres), torch.tensor([0.25, 1.0, 0.75]))


@pytest.mark.parametrize(("power", "expected"), [(1, 1.5 / 3), (2, 1.25 / 3), (3, 1.125 / 3)])
def test_magnitude_by_hand(power, expected):
    assert hashing.magnitude_loss(torch.tensor([[-1.0, 0.5, -2.0]]), power).item() == pytest.approx(expected)
