from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from razh.cli.parse_errors import RENAMED, parameters
from razh.layers.attributes import Match, positive_attributes, relative_strengths
from razh.layers.decoder import pixel_targets
from razh.losses.attributes import alignment_loss
from razh.losses.hashing import similarity_loss
from razh.measures.abilities import FindsParts, ScoresAttributes
from razh.methods.ce import CE
from razh.methods.razh import RAZH
from razh.methods.razh import WEIGHTS as DEFAULT_WEIGHTS
from razh.terms import parts as terms_parts
from razh.terms.base import Step, Terms
from razh.terms.weights import TERMS

PARTS_FIRST = {"attributes": 0.0, "alignment": 0.1, "mix": 0.1, "mix_hash": 0.1, "reconstruction": 0.1}
DEFAULTS = asdict(DEFAULT_WEIGHTS) | PARTS_FIRST
WEIGHTS = tuple(DEFAULTS)
DEFAULT_TERMS = {name for name, weight in DEFAULTS.items() if weight}
CUTS = [("test_vit", 0), ("test_vit", 2), ("test_efficientnet", 2)]


class Clock:
    """What `share` asks of a trainer."""

    def __init__(self, step, batches=10, accumulated=1):
        self.global_step, self.num_training_batches = step, batches
        self.accumulate_grad_batches, self.max_epochs = accumulated, 1


@pytest.fixture
def make(make_method, make_backbone):
    def build(name="test_vit", split=0, freeze="none", step=100, **arguments):
        # Parts first; of attributes first see test_reading. One of nine slots: parts of a tiny grid have some mass.
        arguments["parts"] = {"order": "parts_first", "background_centres": 1} | arguments.get("parts", {})
        given = arguments.get("weights", {})
        arguments["weights"] = PARTS_FIRST | given if isinstance(given, dict) else given
        method = make_method(RAZH, make_backbone(name, split, freeze=freeze), **arguments)
        method._trainer = Clock(step)
        return method

    return build


def only(*terms):
    """Return weights that leave just these terms."""
    return {"weights": {name: 1.0 if name in terms else 0.0 for name in WEIGHTS}}


def assert_all_trained(method, batch):
    terms = method.losses(batch)
    assert all(value.isfinite() for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    untouched = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not untouched
    return terms


ABLATIONS = [
    {},
    {"parts": {"assignment": "hard"}},
    {"parts": {"centres": "image"}},
    {"parts": {"granularity": "patch"}},
    {"matching": {"choice": "random"}},
    {"matching": {"choice": "other"}},
    {"matching": {"gumbel": True}},
    {"matching": {"balance": 0}},
    {"mixing": {"target": "feature"}},
    {"code": {"feature_classifier": "linear"}},
    {"weights": {"mix": 0.0}},
    {"weights": {"mix": 0.0, "mix_hash": 0.0}},
    {"weights": {"mix": 0.0, "mix_hash": 0.0, "alignment": 0.0}},
    {"weights": {"reconstruction": 0.0}},
    {"weights": {"reconstruction": 0.0, "mix": 0.0}},
    {"weights": {"hash": 0.0}},
    {"weights": {"semantic": 0.0, "classification": 0.0}},
    {"weights": dict.fromkeys(WEIGHTS, 0.1)},
]


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda a: "-".join(f"{k}={v}" for k, v in a.items())[:60] or "all")
def test_every_trainable_parameter_gets_a_gradient(make, make_batch, ablation):
    """DDP waits for ever for a parameter that gets none."""
    assert_all_trained(make(**ablation), make_batch())


@pytest.mark.parametrize("freeze", ["none", "trunk", "all"])
@pytest.mark.parametrize(("name", "split"), CUTS)
def test_every_backbone_and_freeze(make, make_batch, name, split, freeze):
    terms = assert_all_trained(make(name, split, freeze), make_batch())
    assert terms.keys() == DEFAULT_TERMS


@pytest.mark.parametrize("step", [0, 100])
def test_gradients_are_there_from_the_first_step_on(make, make_batch, step):
    method = make(step=step)
    assert_all_trained(method, make_batch())
    assert (method.tools.replacement.to_patch[0].weight.grad.abs().sum() > 0) == (step > 0)


