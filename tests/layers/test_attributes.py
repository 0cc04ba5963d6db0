import pytest
import torch
from torch.nn import functional as F

from razh.layers.attributes import (
    AttributeMatcher,
    AttributeReplacement,
    Match,
    PartResponses,
    best_share,
    positive_attributes,
    relative_strengths,
    sinkhorn,
)

B, K, D, M, V, N = 4, 3, 6, 7, 5, 10


@pytest.fixture
def parts():
    return torch.randn(B, K, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def vectors():
    return torch.randn(M, V, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def positive():
    positive = torch.zeros(B, M, dtype=torch.bool)
    for b in range(B):
        positive[b, [b, b + 1, b + 3]] = True
    return positive


def matcher(**arguments):
    return AttributeMatcher(D, V, embed_dim=4, **arguments)


def chosen(match):
    return match.choice.argmax(dim=-1)


def test_similarity_is_the_cosine_in_the_common_space(parts, vectors):
    layer = matcher()
    similarity = layer.similarity(parts, vectors)
    for b in range(B):
        for k in range(K):
            part = layer.part(parts[b, k])
            for m in range(M):
                attribute = layer.attribute.weight @ vectors[m]
                expected = torch.dot(part, attribute) / part.norm() / attribute.norm()
                torch.testing.assert_close(similarity[b, k, m], expected, rtol=1e-4, atol=1e-5)


def test_nearest_positive_attribute_is_chosen(parts, vectors, positive):
    match = matcher()(parts, vectors, positive)
    for b in range(B):
        for k in range(K):
            best = max((m for m in range(M) if positive[b, m]), key=lambda m: float(match.similarity[b, k, m].detach()))
            assert chosen(match)[b, k] == best
            assert match.score[b, k] == match.similarity[b, k, best]


def test_nearest_does_not_depend_on_chance(parts, vectors, positive):
    layer = matcher()
    assert torch.equal(layer(parts, vectors, positive).choice, layer(parts, vectors, positive).choice)


def test_random_stays_within_positive_attributes_and_varies(parts, vectors, positive):
    layer = matcher(choice="random")
    draws = torch.stack([chosen(layer(parts, vectors, positive)) for _ in range(60)])
    for b in range(B):
        for k in range(K):
            assert set(draws[:, b, k].tolist()) == set(positive[b].nonzero().flatten().tolist())


def test_other_stays_outside_the_positive_attributes(parts, vectors, positive):
    layer = matcher(choice="other")
    for _ in range(20):
        picked = chosen(layer(parts, vectors, positive))
        assert not positive.gather(1, picked).any()


@pytest.mark.parametrize("arguments", [{}, {"balance": 3}, {"gumbel": True}, {"choice": "random"}])
def test_choice_is_one_hot_among_positive_attributes(parts, vectors, positive, arguments):
    choice = matcher(**arguments)(parts, vectors, positive).choice
    assert ((choice == 0) | (choice == 1)).all()
    assert (choice.sum(dim=-1) == 1).all()
    assert (choice * ~positive.unsqueeze(1)).sum() == 0


@pytest.mark.parametrize("arguments", [{}, {"balance": 3}, {"gumbel": True}])
def test_gradient_passes_straight_through_the_choice(parts, vectors, positive, arguments):
    layer = matcher(**arguments)
    match = layer(parts.requires_grad_(), vectors, positive)
    (match.choice * torch.rand(B, K, M)).sum().backward()
    assert parts.grad.abs().sum() > 0
    for name, parameter in layer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_straight_through_gradient_is_that_of_the_softmax(parts, vectors, positive):
    layer, weight = matcher(temperature=0.5), torch.rand(B, K, M)
    (layer(parts, vectors, positive).choice * weight).sum().backward()
    got = layer.attribute.weight.grad.clone()
    layer.zero_grad()
    logits = (layer.similarity(parts, vectors) / 0.5).masked_fill(~positive.unsqueeze(1), -torch.inf)
    (logits.softmax(dim=-1) * weight).sum().backward()
    torch.testing.assert_close(got, layer.attribute.weight.grad, rtol=1e-4, atol=1e-6)


def test_gumbel_varies_in_training_only(parts, vectors, positive):
    layer = matcher(gumbel=True, temperature=1.0)
    draws = torch.stack([chosen(layer(parts, vectors, positive)) for _ in range(40)])
    assert (draws != draws[0]).any()
    layer.eval()
    assert torch.equal(layer(parts, vectors, positive).choice, matcher_like(layer)(parts, vectors, positive).choice)


def matcher_like(layer):
    plain = matcher(temperature=layer.temperature)
    plain.load_state_dict(layer.state_dict())
    return plain


def test_balancing_spreads_parts_over_attributes(vectors):
    parts = torch.randn(1, 1, D).expand(1, 6, D) + 0.01 * torch.randn(1, 6, D)  # six parts that look the same
    positive = torch.ones(1, M, dtype=torch.bool)
    greedy, balanced = matcher(), matcher(balance=10)
    balanced.load_state_dict(greedy.state_dict())
    assert chosen(greedy(parts, vectors, positive)).unique().numel() == 1
    soft = {}
    for steps in (0, 10):
        allowed = positive.unsqueeze(1).expand(1, 6, M)
        logits = sinkhorn(greedy.similarity(parts, vectors) / 0.1, allowed, steps)
        soft[steps] = logits.softmax(dim=-1).sum(dim=1)
    assert soft[10].amax() < 0.5 * soft[0].amax()
    assert chosen(balanced(parts, vectors, positive)).unique().numel() >= 2


def test_a_part_takes_the_nearest_of_its_own_attributes_whatever_the_balance():
    """No other part can take them, so there is nothing to spread."""
    similarity = torch.tensor([[[0.1, 0.9, 0.3, -1, -1, -1], [-1, -1, -1, 0.2, 0.1, 0.7]]])
    among = similarity[0] > -1
    for positive, right in (([1, 1, 1, 1, 1, 1], [1, 5]), ([1, 0, 1, 0, 0, 0], [2, 5])):
        match = matcher(balance=3).choose(similarity, torch.tensor([positive], dtype=torch.bool), among)
        assert chosen(match).tolist() == [right]


def test_sinkhorn_never_allows_what_is_not_allowed(positive):
    allowed = positive.unsqueeze(1).expand(B, K, M)
    logits = sinkhorn(torch.randn(B, K, M).masked_fill(~allowed, -1e4), allowed, 5)
    assert (logits.softmax(dim=-1)[~allowed] == 0).all()


def test_bad_temperature_is_named():
    with pytest.raises(ValueError, match=r"temperature=-1\.0"):
        matcher(temperature=-1.0)


# ---------------------------------------------------------------- replacement


def hard_assignment():
    """Return (B, N, K + 1), one-hot; every slot has patches, background too."""
    return F.one_hot(torch.arange(B * N).view(B, N) % (K + 1), K + 1).float()


def a_match():
    score = torch.linspace(-0.9, 0.9, B * K).view(B, K)
    choice = F.one_hot(torch.arange(B * K).view(B, K) % M, M).float()
    return Match(torch.zeros(B, K, M), choice, score)


def test_best_share_takes_the_highest_scores():
    score, every = torch.tensor([[0.1, 0.9], [0.5, -0.3]]), torch.ones(2, 2, dtype=torch.bool)
    assert best_share(score, 0.5, every).tolist() == [[0, 1], [1, 0]]
    assert best_share(score, 0.0, every).sum() == 0
    assert best_share(score, 1.0, every).sum() == 4
    assert best_share(score, 1.0, score >= 0.5).tolist() == [[0, 1], [1, 0]]
    assert best_share(score, 0.5, score < 0.5).tolist() == [[1, 0], [0, 0]]  # half of the two that are eligible


@pytest.mark.parametrize("share", [0.0, 0.25, 0.4, 1.0])
def test_best_share_counts_and_ranks(share):
    score = torch.randn(5, 4).tanh()  # cosines
    chosen = best_share(score, share, torch.ones(5, 4, dtype=torch.bool)).bool()
    assert chosen.sum() == round(share * 20)
    if chosen.any() and not chosen.all():
        assert score[chosen].min() > score[~chosen].max()


def test_share_zero_leaves_patches_untouched(vectors):
    patches = torch.randn(B, N, D)
    layer = AttributeReplacement(D, V)
    mixed, weight = layer(patches, torch.rand(B, N, K + 1).softmax(dim=-1), a_match(), vectors, 0.0)
    assert torch.equal(mixed, patches)
    assert (weight == 0).all()


def test_share_one_replaces_exactly_the_patches_of_parts(vectors):
    patches, assignment, match = torch.randn(B, N, D), hard_assignment(), a_match()
    layer = AttributeReplacement(D, V)
    mixed, weight = layer(patches, assignment, match, vectors, 1.0)
    as_patch = layer.to_patch(vectors)
    for b in range(B):
        for n in range(N):
            slot = int(assignment[b, n].argmax())
            if slot == K:
                assert weight[b, n] == 0
                assert torch.equal(mixed[b, n], patches[b, n])
            else:
                assert weight[b, n] == 1
                expected = as_patch[int(match.choice[b, slot].argmax())]
                torch.testing.assert_close(mixed[b, n], expected, rtol=1e-4, atol=1e-5)


def test_soft_assignment_mixes_by_weight(vectors):
    patches, assignment, match = torch.randn(B, N, D), torch.randn(B, N, K + 1).softmax(dim=-1), a_match()
    layer = AttributeReplacement(D, V)
    mixed, weight = layer(patches, assignment, match, vectors, 0.5)
    present = assignment[..., :K].sum(dim=1) >= 0.5
    replaced, as_patch = best_share(match.score, 0.5, present), layer.to_patch(vectors)
    for b in range(B):
        for n in range(N):
            expected, rest = torch.zeros(D), 1.0
            for k in range(K):
                share = float(assignment[b, n, k] * replaced[b, k])
                expected = expected + share * as_patch[int(match.choice[b, k].argmax())]
                rest -= share
            torch.testing.assert_close(mixed[b, n], expected + rest * patches[b, n], rtol=1e-4, atol=1e-5)
            assert weight[b, n] == pytest.approx(1 - rest, abs=1e-5)


def test_threshold_keeps_weak_pairs(vectors):
    assignment, match = hard_assignment(), a_match()
    layer = AttributeReplacement(D, V, threshold=0.0)
    _, weight = layer(torch.randn(B, N, D), assignment, match, vectors, 1.0)
    expected = (assignment[..., :K] * (match.score >= 0).float().unsqueeze(1)).sum(dim=-1)
    assert torch.equal(weight, expected)


def test_without_a_background_column_all_patches_may_be_replaced(vectors):
    assignment = F.one_hot(torch.arange(B * N).view(B, N) % K, K).float()
    _, weight = AttributeReplacement(D, V)(torch.randn(B, N, D), assignment, a_match(), vectors, 1.0)
    assert (weight == 1).all()


def test_replacement_passes_gradients_on(parts, vectors, positive):
    match = matcher()(parts, vectors, positive)
    patches = torch.randn(B, N, D, requires_grad=True)
    assignment = torch.randn(B, N, K + 1, requires_grad=True)
    layer = AttributeReplacement(D, V)
    mixed, _ = layer(patches, assignment.softmax(dim=-1), match, vectors, 0.5)
    mixed.square().sum().backward()
    assert patches.grad.abs().sum() > 0
    assert assignment.grad is None  # or parts would learn to be nowhere, where replacing them costs nothing
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_part_that_an_image_does_not_show_is_not_replaced(vectors):
    assignment = torch.zeros(B, N, K + 1)
    assignment[..., -1] = 1
    assignment[0, :2] = F.one_hot(torch.tensor([0, 0]), K + 1).float()  # part 0, in the first image only
    score = a_match()._replace(score=torch.ones(B, K))
    _, weight = AttributeReplacement(D, V)(torch.randn(B, N, D), assignment, score, vectors, 1.0)
    assert weight[0, :2].tolist() == [1, 1]
    assert weight.sum() == 2


def test_other_attributes_of_a_class_that_has_all_are_any(parts, vectors):
    positive = torch.ones(B, M, dtype=torch.bool)
    drawn = torch.stack([chosen(matcher(choice="other")(parts, vectors, positive)) for _ in range(20)])
    assert drawn.unique().numel() > 2


class Given(torch.nn.Module):
    """A matcher for which parts are their similarities with the attributes."""

    def similarity(self, parts, attribute_vectors):
        return parts


def test_an_image_responds_as_its_nearest_present_part(vectors):
    layer = PartResponses(Given(), 3)
    similarity = torch.tensor([[[0.1, 0.9, 0.8], [0.4, -0.2, 0.1]], [[0.5, 0.2, 0.3], [0.1, 0.6, 0.0]]])
    present = torch.tensor([[False, True], [False, False]])  # an image without parts: all count
    nearest = torch.tensor([[0.4, -0.2, 0.1], [0.5, 0.6, 0.3]])
    torch.testing.assert_close(layer(similarity, vectors, present), F.layer_norm(nearest, (3,)))


def test_responses_pull_the_nearest_part_alone(vectors):
    layer = PartResponses(Given(), 3)
    similarity = torch.tensor([[[0.1, 0.2, 0.6], [0.4, 0.1, 0.3], [0.9, 0.9, 0.9]]], requires_grad=True)
    layer(similarity, vectors, torch.tensor([[True, True, False]]))[0, 0].backward()
    assert (similarity.grad != 0).tolist() == [[[False, True, True], [True, False, False], [False] * 3]]


def test_responses_are_those_of_the_matcher(parts, vectors):
    layer = PartResponses(matcher(), M)
    expected = F.layer_norm(layer.matcher.similarity(parts, vectors).amax(dim=1), (M,))
    torch.testing.assert_close(layer(parts, vectors, torch.ones(B, K, dtype=torch.bool)), expected)


def test_a_random_part_responds_for_all_attributes_of_an_image(vectors):
    layer = PartResponses(Given(), 3)
    similarity = torch.tensor([[[0.1, 0.2, 0.6], [0.4, 0.1, 0.3], [0.9, 0.7, 0.8]]]).expand(200, -1, -1)
    present = torch.tensor([[True, True, False]]).expand(200, -1)
    found = layer(similarity, vectors, present, at_random=True)
    expected = F.layer_norm(similarity[0, :2], (3,))  # the third is not there
    which = torch.cdist(found, expected).argmin(dim=1)
    torch.testing.assert_close(found, expected[which])
    assert 60 < which.sum() < 140


def test_relative_strengths_by_hand():
    """The last two classes do not train; the first attribute is everybody's and so tells nothing."""
    table = torch.tensor([[0.9, 0.8, 0.0], [0.9, 0.2, 0.4], [1.0, 0.5, 1.0], [0.9, 0.1, 0.0]])
    found = relative_strengths(table, torch.tensor([0, 1]))
    expected = [[0.0, 0.3, 0.0], [0.0, 0.0, 0.2], [0.1, 0.0, 0.8], [0.9, 0.1, 0.0]]  # the last has more of nothing
    torch.testing.assert_close(found, torch.tensor(expected))


def test_positive_attributes_by_hand():
    table = torch.tensor([[0.9, 0.5, 0.4, 0.0], [0.1, 0.02, 0.06, 0.05]])
    assert positive_attributes(table, 0.5).tolist() == [
        [True, True, False, False],
        [True, False, True, True],
    ]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0, 2.0])
def test_positive_attributes_are_never_empty(threshold):
    table = torch.rand(20, 6)
    table[3] = 0
    assert positive_attributes(table, threshold).any(dim=-1).all()


def test_attributes_without_strength_are_not_positive():
    positive = positive_attributes(torch.tensor([[1.0, 0.0, 0.3]]), 0.0)
    assert positive.tolist() == [[True, False, True]]


def test_positive_attributes_shrink_as_the_threshold_rises():
    table = torch.rand(10, 8)
    counts = [int(positive_attributes(table, threshold).sum()) for threshold in (0, 0.3, 0.6, 0.9)]
    assert counts == sorted(counts, reverse=True)
