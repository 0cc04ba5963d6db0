"""What all zero-shot methods must do: train every weight, need no label, see no unseen row, and find unseen classes."""

import inspect

import pytest
import torch

from razh.methods.agnet import AgNet
from razh.methods.attribute_lsh import AttributeLSH
from razh.methods.comae import COMAE
from razh.methods.itq import ITQ
from razh.methods.psdzh import PSDZH
from razh.methods.sitnet import SitNet
from razh.methods.tsk import TSK
from tests.methods.world import CLASSES, TRAIN, World

TRAINED = (AttributeLSH, AgNet, SitNet, COMAE, PSDZH)
ALL = (*TRAINED, TSK)


@pytest.fixture
def world(make_backbone):
    return World(make_backbone(image_size=48, freeze="all"))


def total(terms):
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("kind", TRAINED)
def test_every_trainable_parameter_gets_a_gradient(make_method, make_batch, kind):
    """DDP waits for ever for a parameter that gets none."""
    method = make_method(kind)
    terms = method.losses(make_batch())
    assert all(value.isfinite() for value in terms.values())
    total(terms).backward()
    for name, parameter in method.named_parameters():
        assert not parameter.requires_grad or (parameter.grad is not None and parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("kind", TRAINED)
def test_modules_of_its_own_really_move(world, kind):
    method = world.make(kind)
    world.fit(method, steps=2)  # a map that starts at zero passes nothing on in the first step
    moved = [name for name, p in method.named_parameters() if p.requires_grad and p.grad.abs().sum() > 0]
    assert moved == [name for name, p in method.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("kind", TRAINED)
def test_training_lowers_the_loss(world, kind):
    start = {"attribute_init": "mean"} if kind is AttributeLSH else {}
    history = world.fit(world.make(kind, **start), steps=40)
    assert sum(history[-5:]) < sum(history[:5])
    assert history[-1] < history[0]


@pytest.mark.parametrize("kind", ALL)
def test_unseen_classes_are_found_where_unsupervised_codes_fail(world, kind):
    itq, method = world.make(ITQ), world.make(kind)
    itq.start_from_features()
    world.fit(method)
    chance = 1 / (CLASSES - TRAIN)
    assert world.unseen_precision(itq) < 2 * chance
    assert world.unseen_precision(method) > 4 * chance


@pytest.mark.parametrize("kind", ALL)
def test_hash_logits_need_no_label(make_method, make_batch, kind):
    method, batch = make_method(kind).eval(), make_batch()
    torch.nn.init.normal_(method.head.weight)
    logits = method.hash_logits(batch)
    assert logits.shape == (8, 12)
    torch.testing.assert_close(method.hash_logits({"image": batch["image"]}), logits)
    torch.testing.assert_close(method(batch["image"]), logits)


@pytest.mark.parametrize("kind", ALL)
def test_cached_arrays_stand_in_for_the_image(make_method, make_backbone, make_batch, kind):
    method, batch = make_method(kind, make_backbone(split=1, freeze="all")).eval(), make_batch()
    torch.nn.init.normal_(method.head.weight)
    patches = method.backbone.embed(batch["image"])
    arrays = {"patches": patches, "feature": method.backbone.encode(patches)}
    cached = {name: arrays[name] for name in method.cached_inputs}
    assert set(cached) == ({"patches", "feature"} if kind is COMAE else {"feature"})
    torch.testing.assert_close(method.hash_logits(cached), method.hash_logits(batch))


@pytest.mark.parametrize("kind", ALL)
def test_unseen_rows_of_the_attributes_change_nothing(world, kind):
    results = []
    for shift in (0.0, 0.7):
        world.facts["class_attributes"][TRAIN:] += shift
        torch.manual_seed(1)
        method = world.make(kind)
        history = world.fit(method, steps=2)
        results.append((history, method.hash_logits(world.batch(torch.arange(5)))))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("kind", [AgNet, SitNet, COMAE, PSDZH, TSK])  # LSH's hyperplanes are always random
@pytest.mark.parametrize("hash_init", ["pca", "random"])
def test_other_starts(world, kind, hash_init):
    method = world.make(kind, hash_init=hash_init)
    world.fit(method, steps=1)
    assert method.hash_logits(world.batch(torch.arange(5))).isfinite().all()


def weights(kind):
    return [name for name in inspect.signature(kind).parameters if name.endswith("_weight")]


@pytest.mark.parametrize(
    ("kind", "weight"), [(kind, w) for kind in (AgNet, SitNet, COMAE, PSDZH) for w in weights(kind)]
)
def test_every_weight_scales_one_term(make_method, make_batch, kind, weight):
    terms = []
    for value in (1.0, 3.0):
        torch.manual_seed(2)
        terms.append(make_method(kind, **{weight: value}).losses(make_batch()))
    changed = [name for name in terms[0] if not torch.allclose(terms[0][name], terms[1][name])]
    assert len(changed) == 1
    torch.testing.assert_close(terms[1][changed[0]], 3 * terms[0][changed[0]])