def test_the_modules_of_the_paper_really_move(make, make_batch):
    method = make()
    assert_all_trained(method, make_batch())
    tools = method.tools
    for part in (tools.clustering, tools.matcher, tools.replacement, tools.decoder, method.head):
        assert all(p.grad.abs().sum() > 0 for name, p in part.named_parameters() if "bias" not in name)


@pytest.mark.parametrize("name", WEIGHTS)
def test_term_of_weight_zero_is_absent_and_costs_no_module(make, make_batch, name):
    terms = make(weights={n: 0.0 if n == name else 0.1 for n in WEIGHTS}).losses(make_batch())
    assert terms.keys() == set(WEIGHTS) - {name}


@pytest.mark.parametrize(
    ("terms", "modules"),
    [
        (("hash",), {"classes"}),
        (("semantic",), set()),
        (("similarity",), set()),
        (("classification",), set()),
        (("presence",), {"clustering"}),
        (("naming",), {"clustering"}),
        (("alignment",), {"clustering", "matcher"}),
        (("mix",), {"clustering", "matcher", "replacement", "decoder"}),
        (("mix_hash",), {"clustering", "matcher", "replacement", "classes"}),
        (("reconstruction",), {"decoder"}),
    ],
)
def test_only_the_modules_that_a_term_needs_are_built(make, make_batch, terms, modules):
    method = make(code={"responses": "none"}, **only(*terms))
    assert {name for name, _ in method.tools.named_children()} == modules
    assert {name for name, _ in method.terms.named_children()} == set(terms)
    assert method.encoder.auxiliary is None
    assert method.losses(make_batch()).keys() == set(terms)


def test_patch_granularity_has_no_part_terms(make, make_batch):
    part_terms = {"attributes", "orthogonality", "presence", "background", "entropy", "smoothness", "equivariance"}
    terms = make(parts={"granularity": "patch"}, weights=dict.fromkeys(WEIGHTS, 0.1)).losses(make_batch())
    assert terms.keys() == set(WEIGHTS) - part_terms


def test_weights_scale_their_terms(make, make_batch):
    batch = make_batch()
    one, three = make(**only("hash")), make(weights=only("hash")["weights"] | {"hash": 3.0})
    three.load_state_dict(one.state_dict())
    torch.testing.assert_close(three.losses(batch)["hash"], 3 * one.losses(batch)["hash"])


def test_hash_logits_do_not_depend_on_labels(make, make_batch):
    method, batch = make().eval(), make_batch()
    logits = method.hash_logits(batch)
    assert logits.shape == (8, 12)
    torch.testing.assert_close(method.hash_logits(batch | {"label": batch["label"].flip(0)}), logits)
    torch.testing.assert_close(method.hash_logits({"image": batch["image"]}), logits)
    torch.testing.assert_close(method(batch["image"]), logits)
    assert torch.equal(method.codes(batch["image"]), logits >= 0)


def test_unseen_rows_of_the_attributes_do_not_enter_the_losses(make, make_batch, facts):
    batch, changed = make_batch(), facts["class_attributes"].clone()
    changed[[2, 5]] = 1 - changed[[2, 5]]
    terms = []
    for table in (facts["class_attributes"], changed):
        torch.manual_seed(1)
        method = make(class_attributes=table)
        terms.append(method.losses(batch))
    for name in terms[0]:
        torch.testing.assert_close(terms[0][name], terms[1][name])


def test_optimisation_lowers_every_kind_of_loss(make, make_batch):
    method, batch = make(mixing={"ramp_epochs": 0.0}), make_batch(12)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        terms = method.losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({name: float(value.detach()) for name, value in terms.items()})
    first, last = (
        {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} for rows in (history[:3], history[-3:])
    )
    assert sum(last.values()) < 0.7 * sum(first.values())
    for name in ("hash", "semantic", "classification", "alignment", "reconstruction"):
        assert last[name] < first[name], name


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (10, 0.2), (15, 0.3), (30, 0.6), (1000, 0.6)])
def test_share_rises_linearly_over_the_ramp(make, step, share):
    assert make(mixing={"replaced_share": 0.6, "ramp_epochs": 3.0}, step=step).share() == pytest.approx(share)


def test_a_ramp_counts_epochs_however_many_batches_make_a_step(make):
    method = make(mixing={"replaced_share": 0.6, "ramp_epochs": 3.0})
    method._trainer = Clock(step=3, batches=10, accumulated=4)  # 4, 4 and 2 batches: one epoch
    assert method.share() == pytest.approx(0.2)


