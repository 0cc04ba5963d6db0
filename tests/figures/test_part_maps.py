from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from razh.backbones.timm import TimmBackbone
from razh.callbacks.shown import MERGED, part_pictures
from razh.figures.parts import PALETTE, PartPicture, merge_by_attribute, overlay, part_map, parts_figure
from razh.measures.abilities import reads_parts
from razh.methods.razh import RAZH


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_part_map_keeps_the_places_of_the_patches():
    assignment = np.zeros((4, 3))  # a 2 × 2 grid, two parts and the background
    assignment[[0, 1, 2, 3], [0, 1, 2, 2]] = 1.0
    regions = part_map(assignment, (2, 2), 40)
    assert regions.shape == (40, 40)
    assert (regions[2, 2], regions[2, 37], regions[37, 2], regions[37, 37]) == (0, 1, -1, -1)


def test_the_middle_of_a_patch_has_the_part_of_the_patch():
    weights = np.random.default_rng(0).random((16, 5))
    slots = weights[:, :4].argmax(axis=1).reshape(4, 4)
    middles = part_map(weights, (4, 4), 12, background_from=0.6)[1::3, 1::3]  # a patch is 3 × 3 pixels
    np.testing.assert_array_equal(middles, np.where(weights[:, 4].reshape(4, 4) > 0.6, -1, slots))


def test_the_background_stays_as_it_is_and_parts_take_their_colour():
    image = np.random.default_rng(0).integers(0, 256, (10, 10, 3)).astype(np.uint8)
    regions = np.full((10, 10), -1)
    regions[:, 5:] = 3
    shown = overlay(image, regions, PALETTE, strength=1.0)
    np.testing.assert_array_equal(shown[:, :5], image[:, :5])
    np.testing.assert_array_equal(shown[4, 8], np.round(255 * np.array(to_rgb(PALETTE[3]))))
    assert (shown[:, 5] == 255).all()  # a white line between regions


def test_merging_by_attribute_keeps_all_weight_of_the_heaviest():
    weights = np.random.default_rng(0).dirichlet(np.ones(7), 9).astype(np.float32)
    attributes = [4, 2, 4, 9, 2, 4]
    merged, ids = merge_by_attribute(weights, attributes, 2)
    totals = {a: sum(weights[:, k].sum() for k in range(6) if attributes[k] == a) for a in set(attributes)}
    heaviest = sorted(sorted(totals, key=lambda a: -totals[a])[:2])
    assert ids == heaviest
    for column, a in enumerate(ids):
        expected = weights[:, [k for k in range(6) if attributes[k] == a]].sum(axis=1)
        np.testing.assert_allclose(merged[:, column], expected, rtol=1e-6)
    np.testing.assert_allclose(merged.sum(axis=1), 1.0, rtol=1e-5)


def test_the_legend_names_every_part_that_has_an_area_and_no_other():
    regions = np.full((20, 20), -1)
    regions[:8], regions[12:] = 0, 2
    attributes = {0: "has_wing_color::blue", 1: "has_bill_shape::cone", 2: "has_size::small"}
    image = np.zeros((20, 20, 3), dtype=np.uint8)
    figure = parts_figure([PartPicture(image, "001.Some_bird", True, regions, attributes)], "the title")
    words = texts(figure)
    assert {"wing color: blue", "size: small", "Some bird", "the title", "trained classes"} <= set(words)
    assert "bill shape: cone" not in words
    assert "unseen classes" not in words
    assert "true parts" not in words
    swatches = [to_hex(p.get_facecolor()) for p in figure.axes[0].patches]
    assert swatches == [PALETTE[0].lower(), PALETTE[2].lower()]
    numbers = [word for word in words if word.isdigit()]
    assert numbers.count("1") == 2  # on the map and in the legend
    assert numbers.count("3") == 2


def test_true_parts_are_shown_where_they_are_known():
    image, regions = np.zeros((16, 16, 3), dtype=np.uint8), np.zeros((16, 16), dtype=int)
    truth = np.zeros((16, 16), dtype=np.uint8)
    truth[:8] = 1
    picture = PartPicture(image, "a", False, regions, {}, truth)
    figure = parts_figure([picture], true_names=("tail", "head"))
    assert {"true parts", "tail", "head", "unseen classes", "(not matched)"} <= set(texts(figure))
    assert len(figure.axes[0].images) == 3
    assert len(parts_figure([PartPicture(image, "a", False, regions)]).axes[0].images) == 2


