import pickle

import numpy as np
import pytest
import torch

from razh.datamodules.synthetic.creatures import PARTS, TRAITS, trait_values
from razh.datamodules.synthetic.data import SyntheticDataModule, draw_classes


@pytest.fixture(scope="module")
def default():
    return SyntheticDataModule()


def small(**arguments):
    return SyntheticDataModule(
        **{"images_per_class": 4, "seen_classes": 6, "unseen_classes": 3, "image_size": 32, **arguments}
    )


# -------------------------------------------------------------------------------------------------------------- classes


def test_default_classes(default):
    assert default.class_attributes.shape == (28, 90)
    assert default.creatures.shape == default.part_attributes.shape == (28, 6, 3)
    assert len(set(default.class_names)) == 28
    assert len(set(default.attribute_names)) == 90
    assert {"head colour: red", "wing pattern: striped", "tail shape: forked"} <= set(default.attribute_names)


def test_the_class_attributes_are_the_part_attributes(default):
    slow = np.zeros((28, 90))
    for c in range(28):
        for p, part in enumerate(PARTS):
            for t, trait in enumerate(TRAITS):
                value = trait_values(part, trait)[default.creatures[c, p, t]]
                m = default.attribute_names.index(f"{part} {trait}: {value}")
                assert default.part_attributes[c, p, t] == m
                slow[c, m] = 1
    np.testing.assert_array_equal(default.class_attributes.numpy(), slow)


def test_attributes_know_their_part(default):
    assert default.part_names == PARTS
    assert [default.part_names[p] for p in default.attribute_part] == [n.split()[0] for n in default.attribute_names]
    for p in range(len(PARTS)):
        assert (default.attribute_part[default.part_attributes[:, p]] == p).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("seen", "unseen", "changes", "distance"), [(20, 8, 8, 4), (6, 3, 5, 3), (40, 15, 6, 4)])
def test_unseen_classes_are_new_combinations_of_seen_attributes(seen, unseen, changes, distance, seed):
    classes = draw_classes(seen, unseen, changes, distance, seed).reshape(seen + unseen, -1)
    for slot in range(classes.shape[1]):
        assert set(classes[seen:, slot]) <= set(classes[:seen, slot])
    for a in range(len(classes)):
        for b in range(a):
            assert (classes[a] != classes[b]).sum() >= distance


def test_every_attribute_occurs_in_a_seen_class_by_default(default):
    assert default.class_attributes[:20].sum(dim=0).min() >= 1


def test_many_classes_share_many_attributes(default):
    shared = default.class_attributes @ default.class_attributes.T
    nearest = (shared - 18 * torch.eye(28)).max(dim=1).values
    assert nearest.min() >= 6  # of 18: every class has a close relative
    assert nearest.max() <= 18 - 4


def test_classes_depend_on_the_seed_alone():
    np.testing.assert_array_equal(draw_classes(5, 2, 8, 4, 3), draw_classes(5, 2, 8, 4, 3))
    assert (draw_classes(5, 2, 8, 4, 3) != draw_classes(5, 2, 8, 4, 4)).any()
    np.testing.assert_array_equal(draw_classes(9, 2, 8, 4, 3)[:5], draw_classes(5, 2, 8, 4, 3)[:5])


# --------------------------------------------------------------------------------------------------------------- splits


def test_the_fixed_split(default):
    split = default.split
    assert split.seen_classes == tuple(range(20))
    assert split.unseen_classes == tuple(range(20, 28))
    assert len(split.validation_classes) == 4
    counts = split.counts()
    assert (counts["query"], counts["database"]) == (400, 20 * 30 + 400)
    assert counts["train"] + counts["validation_query"] + counts["validation_database"] == 20 * 70
    assert not set(default.train_classes.tolist()) & {*split.unseen_classes, *split.validation_classes}


def test_other_shares_of_unseen_classes():
    data = small(protocol="unseen-40%", seen_classes=6, unseen_classes=4)
    assert len(data.split.unseen_classes) == 4
    assert data.split.unseen_classes != (6, 7, 8, 9)
    assert small().split.unseen_classes == (6, 7, 8)


# --------------------------------------------------------------------------------------------------------------- images


def test_images_are_functions_of_seed_and_index():
    one, two, other = small(), small(), small(data_seed=1)
    for index in (35, 0, 17):
        assert one.load_image(index).shape == (3, 32, 32)
        assert one.load_image(index).dtype == torch.uint8
        assert torch.equal(one.load_image(index), two.evaluation_image(index))
        np.testing.assert_array_equal(one.part_masks(index), two.part_masks(index))
    assert not torch.equal(one.load_image(0), other.load_image(0))
    assert not torch.equal(one.load_image(0), one.load_image(1))