def test_without_a_ramp_the_share_is_whole_at_once(make):
    assert make(mixing={"replaced_share": 0.6, "ramp_epochs": 0.0}, step=0).share() == 0.6


def test_positive_attributes_follow_the_threshold(make, facts):
    method = make(matching={"threshold": 0.8, "strength": "absolute"})
    assert torch.equal(method.positive, positive_attributes(facts["class_attributes"], 0.8))


def test_what_every_class_has_is_positive_for_nobody(make, facts, make_batch):
    strong = facts["class_attributes"].clone()
    strong[:, 2] = 1.0
    method = make(class_attributes=strong)
    assert not method.positive[:, 2].any()
    assert make(class_attributes=strong, matching={"strength": "absolute"}).positive[:, 2].all()
    strengths = relative_strengths(strong, facts["train_classes"])
    assert torch.equal(method.positive, positive_attributes(strengths, 0.5))
    batch = make_batch()
    parts, label = method.find_parts(batch), batch["label"]
    expected = alignment_loss(parts.match.similarity, strengths[label], method.positive[label])
    torch.testing.assert_close(method.losses(batch)["alignment"], 0.1 * expected)


def test_parts_are_matched_with_attributes_of_the_label(make, make_batch):
    method, batch = make(parts={"count": 5}), make_batch()
    parts = method.find_parts(batch)
    assert parts.vectors.shape == (8, 5, method.backbone.dim)
    assert parts.assignment.shape == (8, method.backbone.num_patches, 6)
    assert isinstance(parts.match, Match)
    assert method.positive[batch["label"]].gather(1, parts.match.choice.argmax(dim=-1)).all()


def test_patch_granularity_makes_every_patch_a_part(make, make_batch):
    method, batch = make(parts={"granularity": "patch"}), make_batch(3)
    parts = method.find_parts(batch)
    patches = method.patches(batch)
    torch.testing.assert_close(parts.vectors, patches)
    assert torch.equal(parts.assignment[0, :, :-1], torch.eye(patches.shape[1]))
    assert (parts.assignment[..., -1] == 0).all()


@pytest.mark.parametrize(("name", "split"), CUTS)
def test_cached_arrays_stand_in_for_the_image(make, make_batch, name, split):
    method, batch = make(name, split, freeze="all").eval(), make_batch()
    patches = method.backbone.embed(batch["image"])
    cached = {
        "patches": patches.half(),
        "feature": method.backbone.encode(patches).half(),
        "thumbnail": batch["image"],
        "label": batch["label"],
        "index": batch["index"],
    }
    assert set(method.cached_inputs) == {"patches", "feature", "thumbnail"}
    torch.testing.assert_close(method.hash_logits(cached), method.hash_logits(batch), rtol=2e-2, atol=2e-2)
    torch.manual_seed(0)
    live = method.losses(batch)
    torch.manual_seed(0)
    from_cache = method.losses(cached)
    for term in live:
        torch.testing.assert_close(from_cache[term], live[term], rtol=5e-2, atol=5e-2, msg=term)


def test_only_the_arrays_that_terms_need_are_asked_for(make):
    assert make(freeze="all", **only("hash")).cached_inputs == ("feature",)
    assert make(freeze="trunk", **only("hash")).cached_inputs == ("patches",)
    assert make(freeze="trunk", **only("mix")).cached_inputs == ("patches", "thumbnail")


@pytest.mark.parametrize(("attached", "warnings"), [((), 1), (("patches", "kept"), 0)])
def test_a_similarity_that_follows_the_training_network_is_announced(
    make_method, make_backbone, caplog, attached, warnings
):
    method = make_method(RAZH, knowing(make_backbone(freeze="trunk")), **only("similarity"))
    assert method.cached_inputs == ("patches", "kept")
    method._trainer = SimpleNamespace(ckpt_path="one", datamodule=SimpleNamespace(attached=attached))
    method.on_fit_start()
    assert [record.levelname for record in caplog.records if "similarity follows" in record.message] == [
        "WARNING"
    ] * warnings


