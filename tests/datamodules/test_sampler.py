import numpy as np
import pytest

from razh.datamodules.sampler import EpochSampler
from razh.datamodules.seeded import draw_numbers, draw_order, draw_uniform

INDICES = np.arange(100, 147)  # 47 images


def batches(sampler, size):
    pairs = list(sampler)
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_evaluation_is_ragged_complete_and_in_order(world):
    shares = [list(EpochSampler(INDICES, 8, rank=rank, world_size=world)) for rank in range(world)]
    for rank, share in enumerate(shares):
        assert share == [(i, 0) for i in INDICES.tolist()[rank::world]]
        assert len(EpochSampler(INDICES, 8, rank=rank, world_size=world)) == len(share)
    assert sorted(i for share in shares for i, _ in share) == INDICES.tolist()


@pytest.mark.parametrize("epoch", [0, 3])
def test_global_batches_do_not_depend_on_the_number_of_ranks(epoch):
    single = EpochSampler(INDICES, 8, shuffle=True, seed=5)
    pair = [EpochSampler(INDICES, 4, shuffle=True, seed=5, rank=rank, world_size=2) for rank in range(2)]
    for sampler in (single, *pair):
        sampler.set_epoch(epoch)
    together = [a + b for a, b in zip(batches(pair[0], 4), batches(pair[1], 4), strict=True)]
    assert [sorted(batch) for batch in together] == [sorted(batch) for batch in batches(single, 8)]
    assert len(list(single)) == len(single) == 40


def test_epochs_differ_and_repeat():
    sampler = EpochSampler(INDICES, 8, shuffle=True)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert {draw for _, draw in first}.isdisjoint({draw for _, draw in sampler})
    assert all(0 <= draw < 2**63 for _, draw in first)


@pytest.mark.parametrize(("images", "world", "expected"), [(7, 1, 7), (7, 2, 3), (2, 3, 1), (17, 2, 8), (33, 2, 16)])
def test_short_epochs_keep_one_batch_and_equal_ranks(images, world, expected):
    lengths = []
    for rank in range(world):
        sampler = EpochSampler(np.arange(images), 8, shuffle=True, rank=rank, world_size=world)
        lengths.append(len(list(sampler)))
        assert len(sampler) == lengths[-1]
    assert lengths == [expected] * world


def test_refuses():
    with pytest.raises(ValueError, match="rank is 2"):
        EpochSampler(INDICES, 8, rank=2, world_size=2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        EpochSampler(INDICES, 0)
    with pytest.raises(ValueError, match="no image to train on"):
        EpochSampler(INDICES[:0], 8, shuffle=True)


def test_draws_by_a_second_implementation():
    def mix(value):
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF  # first output of the published SplitMix64 for seed 0
    state = mix(mix(0 ^ 7) ^ 3)
    assert draw_numbers(5, 7, 3).tolist() == [mix(mix(state ^ i)) >> 1 for i in range(5)]


def test_order_is_a_permutation_and_uniform_is_uniform():
    assert sorted(draw_order(1000, 1).tolist()) == list(range(1000))
    values = draw_uniform(20000, 3)
    assert 0 <= values.min() < values.max() < 1
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 2000).max() < 200
    assert draw_order(10, 1, 2).tolist() != draw_order(10, 2, 1).tolist()
    assert draw_order(10, -1).tolist() != draw_order(10, 1).tolist()