def test_without_photos_nothing_of_the_image_is_drawn():
    regions, truth = np.full((16, 16), -1), np.zeros((16, 16), dtype=np.uint8)
    regions[:6] = truth[:6] = 1
    drawn = []
    for seed in (0, 1):
        image = np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        figure = parts_figure([PartPicture(image, "a", False, regions, {}, truth)], photos=False)
        drawn.append([shown.get_array() for shown in figure.axes[0].images])
        assert {"unseen classes", "true parts", "found parts"} <= set(texts(figure))
    assert len(drawn[0]) == 2
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_no_picture_is_refused():
    with pytest.raises(ValueError, match="pictures is empty"):
        parts_figure([])


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8)
    attributes = (torch.rand(4, 7, generator=generator) > 0.5).float()
    attributes[:, 0] = 1.0
    return SimpleNamespace(images=images, attributes=attributes, vectors=torch.randn(7, 5, generator=generator))


def build(data, **options):
    torch.manual_seed(0)
    backbone = TimmBackbone("test_vit", image_size=32)
    return RAZH(
        backbone=backbone,
        class_attributes=data.attributes,
        attribute_vectors=data.vectors,
        train_classes=torch.tensor([0, 1]),
        bits=8,
        **options,
    )


def pictures(data, method, labels=(0, 1, 3)):
    names, attributes = [f"class {c}" for c in range(4)], [f"attribute {m}" for m in range(7)]
    return part_pictures(method, data.images.__getitem__, [0, 3, 5], labels, names, attributes)


def test_pictures_have_the_parts_and_own_attributes_of_the_method(data):
    first = {"order": "parts_first", "count": 3}
    method = build(data, parts=first, weights={"attributes": 0.0, "alignment": 0.1}).train()
    state = torch.get_rng_state()
    found = pictures(data, method)
    assert method.training
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.seen for p in found] == [True, True, False]
    assert [p.name for p in found] == ["class 0", "class 1", "class 3"]
    with torch.no_grad():
        parts = method.eval().find_parts({"image": data.images[[0, 3, 5]], "label": torch.tensor([0, 1, 3])})
    for number, (picture, label) in enumerate(zip(found, (0, 1, 3), strict=True)):
        np.testing.assert_array_equal(picture.image, data.images[(0, 3, 5)[number]].permute(1, 2, 0).numpy())
        ids = parts.match.choice[number].argmax(dim=-1).tolist()
        assert picture.attributes == {k: f"attribute {m}" for k, m in enumerate(ids)}
        assert all(data.attributes[label, m] for m in ids)
        assert set(np.unique(picture.parts)) <= {-1, 0, 1, 2}


def test_what_was_read_is_drawn_whatever_the_class(data):
    for method, reads in (
        (build(data, parts={"count": 3}), True),
        (build(data, parts={"order": "parts_first", "count": 3}, weights={"attributes": 0.0, "alignment": 0.1}), False),
    ):
        told = [pictures(data, method, labels) for labels in ([0, 1, 3], [3, 0, 1])]
        same = [one.attributes == other.attributes for one, other in zip(*told, strict=True)]
        assert (reads_parts(method), all(same)) == (reads, reads)


def test_a_method_of_parts_without_attributes_is_drawn_without_attributes(data):
    weights = {"attributes": 0.0}
    method = build(data, parts={"order": "parts_first", "count": 3}, weights=weights, code={"responses": "none"})
    found = pictures(data, method)
    assert all(not picture.attributes for picture in found)
    assert "(not matched)" in texts(parts_figure(found))


def test_patches_of_their_own_are_merged_by_attribute(data):
    method = build(data, parts={"granularity": "patch"})
    if method.backbone.num_patches <= len(PALETTE):  # too few patches on this network: parts instead
        method = build(data, parts={"count": 20})
    for picture in pictures(data, method):
        assert len(set(picture.attributes.values())) == len(picture.attributes) <= MERGED
