import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from razh.datamodules.synthetic.data import SyntheticDataModule
from razh.measures.parts import (
    adjusted_rand_index,
    contingency,
    flip_agreement,
    foreground_overlap,
    hard_parts,
    matched_overlap,
    near_points,
    normalised_mutual_information,
    on_masks,
    part_pixels,
    parts_at,
    point,
)

PARTS = 6


def one_hot(parts, count):
    """Return weights (…, count + 1) of part ids, −1 for the background."""
    return torch.nn.functional.one_hot(torch.as_tensor(parts) % (count + 1), count + 1).float()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 4)), min_size=1, max_size=60))
def test_agreement_is_that_of_scikit_learn(pairs):
    found, true = np.array(pairs).T
    table = contingency(found, true, 4, 5)
    assert normalised_mutual_information(table) == pytest.approx(normalized_mutual_info_score(true, found), abs=1e-9)
    assert adjusted_rand_index(table) == pytest.approx(adjusted_rand_score(true, found), abs=1e-9)


def test_agreement_of_many_items():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 15, 20_000)
    same = contingency((true * 7) % 15, true, 15, 15)  # renamed
    assert normalised_mutual_information(same) == pytest.approx(1)
    assert adjusted_rand_index(same) == 1
    random = contingency(rng.integers(-1, 8, 20_000), true, 8, 15)
    assert normalised_mutual_information(random) < 0.01
    assert abs(adjusted_rand_index(random)) < 0.01


def test_nothing_to_compare_is_an_error():
    empty = np.zeros((3, 3), dtype=np.int64)
    for measure in (normalised_mutual_information, adjusted_rand_index):
        with pytest.raises(ValueError, match="counts no items"):
            measure(empty)


def test_the_table_has_the_background_last():
    table = contingency(np.array([[0, -1], [1, 1]]), np.array([[2, 0], [-1, 2]]), 2, 3)
    assert table.tolist() == [[0, 0, 1, 0], [0, 0, 1, 1], [1, 0, 0, 0]]


