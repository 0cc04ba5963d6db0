"""Attributes first: parts that compete, attributes read part by part, and a code that starts once they can be told."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from razh.layers.attributes import AttributeChoice
from razh.layers.reading import AttributeReader, CompetingParts, Standardise
from razh.method import HashingMethod
from razh.methods.razh import CODE, RAZH
from razh.terms.base import Step

GROUPS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0])  # of eight attributes
STRENGTHS = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
QUIET = dict.fromkeys(
    ("alignment", "mix", "mix_hash", "reconstruction", "orthogonality", "presence", "background", "entropy"), 0.0
)


@pytest.fixture
def method(make_method, make_backbone):
    return make_method(RAZH, make_backbone(split=2), attribute_groups=GROUPS)


def test_parts_compete_for_every_place():
    layer, patches = CompetingParts(5, parts=3), torch.randn(2, 16, 5)
    vectors, assignment = layer(patches)
    assert vectors.shape == (2, 3, 5)
    assert assignment.shape == (2, 16, 4)
    torch.testing.assert_close(assignment.sum(dim=-1), torch.ones(2, 16))
    by_hand = (assignment[0, :, 1, None] * patches[0]).sum(dim=0) / assignment[0, :, 1].sum()
    torch.testing.assert_close(vectors[0, 1], by_hand)


@pytest.mark.parametrize(("layers", "reach"), [(1, 1), (2, 3), (3, 7)])
def test_each_layer_of_context_looks_twice_as_far(layers, reach):
    layer, patches = CompetingParts(5, parts=3, context=layers), torch.randn(1, 17 * 17, 5)
    before = layer(patches)[1].reshape(17, 17, 4)
    patches[0, 8 * 17 + 8] += 1.0  # the middle
    rows, columns = (~torch.isclose(layer(patches)[1].reshape(17, 17, 4), before)).any(dim=-1).nonzero().T
    assert (rows.min(), rows.max()) == (columns.min(), columns.max()) == (8 - reach, 8 + reach)


@pytest.mark.parametrize(("options", "layers"), [({}, 3), ({"context": 2}, 2)])
def test_a_network_without_trained_weights_is_given_more_context(make_method, make_backbone, options, layers):
    method = make_method(RAZH, make_backbone(split=2), attribute_groups=GROUPS, parts=options)
    assert len(method.tools.clustering.wider) == layers - 1
    backbone = make_backbone(split=2)
    backbone.has_weights = True
    method = make_method(RAZH, backbone, attribute_groups=GROUPS, parts=options)
    assert len(method.tools.clustering.wider) == options.get("context", 1) - 1


def test_an_attribute_is_read_from_its_part_alone():
    reader = AttributeReader(5, STRENGTHS, 3, GROUPS).eval()
    patches, assignment = torch.randn(1, 9, 5), torch.zeros(1, 9, 4)
    assignment[0, :3, 0] = assignment[0, 3:5, 1] = assignment[0, 5:8, 2] = assignment[0, 8, 3] = 1.0
    before = reader(patches, assignment)
    patches[0, 3:5] += 1.0  # the second part
    changed = ~torch.isclose(reader(patches, assignment), before)[0]
    assert torch.equal(changed, GROUPS == 1)
    patches[0, 8] += 1.0  # the background
    assert torch.equal(~torch.isclose(reader(patches, assignment), before)[0], GROUPS == 1)


def test_the_control_reads_the_whole_image():
    reader = AttributeReader(5, STRENGTHS, 3, GROUPS, whole=True).eval()
    patches, assignment = torch.randn(1, 9, 5), torch.rand(1, 9, 4).softmax(dim=-1)
    before = reader(patches, assignment)
    torch.testing.assert_close(reader(patches, assignment.flip(1)), before)
    patches[0, 8] += 1.0
    assert not torch.isclose(reader(patches, assignment), before).any()


def test_groups_that_names_do_not_tell_are_learned():
    reader = AttributeReader(5, STRENGTHS, 3, None)
    shares = reader.shares(3)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(8))
    reader(torch.randn(2, 9, 5), torch.rand(2, 9, 4).softmax(dim=-1)).square().sum().backward()
    assert reader.membership.grad.abs().sum() > 0
    assert torch.equal(reader.among(3).float().sum(dim=0), torch.ones(8))  # each attribute is shown by one part


def test_strengths_are_standardised_over_training_classes():
    reader = AttributeReader(5, STRENGTHS, 3, GROUPS)
    wanted = reader.standardised(STRENGTHS)
    torch.testing.assert_close(wanted.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(wanted.std(dim=0, correction=0), torch.ones(8))
    constant = AttributeReader(5, torch.ones(4, 8), 3, GROUPS)
    assert torch.equal(constant.standardised(torch.ones(4, 8)), torch.zeros(4, 8))


def test_a_part_shows_what_it_has_most_of_beside_training_classes():
    """What all have much of (a black eye) is nearest to no part, however strong it is."""
    strengths = torch.tensor([[0.9, 0.0], [0.8, 0.1], [1.0, 0.0]])
    common = AttributeReader(5, strengths, 1, torch.zeros(2, dtype=torch.long))
    assert common.similarity(common.standardised(torch.tensor([[0.9, 0.2]])), 1).argmax(dim=-1).tolist() == [[1]]
    reader = AttributeReader(5, STRENGTHS, 3, GROUPS)
    read = torch.tensor([[0.1, 0.2, 0.9, 0.3, 0.4, 0.8, 0.5, 0.7]])
    similarity = reader.similarity(read, 3)
    assert similarity.argmax(dim=-1).tolist() == [[7, 2, 5]]
    torch.testing.assert_close(similarity[0, 1, 2], torch.tensor(0.9).tanh())
    assert (similarity[0, 1, GROUPS != 1] == -1).all()
    positive = torch.tensor([[True, True, False, True, True, False, True, False]])
    match = AttributeChoice().choose(similarity, positive, reader.among(3))
    assert match.choice.argmax(dim=-1).tolist() == [[1, 3, 6]]  # of those that the class has
    none = torch.tensor([[True, False, False, False, False, False, False, False]])
    assert AttributeChoice().choose(similarity, none, reader.among(3)).choice.argmax(dim=-1).tolist() == [[0, 2, 5]]


def test_standardise_takes_what_training_patches_have():
    layer, patches = Standardise(3), torch.randn(8, 9, 3) * 4 + 2
    assert torch.equal(layer(patches), patches)
    layer.initialise(patches)
    torch.testing.assert_close(layer(patches).flatten(0, 1).mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer(patches).flatten(0, 1).std(dim=0), torch.ones(3))


def test_the_attributes_term_is_regression_and_naming(method, make_batch):
    step = Step(method.eval(), make_batch())
    wanted = method.tools.reader.standardised(method.class_attributes[method.train_classes])
    cosine = F.normalize(step.read, dim=-1) @ F.normalize(wanted, dim=-1).T
    by_hand = (step.read - wanted[step.targets]).square().mean() + F.cross_entropy(10 * cosine, step.targets)
    torch.testing.assert_close(method.terms.built["attributes"](step), by_hand)


def test_attributes_reach_the_code_and_the_code_does_not_reach_them(make_method, make_backbone, make_batch):
    weights = QUIET | {"smoothness": 0.0, "classification": 0.0, "attributes": 1.0}
    method = make_method(RAZH, make_backbone(split=2, freeze="all"), attribute_groups=GROUPS, weights=weights)
    step = Step(method, make_batch())
    assert step.hashed.shape[1] == step.description.shape[1] + 8
    torch.testing.assert_close(step.hashed[:, -8:].norm(dim=1), torch.full((8,), 2.0))  # of an untrained network
    step.logits.sum().backward()
    assert all(p.grad is None for p in method.tools.reader.parameters())
    with_none = make_method(RAZH, make_backbone(split=2), attribute_groups=GROUPS, code={"untrained_attributes": 0.0})
    assert with_none.encoder.auxiliary is None
    assert make_method(RAZH, make_backbone(split=2), weights={"attributes": 0.0}).reads_attributes is False


def test_names_say_how_many_parts_there_are_and_options_where_they_do_not(make_method, make_backbone):
    count = [
        make_method(
            RAZH, make_backbone(split=2), attribute_groups=groups, parts={"count": 5, "groups": how}
        ).tools.clustering.parts
        for groups, how in ((GROUPS, "auto"), (GROUPS, "learned"), (None, "auto"))
    ]
    assert count == [3, 5, 5]


@pytest.mark.parametrize("order", ["attributes_first", "parts_first"])
def test_both_readings_find_parts_and_score_attributes(make_method, make_backbone, make_batch, order):
    method = make_method(
        RAZH, make_backbone(split=2), attribute_groups=GROUPS, parts={"order": order, "count": 4}
    ).eval()
    parts = method.find_parts(make_batch())
    assert parts.match is not None
    assert parts.vectors.shape[1] == (3 if order == "attributes_first" else 4)
    assert method.attribute_scores(make_batch())["read"].shape == (8, 8)
    if order == "attributes_first":
        assert torch.equal(GROUPS[parts.match.choice.argmax(dim=-1)], torch.arange(3).expand(8, -1))


@pytest.mark.parametrize(("epoch", "starts"), [(0, False), (1, False), (2, True), (3, False)])
def test_the_code_starts_once_parts_can_tell(make_method, make_backbone, make_batch, monkeypatch, epoch, starts):
    method = make_method(RAZH, make_backbone(split=2), attribute_groups=GROUPS, parts={"learning_share": 0.5})
    started = []
    monkeypatch.setattr(HashingMethod, "on_train_epoch_start", lambda self: None)
    monkeypatch.setattr(method, "_start_code", lambda: started.append(epoch))
    method._trainer = SimpleNamespace(
        current_epoch=epoch, max_epochs=4, global_step=0, num_training_batches=1, accumulate_grad_batches=1
    )
    method.on_train_epoch_start()
    assert bool(started) == starts
    terms = method.losses(make_batch())
    assert (float(terms["hash"]) == 0) == (epoch < 2)
    assert float(terms["attributes"]) > 0


def test_it_starts_before_the_end_of_a_short_run(method):
    for most, wanted in ((1, 0), (2, 1), (10, 6), (20, 12), (-1, 12), (None, 12)):
        method._trainer = SimpleNamespace(max_epochs=most)
        assert method.code_starts == wanted


def test_it_trains_in_mixed_precision(method, make_batch):
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.stack(list(method.losses(make_batch()).values())).sum()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.tools.parameters())


def test_codes_of_a_collection_see_the_attributes_that_were_read(method, make_batch):
    method.eval()
    batch = make_batch()
    rows, width = method.collection_input(batch), method.backbone.feature_dim
    assert rows.shape == (8, width + 8)
    torch.testing.assert_close(rows[:, :width], F.normalize(method.description(batch), dim=1))
    torch.testing.assert_close(rows[:, width:], 2 * F.normalize(method.read_attributes(batch).strength, dim=1))
    assert method.collection_array is None
    unlabelled = {name: value for name, value in batch.items() if name != "label"}
    assert torch.equal(method.collection_input(unlabelled), rows)


@pytest.mark.parametrize(
    "changes",
    [{"code": {"collection_attributes": 0.0}}, {"weights": {"attributes": 0.0}}],
    ids=["off", "none are read"],
)
def test_without_them_codes_of_a_collection_see_the_description(changes, make_method, make_backbone, make_batch):
    method = make_method(RAZH, make_backbone(split=2), attribute_groups=GROUPS, **changes).eval()
    batch = make_batch()
    assert torch.equal(method.collection_input(batch), method.description(batch))
    assert method.collection_array == "kept"


@pytest.mark.parametrize(
    ("weights", "code", "length"),
    [
        (True, {}, 0.5),
        (True, {"attributes": 0.3}, 0.3),
        (True, {"collection_attributes": 1.0}, 1.0),
        (False, {}, 2.0),
        (False, {"collection_attributes": 0.5}, 0.5),  # as checkpoints have it that are older than this rule
    ],
)
def test_codes_of_a_collection_are_told_attributes_however_few_classes_taught_them(weights, code, length):
    backbone = SimpleNamespace(frozen_with_weights=weights, has_weights=weights, freeze="all")
    told = replace(CODE, **code).resolve(backbone, "part", 5, posteriors="none", responses="none")
    assert told.collection_attributes == length


@pytest.mark.parametrize(("weights", "classes", "told"), [(True, 39, 0.0), (True, 40, 0.5), (False, 5, 2.0)])
def test_a_network_with_weights_tells_the_code_attributes_that_enough_classes_taught(weights, classes, told):
    backbone = SimpleNamespace(frozen_with_weights=weights, has_weights=weights, freeze="all")
    assert CODE.resolve(backbone, "part", classes, posteriors="none", responses="none").attributes == told
