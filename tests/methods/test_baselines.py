"""What all supervised baselines have in common, and the value of each at a point computed another way."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from razh.losses.centres import hash_centres, smallest_distance
from razh.methods import bihalf
from razh.methods.adsh import ADSH
from razh.methods.bihalf import BiHalf
from razh.methods.csq import CSQ
from razh.methods.dpn import DPN
from razh.methods.dpsh import DPSH
from razh.methods.dsh import DSH
from razh.methods.dtsh import DTSH
from razh.methods.greedyhash import GreedyHash
from razh.methods.hashnet import HashNet
from razh.methods.hyp2 import HyP2
from razh.methods.mdsh import MDSH
from razh.methods.mlzsh import MLZSH
from razh.methods.orthohash import OrthoHash
from razh.methods.semantic_ce import SemanticCE
from razh.methods.supcon import SupCon

METHODS = [
    ADSH, BiHalf, CSQ, DPN, DPSH, DSH, DTSH, GreedyHash, HashNet, HyP2, MDSH, MLZSH, OrthoHash, SemanticCE, SupCon,
]  # fmt: skip
OPTIONS = {  # terms that are off by default
    DPN: {"size_weight": 0.1},
    SemanticCE: {"quantization_weight": 0.1},
    SupCon: {"quantization_weight": 0.1},
}
every_method = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)


def total(method, batch):
    return torch.stack(list(method.losses(batch).values())).sum()


@every_method
def test_every_parameter_gets_a_gradient(kind, make_method, make_batch):
    method, batch = make_method(kind, **OPTIONS.get(kind, {})), make_batch()
    assert method.hash_logits({"image": batch["image"]}).shape == (8, 12)  # needs no label
    total(method, batch).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    untouched = {name for name, p in method.named_parameters() if not p.grad.any() and "backbone" not in name}
    assert not untouched
    assert method.head.weight.grad.abs().sum() > 1e-4


@every_method
def test_poor_batches_are_finite(kind, make_method):
    """One class, no two images of a class, one image: batches that a small data set or epoch may bring."""
    method = make_method(kind)
    for labels in ([0, 0, 0, 0], [0, 1, 3, 4], [0]):
        if kind is OrthoHash and len(labels) == 1:
            method.eval()  # a single image has no statistics
        feature = torch.randn(len(labels), method.backbone.feature_dim)
        loss = total(method, {"feature": feature, "label": torch.tensor(labels)})
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def gaussians(count, dim, seed):
    """Return features and labels of four classes: differences in four directions, far more noise in eight others."""
    centres = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    label = torch.tensor([0, 1, 3, 4])[torch.arange(count) % 4]
    feature = 0.1 * torch.randn(count, dim, generator=generator)
    feature[:, :4] += 2 * centres[label]
    feature[:, 4:12] += 5 * torch.randn(count, 8, generator=generator)
    return {"feature": feature, "label": label, "index": torch.arange(count)}


def precision(method, batch, k=5):
    """Return the share of the k nearest codes that are of the same class."""
    code = torch.where(method.hash_logits(batch) >= 0, 1.0, -1.0)
    nearest = (code @ code.T - 1e3 * torch.eye(len(code))).topk(k).indices
    return (batch["label"][nearest] == batch["label"][:, None]).float().mean().item()


@every_method
def test_loss_falls_and_codes_learn_what_tells_classes_apart(kind, make_method):
    torch.manual_seed(3)
    method = make_method(kind, bits=16)
    train, held_out = (gaussians(count, method.backbone.feature_dim, seed) for seed, count in ((5, 128), (6, 80)))
    before = precision(method.eval(), held_out)
    rest = [p for name, p in method.named_parameters() if not name.startswith("backbone")]
    optimizer = torch.optim.AdamW(rest, lr=1e-2)
    method.train()
    losses = []
    for step in range(60):
        rows = torch.arange(32) + 32 * (step % 4)
        loss = total(method, {name: value[rows] for name, value in train.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    after = precision(method.eval(), held_out)
    assert before < 0.6  # chance is 0.25
    assert after > 0.7
    first, last = sum(losses[:4]), sum(losses[-4:])  # all batches once
    assert last < first - 0.1 * abs(first)


# ---------------------------------------------------------------- each formula, by loops over plain numbers


def pairs(method, batch):
    """Return logits as lists, labels, and positions among the training classes (0, 1, 3, 4)."""
    labels = batch["label"].tolist()
    return method.hash_logits(batch).tolist(), labels, [(0, 1, 3, 4).index(label) for label in labels]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def cross_entropy(scores, target):
    return math.log(sum(math.exp(s) for s in scores)) - scores[target]


def likelihood(rows, labels, scale):
    """Return the balanced negative log-likelihood of pairs."""
    positive, negative = [], []
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            theta = scale * dot(a, b)
            if i != j and labels[i] == labels[j]:
                positive.append(math.log(1 + math.exp(theta)) - theta)
            elif i != j:
                negative.append(math.log(1 + math.exp(theta)))
    return (mean(positive) + mean(negative)) / 2


def magnitude(rows, power):
    return mean(abs(abs(x) - 1) ** power for row in rows for x in row)


def values(method, batch, **wanted):
    """Compare the terms of a method with numbers."""
    found = {name: value.item() for name, value in method.losses(batch).items()}
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_dsh_value(make_method, make_batch):
    method, batch = make_method(DSH, margin_per_bit=0.5, magnitude_weight=0.3).eval(), make_batch()
    rows, labels, _ = pairs(method, batch)
    terms = []
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            squared = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
            if i != j:
                terms.append(squared / 2 if labels[i] == labels[j] else max(6 - squared, 0) / 2)
    values(method, batch, pairwise=mean(terms), magnitude=0.3 * magnitude(rows, 1))


def test_dpsh_value(make_method, make_batch):
    method, batch = make_method(DPSH, magnitude_weight=0.3).eval(), make_batch()
    rows, labels, _ = pairs(method, batch)
    values(method, batch, pairwise=likelihood(rows, labels, 0.5), magnitude=0.3 * magnitude(rows, 2))


def test_hashnet_value(make_method, make_batch):
    method, batch = make_method(HashNet).eval(), make_batch()
    rows, labels, _ = pairs(method, batch)
    codes = [[math.tanh(x) for x in row] for row in rows]  # β is 1 outside a run
    values(method, batch, pairwise=likelihood(codes, labels, 10 / 12))


def test_dtsh_value(make_method, make_batch):
    method, batch = make_method(DTSH, margin_per_bit=0.25, magnitude_weight=0.3).eval(), make_batch()
    rows, labels, _ = pairs(method, batch)
    terms = [
        math.log(1 + math.exp(3 - (dot(rows[a], rows[p]) - dot(rows[a], rows[n])) / 2))
        for a in range(8)
        for p in range(8)
        for n in range(8)
        if p != a and labels[p] == labels[a] != labels[n]
    ]  # each anchor has as many triplets, so that the means are one
    values(method, batch, triplet=mean(terms), magnitude=0.3 * magnitude(rows, 2))


def test_supcon_value(make_method, make_batch):
    method, batch = make_method(SupCon, temperature=0.5, quantization_weight=0.2).eval(), make_batch(12)
    rows, labels, _ = pairs(method, batch)
    terms = []
    for i, a in enumerate(rows):
        shares = {j: math.exp(cosine(a, b) / 0.5) for j, b in enumerate(rows) if j != i}
        terms.append(mean(-math.log(shares[p] / sum(shares.values())) for p in shares if labels[p] == labels[i]))
    quantization = mean((1 - abs(math.tanh(x))) ** 2 for row in rows for x in row)
    values(method, batch, contrast=mean(terms), quantization=0.2 * quantization)


def test_semantic_ce_value(make_method, make_batch, facts):
    method, batch = make_method(SemanticCE, scale=4.0).eval(), make_batch()
    table = facts["class_attributes"][[0, 1, 3, 4]]
    prototypes = (table - table.mean(dim=0)).tolist()
    with torch.no_grad():
        projected = method.semantic(method.hash_logits(batch)).tolist()
    _, _, targets = pairs(method, batch)
    terms = [cross_entropy([4 * cosine(p, a) for a in prototypes], y) for p, y in zip(projected, targets, strict=True)]
    values(method, batch, semantic=mean(terms))


def test_greedyhash_value(make_method, make_batch):
    method, batch = make_method(GreedyHash, magnitude_weight=0.3).eval(), make_batch()
    rows, _, targets = pairs(method, batch)
    weight = method.classifier.weight.tolist()
    codes = [[1.0 if x >= 0 else -1.0 for x in row] for row in rows]
    terms = [cross_entropy([dot(code, w) for w in weight], y) for code, y in zip(codes, targets, strict=True)]
    values(method, batch, classification=mean(terms), magnitude=0.3 * magnitude(rows, 3))


def test_bihalf_value(make_method, make_batch):
    method, batch = make_method(BiHalf, gamma=4.0).eval(), make_batch()
    rows, _, targets = pairs(method, batch)
    columns = [sorted((row[bit] for row in rows), reverse=True)[:4] for bit in range(12)]
    codes = [[1.0 if x in columns[bit] else -1.0 for bit, x in enumerate(row)] for row in rows]
    weight, bias = method.classifier.weight.tolist(), method.classifier.bias.tolist()
    terms = [
        cross_entropy([dot(code, w) + b for w, b in zip(weight, bias, strict=True)], y)
        for code, y in zip(codes, targets, strict=True)
    ]
    balance = 2 * mean(
        (h - b) ** 2 for row, code in zip(rows, codes, strict=True) for h, b in zip(row, code, strict=True)
    )
    values(method, batch, classification=mean(terms), balance=balance)


def test_bihalf_adds_the_gradient_of_the_paper(make_method):
    """γ (h − b) / (B L) on top of the gradient of the code, as the layer is defined."""
    method = make_method(BiHalf, gamma=4.0)
    logits = torch.randn(6, 12, requires_grad=True)
    method.hash_logits = lambda batch: logits
    label = torch.tensor([0, 1, 3, 4, 0, 1])
    terms = method.losses({"label": label})
    code = torch.where(logits.argsort(dim=0).argsort(dim=0) >= 3, 1.0, -1.0).requires_grad_()
    F.cross_entropy(method.classifier(code), method.targets({"label": label})).backward()
    sum(terms.values()).backward()
    torch.testing.assert_close(logits.grad, code.grad + 4.0 * (logits - code).detach() / logits.numel())


def test_bihalf_halves_the_whole_batch_of_all_devices(make_method, monkeypatch):
    """Two devices with four images each, the second has the larger logits: together they are one batch of eight."""
    method = make_method(BiHalf)
    rows, label = torch.randn(8, 12).sort(dim=0).values, torch.tensor([0, 1, 3, 4, 0, 1, 3, 4])
    method.hash_logits = lambda batch: batch["logits"]
    whole = {name: value.item() for name, value in method.losses({"logits": rows, "label": label}).items()}
    others = (rows[4:], method.targets({"label": label[4:]}))
    monkeypatch.setattr(bihalf, "whole_batch", lambda *own: [torch.cat(pair) for pair in zip(own, others, strict=True)])
    first = {name: value.item() for name, value in method.losses({"logits": rows[:4], "label": label[:4]}).items()}
    assert first == pytest.approx(whole)


def test_csq_value(make_method, make_batch):
    method, batch = make_method(CSQ, quantization_weight=0.3, centre_seed=2).eval(), make_batch()
    rows, _, targets = pairs(method, batch)
    centres = hash_centres(4, 12, seed=2).tolist()
    terms = []
    for row, y in zip(rows, targets, strict=True):
        for h, c in zip(row, centres[y], strict=True):
            on = (math.tanh(h) + 1) / 2
            terms.append(-math.log(on if c > 0 else 1 - on))
    quantization = mean((1 - abs(math.tanh(x))) ** 2 for row in rows for x in row)
    values(method, batch, centre=mean(terms), quantization=0.3 * quantization)


def test_mdsh_value(make_method, make_batch):
    method, batch = make_method(MDSH, pair_weight=0.7, quantization_weight=0.3).eval(), make_batch()
    rows, labels, targets = pairs(method, batch)
    codes = [[math.tanh(x) for x in row] for row in rows]
    centres = method.centres.tolist()
    centre, pair = [], []
    for i, (code, y) in enumerate(zip(codes, targets, strict=True)):
        weights = [math.exp(math.sqrt(12) * cosine(code, c)) for c in centres]
        share = [w / sum(weights) for w in weights]
        centre += [-math.log(p if c == y else 1 - p) for c, p in enumerate(share)]
        for j, other in enumerate(codes):
            if i != j and labels[i] == labels[j]:
                pair.append(math.log(1 + math.exp((1 - cosine(code, other)) / 2)))
    quantization = mean((1 - abs(x)) ** 2 for code in codes for x in code)
    values(method, batch, centre=mean(centre), pairwise=0.7 * mean(pair), quantization=0.3 * quantization)


def test_dpn_value(make_method, make_batch):
    method, batch = make_method(DPN, margin=0.8, size_weight=0.3, centre_seed=2).eval(), make_batch()
    rows, _, targets = pairs(method, batch)
    centres = hash_centres(4, 12, kind="bernoulli", seed=2).tolist()
    terms = [
        sum(max(0, 0.8 - h * c) for h, c in zip(row, centres[y], strict=True))
        for row, y in zip(rows, targets, strict=True)
    ]
    values(method, batch, polarization=mean(terms), size=0.3 * mean(x * x for row in rows for x in row))


def test_orthohash_value(make_method, make_batch):
    method, batch = make_method(OrthoHash, scale=5.0, margin=0.3, centre_kind="hadamard").eval(), make_batch()
    method.norm.running_mean.uniform_(-1, 1)
    method.norm.running_var.uniform_(0.5, 2)
    rows, _, targets = pairs(method, batch)
    raw = method.head(method.feature(batch))
    expected = (raw - method.norm.running_mean) / (method.norm.running_var + method.norm.eps).sqrt()
    torch.testing.assert_close(torch.tensor(rows), expected.detach())
    centres = hash_centres(4, 12).tolist()
    terms = [
        cross_entropy([5 * (cosine(row, c) - 0.3 * (k == y)) for k, c in enumerate(centres)], y)
        for row, y in zip(rows, targets, strict=True)
    ]
    values(method, batch, classification=mean(terms))


def test_orthohash_bits_are_balanced_in_training(make_method, make_batch):
    logits = make_method(OrthoHash).train().hash_logits(make_batch(32))
    torch.testing.assert_close(logits.mean(dim=0), torch.zeros(12), atol=1e-5, rtol=0)


def test_adsh_value(make_method, make_batch):
    method, batch = make_method(ADSH, mean_weight=0.7, variance_weight=0.3).eval(), make_batch()
    rows, _, targets = pairs(method, batch)
    weight = method.weight.tolist()
    terms = [
        cross_entropy([10 * (cosine(row, w) - 0.2 * (k == y)) for k, w in enumerate(weight)], y)
        for row, y in zip(rows, targets, strict=True)
    ]
    distances = [(1 - cosine(weight[i], weight[j])) / 2 for i in range(4) for j in range(i)]
    variance = sum((d - mean(distances)) ** 2 for d in distances) / 5
    values(method, batch, classification=mean(terms), distance=-0.7 * mean(distances), variance=0.3 * variance)


def test_hyp2_value(make_method, make_batch):
    method, batch = make_method(HyP2, pair_weight=0.7, threshold=0.1).eval(), make_batch()
    rows, labels, targets = pairs(method, batch)
    proxies = method.proxies.tolist()
    pull = [1 - cosine(row, proxies[y]) for row, y in zip(rows, targets, strict=True)]
    push = [
        max(0, cosine(row, p) - 0.1)
        for row, y in zip(rows, targets, strict=True)
        for k, p in enumerate(proxies)
        if k != y
    ]
    pair = [max(0, cosine(rows[i], rows[j]) - 0.1) for i in range(8) for j in range(8) if labels[i] != labels[j]]
    values(method, batch, proxy=mean(pull) + mean(push), pairwise=0.7 * mean(pair))


def test_hyp2_threshold_is_that_of_codes_which_exist(make_method):
    assert make_method(HyP2, bits=64).threshold == 0  # four of 64 Hadamard rows, at right angles
    distance = smallest_distance(hash_centres(4, 10))
    assert make_method(HyP2, bits=10).threshold == pytest.approx(1 - distance / 5)


# ---------------------------------------------------------------- what only one of them has


def test_hashnet_grows_steeper_by_steps_over_the_run(make_method):
    method = make_method(HashNet, stages=5, last=7.0)
    assert method.slope() == 1
    state = SimpleNamespace(estimated_stepping_batches=50, global_step=0)
    method._trainer = state
    method.on_train_start()
    slopes = []
    for state.global_step in range(50):
        slopes.append(method.slope())
    assert slopes[0] == 1
    assert slopes[-1] == pytest.approx(7)
    assert slopes == sorted(slopes)
    assert len(set(slopes)) == 5
    assert slopes[10] == pytest.approx(math.sqrt(1 + 48 / 4))


def test_hashnet_codes_do_not_depend_on_the_slope(make_method, make_batch):
    method, batch = make_method(HashNet).eval(), make_batch()
    before = method.hash_logits(batch)
    method._trainer = SimpleNamespace(estimated_stepping_batches=10, global_step=9)
    method.on_train_start()
    assert method.slope() > 1
    torch.testing.assert_close(method.hash_logits(batch), before)


def test_adsh_needs_three_classes(make_method):
    with pytest.raises(ValueError, match="at least 3 training classes, got 2"):
        make_method(ADSH, train_classes=torch.tensor([0, 3]))


@pytest.mark.parametrize("kind", [CSQ, DPN, MDSH, OrthoHash])
def test_centres_belong_to_training_classes_and_travel_with_the_weights(kind, make_method):
    method = make_method(kind, bits=16)
    assert method.centres.shape == (4, 16)
    assert not method.centres.requires_grad
    assert torch.equal(make_method(kind, bits=16).centres, method.centres)
    assert not torch.equal(make_method(kind, bits=16, centre_seed=1).centres, method.centres)
    assert "centres" in method.state_dict()