@pytest.mark.parametrize("memory_mb", [0, 256])
def test_memory_does_not_change_images(memory_mb):
    data, reference = small(memory_mb=memory_mb), small()
    data.load_image(2).zero_()  # a caller who writes into an image
    assert torch.equal(data.load_image(2), reference.load_image(2))
    assert torch.equal(data.load_image(2), reference.load_image(2))
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.load_image(2), reference.load_image(2))


def test_memory_is_bounded(monkeypatch):
    data = small(memory_mb=1, image_size=128)  # room for 16 images of 4 · 128² bytes
    calls = []
    monkeypatch.setattr("razh.datamodules.synthetic.data.render", lambda *a: calls.append(a) or _blank(128))
    for _ in range(2):
        for index in range(20):
            data.load_image(index)
    assert len(calls) == 20 + 4


def _blank(size):
    return np.zeros((3, size, size), np.uint8), np.zeros((size, size), np.uint8)


def test_masks_name_parts_and_fit_the_image():
    data = small(image_size=64)
    masks = np.stack([data.part_masks(index) for index in range(36)])
    assert masks.dtype == np.uint8
    assert set(np.unique(masks)) == set(range(7))


def test_training_images_are_functions_of_the_draw():
    data = small(image_size=64)
    views = [data.training_image(3, draw) for draw in range(20)]
    assert all(view.shape == (3, 64, 64) and view.dtype == torch.uint8 for view in views)
    assert torch.equal(data.training_image(3, 7), views[7])
    assert len({view.numpy().tobytes() for view in views}) > 15
    image = data.load_image(3).float()
    best = []
    for view in views:
        gaps = [
            (image[:, 10:54, 10:54] - v[:, 10 + dy : 54 + dy, 10 + dx : 54 + dx]).abs().mean()
            for v in (view.float(), view.float().flip(-1))
            for dy in range(-6, 7)
            for dx in range(-6, 7)
        ]
        best.append(min(gaps))
    assert max(best) == 0  # every view is the image, shifted by at most 6 pixels and perhaps mirrored


def test_loaders_give_the_same_with_any_number_of_workers():
    batches = []
    for workers in (0, 2):
        data = small(batch_size=8, num_workers=workers)
        batches.append([batch for loader in (data.train_dataloader(), data.test_dataloader()) for batch in loader])
    assert len(batches[0]) == len(batches[1])
    for one, two in zip(*batches, strict=True):
        assert set(one) == {"image", "label", "index"}
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert torch.equal(one["label"], one["index"] // 4)


def test_workers_share_what_they_drew(monkeypatch):
    data = small(num_workers=1)
    index = int(data.split.query[0])
    for _ in data.test_dataloader():
        pass
    monkeypatch.setattr("razh.datamodules.synthetic.data.render", lambda *a: pytest.fail("drawn again"))
    assert data.load_image(index).float().std() > 1


def test_the_fingerprint_names_the_images_not_the_split():
    fingerprint = small().fingerprint
    assert fingerprint == small(protocol="unseen-30%", validation_class_share=0.4, batch_size=3).fingerprint
    for change in ({"data_seed": 1}, {"image_size": 48}, {"images_per_class": 5}, {"seen_classes": 7}, {"changes": 5}):
        assert small(**change).fingerprint != fingerprint, change


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("seen_classes", 1),
        ("unseen_classes", 0),
        ("images_per_class", 1),
        ("changes", 19),
        ("min_distance", 0),
        ("data_seed", -1),
        ("image_size", 8),
        ("memory_mb", -1),
    ],
)
def test_arguments_are_checked(argument, value):
    with pytest.raises(ValueError, match=f"--data.{argument}={value} must be"):
        SyntheticDataModule(**{argument: value})


def test_too_many_classes_are_refused():
    with pytest.raises(ValueError, match=r"min_distance is 18, .* lower min_distance"):
        _ = small(min_distance=18).creatures


def test_groups_of_attributes_are_the_parts_that_they_are_drawn_on():
    data = SyntheticDataModule(seen_classes=4, unseen_classes=2, images_per_class=2)
    assert data.attribute_groups is not None
    assert data.attribute_groups.tolist() == data.attribute_part.tolist()
    assert data.group_parts == tuple((part,) for part in range(6))
