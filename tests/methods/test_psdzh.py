import math

import pytest
import torch
from torch.nn import functional as F

from razh.methods.psdzh import PSDZH, SemanticTokens, proxy_loss, token_loss


def test_proxy_loss_by_hand():
    codes, proxies = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    easy, hard = math.exp(-1 * 2.0), math.exp(0 * 2.0)  # β = 2, cosines −1 and 0
    weight = [2 * hard / (hard + easy), 2 * easy / (hard + easy)]
    scores = [math.exp(5.0), weight[0] * math.exp(0.0), weight[1] * math.exp(-5.0)]
    loss = proxy_loss(codes, torch.tensor([0]), proxies, scale=5.0, hardness=2.0)
    assert loss.item() == pytest.approx(-math.log(scores[0] / sum(scores)), abs=1e-6)


def test_without_hardness_it_is_plain_cross_entropy():
    codes, proxies, targets = torch.randn(6, 4), torch.randn(5, 4), torch.tensor([0, 1, 4, 2, 3, 3])
    cosine = F.cosine_similarity(codes[:, None], proxies[None], dim=-1)
    loss = proxy_loss(codes, targets, proxies, scale=7.0, hardness=0.0)
    torch.testing.assert_close(loss, F.cross_entropy(7 * cosine, targets))


def test_hardness_raises_the_loss_of_a_near_negative():
    codes, proxies = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, -0.2], [-1.0, 0.0]])
    losses = [float(proxy_loss(codes, torch.tensor([0]), proxies, 5.0, beta)) for beta in (0.0, 1.0, 4.0)]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_token_loss_by_hand():
    codes = torch.tensor([[1.0, -1.0]])
    tokens = torch.tensor([[[0.0, 0.0]], [[0.5, -1.0]]])
    assert token_loss(tokens, codes).item() == pytest.approx(1 / 3 * 1.0 + 2 / 3 * 0.25)


def test_tokens_of_a_later_stage_build_on_the_earlier():
    tokens = SemanticTokens(5, 4, stages=3, width=8)
    before = tokens(torch.eye(5)[:2])
    assert before.shape == (3, 2, 4)
    with torch.no_grad():
        tokens.blocks[1][1].weight.add_(1.0)
    after = tokens(torch.eye(5)[:2])
    assert torch.equal(before[0], after[0])
    assert all(not torch.equal(before[stage], after[stage]) for stage in (1, 2))


def test_semantic_term_cannot_tell_a_shift_of_all_attributes(make_method, make_batch, facts):
    """What the docstring says of centring A: the raw table gives the same cross-entropy."""
    method, batch = make_method(PSDZH).eval(), make_batch()
    projected = method.semantic(method.hash_logits(batch).tanh())
    scores = projected @ facts["class_attributes"][[0, 1, 3, 4]].T
    torch.testing.assert_close(method.losses(batch)["semantic"], F.cross_entropy(scores, method.targets(batch)))
