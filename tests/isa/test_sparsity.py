"""Weights compressed 2:4: the bytes by hand, the way there and back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isa.dtypes import DTYPES, INT4, Dtype
from isa.errors import ModelError
from isa.sparsity import compress, compressed_row_bytes, expand, kept_indices

ADDRESSABLE = [dtype for dtype in DTYPES if dtype is not INT4]
PLACES = st.lists(st.integers(0, 3), max_size=2, unique=True)


@st.composite
def sparse_weights(draw, dtype: Dtype):
    """Return dense[rows, elements] with at most two elements of every four that are no zero."""
    rows, groups = draw(st.integers(0, 4)), draw(st.integers(0, 9))
    weights = np.zeros((rows, groups, 4), dtype.numpy)
    if dtype.is_float and draw(st.booleans()):
        weights = -weights
    for row, group in np.ndindex(rows, groups):
        for place in draw(PLACES):
            weights[row, group, place] = draw(st.sampled_from([1, -2, 3, 7, -128 if not dtype.is_float else 0.5]))
    return weights.reshape(rows, 4 * groups)


@pytest.mark.parametrize("dtype", ADDRESSABLE, ids=lambda dtype: dtype.name)
def test_what_is_compressed_expands_to_the_same(dtype: Dtype) -> None:
    @given(sparse_weights(dtype))
    def check(weights) -> None:
        rows, elements = compress(weights), weights.shape[1]
        assert rows.shape == (len(weights), compressed_row_bytes(elements, dtype))
        np.testing.assert_array_equal(expand(rows, dtype, elements), weights)
        indices = kept_indices(rows, dtype, elements)
        assert (np.diff(indices, axis=1) > 0).all()

    check()


def test_bytes_of_a_row() -> None:
    """Groups keep places 1 and 3, 0 and 2, and 0 and 1; an odd half byte and a row of 16-bit elements are filled."""
    weights = np.array([[0, 5, 0, 6, 7, 0, 0, 0, 0, 0, 0, 0]])
    weights[0, 6] = 8
    assert compress(weights.astype(np.int8)).tolist() == [[5, 6, 7, 8, 0, 0, 0x8D, 0x04]]
    halves = compress(weights[:, :8].astype(np.float16))
    assert halves[0, :8].view(np.float16).tolist() == [5, 6, 7, 8] and halves[0, 8:].tolist() == [0x8D, 0]


def test_a_nan_is_kept_and_zeros_of_either_sign_are_not() -> None:
    weights = np.array([[-0.0, -0.0, np.nan, 1]], np.float32)
    assert compress(weights)[0, 8] == 2 | 3 << 2


def test_other_patterns_are_refused() -> None:
    weights = np.zeros((3, 8), np.float16)
    weights[1, 4:7] = 1
    with pytest.raises(ModelError, match=r"3 of elements 4..7 of row 1 are not zero, 2:4 has 2\n.*prune"):
        compress(weights)
    for shape in ((2, 6), (8,)):
        with pytest.raises(ModelError, match="not rows of whole groups of 4"):
            compress(np.zeros(shape, np.int8))