def test_the_background_is_minus_one():
    assert hard_parts(torch.tensor([[[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]])).tolist() == [[1, -1]]


def test_many_parts_that_share_a_place_outweigh_the_background_together():
    weights = torch.tensor([[[0.3, 0.25, 0.45], [0.1, 0.05, 0.85]]])
    assert hard_parts(weights).tolist() == [[0, -1]]
    assert hard_parts(weights, background_from=0.9).tolist() == [[0, 0]]
    points = np.array([[[1, 1, 1], [3, 1, 1]]], dtype=np.float32)
    assert parts_at(weights, points, (1, 2), 4, background_from=0.9).tolist() == [[0, 0]]
    assert (part_pixels(weights, (1, 2), 4, background_from=0.8)[0, 0] == [0, 0, 0, -1]).all()  # .75 between the two


def test_points_take_the_part_of_their_patch():
    """A grid of 2 × 4 patches over 8 pixels: patches are 2 wide and 4 high."""
    assignment = one_hot([[0, 1, 2, 3, 4, 5, -1, 0]], PARTS)
    points = np.array([[[1, 2, 1], [3, 2, 1], [7, 1, 1], [0.5, 6, 1], [5, 6, 1], [7.9, 7.9, 1]]], dtype=np.float32)
    assert parts_at(assignment, points, (2, 4), 8).tolist() == [[0, 1, 3, 4, -1, 0]]


def test_points_agree_with_pixels():
    assignment = torch.rand(3, 20, 5, generator=torch.Generator().manual_seed(0))
    pixels = part_pixels(assignment, (4, 5), 40)
    y, x = np.divmod(np.arange(1600), 40)
    points = np.stack([x + 0.5, y + 0.5, np.ones(1600)], axis=1)[None].repeat(3, axis=0).astype(np.float32)
    assert np.array_equal(parts_at(assignment, points, (4, 5), 40), pixels.reshape(3, -1))


def test_overlap_by_hand():
    # True part 0 has 10 places, found part 1 has 8 of them and 2 of the background. True part 1 goes to found part 0.
    table = np.array([[2, 5, 0], [8, 0, 2], [0, 5, 20]])
    np.testing.assert_allclose(matched_overlap(table), [8 / 12, 5 / 12])
    assert foreground_overlap(table) == pytest.approx(15 / 22)
    # A true part too many has 0, one that never occurs does not count.
    np.testing.assert_allclose(matched_overlap(np.array([[3, 1, 0, 0], [0, 0, 0, 5]])), [3 / 4, 0, np.nan])


def test_a_found_part_is_matched_once():
    table = np.array([[4, 4, 0], [0, 0, 9]])
    assert sorted(matched_overlap(table)) == [0, 0.5]


@pytest.fixture(scope="module")
def masks():
    data = SyntheticDataModule(seen_classes=4, unseen_classes=2, images_per_class=8, image_size=64)
    return np.stack([data.part_masks(i) for i in range(len(data.labels))]).astype(np.int64) - 1


@pytest.mark.parametrize(("patch", "least"), [(1, 1.0), (4, 0.75), (8, 0.4)])
def test_true_masks_as_parts(masks, patch, least):
    """Parts read off the masks are perfect at the pixel; at 4 pixels a patch their IoU is some .78, at 8 some .42."""
    n, side = len(masks), masks.shape[-1] // patch
    cells = one_hot(masks, PARTS).unfold(1, patch, patch).unfold(2, patch, patch).mean(dim=(-2, -1))
    table = contingency(part_pixels(cells.reshape(n, side * side, -1), (side, side), 64), masks, PARTS, PARTS)
    overlap, nmi = matched_overlap(table), normalised_mutual_information(table[:, :-1])
    assert overlap.mean() >= least
    assert nmi >= least
    if patch == 1:
        assert (overlap == 1).all()
        assert nmi == pytest.approx(1)
    else:
        assert overlap.mean() < 1


def test_renamed_and_shuffled_masks(masks):
    renamed = np.where(masks < 0, -1, (masks * 5 + 2) % PARTS)
    assert (matched_overlap(contingency(renamed, masks, PARTS, PARTS)) == 1).all()
    shuffled = np.random.default_rng(0).permutation(masks.ravel()).reshape(masks.shape)
    table = contingency(shuffled, masks, PARTS, PARTS)
    assert np.nanmean(matched_overlap(table)) < 0.1
    assert normalised_mutual_information(table[:, :-1]) < 0.01


def test_mirroring():
    rng = np.random.default_rng(0)
    maps = rng.integers(-1, 3, (5, 3, 4))
    found, mirrored = maps.reshape(5, -1), maps[:, :, ::-1].reshape(5, -1)
    assert flip_agreement(found, mirrored, (3, 4)) == (1, 1)
    assert flip_agreement(found, found, (3, 4))[0] < 0.6  # not mirrored along
    everywhere, foreground = flip_agreement(np.array([[0, -1, -1, -1]]), np.array([[-1, -1, 1, -1]]), (1, 4))
    assert (everywhere, foreground) == (0.5, 0)
    everywhere, foreground = flip_agreement(np.full((1, 4), -1), np.full((1, 4), -1), (1, 4))
    assert everywhere == 1
    assert np.isnan(foreground)


def test_pointing_looks_where_the_strongest_patch_lies():
    assignment = torch.zeros(2, 4, 3)
    assignment[0, 1, 0] = assignment[0, 2, 1] = assignment[1, 3, 0] = 1.0
    right = np.zeros((2, 2, 4), dtype=bool)
    right[0, 0, 1] = right[0, 1, :2] = right[1, 0, 0] = True  # part 1 is not seen in image 1
    found = point(assignment, right, np.array([[True, False], [False, True]]))
    np.testing.assert_array_equal(found.hit, [[1, 0], [0, np.nan]])
    rates = found.rates()
    np.testing.assert_allclose(rates["pointing"], [0.5, 0.0])
    np.testing.assert_allclose(rates["pointing_chance"], [0.25, 0.5])
    np.testing.assert_allclose(rates["pointing_centre"], [0.5, 0.0])


def test_patches_near_a_visible_point_are_right():
    points = np.array([[[25, 25, 1], [75, 75, 0], [75, 25, 1]]], dtype=np.float32)
    right, centre = near_points(points, [(0,), (1,), (0, 2), ()], (2, 2), 100, radius=0.1)
    assert right.tolist() == [[[True, False, False, False], [False] * 4, [True, True, False, False], [False] * 4]]
    assert not centre.any()
    assert near_points(points, [(0,)], (2, 2), 100, radius=0.4)[1].all()


def test_patches_on_a_mask_are_right():
    masks = np.full((1, 4, 4), -1)
    masks[0, :2, 2:] = 0
    masks[0, 2:] = 1
    right, centre = on_masks(masks, [(0,), (1,)], (2, 2))
    assert right.tolist() == [[[False, True, False, False], [False, False, True, True]]]
    assert centre.tolist() == [[False, True]]
