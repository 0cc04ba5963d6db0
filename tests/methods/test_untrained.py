"""The methods that learn nothing from labels: random codes, LSH, PCA-sign."""

import math
from types import SimpleNamespace

import pytest
import torch

from razh.layers.hash import itq
from razh.methods.lsh import LSH
from razh.methods.pca import PCA
from razh.methods.random import Random

METHODS = [LSH, PCA, Random]


def start(method, features):
    """Let a method start from features (n, D), as Lightning would."""
    data = SimpleNamespace(initialisation_dataloader=lambda: [{"feature": part} for part in features.split(16)])
    method._trainer = SimpleNamespace(
        datamodule=data, ckpt_path=None, strategy=SimpleNamespace(broadcast=lambda state: state)
    )
    method.on_fit_start()
    return method


def codes(method, features):
    return method.hash_logits({"feature": features}) >= 0


def test_hyperplanes_are_put_through_the_mean_in_any_precision(make_method):
    features = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) + 3
    logits = start(make_method(LSH).to(torch.bfloat16), features).hash_logits({"feature": features.bfloat16()})
    assert logits.float().mean(dim=0).abs().max() < 0.1


@pytest.mark.parametrize("kind", METHODS)
def test_trains_nothing(kind, make_method, make_batch):
    method = make_method(kind)
    assert not any(parameter.requires_grad for parameter in method.parameters())
    assert method.losses(make_batch()) == {}
    assert method.configure_optimizers() is None


@pytest.mark.parametrize("kind", METHODS)
def test_logits_need_no_label_and_no_index(kind, make_method, make_batch):
    method, images = make_method(kind).eval(), make_batch()["image"]
    assert torch.equal(method.codes(images), method.codes(images))
    assert method.codes(images).shape == (8, 12)


@pytest.mark.parametrize("kind", METHODS)
def test_start_does_not_depend_on_hash_init(kind, make_method):
    features, weights = torch.randn(64, 64) + 3, []
    for hash_init in ("itq", "random"):
        torch.manual_seed(0)
        weights.append(start(make_method(kind, hash_init=hash_init), features).head.weight)
    assert torch.equal(weights[0], weights[1])


def test_lsh_differs_by_the_angle(make_method):
    """A bit differs with the probability angle / π, seen from the mean of the features."""
    base = torch.randn(200, 64) + 5
    mean = base.mean(dim=0)
    pair = base[:2] - mean
    angle = math.acos(float(torch.cosine_similarity(pair[0], pair[1], dim=0)))
    differ = []
    for _ in range(4):  # a code has 1,024 bits at most
        method = start(make_method(LSH, bits=1000), base)
        first, second = codes(method, base[:2])
        differ.append(first != second)
    assert torch.cat(differ).float().mean().item() == pytest.approx(angle / math.pi, abs=0.03)
    logits = method.hash_logits({"feature": mean[None]})
    torch.testing.assert_close(logits, torch.zeros_like(logits), atol=1e-3, rtol=0)


def test_lsh_hangs_on_the_seed_of_the_run(make_method):
    features = torch.randn(40, 64)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(start(make_method(LSH), features).head.weight)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_pca_takes_the_components_without_a_rotation(make_method):
    features = torch.randn(100, 64) * torch.linspace(3, 0.5, 64)
    method = start(make_method(PCA), features)
    weight, bias = itq(features, 12, rotate=False)
    torch.testing.assert_close(method.head.weight, weight)
    torch.testing.assert_close(method.head.bias, bias)


def test_random_codes_know_nothing_of_nearness(make_method):
    """Codes of features that differ by a percent are as far apart as those of unrelated ones: half of the bits."""
    features = torch.randn(300, 64)
    method = start(make_method(Random, bits=64), features)
    code = codes(method, features)
    near = codes(method, features + 0.01 * torch.randn(300, 64))
    for other in (near, code.roll(1, dims=0)):
        assert (code != other).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert code.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert len(code.unique(dim=0)) == 300


def test_random_codes_of_equal_images_are_equal(make_method, make_batch):
    method, images = make_method(Random).eval(), make_batch()["image"]
    doubled = method.codes(torch.cat([images, images]))
    assert torch.equal(doubled[:8], doubled[8:])


def test_random_codes_hang_on_the_seed_of_the_run(make_method):
    features, made = torch.randn(8, 64), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(codes(make_method(Random, bits=64), features))
    assert torch.equal(made[0], made[1])
    assert (made[0] != made[2]).float().mean() > 0.3