def test_an_untrained_network_has_no_similarity_to_keep(make, make_method, make_backbone, make_batch):
    shares = {"code": {"attribute_share": 0.25, "untrained_attribute_share": 0.75}}
    known, unknown = make_backbone(), make_backbone()
    known.has_weights = True
    assert [make_method(RAZH, one, **shares).code.attribute_share for one in (known, unknown)] == [0.25, 0.75]
    batch = make_batch()
    method = make(**only("similarity")).eval()
    label = method.targets(batch)
    logits = method.hash_logits(batch)
    attributes_alone = similarity_loss(logits, torch.randn(len(label), 5), method.prototypes[label], 1.0)
    torch.testing.assert_close(method.losses(batch)["similarity"], attributes_alone)


def test_a_frozen_network_that_knows_something_is_whitened(make_method, make_backbone):
    found = {}
    for freeze in ("none", "trunk", "all"):
        for knows in (False, True):
            backbone = make_backbone(split=2, freeze=freeze)
            backbone.has_weights = knows
            method = make_method(RAZH, backbone)
            found[freeze, knows] = method.code.similarity_space, method.hash_init
    assert found.pop(("all", True)) == ("whitened", "whitened")
    assert set(found.values()) == {("feature", "itq")}
    backbone = make_backbone(split=2, freeze="all")
    backbone.has_weights = True
    plain = make_method(RAZH, backbone, hash_init="itq", code={"similarity_space": "feature"})
    assert (plain.code.similarity_space, plain.hash_init) == ("feature", "itq")


def test_nothing_is_said_where_nothing_is_kept(make, caplog):
    method = make(freeze="none", **only("similarity"))
    method._trainer = SimpleNamespace(ckpt_path="one")
    method.on_fit_start()
    assert not caplog.records


def test_equivariance_needs_images(make, make_batch):
    method, batch = make(freeze="trunk", **only("equivariance")), make_batch()
    batch["patches"] = method.backbone.embed(batch.pop("image"))
    with pytest.raises(ValueError, match=r"weights\.equivariance needs live images"):
        method.losses(batch)


def test_equivariance_compares_the_parts_of_an_image_shown_otherwise(make, make_batch, monkeypatch):
    """A clustering that looks at one pixel of a patch alone is nearly equivariant; one that knows its place is not."""
    method = make("test_efficientnet", 2, **only("equivariance")).eval()
    side = method.backbone.grid[0]
    blocks = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).mul(255).to(torch.uint8)
    images = blocks.repeat_interleave(16, 2).repeat_interleave(16, 3)
    ramp = torch.linspace(0, 1, side).repeat(side)

    def pixels(shown, *_):
        return F.adaptive_avg_pool2d(shown.float() / 255, side).flatten(2).transpose(1, 2)

    def by_colour(patches):
        return patches, F.softmax(9 * (patches - patches.mean(dim=-1, keepdim=True)), dim=-1)

    def by_place(patches):
        return patches, torch.stack([ramp, 1 - ramp], dim=-1).expand(len(patches), -1, -1)

    monkeypatch.setattr(method.backbone, "embed", pixels)
    monkeypatch.setattr(method.backbone, "prefix", 0)
    losses = {}
    for name, finder in (("colour", by_colour), ("place", by_place)):
        monkeypatch.setattr(terms_parts, "_recoloured", lambda shown: shown)
        method.tools.clustering.forward = finder
        torch.manual_seed(0)
        step = SimpleNamespace(
            batch={"image": images},
            method=method,
            parts=SimpleNamespace(assignment=finder(pixels(images))[1]),
        )
        losses[name] = float(terms_parts.Equivariance.forward(None, step))
    assert losses["colour"] < 0.1 < losses["place"]


def test_images_are_mirrored_cut_and_recoloured(make_batch):
    images = make_batch()["image"]
    moves = terms_parts._moves(images.repeat(50, 1, 1, 1))
    share = moves[:, 1, 1]
    assert share.min() >= 0.6
    assert share.max() <= 1
    assert (moves[:, :, 2].abs() <= (1 - share)[:, None] + 1e-6).all()  # nothing from outside is shown
    assert 0.3 < (moves[:, 0, 0] < 0).float().mean() < 0.7
    plain = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]).expand(len(images), 2, 3)
    torch.testing.assert_close(terms_parts._moved(images.float(), plain), images.float(), atol=1e-3, rtol=0)
    mirror = plain * torch.tensor([[-1.0], [1.0]])
    torch.testing.assert_close(terms_parts._moved(images.float(), mirror), images.float().flip(-1), atol=1e-3, rtol=0)
    recoloured = terms_parts._recoloured(images.float())
    assert recoloured.min() >= 0
    assert recoloured.max() <= 255
    assert not torch.equal(recoloured, images.float())


