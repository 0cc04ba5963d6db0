import pytest
import torch
from torch.nn import functional as F

from razh.methods.agnet import AgNet


@pytest.mark.parametrize("similarity", ["class", "semantic"])
def test_terms_by_hand(make_method, make_batch, facts, similarity):
    method, batch = make_method(AgNet, similarity=similarity).eval(), make_batch(4)
    terms, table, label = method.losses(batch), facts["class_attributes"], batch["label"]
    predicted = method.feature(batch) @ method.regressor.weight.T + method.regressor.bias
    torch.testing.assert_close(terms["attributes"], (predicted - table[label]).square().mean())
    logits = predicted @ method.head.weight.T + method.head.bias
    torch.testing.assert_close(terms["quantization"], 0.1 * (1 - logits.tanh().abs()).square().mean())
    pairs = []
    for i in range(4):
        for j in range(4):
            if i == j:
                continue
            if similarity == "class":  # four classes, one image each: every pair is a negative
                pairs.append(F.softplus(logits[i] @ logits[j] / 2))
            else:
                a, b = (table[label[n]] - table[[0, 1, 3, 4]].mean(dim=0) for n in (i, j))
                wanted = F.cosine_similarity(a, b, dim=0)
                found = F.cosine_similarity(logits[i].tanh(), logits[j].tanh(), dim=0)
                pairs.append((found - wanted).square())
    torch.testing.assert_close(terms["similarity"], torch.stack(pairs).mean(), rtol=1e-4, atol=1e-5)


def test_code_sees_nothing_but_the_attributes(make_method, make_batch):
    method, batch = make_method(AgNet).eval(), make_batch()
    assert method.head.in_features == 8
    torch.nn.init.zeros_(method.regressor.weight)
    assert len(torch.unique(method.codes(batch["image"]), dim=0)) == 1
