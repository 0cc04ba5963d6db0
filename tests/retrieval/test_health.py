import numpy as np
import pytest

from razh.retrieval import health
from razh.retrieval.packing import pack


def test_independent_balanced_bits_are_healthy():
    every = ((np.arange(256)[:, None] >> np.arange(8)) & 1).astype(bool)  # each code once
    found = health.code_health(pack(every), 8)
    assert found == {
        "bit_balance": 1.0,
        "constant_bits": 0.0,
        "bit_correlation": 0.0,
        "entropy": 1.0,
        "effective_bits": pytest.approx(8.0),
        "unique_fraction": 1.0,
        "collision_rate": 0.0,
    }


def test_copies_of_one_bit_are_worth_one_bit():
    bit = np.random.default_rng(0).random((50, 1)) < 0.5
    found = health.code_health(pack(np.repeat(bit, 12, axis=1)), 12)
    assert found["effective_bits"] == pytest.approx(1.0)
    assert found["bit_correlation"] == pytest.approx(1.0)
    assert found["unique_fraction"] == 2 / 50


def test_a_constant_code_has_nothing():
    found = health.code_health(pack(np.ones((6, 9), dtype=bool)), 9)
    assert found["bit_balance"] == 0.0
    assert found["entropy"] == 0.0
    assert found["effective_bits"] == 0.0
    assert found["constant_bits"] == 9.0
    assert found["collision_rate"] == 1.0


def test_moments_equal_numpy_in_blocks(monkeypatch):
    monkeypatch.setattr(health, "ROWS", 7)
    codes = np.random.default_rng(1).random((40, 13)) < 0.3
    np.testing.assert_allclose(health.bit_shares(pack(codes), 13), codes.mean(axis=0))
    expected = np.cov(codes.T * 2.0 - 1, bias=True)
    np.testing.assert_allclose(health.covariance(pack(codes), 13), expected, atol=1e-12)
    pairs = np.abs(np.corrcoef(codes.T))[np.triu_indices(13, 1)]
    assert health.bit_correlation(expected) == pytest.approx(pairs.mean())


def test_the_collision_rate_is_that_of_all_pairs():
    codes = np.random.default_rng(2).random((30, 4)) < 0.5
    pairs = [(codes[a] == codes[b]).all() for a in range(30) for b in range(30) if a != b]
    assert health.collision_rate(pack(codes), 4) == pytest.approx(np.mean(pairs))


def test_distance_histograms_and_d_prime():
    hist = np.zeros((2, 5, 2), dtype=np.int64)
    hist[0, 1, 1], hist[1, 2, 1], hist[0, 3, 0], hist[1, 4, 0] = 3, 3, 2, 2
    same, other = health.distance_histograms(hist)
    assert same.tolist() == [0, 3, 3, 0, 0]
    assert other.tolist() == [0, 0, 0, 2, 2]
    assert health.d_prime(same, other) == pytest.approx((3.5 - 1.5) / 0.5)
    assert health.d_prime(same, same) == 0.0
    assert health.d_prime(same, np.zeros(5)) == 0.0
    assert health.d_prime(np.array([1, 0]), np.array([0, 1])) == np.inf


def test_no_codes_are_no_error():
    found = health.code_health(np.zeros((0, 1), dtype=np.uint8), 8)
    assert found["unique_fraction"] == 0.0
    assert found["collision_rate"] == 0.0


@pytest.mark.parametrize(
    ("codes", "warnings"),
    [
        (np.random.default_rng(0).random((100, 32)) < 0.5, []),
        (np.random.default_rng(0).random((5, 32)) < 0.5, []),  # of few codes, bits are constant by chance
        (np.ones((3, 32), dtype=bool), ["32 of 32 bits are the same in all 3 codes: any ranking"]),
        (np.ones((1, 32), dtype=bool), []),
        ((np.random.default_rng(0).random((100, 32)) < 0.5) | (np.arange(32) < 2), ["2 of 32 bits are the same"]),
        (np.repeat(np.random.default_rng(0).random((100, 4)) < 0.5, 8, axis=1), ["32 bits are worth 3.9 independent"]),
        (np.zeros((0, 32), dtype=bool), []),
    ],
)
def test_warnings_name_what_is_wrong(codes, warnings):
    found = health.health_warnings(pack(codes), 32)
    assert len(found) == len(warnings)
    assert all(part in line for part, line in zip(warnings, found, strict=True))
