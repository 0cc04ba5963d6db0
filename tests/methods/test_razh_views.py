from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from razh.backbones.views import MIRRORED, SIZES, show, view_side, views_key
from razh.layers.hash import within_class_whitening
from razh.losses.hashing import similarity_loss, supervised_contrastive_loss
from razh.methods.razh import RAZH
from razh.terms.base import Step
from tests.methods.views import razh_views


def batch_of_descriptors(method, count=8):
    generator = torch.Generator().manual_seed(5)
    dim = method.backbone.descriptor_dim
    return {
        "descriptors": torch.randn(count, len(method.views), dim, generator=generator),
        "label": torch.tensor([0, 1, 3, 4])[torch.arange(count) % 4],
        "index": torch.arange(count),
    }


def descriptors(method, batch):
    return method.encoder.descriptors(Step(method, batch))


def respond(method, patches):
    """Return how the hash head sees one view's patches respond."""
    return method.encoder.auxiliary.responses(Step(method, {}), [patches])


def name(method, patches):
    """Return how one view's patches show attributes."""
    return method.terms.naming.responses(Step(method, {}), [patches])


def test_every_parameter_that_trains_gets_a_gradient(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"))
    torch.stack(list(method.losses(batch_of_descriptors(method)).values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters() if p.requires_grad)
    assert method.head.weight.grad.abs().sum() > 0


def test_default_terms_need_no_patches(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"))
    assert method.losses(batch_of_descriptors(method)).keys() == {"hash", "similarity"}
    assert method.cached_inputs == ("descriptors",)
    assert not {"clustering", "decoder"} & {name for name, _ in method.tools.named_children()}


@pytest.mark.parametrize("bits", [24, 32])
def test_short_codes_contrast_pairs_and_have_no_class_codes(make_method, make_backbone, bits):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"), bits=bits).eval()
    batch = batch_of_descriptors(method)
    assert hasattr(method.tools.classes, "layer") == (bits >= 32)
    signs = method.hash_logits(batch).sign()
    contrast = supervised_contrastive_loss(signs, batch["label"], 0.3)
    hashed = method.losses(batch)["hash"]
    assert torch.isclose(hashed, contrast) == (bits < 32)
    hashed.backward()
    assert method.head.weight.grad.abs().sum() > 0


def test_few_classes_weigh_less_where_the_network_knows_something(make_method, make_backbone):
    batch = None
    found = {}
    for knows, enough in ((False, 8), (True, 4), (True, 8)):
        backbone = make_backbone(split=2, freeze="all")
        backbone.has_weights = knows
        torch.manual_seed(0)
        arguments = {"code": {"enough_classes": enough, "posteriors": "none"}}  # four training classes
        method = make_method(razh_views, backbone, **arguments).eval()
        batch = batch or batch_of_descriptors(method)
        found[knows, enough] = method.losses(batch)
    whole, same, less = found.values()
    torch.testing.assert_close(less["hash"], whole["hash"] / 8)
    torch.testing.assert_close(same["hash"], whole["hash"])
    torch.testing.assert_close(less["similarity"], same["similarity"])


def test_a_negative_number_of_classes_is_refused(make_method):
    with pytest.raises(ValueError, match=r"code\.enough_classes=-1 must be a whole number from 0"):
        make_method(razh_views, code={"enough_classes": -1})


def test_a_contrast_without_temperature_is_refused(make_method):
    with pytest.raises(ValueError, match=r"code\.contrast_temperature=0 must be above 0"):
        make_method(razh_views, code={"contrast_temperature": 0.0})


def test_switched_on_parts_ask_for_patches_too(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"), weights={"alignment": 0.1})
    assert set(method.cached_inputs) == {"descriptors", "patches"}


def test_codes_come_from_the_mean_descriptor(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all")).eval()
    batch = batch_of_descriptors(method)
    expected = F.linear(batch["descriptors"].mean(dim=1), method.head.weight, method.head.bias)
    torch.testing.assert_close(method.hash_logits(batch), expected)


def test_training_shows_the_mean_or_one_view(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all")).train()
    batch = batch_of_descriptors(method, 64)
    shown, mean = method.hash_input(batch), batch["descriptors"].mean(dim=1)
    is_mean = (shown == mean).all(dim=1)
    is_view = (shown[:, None] == batch["descriptors"]).all(dim=2).any(dim=1)
    assert (is_mean | is_view).all()
    assert 8 < int(is_mean.sum()) < 56
    torch.testing.assert_close(method.encoder.referred(Step(method, batch)), mean)


def test_a_frozen_network_trains_on_all_views_of_live_images(make_method, make_backbone, make_batch):
    method = make_method(razh_views, make_backbone(split=2, freeze="all")).train()
    batch = make_batch()
    with torch.no_grad():
        cached = {**batch, "descriptors": method.backbone.describe(batch["image"], method.views, method.view_size)}
    torch.testing.assert_close(descriptors(method, batch), descriptors(method, cached))
    found = []
    for given in (batch, cached):
        torch.manual_seed(0)
        found.append(method.losses(given)["similarity"])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_live_images_give_the_cached_descriptors(make_method, make_backbone, make_batch, name):
    method = make_method(razh_views, make_backbone(name, split=2, freeze="all")).eval()
    images = make_batch()["image"]
    with torch.no_grad():
        cached = {"descriptors": method.backbone.describe(images, method.views, method.view_size)}
        torch.testing.assert_close(method.hash_logits({"image": images}), method.hash_logits(cached))
        lengths = cached["descriptors"].norm(dim=-1)
    assert cached["descriptors"].shape == (8, 4, method.backbone.descriptor_dim)
    torch.testing.assert_close(lengths, torch.full_like(lengths, method.backbone.descriptor_dim**0.5))


@pytest.mark.parametrize("views", ["mirrored", "sizes"])
def test_training_of_the_last_stages_shows_one_view_of_each_image(make_method, make_backbone, make_batch, views):
    network = make_backbone("test_efficientnet", split=3, freeze="trunk")
    method = make_method(razh_views, network, view_scale=2.0, views=views)
    images = make_batch()["image"]
    method.eval()
    with torch.no_grad():
        batch = {"view_patches": method.backbone.embed_views(images, method.views, 64)}
        every = descriptors(method, batch)
        method.train()
        method.backbone.eval()  # batch statistics would differ
        shown = [descriptors(method, batch) for _ in range(40)]
    assert every.shape == (8, 4, method.backbone.descriptor_dim)
    assert {each.shape for each in shown} == {(8, 1, method.backbone.descriptor_dim)}
    same = torch.stack([torch.isclose(each, every, rtol=1e-3, atol=1e-3).all(dim=2) for each in shown])  # (40, 8, 4)
    assert (same.sum(dim=2) == 1).all()
    assert same.any(dim=0).all()
    one_for_all = same.all(dim=1).any(dim=1)
    assert bool(one_for_all.all()) == (views == "sizes")  # these differ in size, and pass through the network apart


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_patches_of_views_of_several_sizes_are_told_apart(make_backbone, make_batch, name):
    backbone = make_backbone(name, split=2, freeze="trunk").eval()
    images = make_batch()["image"]
    size = backbone.view_size(2.0)
    with torch.no_grad():
        every = backbone.split_views(backbone.embed_views(images, SIZES, size), SIZES, size)
        each = [backbone.embed_views(images, (view,), size) for view in SIZES]
    assert len({patches.shape[1] for patches in each}) == (1 if name == "test_vit" else 2)
    for found, expected in zip(every, each, strict=True):
        assert torch.equal(found, expected)
        assert backbone.split_views(expected, SIZES, size)[0] is expected


def test_counting_patches_teaches_batch_normalisation_nothing(make_backbone):
    backbone = make_backbone("test_efficientnet", split=3).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.split_views(torch.zeros(1, backbone.num_patches, backbone.dim), SIZES, 64)
    assert backbone.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_a_vit_sees_views_of_its_own_size(make_method, make_backbone):
    assert make_method(razh_views, make_backbone(), view_scale=2.0).view_size == 32
    assert make_method(razh_views, make_backbone("test_efficientnet", split=3), view_scale=2.9).view_size == 96


def test_a_scale_of_nothing_is_refused(make_method):
    with pytest.raises(ValueError, match=r"view_scale=0 must be above 0"):
        make_method(razh_views, view_scale=0)


@pytest.mark.parametrize(("freeze", "default"), [("none", MIRRORED), ("trunk", MIRRORED), ("all", SIZES)])
def test_frozen_networks_see_more_sizes(make_method, make_backbone, freeze, default):
    network = make_backbone("test_efficientnet", split=3, freeze=freeze)
    assert make_method(razh_views, network).views == default
    assert make_method(razh_views, network, views="sizes").views == SIZES
    assert make_method(razh_views, network, views="mirrored").views == MIRRORED
    assert views_key(SIZES) != views_key(MIRRORED)


def test_mirrored_views_give_mirror_images_the_same_code(make_method, make_backbone, make_batch):
    """The views of an image and of its mirror image are the same four, so the mean cannot tell them apart."""
    backbone = make_backbone("test_efficientnet", split=3, freeze="all")
    method = make_method(razh_views, backbone, views="mirrored").eval()
    images = make_batch()["image"]
    with torch.no_grad():
        torch.testing.assert_close(method(images), method(images.flip(-1)), rtol=1e-3, atol=1e-3)


def test_views_of_another_name_are_refused(make_method):
    with pytest.raises(ValueError, match=r"views='both' must be one of none, auto, sizes, mirrored"):
        make_method(razh_views, views="both")


def test_enlarged_views_may_be_larger_than_the_image():
    images = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    images[..., 3:17, 3:17] = 100
    sides = [view_side(view, 20, 40) for view in SIZES]
    assert [show(images, view, 40).shape[-1] for view in SIZES] == sides == [40, 40, 40, 20]
    assert torch.equal(show(images, SIZES[1], 40), torch.full((1, 3, 40, 40), 100, dtype=torch.uint8))


def test_views_are_the_image_two_middles_and_the_image_as_it_is():
    images = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
    images[..., 3:17, 3:10] = 100  # the left half of the middle .7, which is mirrored
    images[..., 3:17, 10:17] = 200
    images[..., 0:3, 0] = 250
    assert torch.equal(show(images, SIZES[0]), images)
    assert torch.equal(show(images, SIZES[3], 40), images.flip(-1))
    zoom = show(images, SIZES[1])
    assert zoom[..., :5].unique().tolist() == [200]
    assert zoom[..., 15:].unique().tolist() == [100]
    closer = show(images, SIZES[2])
    assert closer[..., :5].unique().tolist() == [100]
    assert closer[..., 15:].unique().tolist() == [200]


def test_generalised_mean_is_between_mean_and_maximum(make_backbone, make_batch):
    backbone = make_backbone("test_efficientnet", split=3).eval()
    with torch.no_grad():
        tokens = backbone.contextualise(backbone.embed(make_batch()["image"])).clamp(min=1e-6)
        pooled = backbone._descriptor(tokens)
    assert (pooled >= tokens.mean(dim=1) - 1e-4).all()
    assert (pooled <= tokens.amax(dim=1) + 1e-4).all()
    torch.testing.assert_close(pooled, (tokens**3).mean(dim=1) ** (1 / 3))


def test_mixed_images_are_refused(make_method):
    with pytest.raises(ValueError, match=r"weights.mix_hash hashes features, and views have descriptors"):
        make_method(razh_views, weights={"mix_hash": 0.1})


def test_hash_term_is_the_cosine_classifier_on_signs(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"), bits=32, weights={"similarity": 0.0}).eval()
    batch = batch_of_descriptors(method)
    signs = torch.where(method.hash_logits(batch) >= 0, 1.0, -1.0)
    cosines = F.normalize(signs, dim=1) @ F.normalize(method.tools.classes.layer.weight, dim=1).T
    position = torch.arange(8) % 4
    expected = F.cross_entropy(10 * (cosines - 0.2 * F.one_hot(position, 4)), position)
    torch.testing.assert_close(method.losses(batch)["hash"], expected)
    assert method.tools.classes.layer.bias is None


class Loader(list):
    @property
    def sampler(self):
        return range(sum(len(batch["label"]) for batch in self))


def start(method, batch):
    """Start a method from a batch, as from a whole training set."""
    data = SimpleNamespace(
        initialisation_dataloader=lambda: Loader([batch]),
        labels=batch["label"].numpy(),
        split=SimpleNamespace(train=list(range(len(batch["label"])))),
    )
    method._trainer = SimpleNamespace(datamodule=data, strategy=SimpleNamespace(broadcast=lambda state: state))
    method.start_from_features()


def test_only_frozen_networks_that_know_something_have_posteriors_and_whiten_by_default(make_method, make_backbone):
    found = {}
    for freeze in ("all", "trunk", "none"):
        for knows in (True, False):
            backbone = make_backbone("test_efficientnet", split=3, freeze=freeze)
            backbone.has_weights = knows
            method = make_method(razh_views, backbone)
            found[freeze, knows] = (
                method.encoder.auxiliary is not None and method.encoder.auxiliary.posteriors is not None
            )
            assert (method.code.similarity_space == "whitened") == found[freeze, knows]
    assert [key for key, has in found.items() if has] == [("all", True)]


def test_the_head_sees_the_posteriors_of_the_vector_that_it_is_shown(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"), code={"posteriors": "training"}).train()
    posteriors = method.encoder.auxiliary.posteriors
    batch, width = batch_of_descriptors(method, 64), method.encoder.description_width
    posteriors.directions.normal_()
    seen = method.hash_input(batch)
    assert seen.shape[1] == width + 4 == method.head.in_features
    torch.testing.assert_close(seen[:, width:], posteriors(seen[:, :width]))


@pytest.mark.parametrize("kind", ["training", "described"])
def test_posteriors_are_fitted_before_the_head_starts(make_method, make_backbone, kind):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"), code={"posteriors": kind})
    batch, width = batch_of_descriptors(method, 40), method.encoder.description_width
    posteriors = method.encoder.auxiliary.posteriors
    start(method, batch)
    classes = len(method.class_attributes) if kind == "described" else 4
    assert posteriors.directions.shape == (classes, width)
    assert posteriors.directions.abs().sum(dim=1).min() > 0
    assert method.head.weight[:, width:].abs().sum(dim=0).min() > 0
    named = posteriors(batch["descriptors"].mean(dim=1))[:, :4].argmax(dim=1)
    assert (named == torch.arange(40) % 4).float().mean() > 0.9
    torch.stack(list(method.losses(batch).values())).sum().backward()
    assert method.head.weight.grad[:, width:].abs().sum() > 0


@pytest.mark.parametrize("space", ["feature", "whitened"])
def test_similarity_keeps_that_of_the_space_that_was_asked_for(make_method, make_backbone, space):
    backbone = make_backbone(split=2, freeze="all")
    backbone.has_weights = True
    method = make_method(razh_views, backbone, bits=32, code={"attribute_share": 0.3, "similarity_space": space})
    batch = batch_of_descriptors(method, 40)
    batch["descriptors"][..., 0] *= 30  # what the network has most of, and what no class has more of than others
    start(method, batch)
    method.eval()
    features = batch["descriptors"].mean(dim=1)
    kept = features - features.mean(dim=0)
    if space == "whitened":
        kept = kept @ within_class_whitening(features, batch["label"])
        assert kept.std(dim=0).max() < 5 * kept.std(dim=0).median()
    signs = method.hash_logits(batch).sign()
    expected = similarity_loss(signs, kept, method.prototypes[method.targets(batch)], 0.3)
    torch.testing.assert_close(method.losses(batch)["similarity"], 10 * expected)
    assert ("terms.similarity.whitening" in method.state_dict()) == (space == "whitened")


def test_features_are_whitened_once_for_all_that_starts_from_it(make_method, make_backbone, monkeypatch):
    backbone = make_backbone(split=2, freeze="all")
    backbone.has_weights = True
    method = make_method(razh_views, backbone)
    assert method.encoder.auxiliary.posteriors is not None
    assert method.code.similarity_space == "whitened"
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return within_class_whitening(*arguments)

    for module in ("razh.method", "razh.terms.base", "razh.layers.posteriors"):
        monkeypatch.setattr(f"{module}.within_class_whitening", counted)
    start(method, batch_of_descriptors(method, 40))
    assert len(calls) == 1


def test_a_space_of_another_name_is_refused(make_method):
    with pytest.raises(ValueError, match=r"code\.similarity_space='pca' must be one of auto, feature, whitened"):
        make_method(razh_views, code={"similarity_space": "pca"})


def test_posteriors_of_another_kind_are_refused(make_method):
    with pytest.raises(ValueError, match=r"code\.posteriors='unseen' must be one of auto, none, training, described"):
        make_method(razh_views, code={"posteriors": "unseen"})


def test_a_whole_network_that_knew_nothing_keeps_nothing(make_method, make_backbone, caplog):
    method = make_method(razh_views, make_backbone("test_efficientnet", 3, freeze="none"))
    method._trainer = SimpleNamespace(ckpt_path="one")
    assert method.cached_inputs == ()
    method.on_fit_start()
    assert not caplog.records


@pytest.mark.parametrize("freeze", ["none", "trunk"])
def test_patches_of_the_views_that_are_described_respond(make_method, make_backbone, make_batch, freeze):
    backbone = make_backbone("test_efficientnet", split=3, freeze=freeze)
    method = make_method(razh_views, backbone, code={"responses": "patch"}).eval()
    images = make_batch()["image"]
    patches = method.backbone.embed_views(images, method.views, method.view_size)
    batch = {"image": images} if freeze == "none" else {"view_patches": patches.detach()}
    assert ("view_patches" in method.cached_inputs) == (freeze == "trunk")
    assert "patches" not in method.cached_inputs
    with torch.no_grad():
        hashed = method.hash_input(batch)
        every = method.backbone.split_views(patches, method.views, method.view_size)
        each = torch.stack([respond(method, view_patches) for view_patches in every])
    torch.testing.assert_close(hashed[:, method.encoder.description_width :], each.mean(dim=0), rtol=1e-3, atol=1e-3)


def test_of_a_frozen_network_the_image_responds(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"), code={"responses": "patch"}).eval()
    assert {"patches", "descriptors"} <= set(method.cached_inputs)
    batch = batch_of_descriptors(method)
    batch["patches"] = torch.randn(8, method.backbone.prefix + method.backbone.num_patches, method.backbone.dim)
    expected = respond(method, batch["patches"])
    torch.testing.assert_close(method.hash_input(batch)[:, method.encoder.description_width :], expected)


@pytest.mark.parametrize("naming", [0.0, 1.0])
def test_all_terms_of_a_step_see_one_view(make_method, make_backbone, make_batch, monkeypatch, naming):
    method = make_method(razh_views, make_backbone("test_efficientnet", split=3), weights={"naming": naming})
    assert method.code.responses == "patch"
    views, embed = [], method.backbone.embed_views

    def counting(images, shown, size):
        views.append(shown)
        return embed(images, shown, size)

    monkeypatch.setattr(method.backbone, "embed_views", counting)
    terms = method.losses(make_batch())
    assert terms.keys() == {"hash", "similarity"} | ({"naming"} if naming else set())
    assert len(views) == 1
    assert len(views[0]) == 1


def test_attributes_are_those_of_all_views(make_method, make_backbone, make_batch):
    backbone = make_backbone("test_efficientnet", split=3)
    method = make_method(razh_views, backbone, weights={"naming": 1.0}, parts={"granularity": "patch"}).eval()
    images = make_batch()["image"]
    with torch.no_grad():
        patches = backbone.embed_views(images, method.views, method.view_size)
        each = [name(method, view) for view in backbone.split_views(patches, method.views, method.view_size)]
        scores = method.attribute_scores({"image": images})["naming"]
    torch.testing.assert_close(scores, torch.stack(each).mean(dim=0), rtol=1e-3, atol=1e-3)


def test_of_a_frozen_network_the_image_names(make_method, make_backbone):
    method = make_method(razh_views, make_backbone(split=2, freeze="all"), weights={"naming": 1.0})
    assert {"patches", "descriptors"} <= set(method.cached_inputs)
    batch = batch_of_descriptors(method)
    batch["patches"] = torch.randn(8, method.backbone.prefix + method.backbone.num_patches, method.backbone.dim)
    torch.testing.assert_close(method.attribute_scores(batch)["naming"], name(method, batch["patches"]))
    assert "naming" in method.losses(batch)


def test_parts_start_from_patches_of_views_where_no_others_are_cached(make_method, make_backbone, make_batch):
    network = make_backbone("test_efficientnet", split=3, freeze="trunk")
    method = make_method(razh_views, network, weights={"naming": 1.0}, parts={"count": 3, "background_centres": 2})
    batch = make_batch(12)
    images = batch.pop("image")
    with torch.no_grad():
        batch["view_patches"] = network.embed_views(images, method.views, method.view_size)
    assert method.cached_inputs == ("view_patches",)
    before = method.tools.clustering.centres.detach().clone()
    start(method, batch)
    assert not torch.equal(method.tools.clustering.centres, before)
    assert "naming" in method.losses(batch)


def test_parts_are_read_in_every_view_that_is_shown(make_method, make_backbone, make_batch):
    torch.manual_seed(0)
    network = make_backbone("test_efficientnet", 3, freeze="trunk")
    method = make_method(RAZH, network, views="mirrored", view_scale=1.0).eval()
    attributes = method.class_attributes.shape[1]
    assert method.encoder.width == network.descriptor_dim + attributes + method.encoder.auxiliary.first_told
    step = Step(method, make_batch())
    read = torch.stack([step.read_of(patches) for patches in step.sights])
    assert len(read) == len(MIRRORED)
    assert not torch.allclose(read[0], read[1])
    told = method.code.attributes * F.normalize(read.mean(dim=0), dim=-1)
    torch.testing.assert_close(step.hashed[:, method.encoder.description_width :][:, -attributes:], told)
    sum(method.train().losses(make_batch()).values()).backward()
    assert method.tools.reader.read.weight.grad.abs().sum() > 0