def test_branches_see_only_the_first_images(make, make_batch):
    method, batch = make(mixing={"images": 3}, **only("mix")), make_batch()
    seen = []
    method.tools.decoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    method.losses(batch)
    assert seen == [3]


def test_branches_of_the_first_images_are_those_of_a_smaller_batch(make, make_batch):
    method, batch = make(mixing={"images": 3}, **only("mix", "mix_hash")).eval(), make_batch()
    small = {name: values[:3] for name, values in batch.items()}
    for name, value in method.losses(batch).items():
        torch.testing.assert_close(value, method.losses(small)[name], rtol=1e-4, atol=1e-5, msg=name)


def test_semantic_terms_compare_with_centred_attributes_of_training_classes(make, make_batch, facts):
    method, batch = make(code={"scale": 7.0}, **only("semantic", "classification")).eval(), make_batch()
    feature = method.feature(batch)
    logits = method.hash_logits(batch)
    projected = {
        "semantic": method.terms.semantic.layer(logits),
        "classification": method.terms.classification.layer(feature),
    }
    table = facts["class_attributes"][[0, 1, 3, 4]]
    terms = method.losses(batch)
    for name, values in projected.items():
        rows = []
        for b, label in enumerate(batch["label"].tolist()):
            cosines = [F.cosine_similarity(values[b], row - table.mean(dim=0), dim=0) for row in table]
            rows.append(-(7 * torch.stack(cosines)).log_softmax(dim=0)[[0, 1, 3, 4].index(label)])
        torch.testing.assert_close(terms[name], torch.stack(rows).mean(), rtol=1e-4, atol=1e-5)


def test_mix_term_is_the_error_of_the_pixels_of_replaced_patches(make, make_batch):
    """At hard assignment and share 1: the mean over patches that are not background, image by image."""
    arguments = {
        "parts": {"assignment": "hard"},
        "mixing": {"replaced_share": 1.0, "ramp_epochs": 0.0},
        "matching": {"balance": 0},
    }
    method, batch = make(**arguments, **only("mix")).eval(), make_batch(4)
    patches, parts = method.patches(batch), method.find_parts(batch)
    as_patch = method.tools.replacement.to_patch(method.attribute_vectors)
    mixed, errors = patches.clone(), []
    background = parts.assignment.argmax(dim=-1) == 8
    for b in range(4):
        for n in range(patches.shape[1]):
            if not background[b, n]:
                slot = parts.assignment[b, n].argmax()
                mixed[b, n] = as_patch[parts.match.choice[b, slot].argmax()]
    predicted = method.tools.decoder(method.backbone.spatial(method.backbone.contextualise(mixed)))
    target = pixel_targets(batch["image"], method.backbone.grid, 4)
    for b in range(4):
        errors += [(predicted[b, n] - target[b, n]).square().mean() for n in (~background[b]).nonzero().flatten()]
    torch.testing.assert_close(method.losses(batch)["mix"], torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mixing": {"replaced_share": 1.5}}, r"mixing\.replaced_share=1\.5 must be from 0 to 1"),
        ({"mixing": {"hidden_share": -0.1}}, r"mixing\.hidden_share=-0\.1"),
        ({"mixing": {"images": 0}}, r"mixing\.images=0 must be a whole number from 1"),
        ({"mixing": {"ramp_epochs": -1.0}}, r"mixing\.ramp_epochs=-1 must be at least 0"),
        ({"parts": {"count": 0}}, r"parts\.count=0 must be a whole number from 1"),
        ({"parts": {"temperature": 0.0}}, r"parts\.temperature=0 must be above 0"),
        ({"matching": {"temperature": 0.0}}, r"matching\.temperature=0 must"),
        ({"matching": {"choice": "far"}}, r"matching\.choice='far' must be one of nearest, random, other"),
        ({"code": {"attribute_share": 2.0}}, r"code\.attribute_share=2 must"),
        ({"weights": {"mixx": 1.0}}, r"RAZHWeights has no option mixx; did you mean mix\?"),
        ({"bits": 0}, "bits=0"),
        ({"bits": 2048}, "bits=2048 must be a whole number from 1 to 1,024"),
    ],
)
def test_bad_arguments_are_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def knowing(backbone):
    """Return a backbone that says it started from trained weights."""
    backbone.has_weights = True
    return backbone


