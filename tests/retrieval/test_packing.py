import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from razh.retrieval.packing import check_packed, pack, unpack

LENGTHS = (1, 7, 8, 12, 64, 65, 1024)


@pytest.mark.parametrize("bits", LENGTHS)
def test_unpack_inverts_pack(bits):
    codes = np.random.default_rng(bits).random((9, bits)) < 0.5
    packed = pack(codes)
    assert packed.dtype == np.uint8
    assert packed.shape == (9, -(-bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits), codes)


def test_the_first_bit_is_the_highest_and_padding_is_zero():
    assert pack(np.array([[True, False, True]])).tolist() == [[0b10100000]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_round_trip_for_any_shape(bits, rows, seed):
    codes = np.random.default_rng(seed).random((rows, bits)) < 0.5
    np.testing.assert_array_equal(unpack(pack(codes), bits), codes)


@pytest.mark.parametrize("codes", [np.zeros((2, 3)), np.zeros(3, dtype=bool), np.zeros((2, 0), dtype=bool)])
def test_pack_refuses_what_is_no_bool_matrix(codes):
    with pytest.raises(ValueError, match=r"codes|bits"):
        pack(codes)


def test_a_set_padding_bit_is_refused():
    with pytest.raises(ValueError, match="query has padding bits"):
        check_packed(np.array([[1]], dtype=np.uint8), 7, "query")


@pytest.mark.parametrize("bits", [0, 1025, 9])
def test_a_width_that_does_not_fit_is_refused(bits):
    with pytest.raises(ValueError, match="bits"):
        unpack(np.zeros((2, 1), dtype=np.uint8), bits)
