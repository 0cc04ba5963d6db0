import time

import pytest
import torch

from razh.losses.centres import hadamard, has_hadamard, hash_centres, separated_codes, smallest_distance


def distances(codes):
    """Return the distances of all pairs by comparing bits."""
    different = (codes[:, None] != codes[None, :]).sum(dim=-1)
    row, column = torch.triu_indices(len(codes), len(codes), offset=1)
    return different[row, column]


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 20, 24, 48, 64, 96, 128])
def test_rows_of_a_hadamard_matrix_are_orthogonal(order):
    matrix = hadamard(order)
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order))
    assert (matrix.abs() == 1).all()
    assert has_hadamard(order)


@pytest.mark.parametrize("order", [3, 6, 10, 22, 50, 100])
def test_other_orders_are_refused(order):
    assert not has_hadamard(order)
    with pytest.raises(ValueError, match=f"order={order}"):
        hadamard(order)


@pytest.mark.parametrize(("count", "bits"), [(2, 16), (16, 16), (20, 64), (128, 64), (24, 12), (40, 48)])
def test_centres_are_half_the_bits_apart(count, bits):
    centres = hash_centres(count, bits)
    apart = distances(centres)
    assert apart.min() == bits // 2
    assert count > bits or (apart == bits // 2).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_bit_is_constant_and_none_repeats_another(seed):
    centres = hash_centres(40, 64, seed=seed)
    assert (centres.sum(dim=0).abs() < 40).all()
    agreement = (centres.T @ centres).abs() - 40 * torch.eye(64)
    assert agreement.max() < 40  # the first 40 rows of the usual matrix: many columns are equal


@pytest.mark.parametrize(("count", "bits", "least"), [(150, 64, 21), (40, 50, 17), (100, 20, 4), (300, 32, 8)])
def test_other_sizes_keep_a_distance_that_random_codes_do_not(count, bits, least):
    centres = hash_centres(count, bits)
    assert centres.shape == (count, bits)
    assert (centres.abs() == 1).all()
    assert distances(centres).min() >= least
    assert distances(hash_centres(count, bits, kind="bernoulli")).min() < least


def test_more_effort_does_not_bring_centres_nearer():
    near, far = (smallest_distance(hash_centres(200, 50, effort=effort)) for effort in (1, 30))
    assert far >= near


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (1, 9), (2, 1), (8, 3), (64, 6), (5, 7)])
def test_short_codes_differ_as_long_as_they_can(count, bits):
    assert len(hash_centres(count, bits).unique(dim=0)) == count


def test_more_classes_than_codes_repeat_them():
    assert hash_centres(20, 3).shape == (20, 3)
    assert len(separated_codes(20, 3, torch.Generator().manual_seed(0)).unique(dim=0)) == 8


@pytest.mark.parametrize(("count", "bits"), [(30, 64), (30, 50), (200, 16)])
@pytest.mark.parametrize("kind", ["hadamard", "bernoulli"])
def test_same_seed_same_centres(count, bits, kind):
    first = hash_centres(count, bits, kind=kind, seed=3)
    torch.manual_seed(9)
    assert torch.equal(hash_centres(count, bits, kind=kind, seed=3), first)
    assert not torch.equal(hash_centres(count, bits, kind=kind, seed=4), first)


def test_bernoulli_bits_are_fair():
    centres = hash_centres(2000, 8, kind="bernoulli")
    assert centres.mean(dim=0).abs().max() < 0.1


def test_thousands_of_classes_take_no_minute():
    start = time.perf_counter()
    centres = hash_centres(4000, 64)
    assert time.perf_counter() - start < 20  # about a second on one core
    assert smallest_distance(centres) >= 16


def test_smallest_distance_equals_all_pairs():
    codes = hash_centres(5000, 24, kind="bernoulli")  # more than one block of rows
    codes[4999] = codes[3]
    assert smallest_distance(codes) == 0
    assert smallest_distance(codes[:60]) == distances(codes[:60]).min()
    assert smallest_distance(codes[:1]) == 24


@pytest.mark.parametrize("wrong", [{"count": 0}, {"bits": 0}, {"effort": 0}])
def test_sizes_are_checked(wrong):
    arguments = {"count": 4, "bits": 5, "effort": 1, **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong)) + "=0 must be at least 1"):
        hash_centres(arguments["count"], arguments["bits"], effort=arguments["effort"])


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"'gauss' are unknown; take hadamard or bernoulli"):
        hash_centres(4, 8, kind="gauss")