def test_parts_respond_where_the_network_trains_from_nothing(make_method, make_backbone):
    responding = set()
    for freeze in ("none", "trunk", "all"):
        for backbone in (make_backbone(split=2, freeze=freeze), knowing(make_backbone(split=2, freeze=freeze))):
            method = make_method(RAZH, backbone, weights={"attributes": 0.0})
            assert (method.head.in_features > method.encoder.description_width) == (method.code.responses != "none")
            if method.code.responses == "part":
                responding.add((freeze, backbone.has_weights))
    assert responding == {("none", False)}


@pytest.mark.parametrize("where", ["part", "patch"])
def test_responses_are_hashed_beside_the_feature(make, make_batch, where):
    method, batch = make(code={"responses": where}).eval(), make_batch()
    width, attributes = method.encoder.description_width, len(method.attribute_vectors)
    assert method.head.in_features == width + attributes
    hashed = method.hash_input({"image": batch["image"]})  # no label
    torch.testing.assert_close(hashed[:, :width], method.feature(batch))
    patches = method.patches(batch)[:, method.backbone.prefix :]
    vectors, assignment = method.tools.clustering(patches)
    seen = vectors if where == "part" else patches
    present = assignment[..., :-1].sum(dim=1) >= 0.5 if where == "part" else torch.ones(seen.shape[:2]).bool()
    responder = method.encoder.auxiliary.responses.layer
    torch.testing.assert_close(hashed[:, width:], responder(seen, method.attribute_vectors, present))
    assert responder.matcher is not method.tools.matcher  # what codes ask for would undo the alignment
    before = method.hash_logits(batch)
    with torch.no_grad():
        responder.norm.bias += 1.0
    assert not torch.allclose(method.hash_logits(batch), before)


def test_without_responses_the_feature_alone_is_hashed(make, make_batch):
    method, batch = make(code={"responses": "none"}), make_batch()
    assert method.encoder.auxiliary is None
    torch.testing.assert_close(method.hash_input(batch), method.feature(batch))


def test_patches_respond_where_there_are_no_parts(make, make_batch):
    method = make(parts={"granularity": "patch"})
    assert method.code.responses == "patch"
    assert_all_trained(method, make_batch())


def test_responses_alone_build_the_modules_that_they_need(make, make_batch):
    for where, modules in (("part", {"clustering"}), ("patch", set())):
        method = make(code={"responses": where}, **only("hash"))
        assert {name for name, _ in method.tools.named_children()} == {"classes"} | modules
        assert_all_trained(method, make_batch())


def test_a_start_from_features_gives_responses_no_weight(make_method, make_backbone, make_batch):
    method = make_method(RAZH, knowing(make_backbone(split=2, freeze="all")), code={"responses": "part"})
    batches = [make_batch(8) for _ in range(4)]
    method._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(initialisation_dataloader=lambda: batches),
        strategy=SimpleNamespace(broadcast=lambda state: state),
    )
    features = method.training_features()
    width = method.encoder.description_width
    assert features.shape == (32, width)
    method.head.initialise(features)
    assert method.head.weight[:, :width].abs().sum() > 0
    assert not method.head.weight[:, width:].any()


@pytest.mark.parametrize(
    "weights", [{}, only("hash", "naming") | {"code": {"responses": "none"}}], ids=["all", "naming"]
)
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_patches_are_embedded_once_a_step(make, make_batch, monkeypatch, name, weights):
    method, batch = make(name, 2, **weights), make_batch()
    seen, embed = [], method.backbone.embed
    monkeypatch.setattr(method.backbone, "embed", lambda images: seen.append(1) or embed(images))
    method.losses(batch)
    assert len(seen) == 1


@pytest.mark.parametrize("granularity", ["part", "patch"])
def test_a_class_is_named_by_what_its_nearest_parts_show(make, make_batch, granularity):
    method, batch = make(weights={"naming": 2.0}, parts={"granularity": granularity}), make_batch()
    patches = method.patches(batch)[:, method.backbone.prefix :]
    vectors, present = patches, torch.ones(patches.shape[:2]).bool()
    if granularity == "part":
        vectors, assignment = method.tools.clustering(patches)
        present = assignment[..., :-1].sum(dim=1) >= 0.5
    scores = method.attribute_scores({"image": batch["image"]})["naming"]  # no label
    torch.testing.assert_close(scores, method.terms.naming.responses.layer(vectors, method.attribute_vectors, present))
    cosine = F.normalize(scores, dim=1) @ F.normalize(method.prototypes, dim=1).T
    expected = F.cross_entropy(method.code.scale * cosine, method.targets(batch))
    torch.testing.assert_close(method.losses(batch)["naming"], 2 * expected)


