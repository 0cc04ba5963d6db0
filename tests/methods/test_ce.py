import torch
from torch.nn import functional as F

from razh.methods.ce import CE


def test_every_parameter_gets_a_gradient(make_method, make_batch):
    method = make_method(CE, quantization_weight=0.1)
    torch.stack(list(method.losses(make_batch()).values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert method.head.weight.grad.abs().sum() > 0


def test_loss_is_cross_entropy_over_training_classes(make_method, make_batch):
    method, batch = make_method(CE).eval(), make_batch()
    terms = method.losses(batch)
    assert terms.keys() == {"classification"}
    scores = method.classifier(method.hash_logits(batch)).log_softmax(dim=-1)
    position = {0: 0, 1: 1, 3: 2, 4: 3}
    picked = [-scores[i, position[int(label)]] for i, label in enumerate(batch["label"])]
    torch.testing.assert_close(terms["classification"], torch.stack(picked).mean())


def test_quantization_joins_by_its_weight(make_method, make_batch):
    method, batch = make_method(CE, quantization_weight=0.5).eval(), make_batch()
    expected = 0.5 * (1 - method.hash_logits(batch).tanh().abs()).square().mean()
    torch.testing.assert_close(method.losses(batch)["quantization"], expected)


def test_logits_are_linear_in_the_feature_and_need_no_label(make_method, make_batch):
    method, batch = make_method(CE).eval(), make_batch()
    expected = F.linear(method.feature(batch), method.head.weight, method.head.bias)
    torch.testing.assert_close(method.hash_logits({"image": batch["image"]}), expected)


def test_training_lowers_the_loss(make_method, make_batch):
    method, batch = make_method(CE), make_batch(16)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = method.losses(batch)["classification"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