@pytest.mark.parametrize("choice", ["random", "other"])
def test_the_control_names_by_random_parts_while_it_trains(make, make_batch, choice):
    method, batch = make(**only("naming"), matching={"choice": choice}, parts={"granularity": "patch"}), make_batch()
    first, second = method.attribute_scores(batch), method.attribute_scores(batch)
    assert not torch.equal(first["naming"], second["naming"])
    method.eval()
    torch.testing.assert_close(method.attribute_scores(batch), method.attribute_scores(batch))


def test_naming_alone_learns_the_classes(make, make_batch):
    method, batch = make(**only("naming")), make_batch(16)
    optimiser = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    first = float(method.losses(batch)["naming"].detach())
    for _ in range(30):
        optimiser.zero_grad()
        loss = method.losses(batch)["naming"]
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.5 * first


def test_options_decide_what_a_method_is_able_to_do(make, make_method):
    assert not isinstance(make_method(CE), FindsParts | ScoresAttributes)
    method = make()
    assert isinstance(method, FindsParts)
    assert isinstance(method, ScoresAttributes)
    assert (method.finds_parts, method.shows_parts, method.attribute_sources) == (True, True, ("hash", "feature"))
    bare = make(code={"responses": "none"}, **only("hash", "reconstruction"))
    assert (bare.finds_parts, bare.shows_parts, bare.attribute_sources) == (False, False, ())
    patchwise = make(parts={"granularity": "patch"}, **only("mix"))
    assert (patchwise.finds_parts, patchwise.shows_parts) == (False, True)
    named = make(**only("naming"))
    assert (named.finds_parts, named.shows_parts, named.attribute_sources) == (True, False, ("naming",))


def test_a_group_may_be_its_own_object_or_a_dict_of_what_differs(make):
    as_dict = make(parts={"count": 5}, weights={"mix": 0.0})
    as_object = make(parts={"count": 5}, weights=replace(DEFAULT_WEIGHTS, **PARTS_FIRST | {"mix": 0.0}))
    assert as_dict.parts == as_object.parts
    assert as_dict.terms.weights == as_object.terms.weights
    assert "mix" not in as_dict.terms


@pytest.mark.parametrize(
    "terms", [set(WEIGHTS) - {"attributes"}, ("naming", "orthogonality"), ("mix", "mix_hash", "reconstruction")]
)
def test_shared_values_are_computed_once_a_step(make, make_batch, terms):
    """The formulation of each term alone gives what it gives beside the others."""
    torch.manual_seed(3)
    method, batch = make(**only(*terms)).eval(), make_batch()
    calls = []
    if "matcher" in method.tools:
        method.tools.matcher.register_forward_hook(lambda *_: calls.append("match"))
    if "replacement" in method.tools:
        method.tools.replacement.register_forward_hook(lambda *_: calls.append("mix"))
    method.head.register_forward_hook(lambda *_: calls.append("head"))
    together = method.losses(batch)
    assert {name: calls.count(name) for name in ("match", "mix")} == {
        name: int(tool in method.tools) for name, tool in (("match", "matcher"), ("mix", "replacement"))
    }
    assert calls.count("head") <= 2  # the images, and those that were mixed
    for name in set(terms) - {"reconstruction", "equivariance"}:  # which draw each time
        torch.testing.assert_close(method.terms.built[name](Step(method, batch)), together[name])


def test_a_weight_of_no_term_is_refused(make):
    method = make()
    with pytest.raises(ValueError, match=r"weights\.mixx is no term; did you mean mix\? choose from hash, semantic"):
        Terms(method, {"mixx": 1.0}, DEFAULT_WEIGHTS.kinds)


def test_options_that_moved_are_where_they_are_said_to_be():
    known = parameters("razh.methods.razh.RAZH")
    assert set(RENAMED.values()) <= set(known)
    assert not {name for name in RENAMED if name in known} - {"parts"}  # which is a group now


def test_every_term_has_a_weight():
    assert set(TERMS) == set(WEIGHTS)
